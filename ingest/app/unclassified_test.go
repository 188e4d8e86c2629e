package app

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

func TestUnclassified(t *testing.T) {
	o, conn := agent(t)
	inc := uuid.New()
	seen := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	var events []event.Event
	add := func(n int, provider, reply string, category taxonomy.Category, at time.Time) {
		for range n {
			events = append(events, event.Event{
				Node: "mail1", Incarnation: inc, Seq: uint64(len(events)) + 1, FormatVersion: event.FormatVersion, Time: at, Kind: event.Bounced, Recipients: 1,
				Provider: provider, Source: "192.0.2.1", Attempt: 1, Tenant: "shop", Reply: reply, ReplyTemplate: event.ReplyTemplate(reply),
				Category: category, Class: category.Class(), Dimension: taxonomy.Other,
			})
		}
	}
	add(3, "other", "554 Qxz 4711 for <ann@mail.example>", taxonomy.Unknown, seen)
	add(2, "other", "554 Qxz 4712 for <bob@mail.example>", taxonomy.Unknown, seen.Add(time.Minute))
	add(1, "google", "554 Qxz 4713 for <eve@mail.example>", taxonomy.Unknown, seen)
	add(2, "google", "550 5.1.1 user unknown", taxonomy.Unknown, seen) // today's rules know it
	add(2, "google", "550 5.7.1 understood", taxonomy.Policy, seen)
	add(4, "google", "250 ok", taxonomy.Delivered, seen)
	add(9, "other", "554 Qxz 4714 of last week", taxonomy.Unknown, seen.Add(-7*24*time.Hour))
	if err := warehouse.Events.Insert(t.Context(), conn, "unclassified", events); err != nil {
		t.Fatal(err)
	}
	list := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if err := UnclassifiedCommand(t.Context(), append([]string{"--url", o.URL}, args...), service.IO{Out: &out, Err: &out}); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out.String()
	}

	var got []unclassified
	if err := json.Unmarshal([]byte(list("--json")), &got); err != nil {
		t.Fatal(err)
	}
	want := []unclassified{
		{Template: "554 Qxz <n> for <<addr>>", Provider: "other", Attempts: 5, Share: 0.5, LastSeen: seen.Add(time.Minute), Now: "undetermined", NowRule: "code.554", Example: "554 Qxz 4712 for <bob@mail.example>"},
		{Template: "550 5.1.1 user unknown", Provider: "google", Attempts: 2, Share: 0.2, LastSeen: seen, Now: "bad-mailbox", NowRule: "unknown-user", Example: "550 5.1.1 user unknown"},
		{Template: "554 Qxz <n> for <<addr>>", Provider: "google", Attempts: 1, Share: 0.1, LastSeen: seen, Now: "undetermined", NowRule: "code.554", Example: "554 Qxz 4713 for <eve@mail.example>"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := list("--limit", "1", "--provider", "google"); strings.Contains(out, "other") || !strings.Contains(out, "bad-mailbox (unknown-user)") || strings.Contains(out, "4713") {
		t.Errorf("one line of google: %s", out)
	}
	if out := list("--since", "240h"); !strings.Contains(out, "of last week") {
		t.Errorf("ten days: %s", out)
	}
	if out := list("--provider", "nobody"); !strings.Contains(out, "every reply of the last 24h0m0s was understood") {
		t.Errorf("nobody: %q", out)
	}
}

func TestUnclassifiedRefuses(t *testing.T) {
	for _, args := range [][]string{{"--since", "0s"}, {"--limit", "0"}, {"word"}, {"--url", "nonsense://x"}} {
		var out bytes.Buffer
		if err := UnclassifiedCommand(t.Context(), args, service.IO{Out: &out, Err: &out}); service.ExitStatus(err) != 2 {
			t.Errorf("%v: %v, want a ConfigError", args, err)
		}
	}
}
