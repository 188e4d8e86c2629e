package history

import (
	"context"
	"fmt"

	"carom/schemas/warehouse"
)

// size measures what the tables take on disk: data, marks, indexes and projections.
func size(ctx context.Context, l *lab) error {
	e, err := l.open(ctx)
	if err != nil {
		return err
	}
	rows, err := e.conn.Query(ctx, `
SELECT table, sum(rows), sum(bytes_on_disk) AS bytes FROM system.parts WHERE database = currentDatabase() AND active GROUP BY table ORDER BY bytes DESC`)
	if err != nil {
		return fmt.Errorf("read sizes: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	sizes := map[string]TableSize{}
	var order []string
	for rows.Next() {
		var s TableSize
		if err := rows.Scan(&s.Table, &s.Rows, &s.Bytes); err != nil {
			return fmt.Errorf("read sizes: %w", err)
		}
		sizes[s.Table] = s
		order = append(order, s.Table)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read sizes: %w", err)
	}
	count := float64(sizes["events"].Rows)
	if count == 0 {
		return fmt.Errorf("the table events is empty")
	}
	rolled := 0.0
	for _, table := range warehouse.RollUps() {
		rolled += float64(sizes[table].Bytes) / count
	}
	for _, table := range order {
		s := sizes[table]
		s.PerEvent = float64(s.Bytes) / count
		if s.PerEvent >= 0.005 || table == "events" {
			l.result.Tables = append(l.result.Tables, s)
		}
	}
	l.add(Row{Name: "stored size, raw", Unit: "bytes an event", Got: float64(sizes["events"].Bytes) / count, AtMost: 80}, false)
	l.add(Row{Name: "stored size, roll-ups", Unit: "bytes an event", Got: rolled, AtMost: 10}, true)
	return l.columns(ctx, e, count)
}

// columns reads what each column of events takes.
func (l *lab) columns(ctx context.Context, e *engine, count float64) error {
	rows, err := e.conn.Query(ctx, `
SELECT name, data_compressed_bytes FROM system.columns WHERE database = currentDatabase() AND table = 'events' ORDER BY data_compressed_bytes DESC`)
	if err != nil {
		return fmt.Errorf("read sizes of columns: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		var c ColumnSize
		if err := rows.Scan(&c.Column, &c.Bytes); err != nil {
			return fmt.Errorf("read sizes of columns: %w", err)
		}
		c.PerEvent = float64(c.Bytes) / count
		l.result.Columns = append(l.result.Columns, c)
	}
	return rows.Err()
}
