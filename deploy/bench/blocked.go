package bench

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// liveRate is how many messages a second the live queue gets: a moderate rate, so that delays are
// those of a queue and not of a full machine.
const liveRate = 200

// blockedConfig wants the receiver's port and the lines of the blocked domain.
const blockedConfig = `<domain live.test>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 20
    connection-idle-timeout 30s
</domain>
<domain blocked.test>
%s</domain>
`

// dueField carries the time at which a message was to be handed over, in nanoseconds since 1970.
const dueField = "X-Bench-Due"

// arm is a node with one kind of blocked queue.
type arm struct {
	name  string
	lines string // of the blocked domain
	full  bool   // whether messages wait in it

	node *node
}

// The figures of the scenario blocked-queue.
const (
	blockedRefused   = "p99 ratio, the receiver refuses"
	blockedThrottled = "p99 ratio, one message an hour"
)

// measureBlocked measures the delays of live mail in three nodes in turn: one alone, one beside a
// full queue whose receiver refuses connections, and one beside a full queue that may send one
// message an hour. While one is measured the others are stopped (SIGSTOP), so that they cost nothing.
func measureBlocked(ctx context.Context, l *lab, m *Measured) (err error) {
	m.Bytes = 4 << 10
	m.wait(l)
	if err := l.needSpace(2*l.Messages, m.Bytes); err != nil {
		return err
	}
	st, err := l.openStage(ctx, m.Bytes, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	d := &delays{}
	box, err := openMailbox(ctx, "127.0.0.1:0", d.arrived)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, box.close()) }()
	port := portOf(box.addr)
	arms := []*arm{
		{name: "alone", lines: "    smtp-hosts [127.0.0.1]:1\n"},
		// Tried every other second: a blocked queue that costs more than one does in practice.
		{name: "the receiver refuses", full: true, lines: "    smtp-hosts [127.0.0.1]:1\n    retry-after 2s\n"},
		{name: "one message an hour", full: true, lines: "    smtp-hosts [127.0.0.1]:" + port + "\n    max-msg-rate 1/h\n"},
	}
	defer func() { // a stopped process cannot end
		for _, a := range arms {
			err = errors.Join(err, a.signal(syscall.SIGCONT))
		}
	}()
	for i, a := range arms {
		if err := st.startArm(ctx, a, port, strconv.Itoa(i)); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		if err := a.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		m.Servers = append(m.Servers, ServerResult{Name: "live mail, " + a.name})
	}
	n := int(2 * l.Seconds * liveRate)
	if l.Short {
		n = liveRate / 2
	}
	for round := range l.Runs {
		for i, a := range arms {
			sample, list, err := a.window(ctx, d, n)
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			m.Servers[i].Samples = append(m.Servers[i].Samples, sample)
			p50, p99 := percentile(list, 50), percentile(list, 99)
			m.add("p50 delay, "+a.name, "ms", p50.Seconds()*1000)
			m.add("p99 delay, "+a.name, "ms", p99.Seconds()*1000)
			l.say("%s: %s, run %d of %d: p50 %s, p99 %s, %s", m.Name, a.name, round+1, l.Runs,
				p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond), sample)
		}
	}
	alone, _ := m.figure("p99 delay, alone")
	for _, a := range arms[1:] {
		beside, _ := m.figure("p99 delay, " + a.name)
		m.add("p99 ratio, "+a.name, "", ratio(beside.Median, alone.Median))
	}
	return nil
}

// startArm starts the node of a, and fills its blocked queue.
func (st *stage) startArm(ctx context.Context, a *arm, port, folder string) error {
	dir := filepath.Join(st.dir, folder)
	if err := os.Mkdir(dir, 0o750); err != nil {
		return err
	}
	var err error
	if a.node, err = st.lab.startNode(ctx, st.sup, "carom, "+a.name, dir, fmt.Sprintf(blockedConfig, port, a.lines)); err != nil || !a.full {
		return err
	}
	st.lab.say("%s: %d messages into the blocked queue", a.name, st.lab.Messages)
	filled, err := st.fill(ctx, a.node, []string{"recipient@blocked.test"})
	if err == nil {
		st.lab.say("%s: %s", a.name, filled)
	}
	return err
}

