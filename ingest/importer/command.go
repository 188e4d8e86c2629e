package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"carom/ingest/importer/pmta"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/suppression"
	"carom/schemas/warehouse"
)

const about = `carom import pmta brings PowerMTA's accounting files into ClickHouse as events of carom, so that
queries, views and dashboards show the mail of the system in use today. Files are plain, gzip or
zstd, with any fields and all record types; the header line names the columns. Replies are
classified by carom's rules, PowerMTA's category is kept beside.

Started again, it goes on where it was; a file that is imported already, under whatever name, adds
nothing. Give the files in the order of their time: records before tell of those behind.

Examples:
  carom import pmta --url http://127.0.0.1:8123/carom /var/log/pmta/acct-2026-11-*.csv.gz
  carom import pmta --dry-run acct-2026-11-28-0000.csv     only say what would be imported
  carom import pmta --follow /var/log/pmta --match 'acct-*.csv' --key-file /etc/carom/suppression.key`

// defaultPatience is how long a batch is tried again where nobody waits for more records.
const defaultPatience = 5 * time.Minute

// shownLines bounds the skipped records that the text report shows.
const shownLines = 20

// Node is what the configuration of a node says of its events.
type Node struct {
	SuppressionKey string             // of the hash of recipients
	Hide           func(*event.Event) // what privacy-policy of <event-log> does; nil: recipients are shown
}

// Command runs carom import pmta. version is that of the binary; nodeFrom reads a node's configuration
// file.
func Command(ctx context.Context, args []string, stdio service.IO, version string, nodeFrom func(file string) (Node, error)) error {
	flags := service.NewFlags("import pmta", about, stdio)
	rawURL, login := warehouse.Flags(flags)
	o := Options{Version: version, Patience: defaultPatience}
	follow := flags.String("follow", "", "`folder` to follow instead of files: what is there and what comes, until it is stopped")
	pattern := flags.String("match", "*.csv*", "`pattern` of the names to follow")
	flags.StringVar(&o.Fields, "fields", "", "column `names` of files without a header line, with commas; \"default\" for PowerMTA's own")
	zone := flags.String("zone", "UTC", "time `zone` of times without an offset, as in Europe/Berlin; Local for this machine's")
	flags.StringVar(&o.PMTA.Tenant, "tenant", "import", "`name` of the tenant of mail of which the file does not tell it")
	flags.StringVar(&o.PMTA.TenantField, "tenant-field", "", "`column` with the tenant, as in header_x-customer (default rcvSmtpUser)")
	keyFile := flags.String("key-file", "", "`file` with the key of the suppression hash, the nodes' suppression-key-file; without it events have no recipient_key and reports find no delivery")
	config := flags.String("c", "", "a node's configuration `FILE`: take that key from it, and hide recipients as privacy-policy of its <event-log> says")
	dryRun := flags.Bool("dry-run", false, "read and report, store nothing; needs no ClickHouse")
	asJSON := flags.Bool("json", false, "write the report as JSON")
	files, err := mixed(flags, args)
	if err != nil {
		return err
	}
	switch {
	case *follow == "" && len(files) == 0:
		return service.Configf("carom import pmta: which files? Or --follow DIR (see carom import pmta --help)")
	case *follow != "" && len(files) > 0:
		return service.Configf("carom import pmta: --follow and files exclude each other")
	case *follow != "" && *dryRun:
		return service.Configf("carom import pmta: --follow and --dry-run exclude each other")
	}
	if o.PMTA.Zone, err = time.LoadLocation(*zone); err != nil {
		return service.Configf("carom import pmta: --zone %q: %w", *zone, err)
	}
	if o.Fields == "default" {
		o.Fields = pmta.Default
	}
	if err := likeNode(&o.PMTA, *keyFile, *config, nodeFrom); err != nil {
		return err
	}
	if o.Log, err = service.Logger(stdio.Err, "info", false); err != nil {
		return err
	}
	if !*dryRun {
		conn, err := warehouse.Open(ctx, *rawURL, *login)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // what was not confirmed is sent by the next run
		if err := warehouse.Check(ctx, conn); err != nil {
			return err
		}
		o.Conn = conn
	}
	var report Report
	if *follow != "" {
		o.Patience = 0
		report, err = Follow(ctx, o, *follow, *pattern)
	} else {
		b := newBar(stdio.Err)
		o.Progress = b.show
		report, err = Run(ctx, o, files)
		b.end()
	}
	if report.Records == 0 && report.Files == 0 && err != nil {
		return err
	}
	return errors.Join(err, show(stdio.Out, &report, *asJSON), verdict(&report))
}

// verdict returns an error for an import that took nothing of what it read.
func verdict(r *Report) error {
	if r.Events+r.Known == 0 && r.Skipped > 0 {
		return fmt.Errorf("carom import pmta: none of %d records could be read", r.Skipped)
	}
	return nil
}

