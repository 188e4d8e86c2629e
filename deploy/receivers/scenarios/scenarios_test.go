package scenarios

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEveryEmbeddedScenarioIsValid(t *testing.T) {
	if len(Names()) == 0 {
		t.Fatal("no scenario is embedded")
	}
	for _, name := range Names() {
		if _, err := Open(name); err != nil {
			t.Errorf("Open(%q): %v", name, err)
		}
	}
}

func TestDemoOffers20000Messages(t *testing.T) {
	s, err := Open("demo")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i := range s.Load {
		sum += s.Load[i].Offered(s.Duration.D())
	}
	if sum != 20000 {
		t.Errorf("the demo offers %g messages, want 20000", sum)
	}
	gmail := &s.Providers[0]
	if before, after := gmail.Limit(49*time.Second), gmail.Limit(50*time.Second); after != before/4 {
		t.Errorf("the limit goes from %g to %g half-way, want a quarter", before, after)
	}
}

func TestOpenReadsAFileOfEveryField(t *testing.T) {
	s, err := Open(filepath.Join("testdata", "full.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := s.Providers[0]
	if s.Scale != 20 || s.Duration.D() != 4*time.Hour || p.Rate[1].At.D() != 90*time.Minute || *p.Complaints.FBLFrac != 0.6 ||
		p.Complaints.Rates["bad"] != 0.025 || s.Load[0].Domains["gm.test"] != 1 || s.Faults[0].Kind != "clickhouse_stop" {
		t.Errorf("decoded %+v", s)
	}
}

// TestMistakes changes the full scenario in one place each and expects the place to be named.
func TestMistakes(t *testing.T) {
	full, err := os.ReadFile(filepath.Join("testdata", "full.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, with, want string }{
		{"unknown field", `"seed":7`, `"sead":7`, "f.json: sead: unknown field"},
		{"unknown nested field", `"burst_s":30`, `"burst":30`, "f.json: providers[0].burst: unknown field"},
		{"version", `"version":1`, `"version":2`, "version: is 2, this carom reads version 1"},
		{"seed below 0", `"seed":7`, `"seed":-7`, "seed: want a whole number from 0, got -7"},
		{"number for duration", `"duration":"4h"`, `"duration":4`, `duration: want a duration like "90m", got 4`},
		{"bad duration", `"at":"90m"`, `"at":"90"`, `providers[0].rate[1].at: "90" is not a duration`},
		{"steps out of order", `"at":"90m"`, `"at":"0s"`, "providers[0].rate[1].at: is 0s, not after the step before it"},
		{"first step late", `[{"at":"0s","n":40}]`, `[{"at":"5s","n":40}]`, `providers[0].conc[0].at: is 5s, the first step begins at "0s"`},
		{"string for number", `"per_s":10`, `"per_s":"10"`, `providers[0].rate[0].per_s: want a number, got "10"`},
		{"negative rate", `"per_s":10`, `"per_s":-1`, "providers[0].rate[0].per_s: is -1, want at least 0"},
		{"fraction over 1", `"unknown_user_frac":0.01`, `"unknown_user_frac":1.5`, "providers[0].unknown_user_frac: is 1.5, want 0 to 1"},
		{"latency upside down", `"latency_ms":[240,560]`, `"latency_ms":[560,240]`, "providers[0].latency_ms: is [560, 240]"},
		{"latency of one", `"latency_ms":[240,560]`, `"latency_ms":[240]`, "providers[0].latency_ms: want a list of 2"},
		{"outage kind", `"kind":"timeout"`, `"kind":"fire"`, `providers[0].outage[0].kind: is "fire"`},
		{"silent without limit", `"msgs_per_conn":200,"silent_close":false`, `"silent_close":true`, "providers[0].silent_close: needs msgs_per_conn"},
		{"text without code", `"RATE":"421-4.7.28 Gmail`, `"RATE":"Gmail`, "providers[0].texts.RATE: "},
		{"text of the wrong class", `"GREY":"451`, `"GREY":"551`, "class GREY takes one reply code of 4xx"},
		{"unknown class", `"GREY":"451`, `"GRAY":"451`, "providers[0].texts.GRAY: no such class"},
		{"unknown placeholder", `[{ip}] has been`, `[{host}] has been`, "no such placeholder {host}"},
		{"fbl_to", `smtp://127.0.0.1:2600`, `127.0.0.1:2600`, "providers[0].complaints.fbl_to: "},
		{"fbl_to missing", `,"fbl_to":"smtp://127.0.0.1:2600"`, ``, "providers[0].complaints.fbl_to: is missing"},
		{"upper case domain", `["gm.test","gw.test"]`, `["GM.test","gm.test"]`, `providers[0].domains[0]: "GM.test" is not a lower-case domain name`},
		{"domain twice", `["gm.test","gw.test"]`, `["gm.test","gm.test"]`, `providers[0].domains[1]: "gm.test" is at providers[0].domains[0] already`},
		{"load for nobody", `"domains":{"gm.test":1.0}`, `"domains":{"x.test":1.0}`, "load[0].domains.x.test: no provider has this domain"},
		{"null", `"load":[`, `"load":null,"nodes":{},"faults":[`, "load: want a list, got null"},
		{"not JSON", `"seed":7,`, `"seed":7,,`, "f.json: line 1: not JSON"},
		{"trailing text", `"len":"20m"}]}`, `"len":"20m"}]} {}`, "f.json: the file: has text after the end"},
		{"refuse_at", `"ambiguous":false`, `"refuse_at":"quit"`, `providers[0].refuse_at: is "quit", want mail, rcpt or data`},
		{"bounces to nowhere", `"ambiguous":false`, `"async_bounces":{"frac":0.1,"delay_s":[0,1],"to":"x"}`, "providers[0].async_bounces.to: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changed := bytes.Replace(full, []byte(tc.old), []byte(tc.with), 1)
			if bytes.Equal(changed, full) {
				t.Fatalf("%q is not in the file", tc.old)
			}
			if _, err := Parse("f.json", changed); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse: %v\nwant %q in it", err, tc.want)
			}
		})
	}
}

func TestAllMistakesAreReported(t *testing.T) {
	_, err := Parse("f", []byte(`{"version":1,"providers":[{"name":"a","domains":["a.test"],"mx":["m.a.test"],"burst_s":-1,"grey":{"frac":2}}]}`))
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Parse: %v, want two lines", err)
	}
}

