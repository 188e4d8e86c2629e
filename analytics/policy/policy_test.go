package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/analytics/control"
	"carom/analytics/policy"
	"carom/analytics/suppression"
	"carom/schemas/limits"
)

func TestDefaultAdvises(t *testing.T) {
	p, err := policy.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if p.ModeOf("google") != limits.Advise || p.Thresholds != control.Default() {
		t.Errorf("policy without a file is %+v", p)
	}
	if err := p.Thresholds.Validate(); err != nil {
		t.Errorf("the default thresholds are wrong: %v", err)
	}
}

func TestParse(t *testing.T) {
	p, err := policy.Parse([]byte(`# demo
mode: active
providers:
  google: {mode: "off"}
  yahoo: {}
thresholds:
  decrease:
    below-accepted: 0.8
  probe:
    interval: 2m
`))
	if err != nil {
		t.Fatal(err)
	}
	if p.ModeOf("google") != limits.Off || p.ModeOf("yahoo") != limits.Active || p.ModeOf("apple") != limits.Active {
		t.Errorf("modes are %q, %q, %q; want off, active, active", p.ModeOf("google"), p.ModeOf("yahoo"), p.ModeOf("apple"))
	}
	want := control.Default()
	want.Decrease.Below, want.Probe.Interval = 0.8, 2*time.Minute
	if p.Thresholds != want {
		t.Errorf("thresholds are %+v, want %+v", p.Thresholds, want)
	}
	if p.Suppression != suppression.Default() || p.Webhook != nil {
		t.Errorf("suppression is %+v, webhook %+v; want the default and none", p.Suppression, p.Webhook)
	}
	if p.Hash == policy.Default().Hash {
		t.Error("another text has the same hash")
	}
	if p, err := policy.Parse(nil); err != nil || p.Mode != limits.Advise {
		t.Errorf("an empty file gives %+v, %v", p, err)
	}
}

