package events

import (
	"slices"
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

func TestNamesAreDistinct(t *testing.T) {
	lists := words()
	for list, want := range map[string]int{
		"provider": Providers, "mx": Providers, "source": Sources, "vmta": Sources, "tenant": Tenants, "sender": Tenants, "consumer": len(consumers), "mx-ip": 4 * Providers,
	} {
		all := slices.Clone(lists[list])
		slices.Sort(all)
		if got := len(slices.Compact(all)); got != want {
			t.Errorf("list %s has %d different words, want %d", list, got, want)
		}
	}
	for _, list := range []string{"consumer-slot", "hoster-slot"} {
		if got := len(lists[list]); got != 1000 {
			t.Errorf("list %s has %d places, the SQL takes 1000", list, got)
		}
	}
	if got := len(chances()); got != 10_000 {
		t.Errorf("fates have %d places, the SQL takes 10000", got)
	}
}

func TestRepliesMeanWhatTheyAreUsedFor(t *testing.T) {
	all, err := allReplies()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != replies {
		t.Fatalf("%d replies, want %d", len(all), replies)
	}
	want := map[role]taxonomy.Dimension{
		roleDelivered: taxonomy.OK, roleUnknown: taxonomy.User, roleRate: taxonomy.Rate, roleConnections: taxonomy.Connections,
		roleMessages: taxonomy.Messages, roleGreylist: taxonomy.Greylist, roleBlock: taxonomy.Block, roleBlockForNow: taxonomy.Block,
		roleContent: taxonomy.Content, roleAuth: taxonomy.Auth, roleUnavailable: taxonomy.Unavailable, roleConnect: taxonomy.Unavailable,
	}
	templates := map[string]bool{}
	for i, r := range all[:Templates] {
		b := bases[i%basesOfProvider]
		if dimension, ok := want[b.role]; ok && r.verdict.Dimension != dimension {
			t.Errorf("%q of %s is about %q, want %q", b.text, providers[i/basesOfProvider], r.verdict.Dimension, dimension)
		}
		sample := r.head + sampleOf(r.vars[0]) + r.middle + sampleOf(r.vars[1]) + r.tail
		if got := event.ReplyTemplate(sample); got != r.template {
			t.Errorf("the pieces of %q make the template %q, want %q", b.text, got, r.template)
		}
		templates[r.template] = true
	}
	if len(templates) != Templates {
		t.Errorf("%d different templates, want %d", len(templates), Templates)
	}
}

// sampleOf returns what a variable of that letter may look like, other than in the classified sample.
func sampleOf(letter byte) string {
	return map[byte]string{'m': "ben.berg123@site-99.example", 'i': "192.0.2.40", 'q': "6C0497E57525"}[letter]
}

func TestEveryColumnIsFilled(t *testing.T) {
	names, _, err := columns()
	if err != nil {
		t.Fatal(err)
	}
	for column := range expressions {
		if !slices.Contains(names, column) {
			t.Errorf("an expression for %s, which is no column of an event", column)
		}
	}
}

func TestShares(t *testing.T) {
	for _, n := range []uint64{1, 7, 1000, 123_456_789} {
		sum := uint64(0)
		for _, share := range shares(n, weekday[:]) {
			sum += share
		}
		if sum != n {
			t.Errorf("the shares of %d add up to %d", n, sum)
		}
	}
}

func TestIncidents(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	all := incidents(7, from, 30)
	if len(all) != incidentsPerMonth*len(incidentKinds) {
		t.Errorf("%d incidents in 30 days", len(all))
	}
	if !slices.Equal(all, incidents(7, from, 30)) || slices.Equal(all, incidents(8, from, 30)) {
		t.Error("incidents follow from something else than the seed")
	}
	for _, in := range all {
		if !in.from.Before(in.to) || in.from.Before(from) || in.from.After(from.AddDate(0, 0, 30)) {
			t.Errorf("incident from %s to %s", in.from, in.to)
		}
		fateOf(in.fate) // panics for an unknown one
	}
}

func TestParseRows(t *testing.T) {
	for _, tc := range []struct {
		text string
		want uint64 // 0: an error
	}{
		{"100k", 100_000},
		{"1.5M", 1_500_000},
		{"2G", 2_000_000_000},
		{"12345", 12_345},
		{"", 0},
		{"k", 0},
		{"-1M", 0},
		{"0", 0},
		{"3G", 0},
		{"NaN", 0},
		{"1e12", 0},
		{"100m", 0},
	} {
		if got, err := ParseRows(tc.text); got != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("ParseRows(%q) = %d, %v, want %d", tc.text, got, err, tc.want)
		}
	}
}

func TestPlanHoldsEveryMessageOnce(t *testing.T) {
	for _, rows := range []uint64{1000, 100_000, 50_000_000} {
		r, err := newRun(nil, Options{Rows: rows, Days: 30, Nodes: 4, Until: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		day, message := 0, uint64(0)
		for _, s := range r.plan() {
			if s.first != day || s.message != message {
				t.Errorf("%d rows: a span begins with day %d and message %d, want %d and %d", rows, s.first, s.message, day, message)
			}
			for _, count := range s.counts {
				day, message = day+1, message+count
			}
		}
		if day != 30 || message != r.messages {
			t.Errorf("%d rows: the plan has %d days and %d messages, want 30 and %d", rows, day, message, r.messages)
		}
	}
}

func TestOptionsAreRefused(t *testing.T) {
	good := Options{Rows: 1000, Days: 1, Nodes: 1, Until: time.Now()}
	for name, change := range map[string]func(*Options){
		"too few rows":   func(o *Options) { o.Rows = 10 },
		"too many rows":  func(o *Options) { o.Rows = MaxRows + 1 },
		"no day":         func(o *Options) { o.Days = 0 },
		"too many days":  func(o *Options) { o.Days = MaxDays + 1 },
		"no node":        func(o *Options) { o.Nodes = 0 },
		"too many nodes": func(o *Options) { o.Nodes = MaxNodes + 1 },
	} {
		o := good
		change(&o)
		if _, err := newRun(nil, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
