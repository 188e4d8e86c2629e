package jobs_test

import (
	"testing"
)

// TestControl holds what needs nothing but an empty warehouse: one engine serves them all, because to start
// one takes longer than most of them.
func TestControl(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"reputation", testReputation},
		{"outcomes", testOutcomes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.empty(t)
			tc.test(t, w)
		})
	}
}

// empty empties every table but that of the migrations.
func (w *world) empty(t *testing.T) {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name != 'schema_migrations' AND total_rows > 0")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		w.exec(t, "TRUNCATE TABLE "+name)
	}
	w.tick(t)
}

func (w *world) exec(t *testing.T, query string) {
	t.Helper()
	if err := w.conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
}
