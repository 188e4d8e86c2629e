package control_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"carom/analytics/control"
	"carom/schemas/limits"
)

// A pin is obeyed to the digit, the loop says what it would do once an hour, and what it knew
// before holds again afterwards.
func TestPin(t *testing.T) {
	static := limits.Static(10, 0, 0)
	before := control.State{Mode: control.Cruise, Epoch: 4, LastEpoch: 4, RatePerSecond: 8, Cap: 8.5}
	refusing := append(times(3, control.Counts{OK: 80}), times(3, control.Counts{OK: 40, Rate: 40})...)
	w := window(static, 4, refusing...)
	w.Pin = &control.Pin{Rate: new(3.0), By: "anna", Reason: "new content", Until: now + 2*time.Hour}
	state, want, reasons := decide(t, before, w)
	r := only(t, reasons, control.RulePin)
	if want.RatePerSecond != 3 || want.Epoch != 5 || r.Old.RatePerSecond != 8 || r.New.RatePerSecond != 3 || !strings.Contains(r.Text, "anna") || !strings.Contains(r.Text, "new content") {
		t.Fatalf("limits %+v, reason %+v", want, r)
	}
	pinned := window(static, 5, refusing...)
	pinned.Pin = w.Pin
	p := control.Default()
	state.Since = 0
	state, want, reasons = control.Decide(&p, state, now+time.Second, pinned)
	r = only(t, reasons, control.RuleBackoff)
	if !r.WouldChange || want.RatePerSecond != 3 || want.Epoch != 5 || r.Epoch != 5 || r.New.RatePerSecond >= 3 {
		t.Fatalf("limits %+v, reason %+v", want, r)
	}
	if state, want, reasons = control.Decide(&p, state, now+30*time.Minute, pinned); len(reasons) != 0 || want.RatePerSecond != 3 {
		t.Fatalf("said again within the hour: %+v", reasons)
	}
	if _, _, reasons = control.Decide(&p, state, now+62*time.Minute, pinned); len(reasons) != 1 || !reasons[0].WouldChange {
		t.Fatalf("not said again after an hour: %+v", reasons)
	}
	state, want, reasons = control.Decide(&p, state, now+2*time.Hour, pinned)
	only(t, reasons, control.RuleUnpin)
	if want.RatePerSecond != 8 || want.Epoch != 6 || state.Cap != 8.5 {
		t.Fatalf("after the pin: %+v", want)
	}
}

func TestPinBounds(t *testing.T) {
	static := limits.Static(10, 0, 0)
	clean := times(6, control.Counts{OK: 80})
	state := control.State{Mode: control.Recover, Epoch: 4, LastEpoch: 4, RatePerSecond: 8, Cap: 12}
	for _, tc := range []struct {
		name string
		pin  control.Pin
		want float64
	}{
		{"ceiling", control.Pin{Ceiling: new(6.0)}, 6},
		{"floor", control.Pin{Floor: new(9.0)}, 9},
		{"floor above the configuration", control.Pin{Floor: new(90.0)}, 10},
		{"rate above the configuration", control.Pin{Rate: new(90.0)}, 10},
		{"no number", control.Pin{Rate: new(math.NaN())}, 10}, // the loop recovers
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := window(static, 4, clean...)
			tc.pin.By, tc.pin.Reason, tc.pin.Until = "anna", "why not", now+time.Hour
			w.Pin = &tc.pin
			if _, want, _ := decide(t, state, w); want.RatePerSecond != tc.want {
				t.Errorf("rate is %v, want %v", want.RatePerSecond, tc.want)
			}
		})
	}
}

