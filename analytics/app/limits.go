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
	"carom/analytics/jobs"
	"carom/schemas/limits"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutLimits = `carom limits shows what the control loop decided for each (provider, source), and why,
and takes orders.

  carom limits list           the limit in force for each key, orders and held mail
  carom limits explain KEY    the last changes of a key, their evidence counted again,
                              who caused them and what came of them
  carom limits history KEY    one line for each change
  carom limits pin KEY        fix the limit (--rate, --connections, --messages), or bound
                              the rate (--ceiling, --floor), until --until or for --for
  carom limits unpin KEY      let the loop decide again
  carom limits cancel KEY     take the loop's last change back; the loop waits an hour
                              (or --for, --until)
  carom limits release WHOM   let held mail go: of a tenant, or one hold as list names it
  carom limits off            stop the loop everywhere, for --for or until --until: the
                              nodes obey their configuration within 10 s
  carom limits on             let it act again

A KEY is provider/source, as list writes it. Every order needs a --reason and is
written to limit_log (once it takes effect) and beside the curves (annotations),
with who gave it. A pin is never above max-msg-rate and the like, or their
adaptive ceilings; under it the loop says once an hour what it would do.

Example:
  carom limits explain google/192.0.2.1 --last 3
  carom limits pin google/192.0.2.1 --rate 5/s --for 2h --reason "ticket 4711"
  carom limits off --for 1h --reason "providers complain"`

// LimitsCommand runs carom limits. version is that of the binary.
func LimitsCommand(ctx context.Context, args []string, stdio service.IO, version string) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("limits", verb), aboutLimits, stdio)
	rawURL, login := warehouse.Flags(flags)
	var f limitsFlags
	flags.BoolVar(&f.asJSON, "json", false, "write the result as JSON")
	flags.UintVar(&f.last, "last", 5, "`number` of changes to explain, newest first")
	flags.StringVar(&f.since, "since", "7d", "`time` since when history tells: 2026-11-29T08:00 (UTC), 30d or 12h")
	flags.StringVar(&f.rate, "rate", "", "`rate` to pin: 5/s, 300/min, 1000/h")
	flags.StringVar(&f.ceiling, "ceiling", "", "`rate` that the loop may not go above")
	flags.StringVar(&f.floor, "floor", "", "`rate` that the loop may not go below, unless the key is suspended")
	flags.UintVar(&f.connections, "connections", 0, "`number` of connections to pin, over all nodes")
	flags.UintVar(&f.messages, "messages", 0, "`number` of messages per connection to pin")
	flags.StringVar(&f.length, "for", "", "`time` that the order holds: 2h, 3d")
	flags.StringVar(&f.until, "until", "", "`time` until which the order holds: 2026-11-29T18:00 (UTC)")
	flags.StringVar(&f.reason, "reason", "", "`text` that says why, for those who come after")
	flags.StringVar(&f.actor, "actor", "", "`name` of who does it; without it the user of this machine")
	plain, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	if f.last == 0 || f.last > math.MaxUint32 {
		return service.Configf("carom limits: --last is %d, want 1 or more", f.last)
	}
	var key limits.Key
	wanted, isOrder := orderVerbs[verb]
	switch {
	case isOrder && len(plain) == wanted:
	case isOrder && wanted == 0:
		return service.Configf("carom limits %s: unexpected argument %q", verb, plain[0])
	case isOrder && verb == "release":
		return service.Configf("carom limits release: want one tenant, or one hold as carom limits list names it")
	case verb == "list" && len(plain) == 0:
	case (verb == "explain" || verb == "history") && len(plain) == 1:
		if key, err = limits.ParseKey(plain[0]); err != nil {
			return service.Configf("carom limits %s: %w", verb, err)
		}
	case isOrder, verb == "explain", verb == "history":
		return service.Configf("carom limits %s: want one key, provider/source (see carom limits list)", verb)
	default:
		return service.Configf("carom limits %s: want list, explain, history, pin, unpin, cancel, release, off or on (see carom limits --help)", strings.Join(append([]string{verb}, plain...), " "))
	}
	conn, err := warehouse.Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every insert was answered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	switch {
	case isOrder:
		return f.give(ctx, conn, verb, plain, stdio, version)
	case verb == "list":
		return f.list(ctx, conn, stdio)
	}
	var since time.Time
	last := f.last
	if verb == "history" {
		now, err := warehouse.Now(ctx, conn)
		if err != nil {
			return err
		}
		if since, err = moment(f.since, now, -1); err != nil {
			return err
		}
		last = maxChanges
	}
	changes, err := readChanges(ctx, conn, key, last, since)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		all, err := readLimits(ctx, conn)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(l limitInForce) bool { return l.Key == key.String() }) {
			return service.Configf("carom limits %s: nothing is known of %s (see carom limits list)", verb, key)
		}
	}
	if verb == "history" {
		return show(stdio.Out, changes, f.asJSON, func(w io.Writer) error { return historyText(w, changes) })
	}
	for i := range changes {
		if err := changes[i].recount(ctx, conn, key); err != nil {
			return err
		}
	}
	if err := addOutcomes(ctx, conn, changes); err != nil {
		return err
	}
	return show(stdio.Out, changes, f.asJSON, func(w io.Writer) error { return explainText(w, key, changes) })
}

