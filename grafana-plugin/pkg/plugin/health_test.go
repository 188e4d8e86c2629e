//go:build unix

package plugin_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"carom/schemas/warehouse/chtest"
)

// TestHealth follows the health check from an empty database to one with mail, old and new, and to
// schemas of other versions.
func TestHealth(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(readerPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server, _ := chtest.StartWithSchema(t, "--readonly-user", reader, "--readonly-password-file", password)
	conn := server.Conn(t)
	const node = "INSERT INTO carom.nodes (node, incarnation, seen_at, started_at, version, event_seq) VALUES "
	for _, step := range []struct {
		name     string
		do       []string
		settings map[string]any
		password string
		ok       bool
		want     string
	}{
		{"no schema", nil, map[string]any{"database": "default"}, readerPassword, false, `^The database default has no tables of carom: set another database, or run carom schema apply\.$`},
		{"empty", nil, nil, readerPassword, true, `^No events yet; schema \d+; user grafana only reads\.$`},
		{"a user that may write", nil, map[string]any{"user": ""}, "", true, `^No events yet; schema \d+\. Attention: this user may write: give Grafana one that only reads `},
		{
			"stale",
			[]string{
				"INSERT INTO carom.events (node, seq, time, kind) SELECT 'a', 1, now64(6) - INTERVAL 3 DAY, 'received'",
				node + "('a', generateUUIDv4(), now64(6) - INTERVAL 3 DAY, now64(6) - INTERVAL 9 DAY, 'test', 1)",
			},
			nil, readerPassword, true, `^Last event 3 days ago; no node has reported in the last five minutes; schema \d+; user grafana only reads\.$`,
		},
		{
			"fresh",
			[]string{
				"INSERT INTO carom.events (node, seq, time, kind) SELECT 'a', 2, now64(6), 'received'",
				node + "('b', generateUUIDv4(), now64(6), now64(6), 'test', 1), ('c', generateUUIDv4(), now64(6), now64(6), 'test', 1)",
			},
			nil, readerPassword, true, `^Last event \d+ s ago from 2 nodes; schema \d+; user grafana only reads\.$`,
		},
		{"wrong password", nil, nil, "swordfish-swordfish", false, `refuses the user "grafana": check user and password of the data source\.$`},
		{
			"older schema",
			[]string{
				"CREATE TABLE carom.fewer AS carom.schema_migrations", "INSERT INTO carom.fewer SELECT * FROM carom.schema_migrations WHERE version < (SELECT max(version) FROM carom.schema_migrations)",
				"EXCHANGE TABLES carom.fewer AND carom.schema_migrations",
			},
			nil, readerPassword, true, `Attention: the schema is older than this plugin \(it lacks \w+\): run carom schema apply\.$`,
		},
		{
			"newer schema",
			[]string{"EXCHANGE TABLES carom.fewer AND carom.schema_migrations", "INSERT INTO carom.schema_migrations (version, name) VALUES (900, '0900_future')"},
			nil, readerPassword, true, `schema 900; user grafana only reads\. Attention: the schema is newer than this plugin: update the plugin\.$`,
		},
	} {
		for _, text := range step.do {
			if err := conn.Exec(t.Context(), text); err != nil {
				t.Fatalf("%s: %v in %s", step.name, err, text)
			}
		}
		d, err := inProcess(t, settingsOf(server, step.settings), step.password)
		if err != nil {
			t.Fatal(err)
		}
		// Grafana's requests have a deadline, of which no setting may be made.
		ctx, cancel := context.WithTimeout(t.Context(), healthWithin)
		r, err := d.CheckHealth(ctx, &backend.CheckHealthRequest{})
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if (r.Status == backend.HealthStatusOk) != step.ok || !regexp.MustCompile(step.want).MatchString(r.Message) {
			t.Errorf("%s: %v %q, want %s", step.name, r.Status, r.Message, step.want)
		}
	}
}

const healthWithin = 60e9