func TestOpenOfAnUnknownName(t *testing.T) {
	if _, err := Open("dmeo"); err == nil || !strings.Contains(err.Error(), "demo") {
		t.Errorf("Open: %v, want the known names", err)
	}
	if _, err := Open("./none.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: %v, want os.ErrNotExist", err)
	}
}

func TestParseTarget(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Target
	}{
		{"smtp://127.0.0.1:2600", Target{"127.0.0.1:2600", "fbl@[127.0.0.1]"}},
		{"smtp://node.test:25", Target{"node.test:25", "fbl@node.test"}},
		{"smtp://127.0.0.1:2600/abuse@x.test", Target{"127.0.0.1:2600", "abuse@x.test"}},
		{"smtp://127.0.0.1", Target{}},
		{"smtp://127.0.0.1:2600/abuse", Target{}},
		{"http://127.0.0.1:80", Target{}},
		{"", Target{}},
	} {
		got, err := ParseTarget(tc.text)
		if got != tc.want || (err != nil) != (tc.want == Target{}) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", tc.text, got, err, tc.want)
		}
	}
}

func sec(n int) Duration { return Duration(time.Duration(n) * time.Second) }

func TestLimit(t *testing.T) {
	p := &Provider{
		Rate:   []RateStep{{0, 10}, {sec(100), 4}},
		Warmup: Warmup{On: true, R0: 1, Factor: 3, Day: sec(60)},
	}
	for _, tc := range []struct {
		at   time.Duration
		want float64
	}{{0, 1}, {59 * time.Second, 1}, {60 * time.Second, 3}, {99 * time.Second, 3}, {100 * time.Second, 3}, {120 * time.Second, 4}, {time.Hour, 4}} {
		if got := p.Limit(tc.at); got != tc.want {
			t.Errorf("Limit(%s) = %g, want %g", tc.at, got, tc.want)
		}
	}
	if got := new(Provider).Limit(0); !math.IsInf(got, 1) {
		t.Errorf("Limit without a rate = %g, want +Inf", got)
	}
	day := &Provider{Rate: []RateStep{{0, 10}}, Diurnal: Diurnal{Amp: 0.5, Period: sec(400)}}
	if got := day.Limit(100 * time.Second); math.Abs(got-15) > 1e-9 {
		t.Errorf("Limit at the top of the day = %g, want 15", got)
	}
}