// A provider has every threshold of everywhere but those that it says itself.
func TestParseProviders(t *testing.T) {
	p, err := policy.Parse([]byte(`
providers:
  yahoo: {mode: active, thresholds: {decrease: {below-accepted: 0.5}, greylisting: {window: 2h}}}
  google: {}
thresholds:
  decrease: {below-accepted: 0.8, z: 2}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := control.Default()
	want.Decrease.Below, want.Decrease.Z = 0.8, 2
	if got := *p.ThresholdsOf("google"); got != want || *p.ThresholdsOf("apple") != want {
		t.Errorf("google has %+v, want those of everywhere", got)
	}
	want.Decrease.Below, want.Greylisting.Window = 0.5, 2*time.Hour
	if got := *p.ThresholdsOf("yahoo"); got != want {
		t.Errorf("yahoo has %+v, want %+v", got, want)
	}
	if w := p.Widest(); w.Greylisting.Window != 2*time.Hour {
		t.Errorf("the widest reach back %v", w.Greylisting.Window)
	}
}

// A file with a mistake leaves the policy of before in force, and so does one that is gone.
func TestFileKeepsTheOldPolicy(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.yaml")
	at := time.Now().Add(-time.Hour)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Minute)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := policy.OpenFile(name); err == nil {
		t.Error("a file that is not there opens")
	}
	write("mode: active\n")
	f, err := policy.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, text string
		mode       limits.Mode
		wrong      string
	}{
		{"the same", "mode: active\n", limits.Active, ""},
		{"a mistake", "mode: brave\n", limits.Active, "line 1"},
		{"mended", "mode: \"off\"\n", limits.Off, ""},
		{"gone", "", limits.Off, "no such file"},
		{"back", "mode: advise\n", limits.Advise, ""},
	} {
		if tc.text == "" {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		} else {
			write(tc.text)
		}
		for range 2 { // a mistake is said again
			p, err := f.Current()
			if p.Mode != tc.mode || (err != nil) != (tc.wrong != "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%s: mode %s, %v; want %s and %q", tc.name, p.Mode, err, tc.mode, tc.wrong)
			}
		}
	}
}

func TestParseSuppression(t *testing.T) {
	p, err := policy.Parse([]byte(`suppression:
  soft-bounces: {days: 3, expire-days: 10}
  breaker:
    factor: 8
complaint-webhook:
  url: https://lists.example.com/complaints
  secret-file: /etc/carom/webhook.secret
`))
	if err != nil {
		t.Fatal(err)
	}
	want := suppression.Default()
	want.SoftBounces.Days, want.SoftBounces.Expires, want.Breaker.Factor = 3, 10, 8
	if p.Suppression != want {
		t.Errorf("suppression is %+v, want %+v", p.Suppression, want)
	}
	if w := p.Webhook; w == nil || *w != (policy.Webhook{URL: "https://lists.example.com/complaints", SecretFile: "/etc/carom/webhook.secret"}) {
		t.Errorf("webhook is %+v", w)
	}
	if _, err := policy.Parse([]byte("complaint-webhook: {url: 'http://127.0.0.1:8080/x', secret-file: f}\n")); err != nil {
		t.Errorf("HTTP to this machine: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"an unknown word", "mode: active\ncolour: red\n", `line 2: unknown word "colour"`},
		{"an unknown threshold", "thresholds:\n  decrease:\n    bellow: 1\n", `line 3: unknown word "bellow"`},
		{"an unknown mode", "\nmode: brave\n", `line 2: mode is "brave"`},
		{"an unknown mode of a provider", "mode: active\nproviders:\n  google: {mode: on}\n", "line 3: mode of google"},
		{"another type", "thresholds:\n  step: fast\n", "line 2"},
		{"a threshold out of range", "thresholds:\n  decrease: {below-accepted: 9}\n", "line 2: thresholds: decrease.below-accepted is 9"},
		{"no number", "thresholds:\n  decrease: {below-accepted: .nan}\n", "decrease.below-accepted is NaN"},
		{"no time", "thresholds:\n  step: 0s\n", "step is 0s"},
		{"a threshold out of range on a line of its own", "thresholds:\n  probe: {interval: 2m}\n  decrease:\n    z: 1\n    below-accepted: 9\n", "line 5: thresholds: decrease.below-accepted is 9"},
		{"a threshold out of range at a provider", "providers:\n  google:\n    thresholds:\n      decrease: {below-accepted: 9}\n", "line 4: providers.google.thresholds: decrease.below-accepted is 9"},
		{"an unknown threshold of a provider", "providers:\n  google:\n    thresholds: {speed: 9}\n", `line 3: unknown word "speed"`},
		{"a step of a provider", "providers:\n  google:\n    thresholds: {step: 9s}\n", "thresholds of google: step"},
		{"another step", "thresholds: {step: 5s}\n", "step is 5s"},
		{"a score that makes no sense", "reputation:\n  blocks: {weight: 2}\n", "line 2: reputation: blocks: weight is 2"},
		{"an unknown word of reputation", "reputation:\n  blocks: {wait: 2}\n", `line 2: unknown word "wait"`},
		{"an empty reputation", "reputation:\n", "reputation: is empty"},
		{"a webhook of changes in the clear", "change-webhook: {url: 'http://ops.example.com/', secret-file: f}\n", "change-webhook: url begins"},
		{"empty thresholds", "thresholds:\n", "thresholds"},
		{"a soft bounce on no day", "suppression:\n  soft-bounces: {days: -1}\n", "line 2: suppression: soft-bounces: days is -1"},
		{"an unknown word of suppression", "suppression:\n  breaker: {speed: 1}\n", `line 2: unknown word "speed"`},
		{"empty suppression", "suppression:\n", "suppression: is empty"},
		{"a webhook in the clear", "complaint-webhook: {url: 'http://lists.example.com/', secret-file: f}\n", "want https://"},
		{"a webhook to nowhere", "complaint-webhook: {url: lists, secret-file: f}\n", "is no address"},
		{"a webhook with a login", "complaint-webhook: {url: 'https://a:b@lists.example.com/', secret-file: f}\n", "holds a login"},
		{"a webhook without a secret", "complaint-webhook: {url: 'https://lists.example.com/'}\n", "secret-file is missing"},
		{"broken YAML", "mode: [active\n", "line 1"},
		{"two documents", "mode: active\n---\nmode: off\n", "second document"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := policy.Parse([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse gives %v, want an error with %q", err, tc.want)
			}
		})
	}
	name := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(name, []byte("mode: brave\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Load(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Load gives %v, want an error with the name of the file", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("mode: active\nproviders: {google: {mode: off}}\n"))
	f.Add([]byte("thresholds: {step: 10s}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Parse(data)
		if err == nil && (!p.Mode.Known() || p.Thresholds.Validate() != nil) {
			t.Fatalf("Parse(%q) took %+v", data, p)
		}
	})
}
