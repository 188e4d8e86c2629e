package provider

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"carom/deploy/receivers/scenarios"
)

var (
	src   = netip.MustParseAddr("127.0.0.2")
	other = netip.MustParseAddr("127.0.0.3")
)

func sec(n float64) time.Duration               { return time.Duration(n * float64(time.Second)) }
func length(d time.Duration) scenarios.Duration { return scenarios.Duration(d) }

// send makes one attempt and returns how it ended.
func send(p *Provider, t time.Duration, from netip.Addr, rcpt string) Class {
	if v := p.Mail(t, from); v.Class != OK {
		return v.Class
	}
	if v := p.Rcpt(t, from, "news@a.test", rcpt); v.Class != OK {
		return v.Class
	}
	return p.Data(t, from, 1).Class
}

// offer sends perSecond messages a second from t on for d, and counts the classes.
func offer(p *Provider, t, d time.Duration, perSecond float64) map[Class]int {
	got := map[Class]int{}
	for i := 0; ; i++ {
		at := t + sec(float64(i)/perSecond)
		if at >= t+d {
			return got
		}
		got[send(p, at, src, fmt.Sprintf("u%d.%d@a.test", t, i))]++
	}
}

func rate(perSecond float64) []scenarios.RateStep {
	return []scenarios.RateStep{{PerSecond: perSecond}}
}

func TestRateAndBurst(t *testing.T) {
	for _, where := range []string{"mail", "rcpt", "data"} {
		t.Run(where, func(t *testing.T) {
			p := New(scenarios.Provider{Rate: rate(10), BurstSeconds: 3, RefuseAt: where}, 1)
			// The full bucket of 30, and 10 a second behind it.
			if got := offer(p, 0, 10*time.Second, 100); math.Abs(float64(got[OK])-130) > 1 || got[OK]+got[Rate] != 1000 {
				t.Errorf("of 1000 in 10 s: %v, want 130 OK, the others RATE", got)
			}
			if got := send(p, 10*time.Second, other, "u@a.test"); got != OK {
				t.Errorf("another source got %s, want OK: the limit is for each source", got)
			}
		})
	}
}

func TestTheRateHoldsForRecipients(t *testing.T) {
	p := New(scenarios.Provider{Rate: rate(10), BurstSeconds: 1, RefuseAt: "data"}, 1)
	ok := 0
	for i := range 100 { // 50 recipients, ten times a second
		if p.Data(sec(float64(i)/10), src, 50).Class == OK {
			ok += 50
		}
	}
	if ok < 100 || ok > 150 {
		t.Errorf("%d recipients in 10 s, want about 100: a message may leave a debt, and must pay it", ok)
	}
}

func TestCutOnSchedule(t *testing.T) {
	p := New(scenarios.Provider{Rate: []scenarios.RateStep{{PerSecond: 100}, {At: length(50 * time.Second), PerSecond: 25}}}, 1)
	before := offer(p, 30*time.Second, 20*time.Second, 100)
	after := offer(p, 50*time.Second, 20*time.Second, 100)
	if before[Rate] > 1 || math.Abs(float64(after[OK])-500) > 2 {
		t.Errorf("before the cut %v, want all OK; after %v, want 500 OK", before, after)
	}
}

func TestTheBucketNeverPassesItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Float64Range(0.1, 50).Draw(t, "limit")
		burst := rapid.Float64Range(0, 5).Draw(t, "burst")
		var b bucket
		var at time.Duration
		taken := 0
		for range rapid.IntRange(1, 300).Draw(t, "calls") {
			at += time.Duration(rapid.IntRange(0, 500).Draw(t, "pause")) * time.Millisecond
			if b.take(at, limit, burst, 1) {
				taken++
			}
		}
		if most := max(1, limit*burst) + limit*at.Seconds(); float64(taken) > most+1e-3 {
			t.Fatalf("%d taken in %s, at most %g allowed", taken, at, most)
		}
	})
}

