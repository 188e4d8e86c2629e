package trace

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// readAttributions returns the reports for whose attribution a condition holds, as far as the attribution tells of them.
func readAttributions(ctx context.Context, conn driver.Conn, condition string, p clickhouse.Parameters) ([]*found, error) {
	p["none"] = uuid.Nil.String()
	rows, err := conn.Query(with(ctx, p), `
SELECT node, incarnation, seq, time, kind, recipient_key, feedback_type, category, class, dimension,
    match_method, match_confidence, proven, delivered_at, message_id, recipient_index
FROM attributions FINAL
WHERE message_id != {none:UUID} AND `+condition)
	var all []*found
	if err == nil {
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
			all = append(all, one)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read attributions: %w", err)
	}
	return all, nil
}

// attribute says whose the reports among the steps are and how sure that is, and adds those that were joined to one of
// the messages by something else than a token: they are not among the events of that message. A report that belongs
// to no message stands for itself. attributed are the attributions to the messages.
func attribute(ctx context.Context, conn driver.Conn, steps, attributed []*found) ([]*found, error) {
	reports := map[eventID]*found{}
	for _, s := range steps {
		if s.step.Report != nil {
			reports[s.id()] = s
		}
	}
	var elsewhere []*found // may be about other messages, or none
	for id, r := range reports {
		if !slices.ContainsFunc(attributed, func(a *found) bool { return a.id() == id }) {
			elsewhere = append(elsewhere, r)
		}
	}
	if len(elsewhere) > 0 {
		nodes, seqs := make([]string, len(elsewhere)), make([]string, len(elsewhere))
		for i, r := range elsewhere {
			nodes[i], seqs[i] = r.step.Node, strconv.FormatUint(r.step.Seq, 10)
		}
		more, err := readAttributions(ctx, conn, "node IN {nodes:Array(String)} AND seq IN {seqs:Array(UInt64)}", clickhouse.Parameters{
			"nodes": array(nodes), "seqs": "[" + strings.Join(seqs, ",") + "]",
		})
		if err != nil {
			return nil, err
		}
		attributed = append(attributed, slices.DeleteFunc(more, func(a *found) bool { return reports[a.id()] == nil })...)
	}
	for _, a := range attributed {
		if known := reports[a.id()]; known != nil {
			a.step.Report.ReportingMTA = known.step.Report.ReportingMTA
			known.step.Report, known.at = a.step.Report, a.at
		} else {
			steps = append(steps, a)
		}
	}
	slices.SortFunc(steps, func(x, y *found) int {
		return cmp.Or(x.step.Time.Compare(y.step.Time), cmp.Compare(x.step.Node, y.step.Node), cmp.Compare(x.step.Seq, y.step.Seq))
	})
	return steps, nil
}

// explainLimits looks up in limit_log why the limits of the steps were what they were: by the reason that
// the event has, else by key and epoch.
func explainLimits(ctx context.Context, conn driver.Conn, messages []*Message) error {
	type key struct {
		provider, source string
		epoch            uint64
	}
	byReason, byKey := map[string][]*Limit{}, map[key][]*Limit{}
	providers := []string{""}
	for _, m := range messages {
		for _, s := range m.Steps {
			switch l := s.Limit; {
			case l == nil:
				continue
			case l.ReasonID != "":
				byReason[l.ReasonID] = append(byReason[l.ReasonID], l)
			case l.Epoch > 0:
				k := key{s.Provider, s.Source, l.Epoch}
				byKey[k] = append(byKey[k], l)
			}
			providers = append(providers, s.Provider)
		}
	}
	if len(byReason)+len(byKey) == 0 {
		return nil
	}
	var sources, epochs []string
	for k := range byKey {
		sources, epochs = append(sources, k.source), append(epochs, strconv.FormatUint(k.epoch, 10))
	}
	// The table is in the order of the providers.
	rows, err := conn.Query(with(ctx, clickhouse.Parameters{
		"providers": array(providers), "ids": array(slices.Collect(maps.Keys(byReason))), "sources": array(sources), "epochs": "[" + strings.Join(epochs, ",") + "]",
	}), `
SELECT id, provider, source, epoch, rule_id, reason_text, rate_new, connections_new
FROM limit_log
WHERE provider IN {providers:Array(String)} AND (id IN {ids:Array(String)} OR source IN {sources:Array(String)} AND epoch IN {epochs:Array(UInt64)})
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
		for _, l := range append(byReason[id], byKey[k]...) {
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
