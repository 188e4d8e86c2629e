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
		{"a threshold out of range", "thresholds:\n  decrease: {below-accepted: 9}\n", "decrease.below-accepted is 9"},
		{"no number", "thresholds:\n  decrease: {below-accepted: .nan}\n", "decrease.below-accepted is NaN"},
		{"no time", "thresholds:\n  step: 0s\n", "step is 0s"},
		{"empty thresholds", "thresholds:\n", "thresholds"},
		{"a soft bounce on no day", "suppression:\n  soft-bounces: {days: -1}\n", "suppression: soft-bounces: days is -1"},
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
