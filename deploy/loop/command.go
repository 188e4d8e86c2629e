package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

const about = `
carom-loop shows what the control loop is worth (make loop builds and runs it). It sends simulated mail to simulated receivers with
hidden limits, in virtual time, once under the loop and once under each of four usual rules, and says
how much of what an oracle would have delivered got through. Nodes, leases, guard and decisions are
the code that runs in production; the receivers are those of "carom receivers".

Examples:
  carom-loop                             the public scenarios, five seeds, in two minutes
  carom-loop --only A3,A8 --out plots    two of them, with plots and the list of decisions
  carom-loop --scenario mine.json        a scenario file of your own (see deploy/docs/loop.md)
  carom-loop --random 200                random scenarios that nothing was tuned on

The exit status is 1 if something that is wanted was not reached.`

// options are the flags of the command.
type options struct {
	scenario  string
	only      string
	seeds     int
	random    int
	from      uint64
	baselines bool
	rate      float64
	closed    bool
	delay     time.Duration
	period    time.Duration
	out       string
	json      bool
}

// heldOut is the first seed of random scenarios that no rule was tuned on.
const heldOut = 10_001

// Command runs carom-loop.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	var o options
	flags := service.NewFlags("loop", about, stdio)
	flags.StringVar(&o.scenario, "scenario", "", "scenario `file` to run in place of the public ones, or the name of one that comes with carom")
	flags.StringVar(&o.only, "only", "", "run only the public `cases` of these names, parted by commas")
	flags.IntVar(&o.seeds, "seeds", 5, "`number` of seeds, beginning with 1")
	flags.IntVar(&o.random, "random", 0, "run this `number` of random scenarios in place of the public ones")
	flags.Uint64Var(&o.from, "seed-from", heldOut, "first `seed` of the random scenarios; those under 10001 served to tune")
	flags.BoolVar(&o.baselines, "baselines", true, "compare with static limits, PowerMTA's backoff mode, shaping automation and AIMD")
	flags.Float64Var(&o.rate, "max-msg-rate", 0, "configured `rate` a second over all nodes, with --scenario (default: the receiver's first)")
	flags.BoolVar(&o.closed, "closed", false, "no adaptive ceilings: never above the configuration")
	flags.DurationVar(&o.delay, "delay", time.Minute, "`time` from an answer to its effect")
	flags.DurationVar(&o.period, "period", 15*time.Second, "`time` between two decisions")
	flags.StringVar(&o.out, "out", "", "`folder` for result.json, the decisions and a plot of each case (SVG and PNG)")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	cases, err := o.cases()
	if err != nil {
		return err
	}
	methods := Methods()
	if !o.baselines {
		methods = methods[:1]
	}
	report, err := o.run(ctx, cases, methods, stdio.Err)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := writeFile(filepath.Join(o.out, "result.json"), report.WriteJSON); err != nil {
			return err
		}
	}
	if o.json {
		err = report.WriteJSON(stdio.Out)
	} else {
		err = report.WriteText(stdio.Out, methods)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if len(report.Missed) > 0 {
		return errors.New("carom-loop: not everything that is wanted was reached")
	}
	return nil
}

// cases returns what the flags ask for.
func (o *options) cases() ([]Case, error) {
	switch {
	case o.seeds < 1 || o.seeds > 1000:
		return nil, service.Configf("carom-loop: --seeds %d: want 1 to 1000", o.seeds)
	case o.random < 0 || o.random > 100_000:
		return nil, service.Configf("carom-loop: --random %d: want 1 to 100000", o.random)
	case o.period < time.Second || o.period%tick != 0:
		return nil, service.Configf("carom-loop: --period %s: want a second or more, in tenths of a second", o.period)
	case o.delay < o.period || o.delay > time.Hour:
		return nil, service.Configf("carom-loop: --delay %s: want --period (%s) to an hour", o.delay, o.period)
	case o.scenario != "" && (o.random > 0 || o.only != ""), o.random > 0 && o.only != "":
		return nil, service.Configf("carom-loop: --scenario, --random and --only exclude each other")
	}
	var cases []Case
	switch {
	case o.scenario != "":
		one, err := o.file()
		if err != nil {
			return nil, err
		}
		cases = []Case{one}
	case o.random > 0:
		for i := range o.random {
			cases = append(cases, Random(o.from+uint64(i))) //nolint:gosec // not negative
		}
	default:
		cases = Public()
		if o.only == "" {
			break
		}
		names := strings.Split(o.only, ",")
		for _, name := range names {
			if !slices.ContainsFunc(cases, func(c Case) bool { return c.Name == name }) {
				return nil, service.Configf("carom-loop: --only %s: no such case (see carom-loop, or deploy/docs/loop.md)", name)
			}
		}
		cases = slices.DeleteFunc(cases, func(c Case) bool { return !slices.Contains(names, c.Name) })
	}
	for i := range cases {
		s := &cases[i].Setup
		if o.closed {
			*s = s.closed()
		}
		// A case may have a lag of its own.
		if s.Delay == time.Minute {
			s.Delay, s.Period = o.delay, o.period
		}
	}
	return cases, nil
}

