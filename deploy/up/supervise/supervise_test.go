package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The test binary plays the children: with childRole set it does what the role says.
const (
	childRole = "CAROM_TEST_ROLE"
	childFile = "CAROM_TEST_FILE"
)

func TestMain(m *testing.M) {
	role := os.Getenv(childRole)
	if role == "" {
		os.Exit(m.Run())
	}
	os.Exit(play(role, os.Args[len(os.Args)-1]))
}

// play is the life of a child called name.
func play(role, name string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("hello from", name)
	switch role {
	case "serve": // until SIGTERM
		<-term
		note(name)
		return 0
	case "stubborn":
		for range term {
			fmt.Println("no")
		}
	case "config":
		fmt.Fprintln(os.Stderr, name+".conf:3:1: unknown word")
		return 2
	case "exit":
		return 1
	case "panic":
		panic("as bugs do")
	case "supervisor": // of one child, whose process id it writes
		return superviseOne(name)
	}
	return 0
}

// note adds a line to the file of the test.
func note(line string) {
	f, err := os.OpenFile(os.Getenv(childFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, line)
	f.Close()
}

func superviseOne(name string) int {
	s := New(Options{Log: slog.New(slog.DiscardHandler), Line: func(string, string) {}})
	os.Setenv(childRole, "serve")
	if err := s.Start(context.Background(), Process{Name: name, Path: os.Args[0], Args: []string{name}}); err != nil {
		panic(err)
	}
	note(strconv.Itoa(s.States()[0].PID))
	select {}
}

// lines collects what children write.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(process, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, process+": "+line)
}

func (l *lines) count(line string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, x := range l.all {
		if x == line {
			n++
		}
	}
	return n
}

func newSupervisor(t *testing.T) (*Supervisor, *lines) {
	t.Helper()
	out := &lines{}
	s := New(Options{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Line: out.add,
		MinPause: 10 * time.Millisecond, MaxPause: 80 * time.Millisecond,
	})
	t.Cleanup(s.Stop)
	return s, out
}

