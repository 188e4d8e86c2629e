package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/schemas/limits"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutLimits = `carom limits shows what the control loop decided for each (provider, source), and why.

  carom limits list           the limit in force for each key
  carom limits explain KEY    the last changes of a key with their evidence

A KEY is provider/source, as list writes it.

Example:
  carom limits explain google/192.0.2.1 --last 3`

// LimitsCommand runs carom limits list or explain.
func LimitsCommand(ctx context.Context, args []string, stdio service.IO) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("limits", verb), aboutLimits, stdio)
	rawURL, login := warehouse.Flags(flags)
	asJSON := flags.Bool("json", false, "write the result as JSON")
	last := flags.Uint("last", 5, "`number` of changes to explain, newest first")
	plain, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	if *last == 0 || *last > math.MaxUint32 {
		return service.Configf("carom limits: --last is %d, want 1 or more", *last)
	}
	var key limits.Key
	switch {
	case verb == "list" && len(plain) == 0:
	case verb == "explain" && len(plain) == 1:
		if key, err = limits.ParseKey(plain[0]); err != nil {
			return service.Configf("carom limits explain: %w", err)
		}
	case verb == "explain":
		return service.Configf("carom limits explain: want one key, provider/source (see carom limits list)")
	default:
		return service.Configf("carom limits %s: want list or explain KEY (see carom limits --help)", strings.Join(append([]string{verb}, plain...), " "))
	}
	conn, err := warehouse.Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	if verb == "list" {
		all, err := readLimits(ctx, conn)
		if err != nil {
			return err
		}
		return show(stdio.Out, all, *asJSON, func(w io.Writer) error { return listText(w, all) })
	}
	changes, err := readChanges(ctx, conn, key, *last)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		all, err := readLimits(ctx, conn)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(l limitInForce) bool { return l.Key == key.String() }) {
			return service.Configf("carom limits explain: nothing is known of %s (see carom limits list)", key)
		}
	}
	return show(stdio.Out, changes, *asJSON, func(w io.Writer) error { return explainText(w, key, changes) })
}

func show(w io.Writer, value any, asJSON bool, text func(io.Writer) error) error {
	if !asJSON {
		return text(w)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// limitInForce is one line of carom limits list. Numbers are 0 where the configuration holds.
type limitInForce struct {
	Key                   string    `json:"key"`
	Mode                  string    `json:"mode"`
	Epoch                 uint64    `json:"epoch"`
	RatePerSecond         float64   `json:"rate"`
	Connections           uint32    `json:"connections"`
	MessagesPerConnection uint32    `json:"messages_per_connection"`
	Capacity              float64   `json:"capacity"`
	UpdatedAt             time.Time `json:"updated_at"`
	LastRule              string    `json:"last_rule"`
	LastKind              string    `json:"last_kind"`
}

func readLimits(ctx context.Context, conn driver.Conn) ([]limitInForce, error) {
	rows, err := conn.Query(ctx, `
