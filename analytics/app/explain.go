package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/analytics/jobs"
	"carom/schemas/limits"
)

// recounted are the numbers of a change, counted again.
type recounted struct {
	// From is where they were counted: k10s, events where that is past its retention, or limit_log for
	// a decision that was made again from its own evidence.
	From         string            `json:"from"`
	Counts       map[string]uint64 `json:"n_by_class,omitempty"`
	RefusedShare float64           `json:"p"`
	WilsonLow    float64           `json:"wilson_lo"`
	// Agrees says that they are those of limit_log. Events that came late make a difference.
	Agrees bool `json:"agrees"`
}

// contributor is one of the JSON in limit_log.evidence.
type contributor struct {
	Kind       string  `json:"kind"`
	Value      string  `json:"value"`
	Volume     float64 `json:"volume"`
	Refusals   float64 `json:"refusals"`
	Unknown    float64 `json:"unknown_users"`
	Complaints float64 `json:"complaints"`
	Verdict    string  `json:"verdict"`
}

// outcome is what a key was answered after a change.
type outcome struct {
	AfterMinutes uint32  `json:"after_minutes"`
	Accepted     uint64  `json:"accepted"`
	Refused      uint64  `json:"refused"`
	Unknown      uint64  `json:"unknown_users"`
	Other        uint64  `json:"other"`
	Changes      uint64  `json:"changes"`
	Rate         float64 `json:"rate"`
}

// keptFine is how long k10s can be relied on to be whole.
const keptFine = 40 * time.Hour

// classes are the words of n_by_class with their condition on events.
var classes = []struct{ name, condition string }{
	{"ok", "dimension = 'ok'"},
	{"usr", "dimension = 'user'"},
	{"rate", "dimension = 'rate'"},
	{"conn", "dimension = 'connections'"},
	{"msgc", "dimension = 'messages'"},
	{"block", "dimension = 'block'"},
	{"grey", "dimension = 'greylist'"},
	{"unav", "dimension = 'unavailable'"},
	{"content", "dimension = 'content'"},
	{"auth", "dimension = 'auth'"},
	{"other", "dimension IN ('', 'other')"},
}

// recount counts the evidence of a change again, and reads the rest of what limit_log knows of it.
func (c *change) recount(ctx context.Context, conn driver.Conn, key limits.Key) error {
	var more struct {
		Unclassified bool          `json:"unclassified_count_as_refusals"`
		Greylisting  bool          `json:"greylisting"`
		Z            float64       `json:"z"`
		Contributors []contributor `json:"contributors"`
	}
	if c.evidence == "" || !json.Valid([]byte(c.evidence)) {
		return nil // a row that something else wrote
	}
	if err := json.Unmarshal([]byte(c.evidence), &more); err != nil {
		return fmt.Errorf("evidence of %s: %w", c.ID, err)
	}
	c.Contributors = more.Contributors
	if strings.HasPrefix(c.Rule, string(jobs.RuleHold)) && c.Rule != string(jobs.RuleHoldRelease) {
		_, _, low, err := jobs.HoldAgain([]byte(c.evidence))
		if err == nil {
			c.Again = &recounted{From: "limit_log", RefusedShare: c.RefusedShare, WilsonLow: low, Agrees: low == c.WilsonLow}
		}
		return nil
	}
	if !c.To.After(c.From) || jobs.IsScoped(key) {
		return nil // no evidence, as of a pin; or that of a domain or URL, which is no source
	}
	again := &recounted{From: "k10s", Counts: map[string]uint64{}}
	columns := make([]string, len(classes))
	table, time0, epoch := "k10s", "ts", "epoch"
	for i, class := range classes {
		columns[i] = "sum(" + class.name + ")"
	}
	if time.Since(c.From) > keptFine {
		again.From, table, time0, epoch = "events", "events", "time", "limit_epoch"
		for i, class := range classes {
			columns[i] = "countIf(" + class.condition + ")"
		}
	}
	query := "SELECT [" + strings.Join(columns, ", ") + "] FROM " + table + " WHERE provider = {provider:String} AND source = {source:String} AND " + epoch + " = {epoch:UInt64}" +
		" AND " + time0 + " >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND " + time0 + " < fromUnixTimestamp64Micro({to:Int64}, 'UTC')"
	if table == "events" {
		query += " AND kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred') AND (scope NOT IN ('domain', 'url', 'recipient') OR scope = 'recipient' AND dimension = 'user')"
	}
	var counts []uint64
	if err := conn.QueryRow(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source), "epoch": fmt.Sprint(c.EpochFrom),
		"from": fmt.Sprint(c.From.UnixMicro()), "to": fmt.Sprint(c.To.UnixMicro()),
	})), query).Scan(&counts); err != nil {
		return fmt.Errorf("count the evidence of %s again: %w", c.ID, err)
	}
	for i, class := range classes {
		again.Counts[class.name] = counts[i]
	}
	n := again.Counts
	stored := maps.Clone(c.Counts)
	if more.Greylisting { // first attempts moved from other to grey
		n["grey"] += n["other"]
		n["other"] = 0
		stored["grey"] += stored["other"]
		stored["other"] = 0
	}
	refused := n["rate"] + n["block"] + n["unav"]
	if more.Unclassified {
		refused += n["other"]
	}
	if replies := n["ok"] + n["usr"] + n["rate"] + n["block"] + n["unav"] + n["other"]; replies > 0 && !more.Greylisting {
		again.RefusedShare = float64(refused) / float64(replies)
		again.WilsonLow = control.WilsonLow(refused, replies, more.Z)
	} else {
		again.RefusedShare, again.WilsonLow = c.RefusedShare, c.WilsonLow
	}
	again.Agrees = maps.Equal(stored, n)
	c.Again = again
	return nil
}

