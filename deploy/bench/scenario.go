package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// scenario is one thing that carom is measured at.
type scenario struct {
	Name    string
	About   string
	Targets []Target
	// measure fills in all of the result but what the scenario says of itself, and the verdicts.
	measure func(context.Context, *lab, *Measured) error
}

// The figures that targets speak of.
const (
	rateRatio = "rate ratio"
	cpuRatio  = "cpu ratio"
)

var relays = []server{caromRelay, postfixDefault, postfixRaised}

// scenarios are in the order in which they run. The targets are those that carom sets itself.
var scenarios = []scenario{
	{
		Name: "relay-4k", About: "take 4 KiB messages, keep them durable, log the events, and deliver to a sink",
		Targets: []Target{{Figure: rateRatio, AtLeast: 10}, {Figure: cpuRatio, AtMost: 0.1}},
		measure: comparison{bytes: 4 << 10, relay: true, servers: relays}.measure,
	},
	{
		Name: "relay-50k", About: "the same with 50 KiB",
		Targets: []Target{{Figure: rateRatio, AtLeast: 3.5}},
		measure: comparison{bytes: 50 << 10, relay: true, servers: relays}.measure,
	},
	{
		Name: "accept-4k", About: "durable acceptance alone: the messages' receiver refuses connections",
		Targets: []Target{{Figure: rateRatio, AtLeast: 0.6}},
		measure: comparison{bytes: 4 << 10, servers: []server{caromAccept, goSMTP}}.measure,
	},
	{
		Name: "relay-4k-clickhouse", About: "relay-4k until every event is a row in ClickHouse, beside the node alone",
		Targets: []Target{{Figure: rateRatio, AtLeast: 0.85}},
		measure: comparison{bytes: 4 << 10, relay: true, stretch: 4, servers: []server{withClickHouse, withoutClickHouse}}.measure,
	},
	{
		Name: "dkim", About: "relay-4k with RSA-2048 signatures beside without, and signing alone beside openssl speed",
		Targets: []Target{{Figure: signRatio, AtLeast: 0.85}, {Figure: signedAllowed, AtLeast: 0.8}},
		measure: measureDKIM,
	},
	{
		Name: "queue-1m", About: "memory for 1,000,000 messages that wait, and how soon a restart accepts and delivers",
		Targets: []Target{
			{Figure: residentFilled, AtMost: 500},
			{Figure: residentPeak, AtMost: 500},
			{Figure: residentAgain, AtMost: 500},
			{Figure: acceptAfterStop, AtMost: 5},
			{Figure: acceptAfterKill, AtMost: 5},
			{Figure: firstAfterStop, AtMost: 10},
			{Figure: firstAfterKill, AtMost: 10},
		},
		measure: measureRestart,
	},
	{
		Name: "blocked-queue", About: "delays of 200 messages a second beside a blocked queue of 1,000,000, and without",
		Targets: []Target{{Figure: blockedRefused, AtMost: 1.5}, {Figure: blockedThrottled, AtMost: 1.5}},
		measure: measureBlocked,
	},
	{
		Name: "delay-50ms", About: "round trips a message over a network that takes 50 ms for each, on a warm connection",
		Targets: []Target{{Figure: tripsPipelining, AtMost: 2}, {Figure: tripsChunking, AtMost: 1}},
		measure: measureDelay,
	},
	{
		Name: "parse", About: "bounces and complaints of 4.5 KB read and classified on one core, beside go-message's bare walk",
		Targets: []Target{{Figure: reportRatio, AtLeast: 0.6}, {Figure: classifyMicro, AtMost: 5}},
		measure: measureParse,
	},
}

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

// scenario measures s.
func (l *lab) scenario(ctx context.Context, s scenario) (Measured, error) {
	m := Measured{Name: s.Name, About: s.About, Runs: l.Runs}
	if l.Short {
		m.Small = "a short run"
	}
	if err := s.measure(ctx, l, &m); err != nil {
		return m, err
	}
	m.summarise()
	m.judge(s.Targets)
	return m, nil
}

// limited returns a context that ends with an error when something takes far longer than a slow
// machine explains: not a figure but a hang.
func limited(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errors.New("not done in time"))
}

// openStage makes the folder of one run, and starts the sink if there is to be one.
func (l *lab) openStage(ctx context.Context, bytes int, sink bool) (*stage, error) {
	dir := filepath.Join(l.dir, "run")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // daemons of other users work in it
		return nil, err
	}
	st := &stage{lab: l, bytes: bytes, dir: dir, sup: newSupervisor(l)}
	if sink {
		if err := st.startSink(ctx); err != nil {
			return nil, errors.Join(err, st.close())
		}
	}
	return st, nil
}
