package annotate_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"carom/analytics/annotate"
	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func TestAnnotate(t *testing.T) {
	_, url := chtest.StartWithSchema(t)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := annotate.Command(t.Context(), append(args, "--url", url), service.IO{In: strings.NewReader(""), Out: &out, Err: io.Discard})
		return out.String(), err
	}
	do := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("carom annotate %q: %v", args, err)
		}
		return out
	}

	if got := do("--list"); got != "There are no notes of that time.\n" {
		t.Errorf("an empty list: %q", got)
	}
	first := []string{"new", "series's \\ ?", "--tag", "campaign", "--tag", "shop's", "--at", "2026-11-23T13:00:00Z", "--actor", "ann"}
	if got := do(first...); got != "noted: 2026-11-23T13:00:00Z  new series's \\ ?\n" {
		t.Errorf("the first note: %q", got)
	}
	if got := do(first...); got != "was noted before: 2026-11-23T13:00:00Z  new series's \\ ?\n" {
		t.Errorf("the first note again: %q", got)
	}
	do("other", "--at", "2026-11-23T13:00:01Z", "--actor", "ann")

	const want = `2026-11-23 13:00:00  operator/ann         note     new series's \ ? #campaign #shop's
2026-11-23 13:00:01  operator/ann         note     other
`
	if got := do("--list", "--since", "2026-11-01"); got != want {
		t.Errorf("list:\n%swant:\n%s", got, want)
	}
	var notes []annotate.Note
	if err := json.Unmarshal([]byte(do("--list", "--since", "2026-11-01", "--tag", "shop's", "--json")), &notes); err != nil || len(notes) != 1 || notes[0].Text != "new series's \\ ?" {
		t.Errorf("list by tag: %+v, %v", notes, err)
	}
	if got := do("--list", "--since", "2026-11-01", "--limit", "1"); !strings.Contains(got, "other") || strings.Contains(got, "series") {
		t.Errorf("the newest: %q", got)
	}

	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var rows, wrong uint64
	if err := conn.QueryRow(t.Context(), "SELECT toUInt64(sum(row_count)), toUInt64(sum(gaps + duplicates + before_first)) FROM completeness WHERE stream = 'annotation'").Scan(&rows, &wrong); err != nil || rows != 2 || wrong != 0 {
		t.Errorf("%d notes, %d numbers wrong, %v; want 2, 0", rows, wrong, err)
	}

	for _, args := range [][]string{
		{}, {"  "}, {strings.Repeat("x", 2001)}, {"x", "--tag", "two words"}, {"x", "--tag", ""}, {"x", "--at", "soon"}, {"x", "--list"}, {"--list", "--since", "soon"}, {"a\xff"},
	} {
		if _, err := run(args...); service.ExitStatus(err) != 2 {
			t.Errorf("carom annotate %q: %v, want a mistake", args, err)
		}
	}
}
