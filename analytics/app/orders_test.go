package app_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/analytics/app"
	"carom/schemas/service"
)

// mustSay runs carom limits and wants words in its answer.
func mustSay(t *testing.T, want []string, args ...string) string {
	t.Helper()
	out, err := showLimits(t, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	for _, word := range want {
		if !strings.Contains(out, word) {
			t.Errorf("%v does not say %q:\n%s", args, word, out)
		}
	}
	return out
}

// An operator's day: he reads why, pins, lets go, and stops the loop.
func TestOrders(t *testing.T) {
	rawURL := warehouseWith(t)
	active := writePolicy(t, "mode: active\n")
	throttle := func() {
		t.Helper()
		if _, err := analytics(t, "run", "throttle", "--url", rawURL, "--policy", active); err != nil {
			t.Fatal(err)
		}
	}
	throttle()
	mustSay(t, []string{"BACKOFF", "counted again in k10s: the same", "tenant shop: 100 % of the volume, 100 % of the refusals", "suggestion: "}, "explain", "google/192.0.2.1", "--url", rawURL)
	mustSay(t, []string{"is pinned (rate 5/s) until"}, "pin", "google/192.0.2.1", "--rate", "300/min", "--for", "2h", "--reason", "ticket 1", "--actor", "ann", "--url", rawURL)
	throttle()
	mustSay(t, []string{"ORDER", "rate 5/s", "ann", "ticket 1"}, "list", "--url", rawURL)
	mustSay(t, []string{"PIN", "BACKOFF", "ann"}, "history", "google/192.0.2.1", "--url", rawURL)
	mustSay(t, []string{"Pinned by ann", "pinned by ann", "carom limits unpin"}, "explain", "google/192.0.2.1", "--last", "1", "--url", rawURL)

	var all []struct {
		Key    string  `json:"key"`
		Rate   float64 `json:"rate"`
		Orders []struct {
			Kind  string `json:"kind"`
			Actor string `json:"actor"`
			Pin   struct {
				Rate float64 `json:"rate"`
			} `json:"pin"`
		} `json:"orders"`
	}
	if err := json.Unmarshal([]byte(mustSay(t, nil, "list", "--json", "--url", rawURL)), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || len(all[0].Orders) != 1 || all[0].Orders[0].Pin.Rate != 5 || all[0].Orders[0].Actor != "ann" {
		t.Errorf("list --json: %+v", all)
	}
	mustSay(t, []string{"not pinned any more"}, "unpin", "google/192.0.2.1", "--reason", "done", "--url", rawURL)
	mustSay(t, []string{"The loop is off everywhere until"}, "off", "--for", "1h", "--reason", "providers complain", "--url", rawURL)
	mustSay(t, []string{"everywhere", "the loop is off"}, "list", "--url", rawURL)
	mustSay(t, []string{"RELEASE", "providers complain", "counted again"}, "explain", "google/192.0.2.1", "--url", rawURL)
	mustSay(t, []string{"may act again"}, "on", "--reason", "over", "--url", rawURL)

	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"no reason", "say why", []string{"pin", "google/192.0.2.1", "--rate", "5", "--for", "1h"}},
		{"no end", "for how long", []string{"pin", "google/192.0.2.1", "--rate", "5", "--reason", "x"}},
		{"two ends", "give one", []string{"off", "--for", "1h", "--until", "2036-01-01", "--reason", "x"}},
		{"an end that is over", "is over already", []string{"off", "--until", "2020-01-01", "--reason", "x"}},
		{"an end that never comes", "more than a year", []string{"off", "--for", "9000d", "--reason", "x"}},
		{"nothing to pin", "say what", []string{"pin", "google/192.0.2.1", "--for", "1h", "--reason", "x"}},
		{"no rate", "is no rate", []string{"pin", "google/192.0.2.1", "--rate", "0", "--for", "1h", "--reason", "x"}},
		{"a rate of nonsense", "is no rate", []string{"pin", "google/192.0.2.1", "--rate", "5/week", "--for", "1h", "--reason", "x"}},
		{"a floor above the ceiling", "above the ceiling", []string{"pin", "google/192.0.2.1", "--floor", "5", "--ceiling", "4", "--for", "1h", "--reason", "x"}},
		{"fixed and bounded", "one or the other", []string{"pin", "google/192.0.2.1", "--rate", "5", "--ceiling", "4", "--for", "1h", "--reason", "x"}},
		{"a key that nobody sends for", "nothing is known of", []string{"pin", "gogle/192.0.2.1", "--rate", "5", "--for", "1h", "--reason", "x"}},
		{"no key", "want provider/source", []string{"pin", "google", "--rate", "5", "--for", "1h", "--reason", "x"}},
		{"no pin", "nothing to take back", []string{"unpin", "google/192.0.2.1", "--reason", "x"}},
		{"no change of the loop's", "nothing to take back", []string{"cancel", "google/192.0.2.1", "--reason", "x"}},
		{"no hold", "nothing to take back", []string{"release", "shop", "--reason", "x"}},
		{"on without off", "nothing to take back", []string{"on", "--reason", "x"}},
		{"an end of what does not last", "does not last", []string{"on", "--for", "1h", "--reason", "x"}},
		{"a verb of nonsense", "want list, explain", []string{"stop"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := showLimits(t, append(tc.args, "--url", rawURL)...); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v: %v, want exit status 2 and %q", tc.args, err, tc.want)
			}
		})
	}

	scores := func(args ...string) (string, error) {
		return invoke(t, func(ctx context.Context, stdio service.IO) error {
			return app.ReputationCommand(ctx, append(args, "--url", rawURL), stdio)
		})
	}
	if out, err := scores("list"); err != nil || !strings.Contains(out, "no scores") {
		t.Errorf("reputation list before the job ran: %q, %v", out, err)
	}
	if _, err := analytics(t, "run", "reputation", "holds", "--url", rawURL); err != nil {
		t.Fatal(err)
	}
	if out, err := scores("list", "--provider", "google"); err != nil || !strings.Contains(out, "key:google/192.0.2.1") || !strings.Contains(out, "refusals") || !strings.Contains(out, "none") {
		t.Errorf("reputation list: %q, %v", out, err)
	}
	out, err := scores("explain", "key:google/192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"refusals", "costs most", "no feedback loop", "suggestion: "} {
		if !strings.Contains(out, want) {
			t.Errorf("reputation explain does not say %q:\n%s", want, out)
		}
	}
	var one []struct{ Key, Band, Worst string }
	if out, err = scores("explain", "tenant:google/shop", "--json"); err != nil || json.Unmarshal([]byte(out), &one) != nil || len(one) != 1 || one[0].Worst != "refusals" {
		t.Errorf("reputation explain --json: %q, %v", out, err)
	}
	for _, args := range [][]string{{"explain"}, {"explain", "sender:nobody.test"}, {"list", "--kind", "dog"}, {"show"}} {
		if _, err := scores(args...); service.ExitStatus(err) != 2 {
			t.Errorf("reputation %v: %v, want exit status 2", args, err)
		}
	}
}

func TestPolicyCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		return invoke(t, func(ctx context.Context, stdio service.IO) error { return app.PolicyCommand(ctx, args, stdio) })
	}
	text, err := run("print")
	if err != nil || !strings.Contains(text, "below-accepted: 0.9") {
		t.Fatalf("print: %v\n%.200s", err, text)
	}
	name := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("check", name); err != nil || !strings.Contains(out, "is right: mode advise") {
		t.Errorf("check of what print wrote: %q, %v", out, err)
	}
	if _, err := run("check", writePolicy(t, "mode: active\nthresholds:\n  decrease: {z: 1, below-accepted: 9}\n")); service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "line 3") || !strings.Contains(err.Error(), "carom policy print") {
		t.Errorf("check of a mistake: %v, want exit status 2, the line and the way out", err)
	}
	for _, args := range [][]string{{"check"}, {"check", "/nowhere/policy.yaml"}, {"print", "x"}, {"mend"}} {
		if _, err := run(args...); service.ExitStatus(err) != 2 {
			t.Errorf("policy %v: %v, want exit status 2", args, err)
		}
	}
}
