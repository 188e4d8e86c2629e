package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"carom/schemas/service"
)

const retentionAbout = `carom schema retention shows how long each table keeps its rows, or sets it.

Days are counted from the expression in the column SINCE. A table that is not in the list keeps its
rows for ever. What is set stands in the tables themselves: carom schema apply leaves it, and needs
--retention FILE only for tables that it is about to make. A setting that deletes rows says how many
and wants --yes; ClickHouse then deletes them in the background, whole days at a time.

Examples:
  carom schema retention --url http://127.0.0.1:8123/carom
  carom schema retention --url http://127.0.0.1:8123/carom events=400d gauges=30d`

func retentionCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("schema retention", retentionAbout, stdio)
	rawURL, options := Flags(flags)
	var layout Layout
	flags.StringVar(&layout.Cluster, "cluster", "", "`name` of the cluster that the schema was applied to")
	agreed := flags.Bool("yes", false, "let a shorter retention delete rows")
	asJSON := flags.Bool("json", false, "write the result as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	days, err := ParseRetention(flags.Args())
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(stdio.Out)
	encoder.SetIndent("", "  ")
	if len(days) > 0 {
		return keep(ctx, *rawURL, *options, layout, days, *agreed, func(changes []RetentionChange) error {
			if *asJSON {
				return encoder.Encode(append([]RetentionChange{}, changes...))
			}
			return showChanges(stdio.Out, changes)
		})
	}
	conn, err := Open(ctx, *rawURL, *options)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	all, err := layout.Retention(ctx, conn)
	if err != nil {
		return err
	}
	if *asJSON {
		return encoder.Encode(all)
	}
	w := tabwriter.NewWriter(stdio.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tDAYS\tDEFAULT\tLEAST\tROWS\tSIZE\tSINCE") //nolint:errcheck // Flush tells
	for _, k := range all {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", k.Table, k.Days, k.Default, k.Least, k.Rows, size(k.Bytes), k.Since) //nolint:errcheck // Flush tells
	}
	return w.Flush()
}

// keep sets the retention and has the changes shown, those that were made and those that wait for
// --yes.
func keep(ctx context.Context, rawURL string, o Options, l Layout, days Retention, agreed bool, show func([]RetentionChange) error) error {
	conn, err := Open(ctx, rawURL, o)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	changes, err := l.Keep(ctx, conn, days, agreed)
	if shown := show(changes); shown != nil {
		return errors.Join(err, shown)
	}
	if errors.Is(err, ErrWouldDelete) {
		return service.Configf("%w, as listed, and nothing was changed: say --yes if they may go", err)
	}
	return err
}

func showChanges(out io.Writer, changes []RetentionChange) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(out, "retention: nothing to change")
		return err
	}
	for _, c := range changes {
		if _, err := fmt.Fprintf(out, "%s: %d days instead of %d; %d rows end at once, about %s\n", c.Table, c.To, c.From, c.Rows, size(c.Bytes)); err != nil {
			return err
		}
	}
	return nil
}

// retentionFile reads a file of --retention; without a name there is none.
func retentionFile(name string) (Retention, error) {
	if name == "" {
		return Retention{}, nil
	}
	file, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, service.Configf("--retention: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	return ReadRetention(io.LimitReader(file, 1<<20))
}

// size writes bytes for people.
func size(bytes uint64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	n, unit := float64(bytes), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n /= 1 << 10; n < 1<<10 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", n, unit)
}
