package events

import (
	"context"
	"fmt"
	"strings"
)

// structure is what the table events has beside its columns: skip indexes and projections. To make
// them for all rows at once takes a third of what it takes at each insert, and merges need not wait
// for them.
type structure struct {
	drop, add, materialize []string // commands of ALTER TABLE
}

// strip takes from the twin what it has beside its columns, and returns it.
func (r *run) strip(ctx context.Context) (structure, error) {
	var s structure
	rows, err := r.conn.Query(ctx, `
SELECT 'INDEX', name, concat(expr, ' TYPE ', type_full, ' GRANULARITY ', toString(granularity)) FROM system.data_skipping_indices
WHERE database = currentDatabase() AND table = '`+twinTable+`'
UNION ALL
SELECT 'PROJECTION', name, concat('(', query, ')') FROM system.projections WHERE database = currentDatabase() AND table = '`+twinTable+"'")
	if err != nil {
		return structure{}, fmt.Errorf("read the indexes of events: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		var what, name, definition string
		if err := rows.Scan(&what, &name, &definition); err != nil {
			return structure{}, fmt.Errorf("read the indexes of events: %w", err)
		}
		s.drop = append(s.drop, fmt.Sprintf("DROP %s %s", what, name))
		s.add = append(s.add, fmt.Sprintf("ADD %s %s %s", what, name, definition))
		s.materialize = append(s.materialize, fmt.Sprintf("MATERIALIZE %s %s", what, name))
	}
	if err := rows.Err(); err != nil {
		return structure{}, fmt.Errorf("read the indexes of events: %w", err)
	}
	return s, r.alter(ctx, s.drop)
}

// finish gives the twin what it lacks and moves all its partitions to the table events.
func (r *run) finish(ctx context.Context, s structure) error {
	if err := r.alter(ctx, s.add); err != nil {
		return err
	}
	if err := r.conn.Exec(ctx, "SYSTEM START MERGES "+twinTable); err != nil { // mutations are merges
		return fmt.Errorf("make the indexes: %w", err)
	}
	if err := r.alter(ctx, s.materialize); err != nil {
		return err
	}
	var partitions []string
	err := r.conn.QueryRow(ctx, `SELECT arraySort(groupUniqArray(partition_id)) FROM system.parts
WHERE database = currentDatabase() AND table = '`+twinTable+"' AND active").Scan(&partitions)
	if err != nil {
		return fmt.Errorf("read the partitions: %w", err)
	}
	for _, partition := range partitions {
		if err := r.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s MOVE PARTITION ID '%s' TO TABLE events", twinTable, partition)); err != nil {
			return fmt.Errorf("move events: %w", err)
		}
	}
	return nil
}

// alter changes the twin, and waits until it is done.
func (r *run) alter(ctx context.Context, commands []string) error {
	if len(commands) == 0 {
		return nil
	}
	if err := r.conn.Exec(ctx, "ALTER TABLE "+twinTable+" "+strings.Join(commands, ", ")+" SETTINGS mutations_sync = 1"); err != nil {
		return fmt.Errorf("change the table for new events: %w", err)
	}
	return nil
}
