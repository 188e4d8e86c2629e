package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/ingest/classify"
	"carom/schemas/service"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

const aboutUnclassified = `carom ingest unclassified lists what receivers said and no rule understood, the most frequent first:
what a new rule would gain most from. It reads the events in ClickHouse and changes nothing.

Each line is a template, a reply with its numbers, ids and addresses replaced, of one provider; with
the number of attempts that it ended, their share of all refusals and failures of the time, when it
was last seen, what today's rules make of it (those in force then made nothing of it), and one reply
in full.

Examples:
  carom ingest unclassified --since 168h --limit 50
  carom ingest unclassified --provider google --json`

// unclassifiedQuery lists the templates; deploy/docs/classify.md shows it for use by hand.
const unclassifiedQuery = `
SELECT reply_template, provider, count() AS attempts, max(time) AS last_seen, argMax(reply, time) AS example,
    (SELECT count() FROM events
     WHERE time >= now() - toIntervalSecond({seconds:UInt32}) AND class NOT IN ('', 'none')
       AND ({provider:String} = '' OR provider = {provider:String})) AS failures
FROM events
WHERE time >= now() - toIntervalSecond({seconds:UInt32}) AND category = 'undetermined' AND reply_template != ''
  AND ({provider:String} = '' OR provider = {provider:String})
GROUP BY reply_template, provider
ORDER BY attempts DESC, last_seen DESC, reply_template, provider
LIMIT {limit:UInt32}`

// unclassified is one line of the list, as --json prints it.
type unclassified struct {
	Template string    `json:"template"`
	Provider string    `json:"provider"`
	Attempts uint64    `json:"attempts"`
	Share    float64   `json:"share"` // of all refusals and failures, 0 to 1
	LastSeen time.Time `json:"last_seen"`
	Now      string    `json:"now"`      // category by today's rules
	NowRule  string    `json:"now_rule"` // and which rule says so
	Example  string    `json:"example"`
}

// UnclassifiedCommand runs carom ingest unclassified.
func UnclassifiedCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("ingest unclassified", aboutUnclassified, stdio)
	rawURL, login := warehouse.Flags(flags)
	since := flags.Duration("since", 24*time.Hour, "how far back to look, a `duration`")
	limit := flags.Uint("limit", 20, "`number` of lines at most")
	provider := flags.String("provider", "", "only this receiving `provider`")
	asJSON := flags.Bool("json", false, "write the result as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	switch {
	case *since < time.Second || *since/time.Second > math.MaxUint32:
		return service.Configf("carom ingest unclassified: --since is %v, want a second or more", *since)
	case *limit == 0 || *limit > math.MaxUint32:
		return service.Configf("carom ingest unclassified: --limit is %d, want 1 or more", *limit)
	}
	conn, err := warehouse.Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	all, err := readUnclassified(ctx, conn, *since, *limit, *provider)
	if err != nil {
		return err
	}
	if *asJSON {
		encoder := json.NewEncoder(stdio.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	}
	return printUnclassified(stdio.Out, all, *since)
}

func readUnclassified(ctx context.Context, conn driver.Conn, since time.Duration, limit uint, provider string) ([]unclassified, error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"seconds": strconv.FormatInt(int64(since/time.Second), 10), "limit": strconv.FormatUint(uint64(limit), 10), "provider": provider,
	}))
	rows, err := conn.Query(ctx, unclassifiedQuery)
	if err != nil {
		return nil, fmt.Errorf("read unclassified replies: %w", err)
	}
	defer func() { _ = rows.Close() }() // only read
	all := []unclassified{}
	for rows.Next() {
		var u unclassified
		var failures uint64
		if err := rows.Scan(&u.Template, &u.Provider, &u.Attempts, &u.LastSeen, &u.Example, &failures); err != nil {
			return nil, fmt.Errorf("read unclassified replies: %w", err)
		}
		if failures > 0 {
			u.Share = float64(u.Attempts) / float64(failures)
		}
		now := classify.Classify(classify.Input{Reply: smtpstatus.Parse(u.Example), Provider: u.Provider})
		u.Now, u.NowRule = string(now.Category), now.Rule
		all = append(all, u)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read unclassified replies: %w", err)
	}
	return all, nil
}

func printUnclassified(w io.Writer, all []unclassified, since time.Duration) error {
	if len(all) == 0 {
		_, err := fmt.Fprintf(w, "every reply of the last %v was understood\n", since)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ATTEMPTS\tSHARE\tPROVIDER\tLAST SEEN\tNOW\tTEMPLATE") // Flush has the error
	for _, u := range all {
		now := u.Now + " (" + u.NowRule + ")"
		if u.Now == string(taxonomy.Unknown) {
			now = "-"
		}
		_, _ = fmt.Fprintf(table, "%d\t%.2f %%\t%s\t%s\t%s\t%s\n", u.Attempts, 100*u.Share, u.Provider,
			u.LastSeen.UTC().Format(time.DateTime), now, printable(u.Template))
		_, _ = fmt.Fprintf(table, "\t\t\t\t\t  %s\n", printable(u.Example))
	}
	return table.Flush()
}

// printable keeps what a receiver wrote from moving the terminal's cursor or the table's columns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
