package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	lab      *lab
	scenario scenario
	dir      string
	sup      *supervise.Supervisor

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

// pid returns the process id of the process of that name.
func (st *stage) pid(name string) (int, error) {
	for _, s := range st.sup.States() {
		if s.Name == name && s.PID != 0 {
			return s.PID, nil
		}
	}
	return 0, fmt.Errorf("%s does not run", name)
}

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
		Name: "smtp-sink", Path: st.lab.tools.sink, Once: true, Stdout: st.counter,
		Args:  append(args, st.sinkAddr, strconv.Itoa(backlog)),
		Ready: func(ctx context.Context) error { return answers(ctx, st.sinkAddr) },
	})
}

// backlog is the length of the sink's queue of connections that wait.
const backlog = 400

// send sends n messages through r and returns how long it took: until the sink has the last one,
// or, without a sink, until the server has taken it.
func (st *stage) send(ctx context.Context, r *running, n int) (time.Duration, error) {
	began := time.Now()
	err := st.sup.Do(ctx, supervise.Process{
		Name: "smtp-source", Path: st.lab.tools.source,
		Args: []string{
			"-d", "-s", strconv.Itoa(sessions), "-l", strconv.Itoa(st.scenario.Bytes), "-m", strconv.Itoa(n),
			"-f", "sender@source.test", "-t", "recipient@sink.test", r.addr,
		},
	})
	if err != nil || st.sinkAddr == "" {
		return time.Since(began), err
	}
	st.sunk += n
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := st.received()
		if err != nil {
			return 0, err
		}
		if got >= st.sunk {
			return time.Since(began), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the sink has %d of %d messages: %w", got, st.sunk, context.Cause(ctx))
		}
	}
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

// freeAddress returns a loopback address with a port that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