func TestDueAtIsTheInverseOfOffered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Load{Backlog: rapid.IntRange(0, 5).Draw(t, "backlog")}
		at := 0
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			l.PerS = append(l.PerS, LoadStep{sec(at), float64(rapid.IntRange(0, 20).Draw(t, "rate"))})
			at += rapid.IntRange(1, 30).Draw(t, "length")
		}
		n := rapid.IntRange(0, 500).Draw(t, "n")
		due, ok := l.DueAt(n)
		if !ok {
			if all := l.Offered(time.Hour); all > float64(n)+1e-6 {
				t.Fatalf("message %d is never due, but %g are offered", n, all)
			}
			return
		}
		if n < l.Backlog {
			if due != 0 {
				t.Fatalf("message %d of the backlog is due at %s", n, due)
			}
			return
		}
		if got := l.Offered(due); math.Abs(got-float64(n)) > 1e-5 {
			t.Fatalf("message %d is due at %s, when %g are offered", n, due, got)
		}
	})
}

func TestOracle(t *testing.T) {
	p := Provider{Name: "p", Domains: []string{"a.test"}, Rate: []RateStep{{0, 10}, {sec(50), 4}}}
	load := []Load{{Domains: map[string]float64{"a.test": 1, "b.test": 1}, PerS: []LoadStep{{0, 12}}}} // 6/s to p
	for _, tc := range []struct {
		name    string
		change  func(*Scenario, *Provider)
		until   time.Duration
		sources int
		want    float64
	}{
		{"under the limit", nil, 50 * time.Second, 1, 300},
		{"over the limit", nil, 100 * time.Second, 1, 300 + 200},
		{"two sources have it twice", nil, 100 * time.Second, 2, 600},
		{"what waits goes after the end of the load", func(s *Scenario, _ *Provider) { s.Duration = sec(100) }, 150 * time.Second, 1, 600},
		{"a scripted block is nobody's fault", func(_ *Scenario, p *Provider) { p.Block.Scripted = []ScriptedBlock{{sec(0), sec(10)}} }, 20 * time.Second, 1, 100},
		{"nor is an outage", func(_ *Scenario, p *Provider) { p.Outage = []Outage{{sec(0), sec(20), Outage421}} }, 20 * time.Second, 1, 0},
		{"the backlog counts", func(s *Scenario, _ *Provider) { s.Load[0].Backlog = 1000 }, 10 * time.Second, 1, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, provider := &Scenario{Load: []Load{load[0]}}, p
			if tc.change != nil {
				tc.change(s, &provider)
			}
			if got := s.Oracle(&provider, tc.until, tc.sources); math.Abs(got.Oracle-tc.want) > 1e-6 {
				t.Errorf("Oracle = %+v, want %g", got, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"demo.json", filepath.Join("testdata", "full.json")} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":1,"providers":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f", data)
		if err != nil {
			return
		}
		for i := range s.Providers {
			s.Oracle(&s.Providers[i], time.Minute, 1)
		}
	})
}

func TestDecodeJSONKeepsTheOrderOfMistakes(t *testing.T) {
	var v Grey
	err := DecodeJSON("g", []byte(`{"z":1,"frac":"x","a":2}`), &v)
	want := "g: a: unknown field\ng: frac: want a number, got \"x\"\ng: z: unknown field"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
