package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"carom/deploy/peers"
	"carom/deploy/up/supervise"
	"carom/schemas/service"
)

// tools are the paths of Postfix's load generator and sink.
type tools struct{ source, sink string }

func findTools() (t tools, err error) {
	var errs [2]error
	t.source, errs[0] = peers.Find("smtp-source")
	t.sink, errs[1] = peers.Find("smtp-sink")
	if err := errors.Join(errs[:]...); err != nil {
		return t, service.Configf("carom bench: install Debian's package postfix: %w", err)
	}
	return t, nil
}

// stage is where one run happens: a folder, the sink and the processes.
type stage struct {
	lab   *lab
	bytes int // of a message
	dir   string
	sup   *supervise.Supervisor

	sinkAddr string   // empty without one
	counter  *os.File // what smtp-sink counts
	sunk     int      // messages that the sink should have
}

func newSupervisor(l *lab) *supervise.Supervisor {
	line := func(string, string) {}
	if l.verbose {
		line = supervise.Prefixed(l.progress)
	}
	return supervise.New(supervise.Options{Log: slog.New(slog.NewTextHandler(l.progress, nil)), Line: line})
}

func (st *stage) close() error {
	st.sup.Stop()
	var err error
	if st.counter != nil {
		err = st.counter.Close()
	}
	return errors.Join(err, os.RemoveAll(st.dir))
}

// pidOf returns the process id of the process of that name.
func pidOf(sup *supervise.Supervisor, name string) (int, error) {
	for _, s := range sup.States() {
		if s.Name == name && s.PID != 0 {
			return s.PID, nil
		}
	}
	return 0, fmt.Errorf("%s does not run", name)
}

// sinkName is the name of the sink's process.
const sinkName = "smtp-sink"

// startSink starts smtp-sink. It counts into a file: of a pipe, a reader would have to wake up for
// each message.
func (st *stage) startSink(ctx context.Context) error {
	var err error
	if st.sinkAddr, err = freeAddress(ctx); err != nil {
		return err
	}
	if st.counter, err = os.Create(filepath.Join(st.dir, "sink")); err != nil {
		return err
	}
	args := []string{"-c"}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody") // it does not run as root
	}
	return st.sup.Start(ctx, supervise.Process{
		Name: sinkName, Path: st.lab.tools.sink, Once: true, Stdout: st.counter,
		Args:  append(args, st.sinkAddr, strconv.Itoa(backlog)),
		Ready: func(ctx context.Context) error { return answers(ctx, st.sinkAddr) },
	})
}

// backlog is the length of the sink's queue of connections that wait.
const backlog = 400

// send sends n messages through r and returns when the sink has the last one, or, without a sink,
// when the server has taken it, and everything has landed that follows from it.
func (st *stage) send(ctx context.Context, r *running, n int) (landing time.Duration, err error) {
	if err := st.source(ctx, r.addr, "recipient@sink.test", n); err != nil {
		return 0, err
	}
	if st.sinkAddr != "" {
		st.sunk += n
		if err := st.awaitSink(ctx); err != nil {
			return 0, err
		}
	}
	if r.landed == nil {
		return 0, nil
	}
	began := time.Now()
	err = r.landed(ctx)
	return time.Since(began), err
}

// source hands n messages for one recipient to addr.
func (st *stage) source(ctx context.Context, addr, recipient string, n int) error {
	return st.sup.Do(ctx, supervise.Process{
		Name: "smtp-source", Path: st.lab.tools.source,
		Args: []string{
			"-d", "-s", strconv.Itoa(sessions), "-l", strconv.Itoa(st.bytes), "-m", strconv.Itoa(n),
			"-f", "sender@source.test", "-t", recipient, addr,
		},
	})
}

// awaitSink waits until the sink has all messages that it should have.
func (st *stage) awaitSink(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := st.received()
		if err != nil || got >= st.sunk {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the sink has %d of %d messages: %w", got, st.sunk, context.Cause(ctx))
		}
	}
}

// sample measures how r deals with n messages.
func (st *stage) sample(ctx context.Context, r *running, n int) (Sample, error) {
	return measure(ctx, r.usage, n, func() (time.Duration, error) { return st.send(ctx, r, n) })
}

// measure measures time, CPU time and memory of work with n messages, which returns the last part
// of its time.
func measure(ctx context.Context, read func() (usage, error), n int, work func() (landing time.Duration, err error)) (Sample, error) {
	before, err := settled(ctx, read)
	if err != nil {
		return Sample{}, err
	}
	memory := watchMemory(read)
	began := time.Now()
	landing, err := work()
	took := time.Since(began)
	peak := memory.stop()
	if err != nil {
		return Sample{}, err
	}
	after, err := settled(ctx, read)
	if err != nil {
		return Sample{}, err
	}
	return Sample{
		Messages: n, Seconds: took.Seconds(), CPUSeconds: (after.cpu - before.cpu).Seconds(),
		PeakMiB: float64(max(peak, after.memory)) / (1 << 20), Landing: landing.Seconds(),
	}, nil
}

// checkSink returns an error unless the sink, if there is one, has exactly so many messages.
func (st *stage) checkSink(want int) error {
	if st.sinkAddr == "" {
		return nil
	}
	if got, err := st.received(); err != nil || got != want {
		return errors.Join(err, fmt.Errorf("the sink has %d messages, want %d", got, want))
	}
	return nil
}

// received returns how many messages the sink has.
func (st *stage) received() (int, error) {
	size, err := st.counter.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(size, 256))
	if _, err := st.counter.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	return lastCount(tail), nil
}

// lastCount returns the number of messages in the last whole report of smtp-sink -c, whose reports
// are "sess=1 quit=0 mesg=17" and a carriage return. Without one it is 0.
func lastCount(text []byte) int {
	end := bytes.LastIndexByte(text, '\r')
	if end < 0 {
		return 0
	}
	const key = "mesg="
	at := bytes.LastIndex(text[:end], []byte(key))
	if at < 0 {
		return 0
	}
	n, err := strconv.Atoi(string(text[at+len(key) : end]))
	if err != nil {
		return 0
	}
	return n
}

// answers returns nil if a TCP connection to addr can be made and says something.
func answers(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// freeAddress returns a loopback address that nobody listens at. Its port lies under those that
// systems take for outgoing connections (net.ipv4.ip_local_port_range), so none of these gets in the
// way later, or connects to itself.
func freeAddress(ctx context.Context) (string, error) {
	for tries := 0; ; tries++ {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000)))
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
		if tries >= 50 {
			return "", err
		}
	}
}