SELECT s.provider, s.source, s.mode, s.epoch, s.rate, s.connections, s.messages_per_connection, s.cap, s.updated_at, l.rule, l.kind
FROM limit_state AS s FINAL
LEFT JOIN (
    SELECT provider, source, argMax(rule_id, (ts, epoch)) AS rule, toString(argMax(kind, (ts, epoch))) AS kind
    FROM limit_log
    GROUP BY provider, source
) AS l ON s.provider = l.provider AND s.source = l.source
ORDER BY s.provider, s.source`)
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	all := []limitInForce{}
	err = each(rows, func() error {
		var l limitInForce
		var key limits.Key
		if err := rows.Scan(&key.Provider, &key.Source, &l.Mode, &l.Epoch, &l.RatePerSecond, &l.Connections, &l.MessagesPerConnection,
			&l.Capacity, &l.UpdatedAt, &l.LastRule, &l.LastKind); err != nil {
			return err
		}
		l.Key = key.String()
		if l.LastRule == "" {
			l.LastKind = "" // the join gives the first word of the enumeration
		}
		all = append(all, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	return all, nil
}

func each(rows driver.Rows, scan func() error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func listText(w io.Writer, all []limitInForce) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "The loop has seen no key yet.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tSTATE\tRATE/S\tCONNECTIONS\tMSGS/CONN\tCAPACITY/S\tEPOCH\tUPDATED\tLAST RULE") // Flush tells of an error
	for _, l := range all {
		rule := l.LastRule
		if l.LastKind == "would_change" {
			rule += " (advised)"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", l.Key, l.Mode, orWord(l.RatePerSecond, "configured"), orWord(float64(l.Connections), "configured"),
			orWord(float64(l.MessagesPerConnection), "configured"), orWord(l.Capacity, "unknown"), l.Epoch, l.UpdatedAt.Format(time.DateTime), rule)
	}
	return table.Flush()
}

func orWord(x float64, zero string) string {
	if x == 0 {
		return zero
	}
	return number(x)
}

// number writes x with four digits, and never with an exponent above the point.
func number(x float64) string {
	if math.Abs(x) >= 1000 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// printable makes one line of text that a receiver wrote: it could hold commands to the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// change is one row of limit_log as explain tells it. A rate or number of 0 is unlimited.
type change struct {
	ID             string            `json:"id"`
	Time           time.Time         `json:"time"`
	Kind           string            `json:"kind"`
	Actor          string            `json:"actor"`
	Rule           string            `json:"rule"`
	Reason         string            `json:"reason"`
	EpochFrom      uint64            `json:"epoch_from"`
	Epoch          uint64            `json:"epoch"`
	ModeFrom       string            `json:"mode_from"`
	ModeTo         string            `json:"mode_to"`
	RateOld        float64           `json:"rate_old"`
	RateNew        float64           `json:"rate_new"`
	ConnectionsOld uint32            `json:"connections_old"`
	ConnectionsNew uint32            `json:"connections_new"`
	MessagesOld    uint32            `json:"messages_old"`
	MessagesNew    uint32            `json:"messages_new"`
	From           time.Time         `json:"window_from"`
	To             time.Time         `json:"window_to"`
	Counts         map[string]uint64 `json:"n_by_class"`
	RefusedShare   float64           `json:"p"`
	WilsonLow      float64           `json:"wilson_lo"`
	AcceptedRate   float64           `json:"accepted_rate"`
	Capacity       float64           `json:"cap"`
	Goal           float64           `json:"goal"`
	Samples        []string          `json:"sample_replies"`
	ExpiresAt      time.Time         `json:"expires_at"`
	Suggestion     string            `json:"suggestion"`
}

// parameter escapes a text for a query parameter, which ClickHouse reads as a field of TSV.
var parameter = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

func readChanges(ctx context.Context, conn driver.Conn, key limits.Key, last uint) ([]change, error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source), "last": fmt.Sprint(last),
	}))
	rows, err := conn.Query(ctx, `
SELECT id, ts, toString(kind), actor, rule_id, reason_text, epoch_from, epoch, mode_from, mode_to, rate_old, rate_new,
    connections_old, connections_new, messages_old, messages_new, window_from, window_to, n_by_class, p, wilson_lo,
    accepted_rate, cap, goal, sample_replies, expires_at