// mixed parses flags that stand before, between and behind the files.
func mixed(flags *service.Flags, args []string) (files []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return files, nil
		}
		files, args = append(files, args[0]), args[1:]
	}
}

// likeNode sets how recipients are kept: by the key that a file holds, or as a node does it.
func likeNode(o *pmta.Options, keyFile, config string, nodeFrom func(string) (Node, error)) error {
	var secret string
	switch {
	case keyFile != "" && config != "":
		return service.Configf("carom import pmta: --key-file and -c exclude each other")
	case config != "":
		node, err := nodeFrom(config)
		if err != nil {
			return err
		}
		secret, o.Hide = node.SuppressionKey, node.Hide
	case keyFile != "":
		var err error
		if secret, err = suppression.ReadSecret(keyFile); err != nil {
			return service.Configf("carom import pmta: %w", err)
		}
	default:
		return nil
	}
	o.Key = suppression.NewHasher([]byte(secret)).Key
	return nil
}

func show(w io.Writer, r *Report, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "files     %d", r.Files)
	if r.Unread > 0 {
		fmt.Fprintf(&b, ", of which %d were imported already", r.Unread)
	}
	fmt.Fprintf(&b, "\nrecords   %d in %.1f s, %.0f/s\n", r.Records, r.Seconds, r.Rate)
	fmt.Fprintf(&b, "events    %d new", r.Events)
	if r.Known > 0 {
		fmt.Fprintf(&b, ", %d were there", r.Known)
	}
	if r.DryRun {
		b.WriteString("; nothing is stored (--dry-run)")
	}
	b.WriteByte('\n')
	for _, kind := range slices.Sorted(maps.Keys(r.ByKind)) {
		fmt.Fprintf(&b, "          %-15s %d\n", kind, r.ByKind[kind])
	}
	if !r.First.IsZero() {
		fmt.Fprintf(&b, "from      %s\nto        %s\n", r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
	}
	if len(r.Unmapped) > 0 {
		fmt.Fprintf(&b, "left out  columns that events have no place for: %s\n", strings.Join(r.Unmapped, ", "))
	}
	fmt.Fprintf(&b, "skipped   %d\n", r.Skipped)
	for _, reason := range slices.Sorted(maps.Keys(r.ByReason)) {
		fmt.Fprintf(&b, "          %-15s %d\n", reason, r.ByReason[reason])
	}
	for _, s := range r.Lines[:min(len(r.Lines), shownLines)] {
		fmt.Fprintf(&b, "  %s:%d: %s: %q\n", s.File, s.Line, s.Detail, s.Text)
	}
	if more := r.Skipped - int64(min(len(r.Lines), shownLines)); more > 0 {
		fmt.Fprintf(&b, "  and %d more (--json has %d)\n", more, len(r.Lines))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bar shows progress: one line over and over on a terminal, now and then a new line elsewhere.
type bar struct {
	w        io.Writer
	terminal bool
	calls    int
}

const (
	barWidth    = 30
	plainPeriod = 20 // calls of show for each line where there is no terminal
)

func newBar(w io.Writer) *bar {
	f, ok := w.(*os.File)
	if !ok {
		return &bar{w: w}
	}
	info, err := f.Stat()
	return &bar{w: w, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (b *bar) show(p Progress) {
	if b.calls++; !b.terminal && b.calls%plainPeriod != 0 {
		return
	}
	line := progressLine(p)
	if b.terminal {
		line = "\r" + line + "\x1b[K"
	} else {
		line += "\n"
	}
	_, _ = io.WriteString(b.w, line)
}

// end leaves the line.
func (b *bar) end() {
	if b.terminal && b.calls > 0 {
		_, _ = io.WriteString(b.w, "\n")
	}
}

// progressLine says how much of the files is read, how fast, and how long the rest takes at that rate.
func progressLine(p Progress) string {
	if p.Counted != nil {
		return fmt.Sprintf("[%s] all is stored, counting roll-ups: %d of %d (%s)", strings.Repeat("#", barWidth), p.Counted.Done, p.Counted.Total, p.Counted.Table)
	}
	share := 1.0
	if p.Size > 0 {
		share = min(1, float64(p.Octets)/float64(p.Size))
	}
	done := int(barWidth * share)
	line := fmt.Sprintf("[%s%s] %3.0f%%, %d records, %.0f/s", strings.Repeat("#", done), strings.Repeat(".", barWidth-done),
		100*share, p.Records, float64(p.Records)/max(p.Elapsed.Seconds(), 1e-3))
	if share > 0.01 && share < 1 {
		line += ", " + time.Duration(float64(p.Elapsed)*(1-share)/share).Round(time.Second).String() + " left"
	}
	return line
}
