package trace

import (
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// TestLookupsUseIndexes: every way of looking for a message goes by an index. A search through all events
// finds the same, a hundred times slower.
func TestLookupsUseIndexes(t *testing.T) {
	_, url := chtest.StartWithSchema(t)
	conn, err := warehouse.Open(t.Context(), url, warehouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// So many that an index has something to leave out.
	if err := conn.Exec(t.Context(), `INSERT INTO events (node, seq, time, kind, message_id, recipient)
SELECT 'n', number + 1, now64(6), 'delivered', generateUUIDv4(), concat('user', toString(cityHash64(number)), '@example.com') FROM numbers(100000)`); err != nil {
		t.Fatal(err)
	}
	parameters := clickhouse.Parameters{
		"since": "0", "most": "10", "none": uuid.Nil.String(), "key": "k", "r0": "ann@example.com", "r1": "Ann@example.com", "r2": "x", "r3": "y", "quoted": array([]string{"<1@x>"}),
		"ids": array([]string{uuid.NewString()}),
	}
	for _, tc := range []struct {
		query   string
		indexes []string
	}{
		{findQuery(byKey), []string{"recipient_key_bloom"}},
		{findQuery(byMessageID), []string{"headers_bloom"}},
		{stepsQuery(byRecipient), []string{"by_recipient"}},
		{offsets, []string{"(by_recipient)"}},
		{stepsQuery(byID), []string{"message_id_bloom"}},
	} {
		rows, err := conn.Query(with(t.Context(), parameters), "EXPLAIN indexes = 1, projections = 1 "+tc.query+
			"\nSETTINGS min_table_rows_to_use_projection_index = 0") // else it is used from a million rows on
		if err != nil {
			t.Fatalf("%s: %v", tc.query, err)
		}
		var plan strings.Builder
		if err := each(rows, func() error {
			var line string
			err := rows.Scan(&line)
			plan.WriteString(line + "\n")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, index := range tc.indexes {
			if !strings.Contains(plan.String(), index) {
				t.Errorf("%s\ndoes not use %s:\n%s", tc.query, index, plan.String())
			}
		}
	}
}