// file is the case of a scenario file. The file says nothing of the sender, so the configuration is
// taken to be right at the start, or what the flag says.
func (o *options) file() (Case, error) {
	s, err := scenarios.Open(o.scenario)
	if err != nil {
		return Case{}, &service.ConfigError{Err: err}
	}
	if s.Duration <= 0 || s.Duration.D() > 30*24*time.Hour {
		return Case{}, service.Configf("carom-loop: %s: duration is %s, want at most 30 days, and an end", o.scenario, s.Duration)
	}
	rate := o.rate
	if rate <= 0 {
		if rate = s.Providers[0].Limit(0); rate > 1e6 {
			return Case{}, service.Configf("carom-loop: %s has no limit at the start: say what is configured with --max-msg-rate", o.scenario)
		}
	}
	return Case{Name: strings.TrimSuffix(filepath.Base(o.scenario), ".json"), About: o.scenario, Scenario: s, Setup: configure(rate)}, nil
}

// run simulates every case by every method, and draws the first seed of the loop.
func (o *options) run(ctx context.Context, cases []Case, methods []Method, progress io.Writer) (*Report, error) {
	seeds := o.seeds
	if o.random > 0 {
		seeds = 1
	}
	report := &Report{Version: 1, Missed: []string{}}
	jobs := make([]work, 0, len(cases)*len(methods)*seeds)
	for i := range cases {
		report.Cases = append(report.Cases, CaseReport{Name: cases[i].Name, About: cases[i].About, Apart: cases[i].Apart, Want: cases[i].Want})
		for m := range methods {
			for seed := range seeds {
				first := uint64(1)
				if o.random > 0 {
					first = cases[i].Scenario.Seed
				}
				jobs = append(jobs, work{&cases[i], &methods[m], first + uint64(seed)}) //nolint:gosec // not negative
			}
		}
	}
	for seed := range seeds {
		report.Seeds = append(report.Seeds, uint64(seed)+1) //nolint:gosec // not negative
	}
	if o.out != "" {
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return nil, fmt.Errorf("make the folder of --out: %w", err)
		}
	}
	perCase := len(methods) * seeds
	var failed error
	simulateAll(jobs, ctx.Done(), func(i int, r Run) {
		row := &report.Cases[i/perCase]
		if o.out != "" && i%perCase == 0 && failed == nil {
			failed = drawRun(o.out, &cases[i/perCase], &r)
		}
		r.worlds = nil
		row.add(&r)
		if i%perCase == perCase-1 {
			row.finish()
			_, _ = fmt.Fprintf(progress, "%d of %d cases, %s: %.1f %%\n", 1+i/perCase, len(cases), row.Name, row.Mean.Goodput)
		}
	})
	if err := errors.Join(ctx.Err(), failed); err != nil {
		return nil, err
	}
	if o.random > 0 {
		o.judgeRandom(report, methods)
		return report, nil
	}
	report.finish(methods)
	if o.only == "" && o.scenario == "" && o.baselines && !o.closed {
		report.judge()
	}
	return report, nil
}

// judgeRandom turns the rows of random scenarios into statistics.
func (o *options) judgeRandom(report *Report, methods []Method) {
	abouts := make([]string, 0, len(report.Cases))
	goodput := map[string][]float64{}
	for i := range report.Cases {
		c := &report.Cases[i]
		abouts = append(abouts, c.About)
		for name, g := range c.Goodput {
			goodput[name] = append(goodput[name], g)
		}
	}
	report.Random = summarize(o.from, abouts, methods, goodput)
	report.Missed = append(report.Missed, report.Random.judge()...)
	report.Cases, report.Seeds = nil, nil
}

// writeFile makes a file with what write writes.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
