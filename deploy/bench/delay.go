package bench

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"time"
)

// The figures of the scenario delay-50ms: round trips a message on a warm connection.
const (
	tripsPipelining = trips + "PIPELINING"
	tripsChunking   = trips + "CHUNKING too"
	trips           = "round trips a message, "
)

// oneWay is half of the 50 ms.
const oneWay = 25 * time.Millisecond

// oneConnection wants the address and further lines.
const oneConnection = `<domain *>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 1
    connection-idle-timeout 30s
    %s
</domain>
`

// measureDelay counts round trips at the proxy between a client and the mailbox.
func measureDelay(ctx context.Context, l *lab, m *Measured) error {
	m.Bytes = 4 << 10
	carom := func(lines string) func(context.Context, *stage, string, int) error {
		return func(ctx context.Context, st *stage, to string, n int) error {
			node, err := startCarom(ctx, st, fmt.Sprintf(oneConnection, portOf(to), lines))
			if err != nil {
				return err
			}
			return st.source(ctx, node.addr, "recipient@sink.test", n)
		}
	}
	for round := range l.Runs {
		for _, c := range []struct {
			name string
			// send makes n messages arrive at an address, over one connection.
			send func(ctx context.Context, st *stage, to string, n int) error
		}{
			{"PIPELINING", carom("ignore-chunking yes")},
			{"CHUNKING too", carom("")},
			{"go-smtp's client", sendByGoSMTP},
		} {
			count, each, err := l.countTrips(ctx, c.send)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			m.add(trips+c.name, "", count)
			m.add("time a message, "+c.name, "ms", each.Seconds()*1000)
			l.say("%s: %s, run %d of %d: %.2f round trips, %s", m.Name, c.name, round+1, l.Runs, count, each.Round(time.Millisecond))
		}
	}
	return nil
}

// countTrips returns round trips and time for a message, when the connection is warm.
func (l *lab) countTrips(ctx context.Context, send func(context.Context, *stage, string, int) error) (count float64, each time.Duration, err error) {
	const warm, n = 2, 20
	ctx, cancel := limited(ctx, time.Minute)
	defer cancel()
	st, err := l.openStage(ctx, 4<<10, false)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	addr, err := freeAddress(ctx)
	if err != nil {
		return 0, 0, err
	}
	line, err := openDelayLine(ctx, addr, oneWay)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, line.close()) }()
	type mark struct {
		turns int64
		at    time.Time
	}
	arrived := make(chan mark, 10*n)
	box, err := openMailbox(ctx, addr, func(string, textproto.MIMEHeader) {
		arrived <- mark{line.turns.Load(), time.Now()}
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, box.close()) }()
	if err := send(ctx, st, line.addr, warm+n); err != nil {
		return 0, 0, err
	}
	var first, last mark
	for i := range warm + n {
		select {
		case last = <-arrived:
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("%d of %d messages arrived: %w", i, warm+n, context.Cause(ctx))
		}
		if i == warm-1 {
			first = last
		}
	}
	return float64(last.turns-first.turns) / n, last.at.Sub(first.at) / n, nil
}

// sendByGoSMTP sends with go-smtp's client.
func sendByGoSMTP(ctx context.Context, _ *stage, to string, n int) error {
	c, err := dial(ctx, to)
	if err != nil {
		return err
	}
	defer c.close()
	message := letter(4<<10, "X-Client: go-smtp")
	for range n {
		if err := c.hand("recipient@sink.test", message); err != nil {
			return err
		}
	}
	return nil
}