func (a *arm) signal(s syscall.Signal) error {
	if a.node == nil {
		return nil
	}
	if err := syscall.Kill(a.node.pid, s); err != nil {
		return fmt.Errorf("signal %s to carom, %s: %w", s, a.name, err)
	}
	return nil
}

// window lets the node run, hands it n messages at liveRate, and returns their delays.
func (a *arm) window(ctx context.Context, d *delays, n int) (sample Sample, list []time.Duration, err error) {
	ctx, cancel := limited(ctx, time.Minute+10*time.Duration(n)*time.Second/liveRate)
	defer cancel()
	if err := a.signal(syscall.SIGCONT); err != nil {
		return Sample{}, nil, err
	}
	defer func() { err = errors.Join(err, a.signal(syscall.SIGSTOP)) }()
	// Not counted: connections are opened, and memory that was idle is touched.
	if _, err := d.feed(ctx, a.node.addr, liveRate/2); err != nil {
		return Sample{}, nil, fmt.Errorf("warm up: %w", err)
	}
	sample, err = measure(ctx, a.node.usage, n, func() (time.Duration, error) {
		list, err = d.feed(ctx, a.node.addr, n)
		return 0, err
	})
	return sample, list, err
}

// delays collects the delays of messages: from the time at which a message was to be handed over to
// the end of its delivery. That a feeder was kept waiting counts as well.
type delays struct {
	mu   sync.Mutex
	due  map[int64]bool // whether the message that was due then has arrived
	left int
	list []time.Duration
	all  chan struct{} // closed when nothing is left
	bad  error
}

// arrived is the mailbox's arrival. Mail of the blocked queues is none of ours.
func (d *delays) arrived(_ string, header textproto.MIMEHeader) {
	now := time.Now()
	text := header.Get(dueField)
	if text == "" {
		return
	}
	due, err := strconv.ParseInt(text, 10, 64)
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, known := d.due[due]
	if err != nil || !known || seen {
		d.bad = errors.Join(d.bad, fmt.Errorf("message %s arrived twice, or was never sent", text))
		return
	}
	d.due[due] = true
	d.list = append(d.list, now.Sub(time.Unix(0, due)))
	if d.left--; d.left == 0 {
		close(d.all)
	}
}

// feed hands n messages to addr at liveRate, each when it is due and not when the one before it is
// through, and returns the delays when all have arrived.
func (d *delays) feed(ctx context.Context, addr string, n int) ([]time.Duration, error) {
	const connections = 10
	start := time.Now().Add(50 * time.Millisecond)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second / liveRate) }
	d.mu.Lock()
	d.due, d.left, d.list, d.all, d.bad = make(map[int64]bool, n), n, make([]time.Duration, 0, n), make(chan struct{}), nil
	for i := range n {
		d.due[at(i).UnixNano()] = false
	}
	all := d.all
	d.mu.Unlock()
	var next atomic.Int64
	feeders, feeding := errgroup.WithContext(ctx)
	for range connections {
		feeders.Go(func() error {
			c, err := dial(feeding, addr)
			if err != nil {
				return err
			}
			defer c.close()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := sleepUntil(feeding, at(i)); err != nil {
					return err
				}
				message := letter(4<<10, dueField+": "+strconv.FormatInt(at(i).UnixNano(), 10))
				if err := c.hand("recipient@live.test", message); err != nil {
					return fmt.Errorf("hand over: %w", err)
				}
			}
			return nil
		})
	}
	if err := feeders.Wait(); err != nil {
		return nil, err
	}
	select {
	case <-all:
	case <-ctx.Done():
		return nil, fmt.Errorf("not all of %d live messages arrived: %w", n, context.Cause(ctx))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list), d.bad
}

// percentile returns the least of values that so many percent of them do not exceed; 0 of none.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}