FROM limit_log
WHERE provider = {provider:String} AND source = {source:String}
ORDER BY ts DESC, epoch DESC, rule_id
LIMIT {last:UInt32}`)
	if err != nil {
		return nil, fmt.Errorf("read limit_log: %w", err)
	}
	changes := []change{}
	err = each(rows, func() error {
		var c change
		if err := rows.Scan(&c.ID, &c.Time, &c.Kind, &c.Actor, &c.Rule, &c.Reason, &c.EpochFrom, &c.Epoch, &c.ModeFrom, &c.ModeTo, &c.RateOld, &c.RateNew,
			&c.ConnectionsOld, &c.ConnectionsNew, &c.MessagesOld, &c.MessagesNew, &c.From, &c.To, &c.Counts, &c.RefusedShare, &c.WilsonLow,
			&c.AcceptedRate, &c.Capacity, &c.Goal, &c.Samples, &c.ExpiresAt); err != nil {
			return err
		}
		c.Suggestion = suggestions[control.Rule(c.Rule)]
		changes = append(changes, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read limit_log: %w", err)
	}
	return changes, nil
}

// suggestions are what a person may do about a change: one action each.
var suggestions = map[control.Rule]string{
	control.RuleSuspend:         "Read the sample replies: if they name a block list or a form, ask for removal there; trials go out by themselves.",
	control.RuleCanaryFast:      "Nothing: a second accepted trial ends the suspension.",
	control.RuleCanarySlow:      "Read the sample replies; the receiver still refuses this source.",
	control.RuleResume:          "Watch the next changes of this key; the rate climbs back by itself.",
	control.RuleBackoff:         "Nothing if it is rare. If it comes back each day, lower max-msg-rate to the accepted rate, or spread this mail over a longer time.",
	control.RuleCooldown:        "Look at what was sent before it (complaints, unknown users, new lists); the rate stays down until the receiver relents.",
	control.RuleRecover:         "Nothing: the rate returns to what the receiver accepted before.",
	control.RuleStartup:         "Nothing: no limit of this receiver is known yet.",
	control.RuleProbe:           "Nothing: a refusal brings the old limit back within a minute.",
	control.RuleConnectionsDown: "If it comes back, set max-smtp-out to the new number.",
	control.RuleConnectionsUp:   "Nothing: a refusal brings the old number back.",
	control.RuleMessagesDown:    "Set max-msg-per-connection to the new number: the receiver named it.",
	control.RuleMessagesUp:      "Nothing: a refusal brings the old number back.",
	control.RuleCeiling:         "Nothing if the configuration was lowered on purpose; else check max-msg-rate, max-smtp-out and max-msg-per-connection.",
	control.RuleRelease:         "Set the mode of the provider to active if the loop should act again.",
}

func explainText(w io.Writer, key limits.Key, changes []change) error {
	var b strings.Builder
	if len(changes) == 0 {
		fmt.Fprintf(&b, "%s: the configured limits hold, nothing was changed.\n", key)
	}
	for i, c := range changes {
		if i > 0 {
			b.WriteByte('\n')
		}
		verb := "by"
		if c.Kind == "would_change" {
			verb = "advised, not done, by"
		}
		fmt.Fprintf(&b, "%s  %s  %s  (%s %s)\n", c.Time.Format(time.DateTime), key, c.Rule, verb, c.Actor)
		fmt.Fprintf(&b, "  %s\n", c.Reason)
		fmt.Fprintf(&b, "  rate %s -> %s/s, connections %s -> %s, messages per connection %s -> %s, state %s -> %s\n",
			orWord(c.RateOld, "unlimited"), orWord(c.RateNew, "unlimited"),
			orWord(float64(c.ConnectionsOld), "unlimited"), orWord(float64(c.ConnectionsNew), "unlimited"),
			orWord(float64(c.MessagesOld), "unlimited"), orWord(float64(c.MessagesNew), "unlimited"), c.ModeFrom, c.ModeTo)
		if c.To.After(c.From) {
			fmt.Fprintf(&b, "  evidence under epoch %d, %s to %s: %s; refused %.1f %% (at least %.1f %%), accepted %s/s\n", c.EpochFrom,
				c.From.Format(time.TimeOnly), c.To.Format(time.TimeOnly), countsText(c.Counts), 100*c.RefusedShare, 100*c.WilsonLow, number(c.AcceptedRate))
		}
		for _, sample := range c.Samples {
			fmt.Fprintf(&b, "  reply: %s\n", printable(sample))
		}
		fmt.Fprintf(&b, "  epoch %d, id %s", c.Epoch, c.ID)
		if c.ExpiresAt.Unix() > 0 {
			fmt.Fprintf(&b, "; unless it is renewed, the nodes let it go from %s on", c.ExpiresAt.Format(time.DateTime))
		}
		fmt.Fprintf(&b, "\n  suggestion: %s\n", c.Suggestion)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// countsText lists the counts that are not 0, largest first.
func countsText(counts map[string]uint64) string {
	names := make([]string, 0, len(counts))
	for name, n := range counts {
		if n > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", counts[name], name)
	}
	return strings.Join(names, ", ")
}
