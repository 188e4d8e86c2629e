package trace

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// attribute says whose the reports are and how sure that is, and adds those that were joined to one of
// the messages ids by something else than a token: they are not among the events of that message. A
// report that belongs to no message stands for itself.
func attribute(ctx context.Context, conn driver.Conn, ids []string, steps []*found) ([]*found, error) {
	type id struct {
		node        string
		incarnation uuid.UUID
		seq         uint64
	}
	reports := map[id]*found{}
	var nodes, seqs []string
	for _, s := range steps {
		if s.step.Report != nil {
			reports[id{s.step.Node, s.step.Incarnation, s.step.Seq}] = s
			nodes, seqs = append(nodes, s.step.Node), append(seqs, strconv.FormatUint(s.step.Seq, 10))
		}
	}
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{
		"ids": array(ids), "none": uuid.Nil.String(), "nodes": array(nodes), "seqs": "[" + strings.Join(seqs, ",") + "]",
	}), `
SELECT node, incarnation, seq, time, kind, recipient_key, feedback_type, category, class, dimension,
    match_method, match_confidence, proven, delivered_at, message_id, recipient_index
FROM attributions FINAL
WHERE message_id != {none:UUID} AND (message_id IN {ids:Array(UUID)} OR node IN {nodes:Array(String)} AND seq IN {seqs:Array(UInt64)})`)
	if err != nil {
		return nil, fmt.Errorf("read attributions: %w", err)
	}
	err = each(rows, func() error {
		var r Report
		one := &found{step: &Step{Report: &r}}
		s := one.step
		if err := rows.Scan(&s.Node, &s.Incarnation, &s.Seq, &s.Time, &s.Kind, &one.key, &r.FeedbackType, &s.Category, &s.Class, &s.Dimension,
			&r.Method, &r.Confidence, &r.Proven, &r.DeliveredAt, &one.at.message, &one.at.index); err != nil {
			return err
		}
		if r.DeliveredAt.Unix() <= 0 {
			r.DeliveredAt = time.Time{}
		}
		known := reports[id{s.Node, s.Incarnation, s.Seq}]
		switch {
		case known != nil:
			r.ReportingMTA = known.step.Report.ReportingMTA
			known.step.Report, known.at = &r, one.at
		case slices.Contains(ids, one.at.message.String()):
			steps = append(steps, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read attributions: %w", err)
	}
	slices.SortStableFunc(steps, func(x, y *found) int { return x.step.Time.Compare(y.step.Time) })
	return steps, nil
}

// explainLimits looks up in limit_log why the limits of the steps were what they were: by the reason that
// the event has, else by key and epoch.
func explainLimits(ctx context.Context, conn driver.Conn, messages []*Message) error {
	type key struct {
		provider, source string
		epoch            uint64
	}
	byID, byKey := map[string][]*Limit{}, map[key][]*Limit{}
	for _, m := range messages {
		for _, s := range m.Steps {
			switch l := s.Limit; {
			case l == nil:
			case l.ReasonID != "":
				byID[l.ReasonID] = append(byID[l.ReasonID], l)
			case l.Epoch > 0:
				k := key{s.Provider, s.Source, l.Epoch}
				byKey[k] = append(byKey[k], l)
			}
		}
	}
	if len(byID)+len(byKey) == 0 {
		return nil
	}
	ids := make([]string, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	var providers, sources []string
	for k := range byKey {
		providers, sources = append(providers, k.provider), append(sources, k.source)
	}
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{"ids": array(ids), "providers": array(providers), "sources": array(sources)}), `
SELECT id, provider, source, epoch, rule_id, reason_text, rate_new, connections_new
FROM limit_log
WHERE id IN {ids:Array(String)} OR provider IN {providers:Array(String)} AND source IN {sources:Array(String)}
ORDER BY ts`)
	if err != nil {
		return fmt.Errorf("read limit_log: %w", err)
	}
	err = each(rows, func() error {
		var id string
		var k key
		var said Limit
		if err := rows.Scan(&id, &k.provider, &k.source, &k.epoch, &said.Rule, &said.Reason, &said.Rate, &said.Connections); err != nil {
			return err
		}
		for _, l := range append(byID[id], byKey[k]...) {
			l.Rule, l.Reason, l.Rate, l.Connections = said.Rule, said.Reason, said.Rate, said.Connections
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read limit_log: %w", err)
	}
	return nil
}

// lasted writes microseconds for people.
func lasted(us uint64) string {
	d := time.Duration(us) * time.Microsecond //nolint:gosec // a duration of an event
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