func TestWarmupLevel(t *testing.T) {
	p := control.Default().Warmup
	cap0 := uint64(p.FirstPerHour * 24)
	good := func(level float64) control.WarmupDay {
		n := uint64(float64(cap0) * math.Pow(p.Growth, level))
		return control.WarmupDay{Replies: n, Accepted: n}
	}
	share := func(refused float64) control.WarmupDay {
		return control.WarmupDay{Replies: cap0, Accepted: cap0 - uint64(refused*float64(cap0)), Refused: uint64(refused * float64(cap0))}
	}
	for _, tc := range []struct {
		name string
		days []control.WarmupDay
		at   float64 // days
		want int
	}{
		{"the first day", nil, 0.5, 0},
		{"two good days", []control.WarmupDay{good(0), good(1)}, 2, 2},
		{"a day that used a third", []control.WarmupDay{{Replies: cap0 / 3, Accepted: cap0 / 3}}, 1, 0},
		{"a day with 8 % refused holds", []control.WarmupDay{good(0), share(0.08)}, 2, 1},
		{"a day with 20 % refused takes one back", []control.WarmupDay{good(0), good(1), share(0.2)}, 3, 1},
		{"complaints hold", []control.WarmupDay{{Replies: cap0, Accepted: cap0, Complaints: cap0 / 500}}, 1, 0},
		{"three silent days take one back", []control.WarmupDay{good(0), good(1), {}, {}, {}}, 5, 1},
		{"so do days that are missing", []control.WarmupDay{good(0), good(1)}, 8, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &control.Warmup{Days: tc.days}
			if got := p.Level(w, time.Duration(tc.at*float64(24*time.Hour))); got != tc.want {
				t.Errorf("level %d, want %d", got, tc.want)
			}
		})
	}
}

func TestWarmupCapsNewSourcesOnly(t *testing.T) {
	static := limits.Static(10, 0, 0)
	w := window(static, 0)
	w.Warmup = &control.Warmup{Start: now - time.Hour}
	_, want, reasons := decide(t, control.State{}, w)
	only(t, reasons, control.RuleWarmup)
	near(t, "rate", want.RatePerSecond, 100.0/3600)
	w.Established = true
	if _, want, reasons = decide(t, control.State{}, w); len(reasons) != 0 || want.RatePerSecond != 10 {
		t.Errorf("an established source is capped: %+v, %+v", want, reasons)
	}
}

// No history is not newness, and history does not throttle mail that comes at once.
func TestHistoryStart(t *testing.T) {
	for _, tc := range []struct{ history, want float64 }{{0, 10}, {6, 6}, {0.1, 2.5}, {50, 10}} {
		w := window(limits.Static(10, 0, 0), 0)
		w.HistoryRate = tc.history
		if _, want, _ := decide(t, control.State{}, w); want.RatePerSecond != tc.want {
			t.Errorf("with a history of %v the key starts at %v, want %v", tc.history, want.RatePerSecond, tc.want)
		}
	}
}

// Nothing that a frozen key is answered counts, then or later.
func TestFrozen(t *testing.T) {
	static := limits.Static(100, 0, 0)
	bad := times(6, control.Counts{OK: 100, Unavailable: 900})
	w := window(static, 0, bad...)
	w.Frozen = "all sources are refused"
	state, want, reasons := decide(t, control.State{Mode: control.Cruise}, w)
	if len(reasons) != 0 || want.RatePerSecond != 100 {
		t.Fatalf("punished while frozen: %+v", reasons)
	}
	w.Frozen = ""
	if _, _, reasons = control.Decide(new(control.Default()), state, now, w); len(reasons) != 0 {
		t.Fatalf("punished for the time in which it was frozen: %+v", reasons)
	}
	w = window(static, 0, bad...)
	if _, _, reasons = decide(t, control.State{Mode: control.Cruise}, w); len(reasons) != 1 {
		t.Fatalf("without it nothing happens either: %+v", reasons)
	}
}