func TestUnlimited(t *testing.T) {
	p := New(scenarios.Provider{}, 1)
	if got := offer(p, 0, time.Second, 5000); got[OK] != 5000 {
		t.Errorf("%v, want all OK without a limit", got)
	}
	if rows := p.Rows(sec(5), 0, true); rows[0].Limit != nil {
		t.Errorf("limit = %g, want null", *rows[0].Limit)
	}
}

func TestConnections(t *testing.T) {
	p := New(scenarios.Provider{Conc: []scenarios.ConcStep{{N: 2}, {At: length(time.Minute), N: 3}}}, 1)
	connect := func(t time.Duration, from netip.Addr) Class { return p.Connect(t, from).Class }
	if diff := cmp.Diff([]Class{OK, OK, Conn, OK}, []Class{connect(0, src), connect(0, src), connect(0, src), connect(0, other)}); diff != "" {
		t.Error(diff)
	}
	p.Disconnect(1, src)
	if diff := cmp.Diff([]Class{OK, Conn, OK}, []Class{connect(1, src), connect(1, src), connect(time.Minute, src)}); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownUsersAreTheSameInEveryRun(t *testing.T) {
	cfg := scenarios.Provider{Name: "p", UnknownUsers: 0.1, AsyncBounces: scenarios.AsyncBounces{Frac: 0.1}}
	a, b, c := New(cfg, 1), New(cfg, 1), New(cfg, 2)
	unknown, bouncing, different := 0, 0, 0
	for i := range 5000 {
		rcpt := fmt.Sprintf("User%d@a.test", i)
		first := send(a, 0, src, rcpt)
		if again := send(b, time.Hour, other, fmt.Sprintf("uSER%d@a.test", i)); again != first {
			t.Fatalf("%s: %s, then %s", rcpt, first, again)
		}
		if send(c, 0, src, rcpt) != first {
			different++
		}
		_, bounces := a.Bounces(rcpt)
		if bounces {
			bouncing++
		}
		if first == User {
			unknown++
			if bounces {
				t.Fatalf("%s is unknown and bounces", rcpt)
			}
		}
	}
	if unknown < 400 || unknown > 600 || bouncing < 400 || bouncing > 600 || different == 0 {
		t.Errorf("%d unknown and %d bouncing of 5000 at 10 %%, %d differ with another seed", unknown, bouncing, different)
	}
}

func TestGreylisting(t *testing.T) {
	p := New(scenarios.Provider{Grey: scenarios.Grey{Frac: 1, MinRetry: length(5 * time.Minute)}, Rate: rate(1)}, 1)
	got := []Class{
		send(p, 0, src, "a@a.test"), send(p, time.Minute, src, "a@a.test"), send(p, 5*time.Minute, src, "a@a.test"),
		send(p, 5*time.Minute+sec(2), src, "a@a.test"), send(p, 5*time.Minute, other, "a@a.test"),
	}
	if diff := cmp.Diff([]Class{Grey, Grey, OK, OK, Grey}, got); diff != "" {
		t.Error(diff)
	}
	share := New(scenarios.Provider{Grey: scenarios.Grey{Frac: 0.6, MinRetry: length(time.Minute)}}, 1)
	if got := offer(share, 0, 10*time.Second, 500); got[Grey] < 2850 || got[Grey] > 3150 {
		t.Errorf("%d of 5000 greylisted, want about 60 %%", got[Grey])
	}
}

func TestPenaltyFallsAndRecovers(t *testing.T) {
	p := New(scenarios.Provider{
		Rate:    rate(10),
		Penalty: scenarios.Penalty{On: true, RefusedFrac: 0.2, DownPerMinute: 0.5, UpPerMinute: 0.1, Floor: 0.3},
	}, 1)
	penalty := func(at time.Duration) float64 { return p.lane(at, src).penalty }
	offer(p, 0, time.Minute, 20) // half is refused
	if got := penalty(time.Minute); math.Abs(got-0.5) > 0.01 {
		t.Errorf("penalty after a minute = %g, want 0.5", got)
	}
	offer(p, time.Minute, 5*time.Minute, 20)
	if got := penalty(6 * time.Minute); got != 0.3 {
		t.Errorf("penalty after six minutes = %g, want the floor", got)
	}
	// The refusals of the last minute count once more, then 0.1 a minute come back.
	if got := penalty(9 * time.Minute); math.Abs(got-0.5) > 0.04 {
		t.Errorf("penalty after three silent minutes = %g, want about 0.5", got)
	}
	if got := penalty(time.Hour); got != 1 {
		t.Errorf("penalty after an hour = %g, want 1", got)
	}
}

func blocking() scenarios.Provider {
	return scenarios.Provider{Rate: rate(1), Block: scenarios.Block{
		On: true, TriggerFrac: 0.6, Window: length(15 * time.Minute), Len: length(30 * time.Minute), Extend: true,
	}}
}

func TestBlockIsTriggeredAndEnds(t *testing.T) {
	cfg := blocking()
	cfg.Block.Extend = false
	p := New(cfg, 1)
	got := offer(p, 0, 10*time.Second, 10)
	if got[Block] == 0 || got[Rate] < 10 {
		t.Fatalf("%v, want the block after some refusals", got)
	}
	start := p.lanes[src].blockedUntil - 30*time.Minute
	if got := send(p, 20*time.Minute, src, "a@a.test"); got != Block {
		t.Errorf("in the block: %s", got)
	}
	if got := send(p, 20*time.Minute, other, "a@a.test"); got != OK {
		t.Errorf("another source in the block: %s", got)
	}
	end := p.lanes[src].blockedUntil
	if got := send(p, end, src, "a@a.test"); got != OK {
		t.Errorf("after the block: %s", got)
	}
	if got, want := p.Totals(2*time.Hour).BlockCaused, (end - start).Seconds(); math.Abs(got-want) > 1e-6 {
		t.Errorf("block caused = %g s, want %g", got, want)
	}
}

func TestHammeringExtendsABlockAndCanariesDoNot(t *testing.T) {
	for _, tc := range []struct {
		name      string
		perMinute float64
		extended  bool
	}{{"canaries", 4, false}, {"hammering", 60, true}} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := blocking()
			cfg.Block.Scripted = []scenarios.ScriptedBlock{{At: 0, Len: length(45 * time.Minute)}}
			p := New(cfg, 1)
			offer(p, 0, 40*time.Minute, tc.perMinute/60)
			if got := send(p, 46*time.Minute, src, "x@a.test"); (got == Block) != tc.extended {
				t.Errorf("after the scripted end: %s", got)
			}
			if got := p.Totals(2 * time.Hour).BlockCaused; (got > 0) != tc.extended || got > 30*60 {
				t.Errorf("block caused = %g s", got)
			}
		})
	}
}

