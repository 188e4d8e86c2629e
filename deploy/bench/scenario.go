package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"
)

// sessions is how many SMTP sessions smtp-source keeps open.
const sessions = 40

// scenario is a role in which servers are compared.
type scenario struct {
	Name  string
	About string
	Bytes int  // of a message
	Relay bool // whether the server delivers; else it only takes the mail

	Targets []Target
	servers []server // the first is carom
}

// Target is a ratio of carom to the best of its peers that is to be reached.
type Target struct {
	What string `json:"what"` // rate or cpu
	// Ratio is carom's figure divided by the peer's: at least this for the rate, at most for CPU.
	Ratio float64 `json:"ratio"`
}

// The two figures that targets speak of.
const (
	whatRate = "rate"
	whatCPU  = "cpu"
)

// server is something to measure.
type server struct {
	name string
	// missing returns why the server cannot run here, or "".
	missing func() string
	// start starts the server in the stage's folder and returns once it takes mail.
	start func(context.Context, *stage) (*running, error)
}

// running is a started server. Everything it started ends with the stage or with stop.
type running struct {
	addr  string
	usage func() (usage, error)
	stop  func(context.Context) error // before the processes of the stage are stopped; may be nil
}

var (
	relays    = []server{caromRelay, postfixDefault, postfixRaised}
	scenarios = []scenario{
		{
			Name: "relay-4k", About: "take 4 KiB messages, keep them durable, log the events, and deliver to a sink",
			Bytes: 4 << 10, Relay: true, Targets: []Target{{whatRate, 10}, {whatCPU, 0.1}}, servers: relays,
		},
		{
			Name: "relay-50k", About: "the same with 50 KiB",
			Bytes: 50 << 10, Relay: true, Targets: []Target{{whatRate, 3.5}}, servers: relays,
		},
		{
			Name: "accept-4k", About: "durable acceptance alone: the messages' receiver refuses connections",
			Bytes: 4 << 10, Targets: []Target{{whatRate, 0.6}}, servers: []server{caromAccept, goSMTP},
		},
	}
)

// lab runs scenarios.
type lab struct {
	options
	tools    tools
	dir      string
	progress io.Writer
}

func (l *lab) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.progress, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// scenario measures all servers of s in turn.
func (l *lab) scenario(ctx context.Context, s scenario) (Measured, error) {
	m := Measured{Name: s.Name, About: s.About, Bytes: s.Bytes, Sessions: sessions, Targets: s.Targets}
	counts := make([]int, len(s.servers)) // of messages in a measurement
	for i, srv := range s.servers {
		m.Servers = append(m.Servers, ServerResult{Name: srv.name})
		if m.Servers[i].Skipped = srv.missing(); m.Servers[i].Skipped != "" {
			l.say("%s: %s is skipped: %s", s.Name, srv.name, m.Servers[i].Skipped)
			continue
		}
		first, err := l.calibrate(ctx, s, srv)
		if err != nil {
			return m, fmt.Errorf("%s: %w", srv.name, err)
		}
		if l.Short {
			m.Servers[i].Samples = append(m.Servers[i].Samples, first)
			continue
		}
		counts[i] = clampMessages(first.Rate() * l.Seconds)
	}
	for round := range l.Runs {
		for i, srv := range s.servers {
			if counts[i] == 0 {
				continue
			}
			sample, err := l.measure(ctx, s, srv, counts[i])
			if err != nil {
				return m, fmt.Errorf("%s: %w", srv.name, err)
			}
			m.Servers[i].Samples = append(m.Servers[i].Samples, sample)
			l.say("%s: %s, run %d of %d: %s", s.Name, srv.name, round+1, l.Runs, sample)
		}
	}
	m.summarise()
	return m, nil
}

// Bounds of the number of messages in a measurement.
const (
	leastMessages = 500
	mostMessages  = 300_000
)

// calibrate measures srv with more and more messages, until that takes long enough to tell its rate.
func (l *lab) calibrate(ctx context.Context, s scenario, srv server) (Sample, error) {
	enough := min(1, l.Seconds/3)
	if l.Short {
		enough = 0.4
	}
	for n := leastMessages; ; n *= 6 {
		sample, err := l.measure(ctx, s, srv, n)
		if err != nil {
			return Sample{}, err
		}
		l.say("%s: %s at first: %s", s.Name, srv.name, sample)
		if sample.Seconds >= enough || n*6 > mostMessages {
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

// measure starts srv, sends n messages through it, and stops it.
func (l *lab) measure(ctx context.Context, s scenario, srv server, n int) (sample Sample, err error) {
	// Ten times as slow as the slowest peer on a slow machine is not a figure but a hang.
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute+20*time.Duration(l.Seconds*float64(time.Second)),
		errors.New("not done in time"))
	defer cancel()
	st, err := l.openStage(ctx, s)
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
	before, err := settled(ctx, r.usage)
	if err != nil {
		return Sample{}, err
	}
	memory := watchMemory(r.usage)
	took, err := st.send(ctx, r, n)
	peak := memory.stop()
	if err != nil {
		return Sample{}, err
	}
	after, err := settled(ctx, r.usage)
	if err != nil {
		return Sample{}, err
	}
	return Sample{
		Messages: n, Seconds: took.Seconds(), CPUSeconds: (after.cpu - before.cpu).Seconds(),
		PeakMiB: float64(max(peak, after.memory)) / (1 << 20),
	}, st.checkSink(warmUp + n)
}

// openStage makes the folder of one run, and starts the sink if the scenario has one.
func (l *lab) openStage(ctx context.Context, s scenario) (*stage, error) {
	dir := filepath.Join(l.dir, "run")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // daemons of other users work in it
		return nil, err
	}
	st := &stage{lab: l, scenario: s, dir: dir, sup: newSupervisor(l)}
	if s.Relay {
		if err := st.startSink(ctx); err != nil {
			return nil, errors.Join(err, st.close())
		}
	}
	return st, nil
}
