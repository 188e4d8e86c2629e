package backoff

import (
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	rule := func(pattern string, a Actions) Rule {
		return Rule{Name: "/" + pattern + "/", Pattern: regexp.MustCompile("(?i)" + pattern), Actions: a}
	}
	l := NewList([]Rule{
		rule("too many", Actions{Backoff: true}),
		rule("421 .* slow", Actions{Backoff: true, ToNormalAfter: new(time.Minute), DeferQueue: true}),
		rule("for ever", Actions{Backoff: true, ToNormalAfter: new(time.Duration(0)), DisableSource: true, ReenableAfter: new(time.Duration(0))}),
		rule("blocked", Actions{DisableSource: true, SkipMX: true}),
		rule("an hour", Actions{DisableSource: true, ReenableAfter: new(time.Hour)}),
		rule("full", Actions{BounceRcpt: true}),
		rule("go away", Actions{BounceQueue: true}),
		rule("welcome back", Actions{Normal: true}),
		rule("", Actions{DeferQueue: true}),
	})
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	policy := Policy{ToNormalAfter: 2 * time.Hour, ReenableAfter: 3 * time.Hour}
	for _, tc := range []struct {
		text   string
		toRcpt bool
		want   Decision
	}{
		{"421 Too MANY, slow down", false, Decision{Rule: "/too many/", Enter: true, Until: now.Add(2 * time.Hour)}},
		{"421 4.7.0 slow down", false, Decision{Rule: "/421 .* slow/", Enter: true, Until: now.Add(time.Minute), Defer: true}},
		{"550 for ever", false, Decision{Rule: "/for ever/", Enter: true, Disable: true}},
		{"554 you are blocked", false, Decision{Rule: "/blocked/", Disable: true, Again: now.Add(3 * time.Hour), SkipMX: true}},
		{"450 come back in an hour", false, Decision{Rule: "/an hour/", Disable: true, Again: now.Add(time.Hour)}},
		{"452 mailbox full", true, Decision{Rule: "/full/", Reject: true}},
		{"452 mailbox full", false, Decision{Rule: "/full/"}},
		{"552 mailbox full", true, Decision{Rule: "/full/"}},
		{"550 go away", true, Decision{Rule: "/go away/", Bounce: true}},
		{"450 welcome back", false, Decision{Rule: "/welcome back/", Leave: true}},
		{"250 welcome back, too many", false, Decision{Rule: "/welcome back/", Leave: true}},
		{"250 too many", false, Decision{}},
		{"450 anything else", false, Decision{Rule: "//", Defer: true}},
	} {
		code := int(tc.text[0]-'0') * 100
		if got := l.Decide(policy, tc.text, code, tc.toRcpt, now); got != tc.want {
			t.Errorf("%q gives %+v, want %+v", tc.text, got, tc.want)
		}
	}
	if got := l.Decide(Policy{}, "450 too many", 450, false, now); !got.Enter || !got.Until.IsZero() {
		t.Errorf("without a time backoff ends by itself: %+v", got)
	}
}

func TestMatters(t *testing.T) {
	backing := NewList([]Rule{{Pattern: regexp.MustCompile("x"), Actions: Actions{Backoff: true}}})
	both := NewList([]Rule{{Pattern: regexp.MustCompile("x"), Actions: Actions{Normal: true}}})
	var none *List
	for _, tc := range []struct {
		l              *List
		positive, want bool
	}{{none, false, false}, {none, true, false}, {NewList(nil), false, false}, {backing, false, true}, {backing, true, false}, {both, true, true}, {both, false, true}} {
		if got := tc.l.Matters(tc.positive); got != tc.want {
			t.Errorf("%v, positive %v: %v", tc.l, tc.positive, got)
		}
	}
	if got := none.Decide(Policy{}, "421 x", 421, false, time.Now()); got != (Decision{}) {
		t.Errorf("no list decides %+v", got)
	}
}

func TestPenalties(t *testing.T) {
	for _, tc := range []struct {
		initial, most time.Duration
		want          []time.Duration
	}{
		{0, time.Hour, nil},
		{time.Minute, 5 * time.Minute, []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute}},
		{time.Minute, time.Minute, []time.Duration{time.Minute}},
		{2 * time.Minute, time.Minute, []time.Duration{time.Minute}},
	} {
		if got := Penalties(tc.initial, tc.most); !slices.Equal(got, tc.want) {
			t.Errorf("Penalties(%v, %v) = %v, want %v", tc.initial, tc.most, got, tc.want)
		}
	}
}

func TestSources(t *testing.T) {
	var s Sources
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	if _, disabled := s.Disabled(a, now); disabled {
		t.Error("a source is disabled from the start")
	}
	if !s.Disable(a, now.Add(time.Hour), now) || !s.Disable(b, time.Time{}, now) || s.Disable(a, now.Add(2*time.Hour), now) {
		t.Error("Disable does not tell news from what was known")
	}
	if until, disabled := s.Disabled(a, now.Add(time.Hour)); !disabled || !until.Equal(now.Add(2*time.Hour)) {
		t.Errorf("disabled %v until %v", disabled, until)
	}
	if _, disabled := s.Disabled(a, now.Add(2*time.Hour)); disabled {
		t.Error("the time does not end")
	}
	if !s.Disable(a, now, now.Add(2*time.Hour)) {
		t.Error("a source that came back is not news")
	}
	if until, disabled := s.Disabled(b, now.Add(1000*time.Hour)); !disabled || !until.IsZero() {
		t.Errorf("for good ends: %v until %v", disabled, until)
	}
}