func TestOutage(t *testing.T) {
	p := New(scenarios.Provider{Outage: []scenarios.Outage{{At: length(time.Minute), Len: length(time.Minute), Kind: scenarios.OutageTimeout}}}, 1)
	if got := p.Connect(59*time.Second, src).Class; got != OK {
		t.Errorf("before: %s", got)
	}
	if got := p.Connect(60*time.Second, src); got.Class != Unav || got.Outage != scenarios.OutageTimeout {
		t.Errorf("in the outage: %+v", got)
	}
	if got := send(p, 119*time.Second, src, "a@a.test"); got != Unav {
		t.Errorf("MAIL in the outage: %s", got)
	}
	if got := send(p, 120*time.Second, src, "a@a.test"); got != OK {
		t.Errorf("after: %s", got)
	}
}

func TestComplaints(t *testing.T) {
	half := 0.5
	p := New(scenarios.Provider{Complaints: scenarios.Complaints{
		Base: 0.02, Rates: map[string]float64{"bad": 0.4}, FBLFrac: &half, DelaySeconds: [2]float64{60, 600},
	}}, 1)
	count := func(tenant string) int {
		n := 0
		for i := range 10000 {
			if delay, ok := p.Complains(tenant, fmt.Sprintf("m%d", i), "a@a.test"); ok {
				n++
				if delay < time.Minute || delay > 10*time.Minute {
					t.Fatalf("delay = %s", delay)
				}
			}
		}
		return n
	}
	if good, bad := count("good"), count("bad"); good < 60 || good > 140 || bad < 1850 || bad > 2150 {
		t.Errorf("%d and %d reports of 10000, want about 100 and 2000", good, bad)
	}
}

