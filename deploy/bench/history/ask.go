package history

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse/questions"
)

// ask asks each question of the documents about the last seven days of the history. The first time is
// cold as far as the engine's own caches go; the system's page cache is as it is.
func ask(ctx context.Context, l *lab) error {
	e, err := l.open(ctx)
	if err != nil {
		return err
	}
	period, err := questions.LastWeek(ctx, e.conn)
	if err != nil {
		return err
	}
	slowest, slowestID := 0.0, ""
	var dashboards []float64
	for _, q := range questions.All() {
		t, millis, err := l.time(ctx, e.conn, q, period)
		if err != nil {
			return err
		}
		l.result.Questions = append(l.result.Questions, t)
		if t.MedianMillis > slowest {
			slowest, slowestID = t.MedianMillis, q.ID
		}
		if q.Dashboard {
			dashboards = append(dashboards, millis[1:]...)
		}
	}
	l.add(Row{Name: "slowest of the questions", Unit: "ms (median)", Got: slowest, AtMost: 1000, Note: slowestID}, true)
	if len(dashboards) > 0 {
		l.add(Row{
			Name: "questions of dashboards", Unit: "ms (p95)", Got: quantile(dashboards, 0.95), AtMost: 300,
			Note: fmt.Sprintf("median %.0f, warm, %d times", quantile(dashboards, 0.5), len(dashboards)),
		}, true)
	}
	return nil
}

// time asks a question as often as the options say. What it takes beside the period is looked up once
// and not timed.
func (l *lab) time(ctx context.Context, conn driver.Conn, q questions.Question, p questions.Period) (t QuestionTime, millis []float64, err error) {
	t = QuestionTime{ID: q.ID, Dashboard: q.Dashboard}
	set := clickhouse.Parameters{"from": p.From.UTC().Format(time.DateTime), "to": p.To.UTC().Format(time.DateTime)}
	for _, one := range q.Parameters {
		var value string
		if err := conn.QueryRow(clickhouse.Context(ctx, clickhouse.WithParameters(set)), one.Default).Scan(&value); err != nil {
			return t, nil, fmt.Errorf("question %s: find a value for %s: %w", q.ID, one.Name, err)
		}
		set[one.Name] = value
	}
	for range l.Runs {
		started := time.Now()
		rows, err := conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(set)), q.SQL)
		if err != nil {
			return t, nil, fmt.Errorf("question %s: %w", q.ID, err)
		}
		t.Rows = 0
		for rows.Next() {
			t.Rows++
		}
		if err := rows.Err(); err != nil {
			return t, nil, fmt.Errorf("question %s: %w", q.ID, err)
		}
		millis = append(millis, float64(time.Since(started).Microseconds())/1000)
	}
	t.FirstMillis = millis[0]
	warm := append([]float64(nil), millis[1:]...)
	t.MedianMillis, t.MostMillis = quantile(warm, 0.5), quantile(warm, 1)
	return t, millis, nil
}
