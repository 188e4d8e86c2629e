package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"carom/deploy/up/supervise"
	"carom/sender/admin"
)

// The figures of the scenario queue-1m. MB are 10^6 bytes.
const (
	residentFilled  = "resident with all queued (VmRSS)"
	residentPeak    = "resident at most until then (VmHWM)"
	residentAgain   = "resident after a restart (VmRSS)"
	acceptAfterStop = "restart to accepting, after a clean stop"
	acceptAfterKill = "restart to accepting, after kill -9"
	firstAfterStop  = "restart to first delivery, after a clean stop"
	firstAfterKill  = "restart to first delivery, after kill -9"
)

// queueDomains is over how many domains the messages are spread.
const queueDomains = 20

// queueConfig wants the receiver's port. Queues are tried every other second while it refuses.
const queueConfig = `<domain *>
    smtp-hosts [127.0.0.1]:%s
    max-smtp-out 20
    retry-after 2s
    bounce-after 4d
</domain>
` + adminConfig

// measureRestart fills a node whose receiver refuses connections, looks at its memory, and then
// ends and starts it again and again, with the receiver there.
func measureRestart(ctx context.Context, l *lab, m *Measured) (err error) {
	m.Bytes, m.Sessions = 4<<10, sessions
	m.wait(l)
	if err := l.needSpace(l.Messages, m.Bytes); err != nil {
		return err
	}
	st, err := l.openStage(ctx, m.Bytes, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	receiver, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	w := &waiting{lab: l, receiver: receiver, socket: filepath.Join(st.dir, adminSocket)}
	if w.addr, err = freeAddress(ctx); err != nil {
		return err
	}
	if w.config, err = writeConfig(st.dir, w.addr, fmt.Sprintf(queueConfig, portOf(receiver))); err != nil {
		return err
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := probe(ctx, w.addr); err != nil {
		return err
	}
	recipients := make([]string, queueDomains)
	for i := range recipients {
		recipients[i] = fmt.Sprintf("recipient@d%d.sink.test", i+1)
	}
	l.say("%s: %d messages into %d queues", m.Name, l.Messages, queueDomains)
	filled, err := st.fill(ctx, &node{addr: w.addr, pid: w.pid}, recipients)
	if err != nil {
		return err
	}
	l.say("%s: %s", m.Name, filled)
	w.queued = filled.Messages
	m.Servers = []ServerResult{{Name: "carom, filling", Samples: []Sample{filled}}}
	memory, err := residentOf(w.pid)
	if err != nil {
		return err
	}
	m.add(residentFilled, "MB", memory.now)
	m.add(residentPeak, "MB", memory.peak)
	m.add("resident for each message", "bytes", memory.now*1e6/float64(filled.Messages))
	for round := range l.Runs {
		for _, end := range []struct {
			name, accept, first string
			do                  func() error
		}{
			{"a clean stop", acceptAfterStop, firstAfterStop, w.stop},
			{"kill -9", acceptAfterKill, firstAfterKill, w.kill},
		} {
			ended := time.Now()
			if err := end.do(); err != nil {
				return fmt.Errorf("%s: %w", end.name, err)
			}
			if end.name == "a clean stop" {
				m.add("clean stop", "s", time.Since(ended).Seconds())
			}
			again, err := w.restart(ctx)
			if err != nil {
				return fmt.Errorf("start after %s: %w", end.name, err)
			}
			m.add(end.accept, "s", again.accepting.Seconds())
			m.add(end.first, "s", again.first.Seconds())
			m.add(residentAgain, "MB", again.resident)
			l.say("%s: after %s, run %d of %d: accepting after %s, first delivery after %s, %.0f MB", m.Name, end.name, round+1, l.Runs,
				again.accepting.Round(time.Millisecond), again.first.Round(time.Millisecond), again.resident)
		}
	}
	return nil
}

// waiting is a node with a full spool, in one life after another.
type waiting struct {
	lab            *lab
	config         string
	addr, receiver string
	socket         string // of its admin interface
	queued         int    // messages that were handed over, without probes

	touched atomic.Int64 // messages that reached the receiver, whether answered or not

	sup *supervise.Supervisor // of this life
	pid int
}

// stopTimeout is how long a node may take to stop before that is an error.
const stopTimeout = 2 * time.Minute

// start starts the process and does not wait for it.
func (w *waiting) start(ctx context.Context) error {
	w.sup = newSupervisor(w.lab)
	err := w.sup.Start(ctx, supervise.Process{
		Name: "carom", Path: w.lab.carom, Once: true, Args: []string{"sender", "-c", w.config}, StopTimeout: stopTimeout,
	})
	if err != nil {
		return err
	}
	w.pid, err = pidOf(w.sup, "carom")
	return err
}

// stop ends the process as an operator does.
func (w *waiting) stop() error {
	began := time.Now()
	w.sup.Stop()
	if time.Since(began) >= stopTimeout {
		return fmt.Errorf("it did not stop in %s", stopTimeout)
	}
	return nil
}

// kill ends the process as a crash does.
func (w *waiting) kill() error {
	err := syscall.Kill(w.pid, syscall.SIGKILL)
	w.sup.Stop() // waits for its end
	return err
}

// again is what a restart took, from the start of the process.
type again struct {
	accepting, first time.Duration
	resident         float64 // MB, when both had happened
}

// restart starts the process with the receiver there, until it has taken a message and delivered
// one of those that waited. The receiver answers only one, and is gone at the end.
func (w *waiting) restart(ctx context.Context) (a again, err error) {
	ctx, cancel := limited(ctx, 5*time.Minute)
	defer cancel()
	first, over := make(chan time.Time, 1), make(chan struct{})
	box, err := openMailbox(ctx, w.receiver, func(recipient string, _ textproto.MIMEHeader) {
		if recipient == probeRecipient {
			return
		}
		w.touched.Add(1)
		select {
		case first <- time.Now():
		default:
			<-over
		}
	})
	if err != nil {
		return again{}, err
	}
	defer func() { err = errors.Join(err, box.close()) }()
	defer close(over)
	began := time.Now()
	if err := w.start(ctx); err != nil {
		return again{}, err
	}
	alive, dead := context.WithCancelCause(ctx)
	defer dead(nil)
	go func() { dead(w.sup.Wait(alive)) }()
	if err := probe(alive, w.addr); err != nil {
		return again{}, err
	}
	a.accepting = time.Since(began)
	select {
	case at := <-first:
		a.first = at.Sub(began)
	case <-alive.Done():
		return again{}, fmt.Errorf("nothing was delivered: %w", context.Cause(alive))
	}
	memory, err := residentOf(w.pid)
	a.resident = memory.now
	return a, errors.Join(err, w.checkLoss(alive))
}

// checkLoss returns an error unless the node still has all mail that was not delivered: a start that
// forgets is a fast one.
func (w *waiting) checkLoss(ctx context.Context) error {
	c := newAdminClient(w.socket)
	defer c.close()
	var status admin.Status
	err := until(ctx, func() (err error) { // the socket is there a moment after the doors are open
		status, err = c.status(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if least := w.queued - int(w.touched.Load()); status.LiveRecipients < least {
		return fmt.Errorf("the node has %d recipients, at least %d wait", status.LiveRecipients, least)
	}
	return nil
}

// probeRecipient gets the message that shows that a node accepts mail.
const probeRecipient = "probe@probe.test"

// probe tries until addr has greeted and taken a message.
func probe(ctx context.Context, addr string) error {
	return until(ctx, func() error { return probeOnce(ctx, addr) })
}

// until tries again and again until it works.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		}
	}
}

func probeOnce(ctx context.Context, addr string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.close()
	return c.hand(probeRecipient, letter(4<<10, "X-Probe: yes"))
}

// resident is the memory of one process in MB.
type resident struct{ now, peak float64 }

func residentOf(pid int) (resident, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return resident{}, err
	}
	return parseResident(text)
}

// parseResident returns VmRSS and VmHWM from the content of /proc/PID/status (proc(5)).
func parseResident(text []byte) (r resident, err error) {
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		var to *float64
		switch name {
		case "VmRSS":
			to = &r.now
		case "VmHWM":
			to = &r.peak
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return resident{}, fmt.Errorf("%s: %w", name, err)
		}
		*to = float64(kib) * 1024 / 1e6
	}
	if r.now == 0 || r.peak == 0 {
		return resident{}, errors.New("no VmRSS and VmHWM in its status")
	}
	return r, nil
}
