package control_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"carom/analytics/control"
	"carom/schemas/limits"
)

const now = 10 * time.Hour

// window returns what the loop sees at now: buckets of ten seconds, the last of which ended at
// now, all of one epoch; and a node that is configured for static.
func window(static limits.Limit, epoch uint64, counts ...control.Counts) *control.Windows {
	w := &control.Windows{Static: static, To: now, Newest: now, Delay: 27 * time.Second, Nodes: 1, Waiting: 1}
	for i, c := range counts {
		start := now - time.Duration(len(counts)-i)*10*time.Second
		w.Buckets = append(w.Buckets, control.Bucket{Start: start, Epoch: epoch, Counts: c, MaxOpen: 5, MinMessages: control.NoMessages})
		w.Hour.Add(c)
	}
	return w
}

func times(n int, c control.Counts) []control.Counts {
	all := make([]control.Counts, n)
	for i := range all {
		all[i] = c
	}
	return all
}

// decide decides at now, as if the limit in force were old: the buckets of w count.
func decide(t *testing.T, s control.State, w *control.Windows) (control.State, control.Limits, []control.Reason) {
	t.Helper()
	p := control.Default()
	s.Since = 0
	return control.Decide(&p, s, now, w)
}

func only(t *testing.T, reasons []control.Reason, rule control.Rule) control.Reason {
	t.Helper()
	if len(reasons) != 1 || reasons[0].Rule != rule {
		t.Fatalf("reasons are %+v, want one %s", reasons, rule)
	}
	return reasons[0]
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9*math.Max(1, math.Abs(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestWilsonLow(t *testing.T) {
	for _, tc := range []struct {
		k, n uint64
		z    float64
		want float64
	}{
		{0, 0, 1.64, 0},
		{0, 10, 1.64, 0},
		{10, 10, 1.96, 0.7224598}, // n/(n+z²)
		{1, 10, 1.96, 0.0178762},
		{50, 100, 1.96, 0.4038298},
	} {
		if got := control.WilsonLow(tc.k, tc.n, tc.z); math.Abs(got-tc.want) > 1e-6 {
			t.Errorf("WilsonLow(%d, %d, %v) = %v, want %v", tc.k, tc.n, tc.z, got, tc.want)
		}
	}
}

// The numbers of a BACKOFF, worked out by hand.
func TestBackoff(t *testing.T) {
	static := limits.Static(100, 0, 0)
	counts := times(6, control.Counts{OK: 1000})
	// 27 a second are taken: the bucket of the cut, then two after it.
	counts = append(counts, control.Counts{OK: 400, Rate: 100}, control.Counts{OK: 270, Rate: 30}, control.Counts{OK: 270, Rate: 30})
	state, want, reasons := decide(t, control.State{}, window(static, 0, counts...))
	r := only(t, reasons, control.RuleBackoff)

	// The last 40 s hold the evidence: one clean bucket and three that are not.
	e := r.Evidence
	if e.Replies != 2100 || e.Refusals != 160 || e.From != now-40*time.Second || e.To != now || e.AcceptedSince != 540 || e.FirstRefusal != now-20*time.Second {
		t.Errorf("evidence is %+v", e)
	}
	a := (540 + 4) / (20 + 5.0/100)
	near(t, "p", e.RefusedShare, 160.0/2100)
	near(t, "accepted rate", e.AcceptedRate, a)
	near(t, "rate", want.RatePerSecond, 0.9*a)
	near(t, "cap", state.Cap, a)
	if state.Mode != control.Backoff || state.Epoch != 1 || want.Epoch != 1 || state.Chain != 1 || state.NextProbe != now+4*time.Minute {
		t.Errorf("state is %+v", state)
	}
	if r.EpochFrom != 0 || r.Epoch != 1 || r.Old.RatePerSecond != 100 || r.New.RatePerSecond != want.RatePerSecond || r.ModeTo != control.Backoff {
		t.Errorf("reason is %+v", r)
	}
	if !strings.Contains(r.Text, "160 of 2100 replies") || !strings.Contains(r.Text, "100/s -> 24.4/s") {
		t.Errorf("text is %q", r.Text)
	}
}

func TestDecreaseWaitsForEvidence(t *testing.T) {
	static := limits.Static(100, 0, 0)
	clean := control.Counts{OK: 1000}
	for _, tc := range []struct {
		name   string
		counts []control.Counts
		want   int
	}{
		{"no data after the first refusal", append(times(3, clean), control.Counts{OK: 300, Rate: 700}), 0},
		{"ten seconds after heavy refusals", append(times(3, clean), control.Counts{OK: 300, Rate: 700}, control.Counts{OK: 300}), 1},
		{"ten seconds after light refusals at a low rate", append(times(3, control.Counts{OK: 20}), control.Counts{OK: 15, Rate: 3}, control.Counts{OK: 17, Rate: 2}), 0},
		{"twenty seconds after light refusals at a low rate", append(times(3, control.Counts{OK: 20}), control.Counts{OK: 15, Rate: 3}, control.Counts{OK: 17, Rate: 2}, control.Counts{OK: 17, Rate: 2}), 1},
		{"one refusal", append(times(3, clean), control.Counts{OK: 9, Rate: 1}, control.Counts{OK: 10}, control.Counts{OK: 10}), 0},
		{"refusals in the noise", times(6, control.Counts{OK: 990, Rate: 10}), 0},
		{"unknown users and refused content", times(6, control.Counts{OK: 500, User: 300, Content: 100, Auth: 100}), 0},
		{"greylisting", times(6, control.Counts{OK: 400, Greylist: 600}), 0},
		{"unclassified noise", times(6, control.Counts{OK: 990, Other: 10}), 0},
		{"unclassified refusals", times(6, control.Counts{OK: 700, Other: 300}), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, reasons := decide(t, control.State{}, window(static, 0, tc.counts...))
			if len(reasons) != tc.want {
				t.Errorf("reasons are %+v, want %d", reasons, tc.want)
			}
		})
	}
}

func TestCooldownAfterRefusalsThatGoOn(t *testing.T) {
	static := limits.Static(100, 0, 0)
	state := control.State{
		Mode: control.Backoff, Epoch: 3, LastEpoch: 3, RatePerSecond: 50, Cap: 55, Chain: 1, ChainCap: 55,
		CoolTime: 5 * time.Minute, LongTerm: 100, ProbeEvery: 4 * time.Minute,
	}
	w := window(static, 3, times(4, control.Counts{OK: 200, Rate: 300})...)
	state, _, reasons := decide(t, state, w)
	only(t, reasons, control.RuleCooldown)
	a := (600 + 4) / (30 + 5.0/50)
	near(t, "rate", state.RatePerSecond, 0.35*a)
	near(t, "goal", state.Goal, 55)
	if state.CoolUntil != now+5*time.Minute || state.CoolTime != 450*time.Second || state.Mode != control.Cooldown {
		t.Errorf("state is %+v", state)
	}

	// Nothing goes up before the penalty is over, and then it does.
	clean := window(static, 4, times(4, control.Counts{OK: uint64(10 * state.RatePerSecond)})...)
	if _, _, reasons := decide(t, state, clean); len(reasons) > 0 {
		t.Errorf("raised in the cooldown: %+v", reasons)
	}
	state.CoolUntil = now
	after, _, reasons := decide(t, state, clean)
	only(t, reasons, control.RuleRecover)
	near(t, "rate", after.RatePerSecond, 1.5*state.RatePerSecond)
}

// What has not been shipped yet is not a time in which nothing was accepted.
func TestDecreaseMeasuresWhereThereIsData(t *testing.T) {
	counts := append(times(6, control.Counts{OK: 1000}), times(3, control.Counts{OK: 250, Rate: 750})...)
	w := window(limits.Static(100, 0, 0), 0, counts...)
	_, _, want := decide(t, control.State{}, w)
	only(t, want, control.RuleBackoff)
	for i := range w.Buckets { // the agent is two minutes behind
		w.Buckets[i].Start -= 2 * time.Minute
	}
	w.Newest -= 2 * time.Minute
	_, _, got := decide(t, control.State{}, w)
	near(t, "rate", only(t, got, control.RuleBackoff).New.RatePerSecond, want[0].New.RatePerSecond)
	near(t, "accepted rate", got[0].Evidence.AcceptedRate, want[0].Evidence.AcceptedRate)
	if got[0].Evidence.To != w.Newest {
		t.Errorf("evidence ends at %s, want where the data ends, %s", got[0].Evidence.To, w.Newest)
	}
}

// A break in the mail is not a time in which nothing was accepted either.
func TestDecreaseLeavesBreaksOut(t *testing.T) {
	state := control.State{Mode: control.Cruise, Epoch: 2, LastEpoch: 2, RatePerSecond: 20, Cap: 25}
	burst := times(4, control.Counts{OK: 190, Rate: 10})
	w := window(limits.Static(100, 0, 0), 2, slices.Concat(burst, times(30, control.Counts{}), burst[:1])...)
	e := only(t, func() []control.Reason { _, _, r := decide(t, state, w); return r }(), control.RuleBackoff).Evidence
	if e.Idle != 5*time.Minute {
		t.Errorf("idle for %s, want the break of 5 minutes", e.Idle)
	}
	near(t, "accepted rate", e.AcceptedRate, (4*190+4)/(4*10+5.0/20))
}

// The row of a decrease holds the rate that it started from, where none is configured too.
func TestDecreaseFromUnlimitedSaysFromWhere(t *testing.T) {
	w := window(limits.None(), 0, append(times(6, control.Counts{OK: 100_000}), times(3, control.Counts{OK: 25_000, Rate: 75_000})...)...)
	_, _, reasons := decide(t, control.State{}, w)
	e := only(t, reasons, control.RuleBackoff).Evidence
	if text := reasons[0].Text; !strings.Contains(text, "no limit -> ") || strings.Contains(text, "e+") {
		t.Errorf("text is %q", text)
	}
	near(t, "accepted rate", e.AcceptedRate, (float64(e.AcceptedSince)+4)/((e.To-e.FirstRefusal).Seconds()+5/e.FromRate))
	near(t, "rate before", e.FromRate, 10_000)
}

func TestIncreases(t *testing.T) {
	static := limits.Static(100, 0, 0)
	base := control.State{Mode: control.Backoff, Epoch: 2, LastEpoch: 2, RatePerSecond: 20, Cap: 25, ProbeStep: 0.06, LongTerm: 90}
	full := func(rate float64) []control.Counts { return times(4, control.Counts{OK: uint64(10 * rate)}) }
	for _, tc := range []struct {
		name   string
		change func(*control.State, *control.Windows)
		counts []control.Counts
		rule   control.Rule
		want   float64
	}{
		{"back to the capacity", nil, full(20), control.RuleRecover, 24},
		{"half-way back", func(s *control.State, _ *control.Windows) { s.Cap = 60 }, full(20), control.RuleRecover, 30},
		{"to the goal", func(s *control.State, _ *control.Windows) { s.Cap, s.Goal = 21, 30 }, full(20), control.RuleRecover, 27},
		{"to a far goal, in bounds", func(s *control.State, _ *control.Windows) { s.Cap, s.Goal = 21, 90 }, full(20), control.RuleRecover, 30},
		{"to a goal that was lost", func(s *control.State, _ *control.Windows) { s.Cap, s.Goal, s.RecoveryFailed = 21, 90, 1 }, full(20), control.RuleRecover, 24},
		{"a probe", func(s *control.State, _ *control.Windows) { s.Cap = 21 }, full(20), control.RuleProbe, 21.2},
		{"a probe before its time", func(s *control.State, _ *control.Windows) { s.Cap, s.NextProbe = 21, now+1 }, full(20), "", 0},
		{"up to the configuration", func(s *control.State, _ *control.Windows) { s.Cap = 0 }, full(20), control.RuleStartup, 30},
		{"up to the ceiling", func(s *control.State, w *control.Windows) { s.Cap, w.Static = 60, limits.Static(22, 0, 0) }, full(20), control.RuleRecover, 22},
		{"an unused limit", nil, full(15), "", 0},
		{"one refusal too many", nil, times(4, control.Counts{OK: 197, Rate: 3}), "", 0},
		{"bursts that the limit binds", nil, slices.Concat(full(20), times(30, control.Counts{}), full(20)), control.RuleRecover, 24},
		{"a burst that the limit does not bind", nil, slices.Concat(full(20), times(30, control.Counts{}), full(15)), "", 0},
		{"bursts with refusals before", nil, slices.Concat(times(4, control.Counts{OK: 194, Rate: 6}), times(30, control.Counts{}), full(20)), "", 0},
		{"too short", nil, full(20)[:2], "", 0},
		{"stale data", func(_ *control.State, w *control.Windows) { w.Newest = now - time.Minute }, full(20), "", 0},
		{"a bad list", func(_ *control.State, w *control.Windows) { w.Hour.User = 500 }, full(20), "", 0},
		{"refused content", func(_ *control.State, w *control.Windows) { w.Hour.Content = 300 }, full(20), "", 0},
		{"cooling down", func(s *control.State, _ *control.Windows) { s.CoolUntil = now + 1 }, full(20), "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state, w := base, window(static, 2, tc.counts...)
			if tc.change != nil {
				tc.change(&state, w)
			}
			after, _, reasons := decide(t, state, w)
			if tc.rule == "" {
				if len(reasons) > 0 {
					t.Errorf("reasons are %+v, want none", reasons)
				}
				return
			}
			only(t, reasons, tc.rule)
			near(t, "rate", after.RatePerSecond, tc.want)
		})
	}
}

func TestSuspendAndResume(t *testing.T) {
	static := limits.Static(100, 20, 0)
	state := control.State{Mode: control.Cruise, Epoch: 5, LastEpoch: 5, RatePerSecond: 40, Cap: 42, LongTerm: 42}
	state, want, reasons := decide(t, state, window(static, 5, append(times(3, control.Counts{OK: 400}), times(3, control.Counts{OK: 5, Block: 395})...)...))
	only(t, reasons, control.RuleSuspend)
	near(t, "rate", want.RatePerSecond, 1.0/30)
	if !want.Canary || state.PreCap != 42 || state.Outage {
		t.Fatalf("limits %+v, state %+v", want, state)
	}

	refused := window(static, 6, control.Counts{Block: 1}, control.Counts{}, control.Counts{}, control.Counts{Block: 1})
	if _, _, reasons := decide(t, state, refused); len(reasons) > 0 {
		t.Errorf("refused canaries changed something: %+v", reasons)
	}
	refusedFirst := append(times(2, control.Counts{Block: 1}), times(2, control.Counts{OK: 1})...)
	_, _, reasons = decide(t, state, window(static, 6, refusedFirst[:3]...))
	only(t, reasons, control.RuleCanaryFast) // what was refused before is the block that may be over
	_, _, reasons = decide(t, state, window(static, 6, refusedFirst...))
	only(t, reasons, control.RuleResume)
	state, want, reasons = decide(t, state, window(static, 6, control.Counts{Greylist: 1}))
	only(t, reasons, control.RuleCanaryFast)
	near(t, "rate", want.RatePerSecond, 1.0/8)

	slow, _, reasons := decide(t, state, window(static, 7, control.Counts{Block: 2}))
	only(t, reasons, control.RuleCanarySlow)
	near(t, "rate", slow.RatePerSecond, 1.0/30)

	state, want, reasons = decide(t, state, window(static, 7, control.Counts{OK: 1}))
	only(t, reasons, control.RuleResume)
	near(t, "rate", want.RatePerSecond, 0.4*42)
	if want.Canary || state.Mode != control.Recover || state.Cap != 42 || state.NextProbe != now+5*time.Minute {
		t.Errorf("limits %+v, state %+v", want, state)
	}
}

func TestOutageWithoutKnownCapacity(t *testing.T) {
	static := limits.Static(100, 0, 0)
	state, want, reasons := decide(t, control.State{}, window(static, 0, times(3, control.Counts{Unavailable: 20})...))
	only(t, reasons, control.RuleSuspend)
	near(t, "rate", want.RatePerSecond, 1.0/15)
	if !state.Outage {
		t.Error("an outage is taken for a block")
	}
	state, want, reasons = decide(t, state, window(static, 1, control.Counts{OK: 2}))
	only(t, reasons, control.RuleResume)
	near(t, "rate", want.RatePerSecond, 25)
	if state.Mode != control.Startup || state.Cap != 0 {
		t.Errorf("state is %+v", state)
	}
}

func TestConnections(t *testing.T) {
	static := limits.Static(100, 20, 0)
	w := window(static, 0, times(3, control.Counts{OK: 300, Connections: 10})...)
	w.Buckets[1].MaxOpen = 12
	state, want, reasons := decide(t, control.State{}, w)
	only(t, reasons, control.RuleConnectionsDown)
	if want.Connections != 12 || state.ConnectionsUntil != now+200*time.Second || want.RatePerSecond != 100 {
		t.Fatalf("limits %+v, state %+v", want, state)
	}

	// More, when they bind: one, then two; back to the last good number when that was too much.
	binding := func(epoch uint64, open uint32) *control.Windows {
		w := window(static, epoch, times(6, control.Counts{OK: 300})...)
		for i := range w.Buckets {
			w.Buckets[i].MaxOpen = open
		}
		return w
	}
	if _, _, reasons := decide(t, state, binding(1, 12)); len(reasons) > 0 {
		t.Errorf("raised before its time: %+v", reasons)
	}
	state.ConnectionsUntil = now
	if _, _, reasons := decide(t, state, binding(1, 6)); len(reasons) > 0 {
		t.Errorf("raised though not all were used: %+v", reasons)
	}
	state, want, reasons = decide(t, state, binding(1, 12))
	only(t, reasons, control.RuleConnectionsUp)
	if want.Connections != 13 {
		t.Errorf("%d connections, want 13", want.Connections)
	}
	state, want, reasons = decide(t, state, binding(2, 13))
	only(t, reasons, control.RuleConnectionsUp)
	if want.Connections != 15 {
		t.Errorf("%d connections, want 15", want.Connections)
	}
	state, want, reasons = decide(t, state, window(static, 3, times(3, control.Counts{OK: 300, Connections: 10})...))
	only(t, reasons, control.RuleConnectionsDown)
	if want.Connections != 13 || state.ConnectionsUntil != now+5*time.Minute {
		t.Errorf("limits %+v, state %+v", want, state)
	}
}

func TestMessagesPerConnection(t *testing.T) {
	static := limits.Static(100, 20, 0)
	w := window(static, 0, times(3, control.Counts{OK: 900, Messages: 40})...)
	w.Buckets[1].MinMessages = 21
	state, want, reasons := decide(t, control.State{}, w)
	only(t, reasons, control.RuleMessagesDown)
	if want.MessagesPerConnection != 20 || state.MessagesUntil != now+6*time.Hour {
		t.Fatalf("limits %+v, state %+v", want, state)
	}
	clean := window(static, 1, times(4, control.Counts{OK: 900})...)
	if _, _, reasons := decide(t, state, clean); len(reasons) > 0 {
		t.Errorf("raised within six hours: %+v", reasons)
	}
	state.MessagesUntil = now
	_, want, reasons = decide(t, state, clean)
	only(t, reasons, control.RuleMessagesUp)
	if want.MessagesPerConnection != 40 {
		t.Errorf("%d messages, want 40", want.MessagesPerConnection)
	}
}

func TestCeilingComesDown(t *testing.T) {
	state := control.State{Mode: control.Cruise, Epoch: 2, LastEpoch: 2, RatePerSecond: 80, Connections: 15, Cap: 90}
	state, want, reasons := decide(t, state, window(limits.Static(50, 10, 0), 2))
	only(t, reasons, control.RuleCeiling)
	if want.RatePerSecond != 50 || want.Connections != 10 || state.Epoch != 3 {
		t.Errorf("limits %+v, state %+v", want, state)
	}
}

// What is known of a receiver grows old while the loop stands still.
func TestRestart(t *testing.T) {
	p := control.Default()
	w := window(limits.Static(50, 10, 0), 3)
	cruising := control.State{Mode: control.Cruise, Epoch: 3, LastEpoch: 3, RatePerSecond: 19, Cap: 20}
	slow := cruising
	slow.RatePerSecond = 5
	suspended := cruising
	suspended.Mode = control.Suspended
	for _, tc := range []struct {
		name  string
		state control.State
		stood time.Duration
		rule  control.Rule // "" for no change
		rate  float64
	}{
		{"an hour", cruising, time.Hour, control.RuleRestart, 16},
		{"two days", cruising, 48 * time.Hour, control.RuleRestart, 8},
		{"a month", cruising, 31 * 24 * time.Hour, control.RuleRelease, 50},
		{"nothing is raised", slow, time.Hour, "", 0},
		{"a suspension ends by trials", suspended, time.Hour, "", 0},
		{"a key on its configuration", control.State{Mode: control.Startup}, time.Hour, "", 0},
	} {
		after, reasons := control.Restart(&p, tc.state, now, tc.stood, w)
		if tc.rule == "" {
			if len(reasons) > 0 || after != tc.state {
				t.Errorf("%s: %+v, %+v; want no change", tc.name, after, reasons)
			}
			continue
		}
		r := only(t, reasons, tc.rule)
		near(t, tc.name, r.New.RatePerSecond, tc.rate)
		if r.Epoch != 4 || after.LastEpoch != 4 || r.Old.RatePerSecond != 19 {
			t.Errorf("%s: state %+v, reason %+v", tc.name, after, r)
		}
	}
}

func TestRelease(t *testing.T) {
	w := window(limits.Static(50, 10, 0), 2)
	if after, reasons := control.Release(control.State{}, now, w, "Off"); len(reasons) > 0 || after != (control.State{}) {
		t.Errorf("a key without a limit was released: %+v, %+v", after, reasons)
	}
	after, reasons := control.Release(control.State{Mode: control.Backoff, Epoch: 4, LastEpoch: 4, RatePerSecond: 3, LongTerm: 9}, now, w, "Off")
	r := only(t, reasons, control.RuleRelease)
	if after.Epoch != 0 || after.LastEpoch != 5 || r.Epoch != 5 || r.Old.RatePerSecond != 3 || r.New.RatePerSecond != 50 {
		t.Errorf("state %+v, reason %+v", after, r)
	}
	// Its old refusals do not count again when the loop comes back.
	old := window(limits.Static(50, 10, 0), 0, times(6, control.Counts{OK: 100, Rate: 300})...)
	p := control.Default()
	if _, _, reasons := control.Decide(&p, after, now, old); len(reasons) > 0 {
		t.Errorf("refusals from before the release count: %+v", reasons)
	}
}

func TestSlowKeyGoesDownCarefully(t *testing.T) {
	static := limits.Static(0.5, 0, 0)
	counts := append(times(3, control.Counts{OK: 4}), times(3, control.Counts{OK: 1, Rate: 2})...)
	_, want, reasons := decide(t, control.State{}, window(static, 0, counts...))
	only(t, reasons, control.RuleBackoff)
	if want.RatePerSecond < 0.25 || want.RatePerSecond > 0.475 {
		t.Errorf("rate is %v after 21 replies, want 0.25 to 0.475", want.RatePerSecond)
	}
}

// surroundings draws what an operator, the history and other keys say of a key.
func surroundings(t *rapid.T, w *control.Windows, at time.Duration) {
	often := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
	rate := rapid.SampledFrom([]float64{0.001, 3, 500, math.NaN(), -1, 0})
	if often("pin") {
		fixed, bound, connections := rate.Draw(t, "pinned rate"), rate.Draw(t, "bound"), uint32(rapid.IntRange(0, 99).Draw(t, "pinned connections"))
		w.Pin = &control.Pin{By: "someone", Reason: "a test", Until: at + rapid.SampledFrom([]time.Duration{-1, time.Hour}).Draw(t, "pinned for")}
		switch rapid.IntRange(0, 3).Draw(t, "kind of pin") {
		case 0:
			w.Pin.Rate = &fixed
		case 1:
			w.Pin.Ceiling = &bound
		case 2:
			w.Pin.Floor = &bound
		default:
			w.Pin.Rate, w.Pin.Connections = &fixed, &connections
		}
	}
	if often("frozen") {
		w.Frozen = "the provider is out for everybody"
	}
	if often("warm-up") {
		w.Warmup = &control.Warmup{Start: at - time.Duration(rapid.IntRange(-10, 1000).Draw(t, "age of the source"))*time.Hour}
		for range rapid.IntRange(0, 30).Draw(t, "days") {
			n := rapid.Uint64Range(0, 100_000)
			w.Warmup.Days = append(w.Warmup.Days, control.WarmupDay{Replies: n.Draw(t, "replies"), Accepted: n.Draw(t, "accepted"), Refused: n.Draw(t, "refused")})
		}
	}
	if often("history") {
		w.HistoryRate = rate.Draw(t, "history")
	}
	w.Established, w.PermanentlyDeferred = often("established"), often("permanently deferred")
}

// The invariants of design/control.md 5.4 that concern Decide, on any evidence and over many
// decisions in a row.
func TestInvariants(t *testing.T) {
	p := control.Default()
	rapid.Check(t, func(t *rapid.T) {
		var state control.State
		at := 100 * time.Hour
		small := rapid.Uint64Range(0, 30)
		for range rapid.IntRange(1, 40).Draw(t, "decisions") {
			at += time.Duration(rapid.IntRange(1, 40).Draw(t, "pause")) * 10 * time.Second
			static := limits.Static(
				rapid.SampledFrom([]float64{0, 0.02, 1, 10, 110}).Draw(t, "static"),
				rapid.SampledFrom([]uint32{0, 1, 20}).Draw(t, "connections"),
				rapid.SampledFrom([]uint32{0, 1, 50}).Draw(t, "messages"),
			)
			var adaptive limits.Limit
			if rapid.Bool().Draw(t, "has adaptive") {
				adaptive = limits.Limit{RatePerSecond: 200, Connections: 64, MessagesPerConnection: 100}
			}
			w := &control.Windows{
				Static: static, Adaptive: adaptive, To: at, Delay: 27 * time.Second,
				Newest: at - time.Duration(rapid.SampledFrom([]int{0, 30, 90}).Draw(t, "age"))*time.Second,
				Nodes:  rapid.IntRange(0, 3).Draw(t, "nodes"), Waiting: rapid.Float64Range(0, 1).Draw(t, "waiting"),
			}
			scale := rapid.SampledFrom([]uint64{0, 1, 1, 50}).Draw(t, "scale")
			for i := range rapid.IntRange(0, 12).Draw(t, "buckets") {
				c := control.Counts{
					OK: scale * small.Draw(t, "ok"), User: small.Draw(t, "user") / 10, Rate: scale * small.Draw(t, "rate") / 8, Connections: small.Draw(t, "conn") / 8,
					Messages: small.Draw(t, "msgc") / 20, Block: scale * small.Draw(t, "block") / 20, Greylist: small.Draw(t, "grey") / 10,
					Unavailable: scale * small.Draw(t, "unav") / 20, Content: small.Draw(t, "content") / 20, Other: scale * small.Draw(t, "other") / 10,
				}
				epoch := state.Epoch
				if rapid.IntRange(0, 9).Draw(t, "other epoch") == 0 {
					epoch++
				}
				w.Buckets = append(w.Buckets, control.Bucket{
					Start: at - time.Duration(12-i)*10*time.Second, Epoch: epoch, Counts: c,
					First: 30, FirstOther: min(30, c.Other), Retry: small.Draw(t, "retries"),
					MaxOpen: uint32(small.Draw(t, "open")), MinMessages: rapid.SampledFrom([]uint32{control.NoMessages, 1, 21}).Draw(t, "index"),
				})
				w.Hour.Add(c)
			}
			state.Since = min(state.Since, at-2*time.Minute) // so that the buckets count
			surroundings(t, w, at)

			input := state
			after, want, reasons := control.Decide(&p, input, at, w)
			again, wantAgain, _ := control.Decide(&p, input, at, w)
			if diff := cmp.Diff(after, again); diff != "" || want != wantAgain {
				t.Fatalf("not deterministic:\n%s", diff)
			}
			ceiling := limits.Ceiling(static, adaptive)
			if want.RatePerSecond > ceiling.RatePerSecond || want.Connections > ceiling.Connections || want.MessagesPerConnection > ceiling.MessagesPerConnection {
				t.Fatalf("%+v is above the ceiling %+v", want, ceiling)
			}
			if !(want.RatePerSecond > 0) || want.Connections == 0 || want.MessagesPerConnection == 0 {
				t.Fatalf("stuck at zero: %+v", want)
			}
			changed := after.RatePerSecond != input.RatePerSecond || after.Connections != input.Connections ||
				after.MessagesPerConnection != input.MessagesPerConnection || after.Epoch != input.Epoch
			decided := slices.ContainsFunc(reasons, func(r control.Reason) bool { return !r.WouldChange })
			if changed != decided {
				t.Fatalf("changed: %v, reasons %+v\n%s", changed, reasons, cmp.Diff(input, after))
			}
			if changed && after.Epoch <= input.LastEpoch {
				t.Fatalf("epoch %d after %d", after.Epoch, input.LastEpoch)
			}
			stale := at-w.Newest > 2*w.Delay
			for _, r := range reasons {
				raised := r.New.RatePerSecond > r.Old.RatePerSecond || r.New.Connections > r.Old.Connections || r.New.MessagesPerConnection > r.Old.MessagesPerConnection
				if r.Rule == control.RulePin || r.Rule == control.RuleUnpin {
					continue // an operator may do as he likes
				}
				if raised && stale {
					t.Fatalf("raised from stale data: %+v", r)
				}
				if w.Frozen != "" && r.Rule != control.RuleCeiling && r.Rule != control.RuleWarmup {
					t.Fatalf("decided while frozen: %+v", r)
				}
				restarts := r.Rule == control.RuleGreylisting
				if r.New.RatePerSecond > 1.5*r.Old.RatePerSecond*(1+1e-9) && input.Mode != control.Suspended && !restarts {
					t.Fatalf("rate grew from %v to %v at once", r.Old.RatePerSecond, r.New.RatePerSecond)
				}
				if r.Text == "" || r.Epoch != after.Epoch || r.EpochFrom != input.Epoch {
					t.Fatalf("reason %+v", r)
				}
			}
			if len(reasons) > 0 {
				// The evidence of the old limit does not count under the new one.
				for i := range w.Buckets {
					w.Buckets[i].Epoch = min(w.Buckets[i].Epoch, input.Epoch)
				}
				_, _, twice := control.Decide(&p, after, at, w)
				// What first attempts and retries show together does not depend on the limit.
				twice = slices.DeleteFunc(twice, func(r control.Reason) bool {
					return strings.HasPrefix(string(r.Rule), string(control.RuleGreylisting)) && r.Rule != reasons[0].Rule
				})
				if len(twice) > 0 {
					t.Fatalf("decided twice on one evidence: %+v, then %+v", reasons, twice)
				}
			}
			text, err := json.Marshal(after)
			if err != nil {
				t.Fatalf("state does not survive: %v", err)
			}
			var back control.State
			if err := json.Unmarshal(text, &back); err != nil || back != after {
				t.Fatalf("state changed on the way: %v\n%s", err, cmp.Diff(after, back))
			}
			state = after
		}
	})
}
