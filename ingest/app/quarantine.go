package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"carom/ingest/ship"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutQuarantine = `carom ingest quarantine list|retry shows the records of a node's event log that ClickHouse could not
store, and stores them when the cause is gone: after carom schema apply, after an upgrade, after a
constraint was dropped. Run it on the node; the agent may run meanwhile.

list    each record with why it was not stored
retry   try each record again; what is stored leaves the quarantine, the rest stays with its reason

A run of records that the disk lost has nothing to store: it stays in the list as the explanation of
a gap in the view completeness. retry exits with 1 while a record that could be stored is left.

Examples:
  carom ingest quarantine list --event-log /var/lib/carom/events
  carom ingest quarantine retry --event-log /var/lib/carom/events --url http://127.0.0.1:8123/carom`

// quarantineItem is one line of the list, as --json prints it.
type quarantineItem struct {
	ship.Quarantined
	State string `json:"state"` // held, lost, stored or refused
	Error string `json:"error,omitempty"`
}

// QuarantineCommand runs carom ingest quarantine.
func QuarantineCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("ingest quarantine", aboutQuarantine, stdio)
	rawURL, login := warehouse.Flags(flags)
	dir := flags.String("event-log", "", "`folder` of the node's event log")
	asJSON := flags.Bool("json", false, "write the result as JSON")
	what := ""
	if len(args) > 0 && (args[0] == "list" || args[0] == "retry") {
		what, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if what == "" || *dir == "" {
		return service.Configf("carom ingest quarantine: say list or retry, and --event-log (see carom ingest quarantine --help)")
	}
	all, err := ship.ReadQuarantine(*dir)
	if err != nil {
		return err
	}
	items := make([]quarantineItem, len(all))
	for i, q := range all {
		if items[i] = (quarantineItem{Quarantined: q, State: "held"}); len(q.Record) == 0 {
			items[i].State = "lost"
		}
	}
	left := 0
	if what == "retry" && len(items) > 0 {
		if left, err = retryQuarantine(ctx, *rawURL, *login, items); err != nil {
			return err
		}
	}
	if err := printQuarantine(stdio.Out, items, *asJSON); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("carom ingest quarantine: %d records are still refused", left)
	}
	return nil
}

// retryQuarantine tries each item and returns how many could not be stored. An error that is not about
// a record ends it.
func retryQuarantine(ctx context.Context, rawURL string, login warehouse.Options, items []quarantineItem) (left int, err error) {
	conn, err := warehouse.Open(ctx, rawURL, login)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // everything was answered
	for i := range items {
		switch err := items[i].Retry(ctx, conn); {
		case err == nil:
			items[i].State = "stored"
		case errors.Is(err, ship.ErrLost):
		case ctx.Err() != nil:
			return left, ctx.Err()
		default:
			items[i].State, items[i].Error = "refused", err.Error()
			left++
		}
	}
	return left, nil
}

func printQuarantine(w io.Writer, items []quarantineItem, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(items)
	}
	if len(items) == 0 {
		_, err := fmt.Fprintln(w, "The quarantine is empty.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "STATE\tSTREAM\tSEQ\tSINCE\tREASON") // Flush tells what went wrong
	for _, q := range items {
		seqs, reason := fmt.Sprint(q.Seq), q.Reason
		if q.Last > q.Seq {
			seqs = fmt.Sprintf("%d-%d", q.Seq, q.Last)
		}
		if q.Error != "" {
			reason = q.Error
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", q.State, q.Stream, seqs, q.Time.Format(time.RFC3339), printable(reason))
	}
	return table.Flush()
}
