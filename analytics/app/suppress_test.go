package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/app"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/suppression"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// list is a warehouse and the command over it.
type list struct {
	rawURL, keyFile string
	conn            driver.Conn
}

func newList(t *testing.T) *list {
	t.Helper()
	l := &list{keyFile: filepath.Join(t.TempDir(), "suppression.key")}
	_, l.rawURL = chtest.StartWithSchema(t)
	var err error
	if l.conn, err = warehouse.Open(t.Context(), l.rawURL, warehouse.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.conn.Close() })
	writeFile(t, l.keyFile, testSecret+"\n")
	return l
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func suppress(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := app.SuppressCommand(t.Context(), args, service.IO{In: strings.NewReader(stdin), Out: &out, Err: io.Discard},
		func(file string) (string, error) {
			if file != "node.conf" {
				return "", service.Configf("%s: no such file", file)
			}
			return testSecret, nil
		})
	return out.String(), err
}

// do runs a verb over the warehouse; it must succeed.
func (l *list) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := suppress(t, "", append(args, "--url", l.rawURL, "--key-file", l.keyFile, "--actor", "ann")...)
	if err != nil {
		t.Fatalf("carom suppress %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (l *list) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	if err := l.conn.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// in returns who is suppressed, as address/tenant of the addresses given.
func (l *list) in(t *testing.T, addresses ...string) string {
	t.Helper()
	var got []string
	for _, a := range addresses {
		rows, err := l.conn.Query(t.Context(), "SELECT tenant FROM suppressed WHERE recipient_key = ? ORDER BY tenant", keyOf(a))
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var tenant string
			if err := rows.Scan(&tenant); err != nil {
				t.Fatal(err)
			}
			got = append(got, a+"/"+tenant)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(got, " ")
}

func keyOf(address string) string { return suppression.Key([]byte(testSecret), address) }

func TestSuppressAddAndRemove(t *testing.T) {
	l := newList(t)
	file := filepath.Join(t.TempDir(), "list.txt")
	writeFile(t, file, "# who left\nCid@Example.COM\n\n  dan@example.com \n"+keyOf("eve@example.com")+"\n")
	all := []string{"ann@x.test", "bob@x.test", "cid@example.com", "dan@example.com", "eve@example.com"}

	out := l.do(t, "add", "ann@x.test", "bob@x.test", "--reason", "asked by phone")
	if !strings.Contains(out, "2 addresses are suppressed for all tenants.") {
		t.Errorf("add says %q", out)
	}
	out = l.do(t, "add", "--file", file, "--tenant", "shop", "--expires", "30d", "ann@x.test")
	if !strings.Contains(out, "4 addresses are suppressed for shop until ") {
		t.Errorf("add --file says %q", out)
	}
	if got, want := l.in(t, all...), "ann@x.test/ ann@x.test/shop bob@x.test/ cid@example.com/shop dan@example.com/shop eve@example.com/shop"; got != want {
		t.Errorf("suppressed: %s\nwant %s", got, want)
	}
	var left int64
	if err := l.conn.QueryRow(t.Context(), "SELECT dateDiff('hour', now(), expires_at) FROM suppressed WHERE recipient_key = ?", keyOf("dan@example.com")).Scan(&left); err != nil || left < 719 || left > 720 {
		t.Errorf("it ends in %d hours (%v), want 720", left, err)
	}

	// One tenant's, then all; nobody twice.
	if out = l.do(t, "remove", "ann@x.test", "bob@x.test", "--tenant", "shop"); !strings.Contains(out, "1 suppressions of 2 addresses") {
		t.Errorf("remove --tenant says %q", out)
	}
	if got, want := l.in(t, all[:2]...), "ann@x.test/ bob@x.test/"; got != want {
		t.Errorf("suppressed: %s, want %s", got, want)
	}
	if out = l.do(t, "remove", "ANN@x.test"); !strings.Contains(out, "1 suppressions of 1 addresses") {
		t.Errorf("remove says %q", out)
	}
	if out = l.do(t, "remove", "ann@x.test"); !strings.Contains(out, "nothing was changed") {
		t.Errorf("remove of nobody says %q", out)
	}
	if out = l.do(t, "remove", "bob@x.test", "--tenant", "shop"); !strings.Contains(out, "there are 1 for others") {
		t.Errorf("remove of another tenant's says %q", out)
	}

	// From standard input, with the key of a configuration, as JSON.
	out, err := suppress(t, "fay@x.test\n", "add", "--file", "-", "-c", "node.conf", "--url", l.rawURL, "--json")
	var done struct{ Addresses, Rows int }
	if err != nil || json.Unmarshal([]byte(out), &done) != nil || done.Addresses != 1 || l.in(t, "fay@x.test") != "fay@x.test/" {
		t.Errorf("add --file -: %q, %v", out, err)
	}

	out = l.do(t, "show", "ann@x.test")
	for _, want := range []string{"ann@x.test is not suppressed.", "taken back for shop by ann: manual removed by hand", "suppressed for all tenants by ann: manual asked by phone", keyOf("ann@x.test")} {
		if !strings.Contains(out, want) {
			t.Errorf("show does not say %q:\n%s", want, out)
		}
	}
}

func TestSuppressManyAddresses(t *testing.T) {
	l := newList(t)
	var text strings.Builder
	const n = 4500 // more than one question
	for i := range n {
		fmt.Fprintf(&text, "ann%d@example.com\n", i)
	}
	file := filepath.Join(t.TempDir(), "list.txt")
	writeFile(t, file, text.String())
	count := func() (n uint64) {
		if err := l.conn.QueryRow(t.Context(), "SELECT count() FROM suppressed").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	l.do(t, "add", "--file", file)
	if got := count(); got != n {
		t.Errorf("%d are suppressed, want %d", got, n)
	}
	l.do(t, "remove", "--file", file)
	if got := count(); got != 0 {
		t.Errorf("%d are suppressed after remove, want none", got)
	}
}

func TestSuppressShowAndList(t *testing.T) {
	l := newList(t)
	id := event.NewID()
	events := []event.Event{
		{Kind: event.Delivered, MessageID: id, RecipientIdx: 2, Recipient: "gus@x.test", RecipientKey: keyOf("gus@x.test"), Tenant: "shop", Provider: "big", Reply: "250 ok"},
		{Kind: event.Complaint, OriginalMessageID: id, OriginalIdx: 2, Recipient: "gus@x.test", RecipientKey: keyOf("gus@x.test"), Tenant: "shop", FeedbackType: "abuse", Category: taxonomy.Complaint},
	}
	for i := range events {
		events[i].Node, events[i].Seq, events[i].Time, events[i].Recipients = "n1", uint64(i)+1, time.Now(), 1
	}
	if err := warehouse.Events.Insert(t.Context(), l.conn, "events", events); err != nil {
		t.Fatal(err)
	}
	l.exec(t, `INSERT INTO suppressions (recipient_key, tenant, time, category, origin, actor, reason, provider, message_id, recipient_index, pending) VALUES
    (?, 'shop', '2026-11-28 10:00:00', 'complaint', 'job', 'suppression', 'abuse', 'big', ?, 2, false),
    (?, '', '2026-11-28 11:00:00', 'bad-mailbox', 'job', 'suppression', '550 5.1.1 \x1b[31mno', 'big', ?, 0, true),
    (?, '', '2026-11-20 11:00:00', 'bad-mailbox', 'job', 'suppression', '550 5.1.1 no', 'other', ?, 0, false)`,
		keyOf("gus@x.test"), id, keyOf("hal@x.test"), event.NewID(), keyOf("ida@x.test"), event.NewID())

	out := l.do(t, "show", "gus@x.test")
	for _, want := range []string{"is suppressed for shop since 2026-11-28 10:00:00: complaint", "complaint abuse", id.String() + ", recipient 2, provider big", "delivered (shop) 250 ok", "complaint (shop) abuse"} {
		if !strings.Contains(out, want) {
			t.Errorf("show does not say %q:\n%s", want, out)
		}
	}
	if out = l.do(t, "show", "hal@x.test"); !strings.Contains(out, "waits for a second bounce") || strings.Contains(out, "\x1b") {
		t.Errorf("show of one that waits:\n%q", out)
	}
	if out = l.do(t, "show", "nobody@x.test"); !strings.Contains(out, "is not suppressed") {
		t.Errorf("show of nobody: %q", out)
	}
	if out = l.do(t, "list"); strings.Count(out, "\n") != 3 || strings.Index(out, keyOf("gus@x.test")) > strings.Index(out, keyOf("ida@x.test")) {
		t.Errorf("list:\n%s", out)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--pending"}, "hal@x.test"},
		{[]string{"--tenant", "shop"}, "gus@x.test"},
		{[]string{"--reason", "bad-mailbox"}, "ida@x.test"},
		{[]string{"--provider", "other"}, "ida@x.test"},
		{[]string{"--since", "2026-11-25"}, "gus@x.test"},
		{[]string{"--limit", "1"}, "gus@x.test"},
	} {
		var lines []struct{ Key string }
		out := l.do(t, append([]string{"list", "--json"}, tc.args...)...)
		if err := json.Unmarshal([]byte(out), &lines); err != nil || len(lines) != 1 || lines[0].Key != keyOf(tc.want) {
			t.Errorf("list %v: %s, want %s alone", tc.args, out, tc.want)
		}
	}
	if out = l.do(t, "list", "--limit", "1"); !strings.Contains(out, "1 of 2 (see --limit)") {
		t.Errorf("list --limit 1:\n%s", out)
	}
	if out = l.do(t, "list", "--tenant", "nobody"); out != "Nobody.\n" {
		t.Errorf("list of nobody: %q", out)
	}
}

func TestSuppressUndo(t *testing.T) {
	l := newList(t)
	insert := func(address, at, provider, category string, pending bool) {
		l.exec(t, `INSERT INTO suppressions (recipient_key, time, category, origin, actor, reason, provider, message_id, pending)
VALUES (?, ?, ?, 'job', 'suppression', '550 5.1.1 no such user', ?, ?, ?)`, keyOf(address), at, category, provider, event.NewID(), pending)
	}
	insert("in@x.test", "2026-11-28 09:00:00", "big", "bad-mailbox", false)
	insert("waits@x.test", "2026-11-28 09:30:00", "big", "bad-mailbox", true)
	insert("later@x.test", "2026-11-28 11:00:00", "big", "bad-mailbox", false)
	insert("other@x.test", "2026-11-28 09:00:00", "small", "bad-mailbox", false)
	insert("complained@x.test", "2026-11-28 09:00:00", "big", "complaint", false)
	insert("before@x.test", "2026-11-20 09:00:00", "big", "bad-mailbox", false)
	insert("before@x.test", "2026-11-28 09:00:00", "big", "bad-mailbox", false)
	all := []string{"in@x.test", "waits@x.test", "later@x.test", "other@x.test", "complained@x.test", "before@x.test"}
	before := l.in(t, all...)

	undo := func(more ...string) string {
		return l.do(t, append([]string{"undo", "--provider", "big", "--from", "2026-11-28T08:00", "--to", "2026-11-28T10:00"}, more...)...)
	}
	out := undo()
	for _, want := range []string{"1 suppressions and 1 pending ones of big", "would be taken back", "1 more stay", keyOf("in@x.test"), "say --yes"} {
		if !strings.Contains(out, want) {
			t.Errorf("undo does not say %q:\n%s", want, out)
		}
	}
	if now := l.in(t, all...); now != before {
		t.Errorf("a dry run changed %s to %s", before, now)
	}
	out = undo("--yes", "--json")
	var u struct {
		Done                      bool
		Suppressed, Pending, Kept int
	}
	if err := json.Unmarshal([]byte(out), &u); err != nil || !u.Done || u.Suppressed != 1 || u.Pending != 1 || u.Kept != 1 {
		t.Errorf("undo --yes: %s", out)
	}
	if got, want := l.in(t, all...), "later@x.test/ other@x.test/ complained@x.test/ before@x.test/"; got != want {
		t.Errorf("suppressed after undo: %s\nwant %s", got, want)
	}
	var actor, reason string
	if err := l.conn.QueryRow(t.Context(), "SELECT any(actor), any(reason) FROM suppressions WHERE tombstone").Scan(&actor, &reason); err != nil ||
		actor != "ann" || reason != "undo of big from 2026-11-28 08:00:00 to 2026-11-28 10:00:00" {
		t.Errorf("tombstones by %q: %q, %v", actor, reason, err)
	}
	if out = undo(); !strings.Contains(out, "0 suppressions and 0 pending") || strings.Contains(out, "--yes") {
		t.Errorf("undo once more:\n%s", out)
	}
}

// A key that is not the nodes' would suppress nobody and say nothing.
func TestSuppressRefusesAWrongKey(t *testing.T) {
	l := newList(t)
	e := event.Event{Node: "n1", Seq: 1, Time: time.Now(), Kind: event.Received, Recipient: "ann@x.test", RecipientKey: suppression.Key([]byte("another secret"), "ann@x.test"), Recipients: 1}
	if err := warehouse.Events.Insert(t.Context(), l.conn, "event", []event.Event{e}); err != nil {
		t.Fatal(err)
	}
	_, err := suppress(t, "", "add", "bob@x.test", "--url", l.rawURL, "--key-file", l.keyFile)
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "not the key that the nodes use") {
		t.Errorf("add with a wrong key: %v", err)
	}
	if got := l.in(t, "bob@x.test"); got != "" {
		t.Errorf("suppressed: %s", got)
	}
}

func TestSuppressMistakes(t *testing.T) {
	dir := t.TempDir()
	bad, empty := filepath.Join(dir, "bad.txt"), filepath.Join(dir, "empty.key")
	writeFile(t, bad, "ann@x.test\nno address\n")
	writeFile(t, empty, "\n")
	_, rawURL := chtest.StartWithSchema(t)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "want add, remove, show, list or undo"},
		{[]string{"purge"}, "want add, remove"},
		{[]string{"add"}, "whom?"},
		{[]string{"add", "ann"}, `"ann" is no address`},
		{[]string{"add", "--file", bad}, "line 2"},
		{[]string{"add", "--file", filepath.Join(dir, "none.txt")}, "none.txt"},
		{[]string{"add", "ann@x.test"}, "--key-file"},
		{[]string{"add", "ann@x.test", "--key-file", empty}, "is empty"},
		{[]string{"add", "ann@x.test", "--key-file", empty, "-c", "node.conf"}, "exclude each other"},
		{[]string{"add", "ann@x.test", "-c", "other.conf"}, "other.conf: no such file"},
		{[]string{"add", "ann@x.test", "-c", "node.conf", "--expires", "soon"}, `"soon" is no time`},
		{[]string{"add", "ann@x.test", "-c", "node.conf", "--expires", "2020-01-01"}, "has passed"},
		{[]string{"show"}, "want one address"},
		{[]string{"show", "a@x.test", "b@x.test"}, "want one address"},
		{[]string{"list", "ann@x.test"}, "unexpected argument"},
		{[]string{"list", "--limit", "0"}, "--limit"},
		{[]string{"list", "--since", "yesterday"}, "is no time"},
		{[]string{"undo", "--provider", "big"}, "--from"},
		{[]string{"undo", "--provider", "big", "--from", "2026-11-28", "--to", "2026-11-27"}, "is not after"},
	} {
		t.Run(fmt.Sprint(tc.args), func(t *testing.T) {
			args := tc.args
			if len(args) > 0 {
				args = append(args, "--url", rawURL)
			}
			_, err := suppress(t, "", args...)
			if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "carom suppress") {
				t.Errorf("got %v, want a ConfigError of carom suppress with %q", err, tc.want)
			}
		})
	}
	if out, err := suppress(t, "", "undo", "--help"); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out, "Example:") || !strings.Contains(out, "--yes") {
		t.Errorf("--help: %v\n%s", err, out)
	}
}