func TestGreylistingWithoutText(t *testing.T) {
	static := limits.Static(10, 0, 0)
	state := control.State{Mode: control.Cooldown, Epoch: 7, LastEpoch: 7, RatePerSecond: 1, Cap: 2, Chain: 3}
	buckets := func(retryOther uint64) *control.Windows {
		w := window(static, 7, times(12, control.Counts{OK: 6, Other: 4})...)
		for i := range w.Buckets {
			w.Buckets[i].First, w.Buckets[i].FirstOther, w.Buckets[i].Retry, w.Buckets[i].RetryOther = 7, 4-retryOther, 3, retryOther
		}
		return w
	}
	after, want, reasons := decide(t, state, buckets(0))
	r := only(t, reasons, control.RuleGreylisting)
	if !want.Greylisting || !after.Greylisting || want.RatePerSecond != 2.5 || after.Mode != control.Startup || r.Evidence.Pairs.First != 84 || r.Evidence.Pairs.Retry != 36 {
		t.Fatalf("%+v\n%+v", want, r)
	}
	// From then on they are no refusals.
	clean := window(static, 8, times(12, control.Counts{OK: 15, Other: 10})...)
	for i := range clean.Buckets {
		clean.Buckets[i].First, clean.Buckets[i].FirstOther, clean.Buckets[i].Retry = 20, 10, 5
	}
	_, want, reasons = decide(t, after, clean)
	if r := only(t, reasons, control.RuleStartup); want.RatePerSecond <= 2.5 || !r.Evidence.Greylisting || r.Evidence.Counts.Greylist != 120 {
		t.Errorf("%+v, %+v", want, r)
	}
	// Retries that are refused too are no greylisting.
	if _, _, reasons = decide(t, state, buckets(2)); len(reasons) > 0 && reasons[0].Rule == control.RuleGreylisting {
		t.Errorf("%+v", reasons)
	}
	for i := range clean.Buckets {
		clean.Buckets[i].RetryOther = 2
	}
	after, _, reasons = decide(t, after, clean)
	if only(t, reasons, control.RuleGreylistingOver); after.Greylisting {
		t.Error("still taken for greylisting")
	}
}

// A block that begins within the window is seen at once, and the capacity before it is kept.
func TestSuspendSeesABlockThatJustBegan(t *testing.T) {
	counts := append(times(6, control.Counts{OK: 100}), control.Counts{Block: 30})
	state, want, reasons := decide(t, control.State{}, window(limits.Static(50, 0, 0), 0, counts...))
	only(t, reasons, control.RuleSuspend)
	if !want.Canary || state.PreCap != 10 {
		t.Errorf("limits %+v, capacity before %v, want 10", want, state.PreCap)
	}
}

// The older a block, the rarer the trials (30 s to 30 min), and sooner where waiting does not help.
func TestTrialsGetRarer(t *testing.T) {
	p := control.Default()
	for _, permanent := range []bool{false, true} {
		state := control.State{Mode: control.Suspended, Epoch: 1, LastEpoch: 1, RatePerSecond: 1.0 / 30}
		w := &control.Windows{Static: limits.Static(10, 0, 0), Delay: time.Minute, PermanentlyDeferred: permanent}
		reached := map[time.Duration]time.Duration{}
		for at := time.Duration(0); at < 24*time.Hour; at += 15 * time.Second {
			w.To, w.Newest = at, at
			w.Buckets = []control.Bucket{{Start: at - 10*time.Second, Epoch: state.Epoch, Counts: control.Counts{Block: 1}}}
			state.Since = 0
			var want control.Limits
			state, want, _ = control.Decide(&p, state, at, w)
			every := time.Duration(math.Round(1/want.RatePerSecond)) * time.Second
			if _, ok := reached[every]; !ok {
				reached[every] = at
			}
		}
		if len(reached) != 7 || reached[30*time.Minute] == 0 {
			t.Errorf("permanent %v: times between trials and when: %v", permanent, reached)
		}
		if minute := reached[time.Minute]; permanent != (minute <= time.Minute) {
			t.Errorf("permanent %v: one a minute after %s", permanent, minute)
		}
	}
}

