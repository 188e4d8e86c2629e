package loop

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

func public(t *testing.T, name string) Case {
	t.Helper()
	cases := Public()
	i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no case %s", name)
	}
	return cases[i]
}

// The whole table takes minutes (make loop); these rows stand for it: a steady receiver, a drop that is
// punished, a block that is extended, greylisting without text, slow mail, a tenant's domain.
func TestShortTable(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector makes it ten times as long, and its runs share nothing: not with -short")
	}
	for _, name := range []string{"A1", "A3", "A8", "A10b", "A12b", "A15b", "A18", "B2", "B5"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := public(t, name)
			r := simulate(&c, &Methods()[0], 1)
			row := CaseReport{Want: c.Want}
			row.add(&r)
			row.finish()
			t.Logf("goodput %.1f %%, deferrals %.1f %%, %d changes", r.Goodput, r.Deferrals, r.Changes)
			for _, missed := range row.Missed {
				t.Error(missed)
			}
		})
	}
}

// Section 8's A17: a lease is obeyed for its time to live, then the rate glides, and no sender stops.
func TestAnalyticsStops(t *testing.T) {
	c := public(t, "A17b")
	r := simulate(&c, &Methods()[0], 1)
	if missed := c.Want.missed(&r.Measures); len(missed) > 0 {
		t.Error(missed)
	}
	if r.LeaseAge < (9*time.Minute).Seconds() || r.LeaseAge > (10*time.Minute).Seconds() {
		t.Errorf("the oldest lease in use was %.0f s old, want about the 600 s it lives", r.LeaseAge)
	}
	silent := 0
	for _, row := range r.worlds[0].rows() {
		if row.at > 10*time.Minute && row.accepted == 0 {
			silent++
		}
	}
	if silent > 0 {
		t.Errorf("nothing was accepted in %d buckets", silent)
	}
}

// Section 8's A19: a pin is exact, and so is the ceiling of one.
func TestPinIsExact(t *testing.T) {
	c := public(t, "A19")
	w := simulate(&c, &Methods()[0], 1).worlds[0]
	for _, row := range w.rows() {
		at := row.at
		switch {
		case at > 32*time.Minute && at < 90*time.Minute && (row.accepted+row.refused > 3.5 || row.accepted+row.refused < 2.5):
			t.Errorf("%s: %v/s under a pin of 3/s", at, row.accepted+row.refused)
		case at > 122*time.Minute && at < 180*time.Minute && row.accepted+row.refused > 6.6:
			t.Errorf("%s: %v/s under a ceiling of 6/s", at, row.accepted+row.refused)
		}
	}
}

// A run is a function of case, method and seed.
func TestDeterministic(t *testing.T) {
	c := public(t, "A15")
	methods := Methods()
	for _, m := range []Method{methods[0], methods[len(methods)-1]} {
		if a, b := simulate(&c, &m, 3), simulate(&c, &m, 3); a.Measures != b.Measures {
			t.Errorf("%s: %+v, then %+v", m.Name, a.Measures, b.Measures)
		}
	}
}

// Every case could stand in a scenario file, so that it runs end to end too.
func TestScenariosAreValid(t *testing.T) {
	cases := Public()
	for seed := range uint64(200) {
		cases = append(cases, Random(1+seed))
	}
	names := map[string]bool{}
	for _, c := range cases {
		text, err := scenarioJSON(c.Scenario)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scenarios.Parse(c.Name, text); err != nil {
			t.Errorf("%v", err)
		}
		if names[c.Name] {
			t.Errorf("%s comes twice", c.Name)
		}
		names[c.Name] = true
	}
}

// The rows of the plots add up to the oracle that the goodput is measured by.
func TestRowsAddUpToTheOracle(t *testing.T) {
	for _, name := range []string{"A1", "A9a", "A11"} {
		c := public(t, name)
		w := run(c.Scenario, 0, &c.Setup, 1, static{})
		sum := 0.0
		for _, r := range w.rows() {
			sum += r.offered * bucketStep.Seconds()
		}
		if want := w.measure().Oracle; sum < 0.99*want || sum > 1.01*want {
			t.Errorf("%s: rows add up to %.0f, the oracle says %.0f", name, sum, want)
		}
	}
}

func TestWantIsChecked(t *testing.T) {
	good := Measures{Goodput: 95, Explained: 100}
	for _, tc := range []struct {
		name string
		want Want
		m    Measures
		miss string
	}{
		{"all is well", Want{Goodput: 94}, good, ""},
		{"goodput", Want{Goodput: 96}, good, "goodput"},
		{"block", Want{}, Measures{Blocked: 1, Explained: 100}, "block"},
		{"a sum of leases over the limit", Want{}, Measures{LeaseSum: 1.01, Explained: 100}, "leases"},
		{"a change without evidence", Want{}, Measures{Explained: 99}, "recompute"},
		{"oscillation", Want{}, Measures{PerHour: 60, Explained: 100}, "changes in an hour"},
		{"a decrease", Want{NoDecrease: true}, Measures{Decreases: 1, Explained: 100}, "decreases"},
		{"other tenants", Want{Others: 98}, Measures{Others: 97, Explained: 100}, "tenants"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			missed := strings.Join(tc.want.missed(&tc.m), "; ")
			if tc.miss == "" && missed != "" || !strings.Contains(missed, tc.miss) {
				t.Errorf("missed %q, want %q", missed, tc.miss)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "mine.json")
	text, err := scenarioJSON(scene(20*time.Minute, receiver(5), 6))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		says   string // in the output, or the error
	}{
		{"a scenario file", []string{"--scenario", file, "--seeds", "2", "--out", filepath.Join(folder, "out")}, 0, "automation"},
		{"JSON", []string{"--scenario", file, "--seeds", "1", "--baselines=false", "--json"}, 0, `"goodput_pct"`},
		{"random scenarios", []string{"--random", "1", "--seed-from", "3", "--baselines=false"}, 0, "1 random scenarios"},
		{"no such case", []string{"--only", "A99"}, 2, "A99"},
		{"no such file", []string{"--scenario", "./nowhere.json"}, 2, "nowhere.json"},
		{"a delay under the period", []string{"--delay", "5s"}, 2, "--delay"},
		{"two kinds of cases", []string{"--random", "5", "--only", "A1"}, 2, "exclude"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, progress bytes.Buffer
			err := Command(t.Context(), tc.args, service.IO{Out: &out, Err: &progress})
			said := out.String()
			if err != nil {
				said += err.Error()
			}
			if service.ExitStatus(err) != tc.status || !strings.Contains(said, tc.says) {
				t.Errorf("status %d, want %d; said %q, want %q", service.ExitStatus(err), tc.status, said, tc.says)
			}
		})
	}
	for _, name := range []string{"result.json", "mine.svg", "mine.png", "mine.decisions.ndjson"} {
		info, err := os.Stat(filepath.Join(folder, "out", name))
		if err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
