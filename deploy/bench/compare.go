package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// sessions is how many SMTP sessions smtp-source keeps open.
const sessions = 40

// comparison measures servers in one role under the load of smtp-source, in turn.
type comparison struct {
	bytes int  // of a message
	relay bool // whether the servers deliver; else they only take the mail
	// stretch is how many times as long as others these measurements last; 0 is once.
	stretch float64
	servers []server // the first is carom
	// beside measures something else after each round; may be nil.
	beside func(context.Context, *lab, *Measured) error
}

// server is something to measure.
type server struct {
	name string
	// missing returns why the server cannot run here, or "".
	missing func(*lab) string
	// start starts the server in the stage's folder and returns once it takes mail.
	start func(context.Context, *stage) (*running, error)
}

// nothing is missing where everything is in this binary.
func nothing(*lab) string { return "" }

// running is a started server. Everything it started ends with the stage or with stop.
type running struct {
	addr  string
	usage func() (usage, error)
	// landed waits until all that followed from the mail so far has happened; may be nil.
	landed func(context.Context) error
	// check is called at the end and returns what went wrong; may be nil.
	check func(context.Context) error
	stop  func(context.Context) error // before the processes of the stage are stopped; may be nil
}

// measure measures all servers, and finds how carom compares to the best of the others.
func (c comparison) measure(ctx context.Context, l *lab, m *Measured) error {
	m.Bytes, m.Sessions = c.bytes, sessions
	counts := make([]int, len(c.servers)) // of messages in a measurement
	for i, srv := range c.servers {
		m.Servers = append(m.Servers, ServerResult{Name: srv.name})
		if m.Servers[i].Skipped = srv.missing(l); m.Servers[i].Skipped != "" {
			l.say("%s: %s is skipped: %s", m.Name, srv.name, m.Servers[i].Skipped)
			continue
		}
		first, err := c.calibrate(ctx, l, m, srv)
		if err != nil {
			return fmt.Errorf("%s: %w", srv.name, err)
		}
		if l.Short {
			m.Servers[i].Samples = append(m.Servers[i].Samples, first)
			continue
		}
		counts[i] = clampMessages(float64(first.Messages) / first.delivering() * l.Seconds * max(1, c.stretch))
	}
	for round := range l.Runs {
		for i, srv := range c.servers {
			if counts[i] == 0 {
				continue
			}
			sample, err := c.once(ctx, l, srv, counts[i])
			if err != nil {
				return fmt.Errorf("%s: %w", srv.name, err)
			}
			m.Servers[i].Samples = append(m.Servers[i].Samples, sample)
			l.say("%s: %s, run %d of %d: %s", m.Name, srv.name, round+1, l.Runs, sample)
		}
		if c.beside != nil {
			if err := c.beside(ctx, l, m); err != nil {
				return err
			}
		}
	}
	m.compare()
	return nil
}

// Bounds of the number of messages in a measurement.
const (
	leastMessages = 500
	mostMessages  = 300_000
)

// calibrate measures srv with more and more messages, until that takes long enough to tell its rate.
func (c comparison) calibrate(ctx context.Context, l *lab, m *Measured, srv server) (Sample, error) {
	enough := min(1, l.Seconds/3)
	if l.Short {
		enough = 0.4
	}
	for n := leastMessages; ; n *= 6 {
		sample, err := c.once(ctx, l, srv, n)
		if err != nil {
			return Sample{}, err
		}
		l.say("%s: %s at first: %s", m.Name, srv.name, sample)
		if sample.delivering() >= enough || n*6 > mostMessages {
			return sample, nil
		}
	}
}

// clampMessages keeps a number of messages within bounds.
func clampMessages(n float64) int {
	return int(math.Round(min(max(n, leastMessages), mostMessages)))
}

// warmUp is how many messages a server takes before it is measured, so that processes run and
// connections stand.
const warmUp = 200

// once starts srv, sends n messages through it, and stops it.
func (c comparison) once(ctx context.Context, l *lab, srv server, n int) (sample Sample, err error) {
	ctx, cancel := limited(ctx, 2*time.Minute+time.Duration(20*max(1, c.stretch)*l.Seconds*float64(time.Second)))
	defer cancel()
	st, err := l.openStage(ctx, c.bytes, c.relay)
	if err != nil {
		return Sample{}, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	r, err := srv.start(ctx, st)
	if err != nil {
		return Sample{}, fmt.Errorf("start: %w", err)
	}
	if r.stop != nil {
		defer func() { err = errors.Join(err, r.stop(context.WithoutCancel(ctx))) }()
	}
	if _, err := st.send(ctx, r, warmUp); err != nil {
		return Sample{}, fmt.Errorf("warm up: %w", err)
	}
	if sample, err = st.sample(ctx, r, n); err != nil {
		return Sample{}, err
	}
	if r.check != nil {
		if err := r.check(ctx); err != nil {
			return Sample{}, err
		}
	}
	return sample, st.checkSink(warmUp + n)
}