// What is configured for several nodes is handed out by backlog where the mail lies on one of them
// and the ceiling allows a node more than its part.
func TestBalance(t *testing.T) {
	w := window(limits.Static(40, 0, 0), 0, times(6, control.Counts{OK: 100})...)
	w.Nodes, w.Waiting = 4, 0.25
	if _, _, reasons := decide(t, control.State{}, w); len(reasons) != 0 {
		t.Errorf("without room above the configuration: %+v", reasons)
	}
	w.Adaptive.RatePerSecond = 80
	_, want, reasons := decide(t, control.State{}, w)
	only(t, reasons, control.RuleBalance)
	if want.RatePerSecond != 40 || want.Epoch != 1 {
		t.Errorf("limits %+v", want)
	}
}

// A receiver that counts single messages refuses every second one at a little too much: the key
// goes back to the last clean rate and not to half of it.
func TestBackoffToTheLastCleanRate(t *testing.T) {
	state := control.State{
		Mode: control.Probe, Epoch: 9, LastEpoch: 9, RatePerSecond: 0.25, Clean: 0.22, Cap: 0.2, LongTerm: 0.22,
		ProbeEvery: 4 * time.Minute, ProbeStep: 0.1,
	}
	w := window(limits.Static(1, 0, 0), 9, times(8, control.Counts{OK: 1, Rate: 1})...)
	after, want, reasons := decide(t, state, w)
	only(t, reasons, control.RuleBackoff)
	near(t, "rate", want.RatePerSecond, 0.95*0.22)
	if after.Clean != 0 {
		t.Error("the clean rate is used a second time")
	}
}

// maturity is a cohort whose complaints come in over two days, evenly in the logarithm of the hour.
func maturity(hours int) []float64 {
	curve := make([]float64, hours)
	for i := range curve {
		curve[i] = min(1, math.Log(float64(i)+2)/math.Log(49))
	}
	return curve
}

// delivered is a million messages of one evening, n hours ago, with complaints at share when all
// have come in.
func delivered(hours int, share float64) []control.HoldHour {
	curve := maturity(72)
	return []control.HoldHour{{Age: hours, Delivered: 1_000_000, Complaints: uint64(share * 1_000_000 * curve[min(hours, 71)])}}
}

func TestHoldComparesMailOfTheSameAge(t *testing.T) {
	p := control.Default().Hold
	for _, tc := range []struct {
		share float64
		want  control.HoldAction
	}{{0.001, control.HoldNone}, {0.006, control.HoldMail}} {
		for hours := range 48 {
			e := &control.HoldEvidence{Maturity: maturity(72), Candidates: []control.HoldCandidate{
				{Scope: "tenant", Value: "shop", Hours: delivered(hours, tc.share), Recipients: 900},
			}}
			if h, r := control.DecideHold(&p, e); h.Action != tc.want {
				t.Errorf("%.1f %% after %d h: %q, want %q: %s", 100*tc.share, hours, h.Action, tc.want, r.Text)
			}
		}
	}
}

