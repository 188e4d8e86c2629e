package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/jobs"
	"carom/schemas/limits"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

// limitsFlags are those of carom limits.
type limitsFlags struct {
	asJSON bool
	last   uint
	since  string

	rate, ceiling, floor  string
	connections, messages uint
	length, until         string
	reason, actor         string
}

// orderVerbs are the verbs of carom limits that change something, and how many arguments each takes.
var orderVerbs = map[string]int{"pin": 1, "unpin": 1, "cancel": 1, "release": 1, "off": 0, "on": 0}

const (
	// maxRate is the largest rate that may be pinned, in messages a second: more is a slip of the pen.
	maxRate = 1e6
	// maxCount is the same of connections and messages per connection.
	maxCount = 1e6
	// maxOrder is how long an order may hold. What is meant for ever belongs in the configuration.
	maxOrder = 366 * 24 * time.Hour
	// defaultWait is how long the loop waits after a change was cancelled.
	defaultWait = time.Hour
	// killTime bounds how long carom limits off hands the order out.
	killTime = 30 * time.Second
)

// ordered is the answer of an order.
type ordered struct {
	Order    string          `json:"order"`
	Key      string          `json:"key,omitempty"`
	Pin      *jobs.Pin       `json:"pin,omitempty"`
	Change   string          `json:"change,omitempty"` // that was taken back
	Released []jobs.Released `json:"released,omitempty"`
	Actor    string          `json:"actor"`
	Reason   string          `json:"reason"`
	Expires  time.Time       `json:"expires_at,omitzero"`
	text     string
}

// give checks an order and gives it.
func (f *limitsFlags) give(ctx context.Context, conn driver.Conn, verb string, args []string, stdio service.IO, version string) error {
	o, err := f.order(ctx, conn, verb)
	if err != nil {
		return err
	}
	done := ordered{Order: verb, Actor: o.Actor, Reason: o.Reason, Expires: o.Expires}
	until := ""
	if !o.Expires.IsZero() {
		until = " until " + o.Expires.UTC().Format(time.DateTime)
	}
	var key limits.Key
	if verb == "pin" || verb == "unpin" || verb == "cancel" {
		if key, err = limits.ParseKey(args[0]); err != nil {
			return service.Configf("carom limits %s: %w", verb, err)
		}
		done.Key = key.String()
	}
	switch verb {
	case "pin":
		pin, err := f.pin()
		if err != nil {
			return err
		}
		if err := isKnown(ctx, conn, key); err != nil {
			return err
		}
		if err := jobs.GivePin(ctx, conn, key, pin, o); err != nil {
			return err
		}
		done.Pin, done.text = &pin, fmt.Sprintf("%s is pinned (%s)%s. It is in force with the next run of throttle, within seconds where analytics runs; carom limits list shows it.", key, &pin, until)
	case "unpin":
		if err = jobs.Unpin(ctx, conn, key, o); err == nil {
			done.text = fmt.Sprintf("%s is not pinned any more: the loop decides from its next run on.", key)
		}
	case "cancel":
		if done.Change, err = jobs.CancelChange(ctx, conn, key, o); err == nil {
			done.text = fmt.Sprintf("%s is taken back with the next run of throttle, and the loop changes nothing at %s%s.", done.Change, key, until)
		}
	case "release":
		if done.Released, err = jobs.ReleaseHolds(ctx, conn, args[0], o); err == nil {
			var b strings.Builder
			for _, r := range done.Released {
				fmt.Fprintf(&b, "%s is released: its mail goes out with the next run of throttle.\n", r.ID)
			}
			done.text = strings.TrimSuffix(b.String(), "\n")
		}
	case "off":
		ctx, cancel := context.WithTimeout(ctx, killTime)
		defer cancel()
		if err = jobs.Kill(ctx, conn, o, slog.New(slog.DiscardHandler), version); err == nil {
			done.text = "The loop is off everywhere" + until + ". The nodes drop their leases and holds within seconds and obey their configuration."
		}
	default: // on
		if err = jobs.Unkill(ctx, conn, o); err == nil {
			done.text = "The loop may act again: from its next run on, from the configured limits."
		}
	}
	if errors.Is(err, jobs.ErrNothing) {
		return service.Configf("carom limits %s: %w (see carom limits list)", verb, err)
	}
	if err != nil {
		return err
	}
	return show(stdio.Out, done, f.asJSON, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, done.text)
		return err
	})
}