func TestTexts(t *testing.T) {
	p := New(scenarios.Provider{Texts: map[string]string{"GREY": "450 mine"}, Grey: scenarios.Grey{Frac: 1, MinRetry: 1}}, 1)
	if got := p.Rcpt(0, src, "", "a@a.test").Reply; got != "450 mine" {
		t.Errorf("GREY = %q", got)
	}
	yes := true
	if err := p.Apply(0, Step{Ambiguous: &yes}); err != nil {
		t.Fatal(err)
	}
	if got := p.Rcpt(0, src, "", "b@a.test").Reply; got != ambiguous {
		t.Errorf("ambiguous GREY = %q", got)
	}
}

func TestStep(t *testing.T) {
	p := New(scenarios.Provider{Rate: []scenarios.RateStep{{PerSecond: 10}, {At: length(time.Hour), PerSecond: 1}}}, 1)
	five, three, span := 5.0, 3, length(time.Minute)
	if err := p.Apply(time.Minute, Step{RatePerS: &five, Connections: &three, Block: &span}); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]float64{0: 10, time.Minute: 5, 59 * time.Minute: 5, time.Hour: 1} {
		if got := p.Truth(at); *got.RatePerS != want {
			t.Errorf("rate at %s = %g, want %g", at, *got.RatePerS, want)
		}
	}
	truth := p.Truth(90 * time.Second)
	if truth.Connections != 3 || !truth.ScriptedBlock || p.Truth(3*time.Minute).ScriptedBlock {
		t.Errorf("truth after the step = %+v", truth)
	}
	bad := -1.0
	for name, step := range map[string]Step{
		"rate": {RatePerS: &bad}, "fraction": {GreyFrac: &bad}, "complaints to nobody": {ComplaintsBase: &[]float64{0.1}[0]},
		"outage": {Outage: &scenarios.Outage{Len: span, Kind: "x"}},
	} {
		before := p.Config()
		if err := p.Apply(0, step); err == nil {
			t.Errorf("%s: no error", name)
		}
		if diff := cmp.Diff(before, p.Config()); diff != "" {
			t.Errorf("%s: a bad step changed %s", name, diff)
		}
	}
}

func TestRowsAddUp(t *testing.T) {
	p := New(scenarios.Provider{Name: "p", Rate: rate(5), UnknownUsers: 0.1}, 1)
	p.Connect(0, src)
	got := offer(p, 0, 35*time.Second, 10)
	rows := p.Rows(35*time.Second, 0, true)
	if len(rows) != 4 || rows[0].T != 0 || rows[3].T != 30 {
		t.Fatalf("rows = %+v, want those of 0, 10, 20 and 30 s", rows)
	}
	sum := map[Class]int{}
	for _, r := range rows {
		attempts := 0
		for c, n := range r.Classes {
			sum[c] += n
			attempts += n
		}
		if r.Attempts != attempts || r.OK != r.Classes[OK] || r.Open != 1 || *r.Limit != 5 {
			t.Errorf("row %+v does not add up", r)
		}
	}
	if diff := cmp.Diff(got, sum); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(got, p.Totals(35*time.Second).Classes); diff != "" {
		t.Error(diff)
	}
	if late := p.Rows(35*time.Second, 20*time.Second, false); len(late) != 1 || late[0].T != 20 {
		t.Errorf("finished rows from 20 s = %+v", late)
	}
}