func TestHold(t *testing.T) {
	p := control.Default().Hold
	bad := func(n, complaints uint64) []control.HoldHour {
		return []control.HoldHour{{Age: 30, Delivered: n, Complaints: complaints}}
	}
	tenant := control.HoldCandidate{Scope: "tenant", Value: "shop", Hours: bad(100_000, 700), Recipients: 650}
	for _, tc := range []struct {
		name  string
		e     control.HoldEvidence
		want  control.HoldAction
		scope string
	}{
		{"nothing", control.HoldEvidence{}, control.HoldNone, ""},
		{"all of the tenant's mail", control.HoldEvidence{Candidates: []control.HoldCandidate{
			{Scope: "job", Value: "7", Hours: bad(20_000, 150), Recipients: 140}, tenant,
		}}, control.HoldMail, "tenant"},
		{"one job explains it", control.HoldEvidence{Candidates: []control.HoldCandidate{
			{Scope: "job", Value: "7", Hours: bad(20_000, 640), Recipients: 600}, tenant,
		}}, control.HoldMail, "job"},
		{"a few people cannot hold a tenant", control.HoldEvidence{Candidates: []control.HoldCandidate{
			{Scope: "tenant", Value: "shop", Hours: bad(5000, 60), Recipients: 4},
		}}, control.HoldNone, ""},
		{"too little mail", control.HoldEvidence{Candidates: []control.HoldCandidate{
			{Scope: "tenant", Value: "shop", Hours: bad(1500, 60), Recipients: 50},
		}}, control.HoldNone, ""},
		{"exempt", control.HoldEvidence{Candidates: []control.HoldCandidate{
			{Scope: "tenant", Value: "shop", Hours: bad(100_000, 700), Recipients: 650, Exempt: true},
		}}, control.HoldAlert, "tenant"},
		{"a fifth of the volume", control.HoldEvidence{Candidates: []control.HoldCandidate{tenant}, Volume: 0.25}, control.HoldAsk, "tenant"},
		{"three holds in an hour", control.HoldEvidence{Candidates: []control.HoldCandidate{tenant}, Holds: 3}, control.HoldAsk, "tenant"},
		{"held for an hour", control.HoldEvidence{Candidates: []control.HoldCandidate{tenant}, HeldFor: time.Hour}, control.HoldMail, "tenant"},
		{"held for six hours", control.HoldEvidence{Candidates: []control.HoldCandidate{tenant}, HeldFor: 6 * time.Hour}, control.HoldTrickle, "tenant"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, r := control.DecideHold(&p, &tc.e)
			if h.Action != tc.want || h.Scope != tc.scope || r.Text == "" {
				t.Errorf("%+v, want %q for %q: %s", h, tc.want, tc.scope, r.Text)
			}
		})
	}
}

func TestContributors(t *testing.T) {
	got := control.Contributors([]control.Contribution{
		{Kind: "tenant", Value: "quiet", Volume: 9000, Refusals: 20, User: 90},
		{Kind: "tenant", Value: "loud", Volume: 1000, Refusals: 400, User: 10},
		{Kind: "source", Value: "192.0.2.1", Volume: 5000, Refusals: 210},
		{Kind: "source", Value: "192.0.2.2", Volume: 5000, Refusals: 210},
	})
	if len(got) != 4 || got[2].Value != "loud" || got[2].Verdict != control.Ours || got[3].Verdict != control.Theirs {
		t.Fatalf("%+v", got)
	}
	near(t, "share of volume", got[2].VolumeShare, 0.1)
	near(t, "share of refusals", got[2].RefusalShare, 400.0/420)
	for _, c := range got[:2] {
		if c.Verdict != control.Theirs {
			t.Errorf("both sources suffer alike: %+v", c)
		}
	}
}

// A threshold that makes no sense is refused by its name.
func TestPolicyValidate(t *testing.T) {
	p := control.Default()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*control.Policy){
		"step":                    func(p *control.Policy) { p.Step = 0 },
		"suspend.canary-max":      func(p *control.Policy) { p.Suspend.CanaryMax = 0 },
		"suspend.canary-age":      func(p *control.Policy) { p.Suspend.CanaryAge = 0 },
		"warm-up.growth":          func(p *control.Policy) { p.Warmup.Growth = 0.5 },
		"warm-up.silent-days":     func(p *control.Policy) { p.Warmup.SilentDays = 0 },
		"warm-up.day":             func(p *control.Policy) { p.Warmup.Day = -time.Hour },
		"greylisting.retry-share": func(p *control.Policy) { p.Greylisting.RetryShare = 2 },
		"hold.complaint-share":    func(p *control.Policy) { p.Hold.Share = math.NaN() },
		"hold.prior-delivered":    func(p *control.Policy) { p.Hold.PriorDelivered = 0 },
		"decrease.few-clean":      func(p *control.Policy) { p.Decrease.CleanBack = 1.5 },
	} {
		p := control.Default()
		spoil(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
