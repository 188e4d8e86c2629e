package warehouse_test

import (
	"testing"
	"time"

	"carom/schemas/event"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

func TestSchemaChangeIsAnnotated(t *testing.T) {
	rawURL := chtest.Start(t).URL() + "/carom"
	apply := func() []warehouse.Migration {
		t.Helper()
		applied, err := warehouse.Apply(t.Context(), rawURL, warehouse.Options{}, "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		return applied
	}
	apply()
	conn, err := warehouse.Open(t.Context(), rawURL, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	count := func(where string) (n uint64) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT count() FROM annotations WHERE "+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	apply()
	if n := count("1"); n != 0 {
		t.Errorf("a new database has %d annotations", n)
	}
	// As if the last migration were new.
	if err := conn.Exec(t.Context(), "ALTER TABLE schema_migrations DELETE WHERE version = (SELECT max(version) FROM schema_migrations) SETTINGS mutations_sync = 1"); err != nil {
		t.Fatal(err)
	}
	if applied := apply(); len(applied) != 1 {
		t.Fatalf("applied %+v, want the last migration", applied)
	}
	if n := count("node = 'schema' AND name = 'schema' AND position(text, '1.2.3') > 0 AND has(tags, '1.2.3')"); n != 1 {
		t.Errorf("%d annotations of the change", n)
	}

	at := time.Now()
	for i := range 2 {
		isNew, err := warehouse.Annotate(t.Context(), conn, event.Annotation{Node: "test", Time: at, Name: "note", Text: "twice"})
		if err != nil || isNew != (i == 0) {
			t.Errorf("writing it for the %d. time: new is %v, %v", i+1, isNew, err)
		}
	}
	if n := count("node = 'test'"); n != 1 {
		t.Errorf("the same annotation is there %d times", n)
	}
	var gaps, duplicates uint64
	if err := conn.QueryRow(t.Context(), "SELECT toUInt64(sum(gaps)), toUInt64(sum(duplicates)) FROM completeness").Scan(&gaps, &duplicates); err != nil || gaps+duplicates != 0 {
		t.Errorf("%d gaps, %d duplicates, %v", gaps, duplicates, err)
	}
}