// maxChanges bounds what history tells.
const maxChanges = 10_000

// list shows the limits, orders and holds. As JSON the limits are a list, orders and holds stand at their
// keys.
func (f *limitsFlags) list(ctx context.Context, conn driver.Conn, stdio service.IO) error {
	all, err := readLimits(ctx, conn)
	if err != nil {
		return err
	}
	orders, err := jobs.Orders(ctx, conn)
	if err != nil {
		return err
	}
	held, err := jobs.HeldMail(ctx, conn)
	if err != nil {
		return err
	}
	for i := range all {
		for j := range orders {
			if o := &orders[j]; o.Key == all[i].Key || o.Key == "" || strings.HasPrefix(all[i].Key, o.Key+"/") {
				all[i].Orders = append(all[i].Orders, o)
			}
		}
		for j := range held {
			if h := &held[j]; strings.HasPrefix(all[i].Key, h.Provider+"/") {
				all[i].Holds = append(all[i].Holds, h)
			}
		}
	}
	return show(stdio.Out, all, f.asJSON, func(w io.Writer) error {
		if err := listText(w, all); err != nil {
			return err
		}
		return ordersText(w, orders, held)
	})
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
	// Orders that hold for the key, and the mail that is held at its provider.
	Orders []*jobs.InForce `json:"orders,omitempty"`
	Holds  []*jobs.Held    `json:"holds,omitempty"`
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
	Score          float64           `json:"score,omitempty"`
	Band           string            `json:"band,omitempty"`
	PinnedBy       string            `json:"pinned_by,omitempty"`
	// Again is what ClickHouse says of the same window now.
	Again *recounted `json:"recounted,omitempty"`
	// Contributors are who had most of the refusals, unknown users and complaints.
	Contributors []contributor `json:"contributors,omitempty"`
	Outcomes     []outcome     `json:"outcomes,omitempty"`
	Suggestion   string        `json:"suggestion"`

	evidence string
}

// parameter escapes a text for a query parameter, which ClickHouse reads as a field of TSV.
var parameter = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

func keyParameters(ctx context.Context, key limits.Key) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source),
	}))
}

func readChanges(ctx context.Context, conn driver.Conn, key limits.Key, last uint, since time.Time) ([]change, error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"provider": parameter.Replace(key.Provider), "source": parameter.Replace(key.Source), "last": fmt.Sprint(last), "since": fmt.Sprint(max(0, since.UnixMicro())),
	}))
	rows, err := conn.Query(ctx, `
SELECT id, ts, toString(kind), actor, rule_id, reason_text, epoch_from, epoch, mode_from, mode_to, rate_old, rate_new,
    connections_old, connections_new, messages_old, messages_new, window_from, window_to, n_by_class, p, wilson_lo,
    accepted_rate, cap, goal, sample_replies, expires_at, score, band, pinned_by, evidence
FROM limit_log
WHERE provider = {provider:String} AND source = {source:String} AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
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
			&c.AcceptedRate, &c.Capacity, &c.Goal, &c.Samples, &c.ExpiresAt, &c.Score, &c.Band, &c.PinnedBy, &c.evidence); err != nil {
			return err
		}
		c.Suggestion = cmp.Or(suggestions[control.Rule(c.Rule)], "Nothing.")
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
	control.RuleRelease:         "Set the mode of the provider to active if the loop should act again; after the kill switch, carom limits on.",
	control.RulePin:             "carom limits unpin ends it; until then would_change rows say what the loop would do.",
	control.RuleUnpin:           "Watch the next changes of this key; the loop decides again.",
	control.RuleWarmup:          "Send as much as the cap allows on clean days: it grows each day that uses it without refusals and complaints.",
	control.RuleHistory:         "Nothing: the rate grows from here if the receiver takes it.",
	control.RuleRestart:         "Nothing: the rate climbs back if the receiver takes it. carom analytics jobs shows when throttle ran.",
	control.RuleGreylisting:     "Nothing: retries pass. Better, name the reply: carom classify shows how it is read, and ingest unclassified what to add.",
	control.RuleGreylistingOver: "Nothing: unclassified refusals count as refusals again.",
	jobs.RuleCancel:             "When the wait is over the loop decides again; pin the key if it should not.",
	jobs.RuleHold:               "Ask the tenant where the list comes from and remove it; then carom limits release. Nothing else of the tenant is held.",
	jobs.RuleHoldTrickle:        "See whether the share that goes out is complained about; release it (carom limits release) or take the mail out of the queues (carom queue delete).",
	jobs.RuleHoldAsk:            "Decide: pause the mail in its queues (carom queue pause --tenant or --job), or raise max-volume or max-holds-per-hour in the policy.",
	jobs.RuleHoldAlert:          "The mail is exempt from holds: look at it yourself.",
	jobs.RuleHoldRelease:        "Watch the complaints of the tenant: carom reputation explain tenant:PROVIDER/TENANT.",
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
		fmt.Fprintf(&b, "  %s\n", printable(c.Reason))
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
		c.moreText(&b)
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