// addOutcomes adds what came of the changes.
func addOutcomes(ctx context.Context, conn driver.Conn, changes []change) error {
	ids := make([]string, 0, len(changes))
	byID := map[string]*change{}
	for i := range changes {
		ids = append(ids, changes[i].ID)
		byID[changes[i].ID] = &changes[i]
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `
SELECT id, after_minutes, accepted, refused, unknown, other, changes, rate FROM limit_outcomes FINAL WHERE id IN (?) ORDER BY id, after_minutes`, ids)
	if err != nil {
		return fmt.Errorf("read limit_outcomes: %w", err)
	}
	err = each(rows, func() error {
		var id string
		var o outcome
		if err := rows.Scan(&id, &o.AfterMinutes, &o.Accepted, &o.Refused, &o.Unknown, &o.Other, &o.Changes, &o.Rate); err != nil {
			return err
		}
		if c := byID[id]; c != nil {
			c.Outcomes = append(c.Outcomes, o)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read limit_outcomes: %w", err)
	}
	return nil
}

// moreText writes what is known beside the evidence.
func (c *change) moreText(b *strings.Builder) {
	if a := c.Again; a != nil {
		verdict := "the same"
		if !a.Agrees {
			verdict = fmt.Sprintf("now %s; refused %.1f %% (at least %.1f %%): events came late, or are past retention", countsText(a.Counts), 100*a.RefusedShare, 100*a.WilsonLow)
		}
		fmt.Fprintf(b, "  counted again in %s: %s\n", a.From, verdict)
	}
	for _, who := range c.Contributors {
		fmt.Fprintf(b, "  %s %s: %.0f %% of the volume, %.0f %% of the refusals, %.0f %% of the unknown users, %.0f %% of the complaints: %s\n", strings.ReplaceAll(who.Kind, "_", " "), printable(who.Value),
			100*who.Volume, 100*who.Refusals, 100*who.Unknown, 100*who.Complaints, who.Verdict)
	}
	for _, o := range c.Outcomes {
		fmt.Fprintf(b, "  %s later: %d accepted, %d refused, %d unknown users since; %d further changes, limit %s/s\n", time.Duration(o.AfterMinutes)*time.Minute, o.Accepted, o.Refused, o.Unknown, o.Changes, orWord(o.Rate, "configured"))
	}
	if c.Band != "" {
		fmt.Fprintf(b, "  score %s, band %s\n", number(c.Score), c.Band)
	}
	if c.PinnedBy != "" {
		fmt.Fprintf(b, "  pinned by %s\n", printable(c.PinnedBy))
	}
}

// historyText writes one line for each change, newest first.
func historyText(w io.Writer, changes []change) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "TIME\tEPOCH\tRULE\tRATE/S\tCONNECTIONS\tMSGS/CONN\tREFUSED\tBY") // Flush tells of an error
	for i := range changes {
		c := &changes[i]
		rule := c.Rule
		if c.Kind == "would_change" {
			rule += " (advised)"
		}
		arrow := func(old, now float64) string {
			if old == now {
				return orWord(now, "-")
			}
			return orWord(old, "-") + " -> " + orWord(now, "-")
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%.1f %%\t%s\n", c.Time.Format(time.DateTime), c.Epoch, rule, arrow(c.RateOld, c.RateNew),
			arrow(float64(c.ConnectionsOld), float64(c.ConnectionsNew)), arrow(float64(c.MessagesOld), float64(c.MessagesNew)), 100*c.RefusedShare, printable(c.Actor))
	}
	return table.Flush()
}
