package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/limits"
)

// actorLoop is who decides in this package, as limit_log names it.
const actorLoop = "loop"

// entry is one row of limit_log to be.
type entry struct {
	key           limits.Key
	id            string
	kind          string // change or would_change
	by            string // who decided, empty for the loop
	pinnedBy      string
	reason        control.Reason
	before, after remembered
	window        *control.Windows
	contributors  []contributor
	score         float64
	band          string
	z             float64 // of the Wilson bound
}

func (e *entry) actor() string { return cmp.Or(e.by, actorLoop) }

// changeID names a change: the epoch that it begins, of which there is one.
func changeID(key limits.Key, epoch uint64) string { return fmt.Sprintf("%s@%d", key, epoch) }

// adviceID names an advice: the run that gave it.
func adviceID(key limits.Key, generation uint64) string { return fmt.Sprintf("%s~%d", key, generation) }

// writeLog writes what was decided, before anything of it takes effect.
func (r *run) writeLog(ctx context.Context, conn driver.Conn, entries []entry, policyHash uint64) error {
	rows := make([][]any, 0, len(entries))
	for _, e := range entries {
		row, err := r.logRow(&e, policyHash)
		if err != nil {
			return fmt.Errorf("write limit_log of %s: %w", e.key, err)
		}
		rows = append(rows, row)
	}
	return insert(ctx, conn, r.token("limit_log"), "limit_log", []string{
		"id", "ts", "provider", "source", "epoch", "epoch_from", "generation", "kind", "mode_from", "mode_to",
		"rate_old", "rate_new", "connections_old", "connections_new", "messages_old", "messages_new",
		"rule_id", "reason_text", "window_from", "window_to", "n_by_class", "p", "wilson_lo", "accepted_rate",
		"cap", "goal", "long_term", "sample_replies", "score", "band", "pinned_by", "actor", "expires_at", "policy_hash", "state_before", "evidence",
	}, rows)
}

func (r *run) logRow(e *entry, policyHash uint64) ([]any, error) {
	before, err := json.Marshal(e.before)
	if err != nil {
		return nil, err
	}
	ev, w := &e.reason.Evidence, e.window
	more := logged{
		After: e.after, Replies: ev.Replies, Refusals: ev.Refusals, Unclassified: ev.Unclassified, AttemptRate: ev.AttemptRate,
		AcceptedSince: ev.AcceptedSince, Idle: ev.Idle, FromRate: ev.FromRate, MaxOpen: ev.MaxOpen, ConfiguredRPS: finite(w.Static.RatePerSecond),
		CeilingRPS: finite(limits.Ceiling(w.Static, w.Adaptive).RatePerSecond),
		Nodes:      w.Nodes, Waiting: w.Waiting, Delay: w.Delay, DataTo: windows.Time(w.To), Hour: byClass(w.Hour),
		Contributors: e.contributors, Frozen: w.Frozen, Greylisting: ev.Greylisting, Z: e.z,
	}
	if ev.FirstRefusal > 0 {
		at := windows.Time(ev.FirstRefusal)
		more.FirstRefusal = &at
	}
	if ev.MinMessages != control.NoMessages {
		more.MinMessages = ev.MinMessages
	}
	evidence, err := json.Marshal(more)
	if err != nil {
		return nil, err
	}
	samples := ev.Samples
	if samples == nil {
		samples = []string{}
	}
	after := e.after.Control
	expires := time.Unix(0, 0).UTC()
	if e.kind == kindChange && after.Epoch > 0 {
		// Unless it is renewed, a node lets it go then.
		expires = r.started.Add(limits.DefaultTTL)
	}
	reason := &e.reason
	return []any{
		e.id, r.started, e.key.Provider, e.key.Source, reason.Epoch, reason.EpochFrom, r.generation, e.kind,
		string(reason.ModeFrom), string(reason.ModeTo),
		zeroUnlimited(reason.Old.RatePerSecond), zeroUnlimited(reason.New.RatePerSecond),
		zeroCount(reason.Old.Connections), zeroCount(reason.New.Connections),
		zeroCount(reason.Old.MessagesPerConnection), zeroCount(reason.New.MessagesPerConnection),
		string(reason.Rule), reason.Text, windows.Time(ev.From), windows.Time(ev.To), byClass(ev.Counts),
		ev.RefusedShare, ev.WilsonLow, ev.AcceptedRate, after.Cap, after.Goal, after.LongTerm, samples,
		e.score, e.band, e.pinnedBy, e.actor(), expires, policyHash, string(before), string(evidence),
	}, nil
}

// byClass names counts as the columns of k10s.
func byClass(c control.Counts) map[string]uint64 {
	return map[string]uint64{
		"ok": c.OK, "usr": c.User, "rate": c.Rate, "conn": c.Connections, "msgc": c.Messages, "block": c.Block,
		"grey": c.Greylist, "unav": c.Unavailable, "content": c.Content, "auth": c.Auth, "other": c.Other,
	}
}

// zeroUnlimited writes an unlimited rate as the warehouse does, with 0. A rate in limit_log is
// never 0 otherwise.
func zeroUnlimited(rate float64) float64 {
	if math.IsInf(rate, 1) {
		return 0
	}
	return rate
}

func zeroCount(n uint32) uint32 {
	if n == limits.Unlimited {
		return 0
	}
	return n
}

func finite(x float64) *float64 {
	if math.IsInf(x, 0) {
		return nil
	}
	return &x
}