// order returns who orders, why and until when. A reason is always wanted, an end of what lasts.
func (f *limitsFlags) order(ctx context.Context, conn driver.Conn, verb string) (jobs.Order, error) {
	o := jobs.Order{Actor: f.actor, Reason: strings.TrimSpace(f.reason)}
	if o.Actor == "" {
		o.Actor = whoami()
	}
	if o.Reason == "" {
		return o, service.Configf(`carom limits %s: say why, with --reason "…"`, verb)
	}
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return o, err
	}
	lasts := verb == "pin" || verb == "off" || verb == "cancel"
	switch {
	case f.length != "" && f.until != "":
		return o, service.Configf("carom limits %s: --for and --until are two ways to say the same; give one", verb)
	case !lasts && f.length+f.until != "":
		return o, service.Configf("carom limits %s: it does not last, so it takes no --for or --until", verb)
	case f.length+f.until != "":
		if o.Expires, err = moment(f.length+f.until, now, 1); err != nil {
			return o, err
		}
	case verb == "cancel":
		o.Expires = now.Add(defaultWait)
	case lasts:
		return o, service.Configf("carom limits %s: say for how long, with --for 2h or --until 2026-11-29T18:00", verb)
	}
	switch {
	case lasts && !o.Expires.After(now):
		return o, service.Configf("carom limits %s: %s is over already", verb, o.Expires.Format(time.DateTime))
	case lasts && o.Expires.Sub(now) > maxOrder:
		return o, service.Configf("carom limits %s: %s is more than a year away; what is meant for ever belongs in the configuration", verb, o.Expires.Format(time.DateTime))
	}
	return o, nil
}

// pin reads what is to be pinned.
func (f *limitsFlags) pin() (jobs.Pin, error) {
	var p jobs.Pin
	for _, r := range []struct {
		name, text string
		into       *float64
	}{{"rate", f.rate, &p.RatePerSecond}, {"ceiling", f.ceiling, &p.Ceiling}, {"floor", f.floor, &p.Floor}} {
		if r.text == "" {
			continue
		}
		rate, err := parseRate(r.text)
		if err != nil {
			return p, service.Configf("carom limits pin: --%s: %w", r.name, err)
		}
		*r.into = rate
	}
	if f.connections > maxCount || f.messages > maxCount {
		return p, service.Configf("carom limits pin: --connections and --messages are at most %.0f", maxCount)
	}
	p.Connections, p.MessagesPerConnection = uint32(f.connections), uint32(f.messages) //nolint:gosec // bounded
	switch {
	case p == jobs.Pin{}:
		return p, service.Configf("carom limits pin: say what: --rate, --ceiling, --floor, --connections or --messages")
	case p.RatePerSecond > 0 && p.Ceiling+p.Floor > 0:
		return p, service.Configf("carom limits pin: --rate fixes the rate, --ceiling and --floor let the loop move it; give one or the other")
	case p.Ceiling > 0 && p.Floor > p.Ceiling:
		return p, service.Configf("carom limits pin: the floor %s is above the ceiling %s", f.floor, f.ceiling)
	}
	return p, nil
}

// parseRate reads a rate as the configuration writes it: 5/s, 300/m (or min), 1000/h, or 5 for a second.
func parseRate(text string) (float64, error) {
	number, unit, _ := strings.Cut(text, "/")
	x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	seconds, ok := map[string]float64{"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600}[strings.TrimSpace(unit)]
	if err != nil || !ok || !(x > 0 && x/seconds <= maxRate) {
		return 0, fmt.Errorf("%q is no rate: want for example 5/s, 300/min or 1000/h, more than 0 (to stop mail, pause its queues: carom queue pause)", text)
	}
	return x / seconds, nil
}

// isKnown returns a ConfigError for a key that nobody sends for: a slip of the pen would pin nothing.
func isKnown(ctx context.Context, conn driver.Conn, key limits.Key) error {
	var n uint64
	if err := conn.QueryRow(keyParameters(ctx, key), `
SELECT (SELECT count() FROM limit_state WHERE provider = {provider:String} AND source = {source:String})
    + (SELECT count() FROM gauges WHERE provider = {provider:String} AND source = {source:String} AND time > now() - INTERVAL 1 DAY)`).Scan(&n); err != nil {
		return fmt.Errorf("look for %s: %w", key, err)
	}
	if n == 0 {
		return service.Configf("carom limits pin: nothing is known of %s (see carom limits list)", key)
	}
	return nil
}

// ordersText lists what operators ordered and what is held; nothing if there is none.
func ordersText(w io.Writer, orders []jobs.InForce, held []jobs.Held) error {
	var b bytes.Buffer
	if len(orders) > 0 {
		table := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "\nORDER\tFOR\tWHAT\tUNTIL\tBY\tREASON") // into memory
		for _, o := range orders {
			what := o.Mode
			switch o.Kind {
			case "pin":
				what = o.Pin.String()
			case "cancel":
				what = "the loop waits, " + o.Cancels + " is taken back"
			case "kill":
				what = "the loop is off"
			}
			key := o.Key
			if key == "" {
				key = "everywhere"
			}
			until := "-"
			if !o.Expires.IsZero() {
				until = o.Expires.UTC().Format(time.DateTime)
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Kind, printable(key), printable(what), until, printable(o.Actor), printable(o.Reason))
		}
		_ = table.Flush() // into memory
	}
	if len(held) > 0 {
		table := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "\nHOLD\tTENANT\tSTATUS\tGOES OUT\tSINCE\tREASON") // into memory
		for _, h := range held {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s %%\t%s\t%s\n", printable(h.ID), printable(h.Tenant), h.Status, number(100*h.Share), h.Since.UTC().Format(time.DateTime), printable(h.Reason))
		}
		_ = table.Flush() // into memory
	}
	_, err := b.WriteTo(w)
	return err
}