// process is a child with that role.
func process(t *testing.T, role, name string) Process {
	t.Helper()
	// Every process of a test has the same environment, so the role travels by env(1).
	return Process{Name: name, Path: "/usr/bin/env", Args: []string{childRole + "=" + role, os.Args[0], name}}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestKilledProcessIsStartedAgain(t *testing.T) {
	s, out := newSupervisor(t)
	if err := s.Start(t.Context(), process(t, "serve", "a")); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		until(t, "greeting of the child", func() bool { return out.count("a: hello from a") == i })
		if got := s.States()[0].Restarts; got != i-1 {
			t.Fatalf("restarts = %d, want %d", got, i-1)
		}
		if err := syscall.Kill(s.States()[0].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the last start", func() bool { return out.count("a: hello from a") == 4 })
}

func TestPauseBetweenStartsGrows(t *testing.T) {
	s, out := newSupervisor(t)
	began := time.Now()
	if err := s.Start(t.Context(), process(t, "exit", "a")); err != nil {
		t.Fatal(err)
	}
	until(t, "five starts", func() bool { return out.count("a: hello from a") == 5 })
	if got, want := time.Since(began), (10+20+40+80)*time.Millisecond; got < want {
		t.Errorf("five starts took %s, want %s at least", got, want)
	}
}

func TestStopIsInReverseOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	t.Setenv(childFile, file)
	s, out := newSupervisor(t)
	for _, name := range []string{"a", "b", "c"} {
		p := process(t, "serve", name)
		p.Ready = func(context.Context) error {
			if out.count(name+": hello from "+name) == 0 {
				return errors.New("no greeting yet")
			}
			return nil
		}
		if err := s.Start(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("c\nb\na\n", string(got)); diff != "" {
		t.Errorf("order of stopping (-want +got):\n%s", diff)
	}
	for _, state := range s.States() {
		if state.PID != 0 || state.Restarts != 0 {
			t.Errorf("after Stop: %+v", state)
		}
	}
}

func TestStopKillsWhatDoesNotListen(t *testing.T) {
	s, out := newSupervisor(t)
	p := process(t, "stubborn", "a")
	p.StopTimeout = 50 * time.Millisecond
	if err := s.Start(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	until(t, "greeting", func() bool { return out.count("a: hello from a") == 1 })
	s.Stop()
	if pid := s.States()[0].PID; pid != 0 {
		t.Errorf("process %d still runs after Stop", pid)
	}
}

func TestConfigurationMistakeEndsEverything(t *testing.T) {
	s, out := newSupervisor(t)
	if err := s.Start(t.Context(), process(t, "serve", "good")); err != nil {
		t.Fatal(err)
	}
	bad := process(t, "config", "bad")
	bad.Ready = func(context.Context) error { return errors.New("never") }
	err := s.Start(t.Context(), bad)
	if status, ok := Status(err); !ok || status != 2 {
		t.Errorf("Start: %v with status %d, want an *ExitError with status 2", err, status)
	}
	if got, want := fmt.Sprint(err), "bad: bad.conf:3:1: unknown word"; got != want {
		t.Errorf("Start: %q, want %q", got, want)
	}
	if waited := s.Wait(t.Context()); !errors.Is(waited, err) {
		t.Errorf("Wait: %v, want %v", waited, err)
	}
	if got := out.count("bad: hello from bad"); got != 1 {
		t.Errorf("the child was started %d times, want once", got)
	}
}

func TestPanicIsNoConfigurationMistake(t *testing.T) {
	s, out := newSupervisor(t)
	if err := s.Start(t.Context(), process(t, "panic", "a")); err != nil {
		t.Fatal(err)
	}
	until(t, "a second start", func() bool { return out.count("a: hello from a") >= 2 })
}

func TestStartGivesUp(t *testing.T) {
	s, _ := newSupervisor(t)
	p := process(t, "serve", "a")
	p.StartTimeout = 60 * time.Millisecond
	p.Ready = func(context.Context) error { return errors.New("port closed") }
	err := s.Start(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "a is not ready after 60ms: port closed") {
		t.Errorf("Start: %v, want that a is not ready", err)
	}
}

func TestNoSuchProgram(t *testing.T) {
	s, _ := newSupervisor(t)
	err := s.Start(t.Context(), Process{Name: "a", Path: filepath.Join(t.TempDir(), "none")})
	if status, ok := Status(err); !ok || status != -1 {
		t.Errorf("Start: %v, want an *ExitError with status -1", err)
	}
}

func TestDo(t *testing.T) {
	for _, tc := range []struct {
		role string
		want int
	}{{"exit", 1}, {"config", 2}, {"nothing", 0}} {
		t.Run(tc.role, func(t *testing.T) {
			s, out := newSupervisor(t)
			err := s.Do(t.Context(), process(t, tc.role, "a"))
			if status, _ := Status(err); status != tc.want {
				t.Errorf("Do: %v with status %d, want %d", err, status, tc.want)
			}
			if got := out.count("a: hello from a"); got != 1 {
				t.Errorf("the task ran %d times, want once", got)
			}
		})
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	s, out := newSupervisor(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		until(t, "greeting", func() bool { return out.count("a: hello from a") == 1 })
		cancel()
	}()
	t.Setenv(childFile, filepath.Join(t.TempDir(), "order"))
	if err := s.Do(ctx, process(t, "serve", "a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Do: %v, want context.Canceled", err)
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"whole lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"a line in pieces", []string{"a", "b", "c\nd"}, []string{"abc", "d"}},
		{"CRLF and empty lines", []string{"a\r\n\n"}, []string{"a", ""}},
		{"too long", []string{long + "y\n"}, []string{long, "y"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			w := &lineWriter{line: func(line string) { got = append(got, line) }}
			for _, s := range tc.writes {
				if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			w.flush()
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	for _, line := range []string{"one", "two"} { // opened again, a file goes on
		f, err := OpenFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		f.Line("sender", line)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "sender.log"))
	if err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("sender.log holds %q, %v; want both lines", got, err)
	}
}
