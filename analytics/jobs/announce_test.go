package jobs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"carom/schemas/limits"
)

func TestModesAndPoliciesAreAnnounced(t *testing.T) {
	w := newWorld(t)
	notes := func() (texts []string) {
		t.Helper()
		rows, err := w.conn.Query(t.Context(), "SELECT name, text, arrayStringConcat(tags, ' ') FROM annotations WHERE node = 'analytics' ORDER BY time, name")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name, text, tags string
			if err := rows.Scan(&name, &text, &tags); err != nil {
				t.Fatal(err)
			}
			texts = append(texts, name+" | "+text+" | "+tags)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return texts
	}
	mustRun(t, w.throttle(t, limits.Advise).Run)
	mustRun(t, w.throttle(t, limits.Advise).Run) // another process, the same policy
	if all := notes(); len(all) != 1 || !strings.HasPrefix(all[0], "policy | policy ") || !strings.HasSuffix(all[0], ": mode advise | advise") {
		t.Fatalf("after two runs: %q", all)
	}
	override := func(version int64, rest string) {
		t.Helper()
		if err := w.conn.Exec(t.Context(), fmt.Sprintf(`INSERT INTO overrides (id, version, kind, provider, source, mode, created_at, actor, reason, cancelled)
			VALUES (toUUID('00000000-0000-0000-0000-000000000001'), %d, %s)`, version, rest)); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UnixMicro()
	override(now, "'kill', 'google', '', '', now64(6), 'ann', 'too slow', false")
	job := w.throttle(t, limits.Active)
	mustRun(t, job.Run)
	override(now+1, "'kill', 'google', '', '', now64(6), 'ann', '', true")
	override(now+2, "'mode', '', '192.0.2.1', 'off', now64(6), 'bob', '', false")
	mustRun(t, job.Run)
	mustRun(t, job.Run)
	want := []string{
		"kill-switch | the kill switch stops the loop for google, by ann: too slow | google kill",
		"kill-switch | taken back: the kill switch stops the loop for google, by ann | google kill",
		"limit-mode | the loop is in mode off for 192.0.2.1, by bob | 192.0.2.1 off",
	}
	all := strings.Join(notes(), "\n")
	for _, line := range want {
		if strings.Count(all, line) != 1 {
			t.Errorf("want once: %s\nin:\n%s", line, all)
		}
	}
	if n := strings.Count(all, "\n") + 1; n != 5 || !strings.Contains(all, ": mode active | active") {
		t.Errorf("%d annotations, want five with the new policy:\n%s", n, all)
	}
}
