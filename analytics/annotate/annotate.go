// Package annotate writes notes of people beside what the nodes themselves note (starts, reloads), and
// lists both: what dashboards draw beside their curves.
//
// A note goes straight into ClickHouse, since those who write one (a deploy script, somebody at a desk)
// seldom sit on a node. Its place is a node of its own, "operator/" and who wrote it, and an incarnation
// made of what it says: the same note of the same time is one, however often it is written, and the view
// completeness finds nothing missing. Everything is safe for concurrent use.
package annotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/trace"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `carom annotate writes a note that dashboards show beside their curves: a deployment, a new list, a
call with a provider. carom annotate --list shows the notes, and what the nodes noted themselves.

The same text with the same --at is one note, however often it is written: scripts may repeat it.

Examples:
  carom annotate "new welcome series" --tag campaign --tag shop
  carom annotate "moved to the new addresses" --at 2026-11-23T13:00:00Z
  carom annotate --list --since 7d --tag campaign`

// The bounds of a note. Names and tags are dictionaries in the warehouse.
const (
	maxText = 2000 // octets
	maxTags = 20
	maxTag  = 64 // octets
)

// noteName is the name of every note of a person.
const noteName = "note"

// Command runs carom annotate.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("annotate", about, stdio)
	rawURL, login := warehouse.Flags(flags)
	var tags []string
	flags.Func("tag", "`word` to filter by; may be given several times (with --list: only notes that have all)", func(tag string) error {
		tags = append(tags, tag)
		return nil
	})
	at := flags.String("at", "", "when it happened: a `time` as 2026-11-23T13:00:00Z or 2h ago as 2h (default now)")
	actor := flags.String("actor", "", "`name` of who writes it; without it the user of this machine")
	list := flags.Bool("list", false, "list notes instead of writing one")
	since := flags.String("since", "7d", "how far back to list: a `time` as 7d, 12h or 2026-11-01")
	limit := flags.Uint("limit", 1000, "`number` of notes to list at most, the newest")
	asJSON := flags.Bool("json", false, "write the result as JSON")
	var plain []string
	for {
		if err := flags.Parse(args); err != nil {
			return err
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		plain, args = append(plain, args[0]), args[1:]
	}
	now := time.Now().UTC()
	from, err := trace.ParseTime(*since, now)
	if err != nil {
		return service.Configf("carom annotate: --since %q: want 7d, 12h, 2026-11-01 or 2026-11-01T12:00:00Z", *since)
	}
	if *list {
		if len(plain) > 0 || *at != "" {
			return service.Configf("carom annotate: --list takes no text and no --at")
		}
		return withConn(ctx, *rawURL, *login, func(conn driver.Conn) error {
			notes, err := List(ctx, conn, from, tags, *limit)
			if err != nil {
				return err
			}
			return show(stdio.Out, notes, *asJSON)
		})
	}
	note := Note{Time: now.Truncate(time.Microsecond), Node: "operator/" + *actor, Name: noteName, Text: strings.Join(plain, " "), Tags: tags}
	if *actor == "" {
		note.Node = "operator/" + whoami()
	}
	if *at != "" {
		if note.Time, err = trace.ParseTime(*at, now); err != nil {
			return service.Configf("carom annotate: --at %q: want 2026-11-23T13:00:00Z, 2026-11-23 or 2h", *at)
		}
	}
	if err := note.validate(); err != nil {
		return service.Configf("carom annotate: %w", err)
	}
	return withConn(ctx, *rawURL, *login, func(conn driver.Conn) error {
		isNew, err := Write(ctx, conn, note)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(stdio.Out).Encode(struct {
				Note
				New bool `json:"new"`
			}{note, isNew})
		}
		said := "noted"
		if !isNew {
			said = "was noted before"
		}
		_, err = fmt.Fprintf(stdio.Out, "%s: %s  %s\n", said, note.Time.UTC().Format(time.RFC3339), printable(note.Text))
		return err
	})
}

func withConn(ctx context.Context, rawURL string, login warehouse.Options, do func(driver.Conn) error) error {
	conn, err := warehouse.Open(ctx, rawURL, login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // everything was answered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	return do(conn)
}

// whoami returns the user that an operator is on this machine, also behind sudo.
func whoami() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "somebody"
}

// Note is an annotation.
type Note struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"` // that noted it; "operator/" and a name for a person
	Name string    `json:"name"` // what it is: note, or the node's own start, stop, reload
	Text string    `json:"text"`
	Tags []string  `json:"tags"`
}

func (n *Note) validate() error {
	switch {
	case strings.TrimSpace(n.Text) == "":
		return errors.New("which text? (see carom annotate --help)")
	case len(n.Text) > maxText:
		return fmt.Errorf("the text has %d octets, %d at most", len(n.Text), maxText)
	case !utf8.ValidString(n.Text + n.Node + strings.Join(n.Tags, "")):
		return errors.New("the text is no UTF-8")
	case len(n.Node) > maxTag:
		return fmt.Errorf("--actor is longer than %d octets", maxTag-len("operator/"))
	case len(n.Tags) > maxTags:
		return fmt.Errorf("%d tags, %d at most", len(n.Tags), maxTags)
	case n.Time.Before(time.Unix(0, 0)) || n.Time.Year() > 2100:
		return fmt.Errorf("--at %s is not of this time", n.Time.Format(time.RFC3339))
	}
	for _, tag := range n.Tags {
		if tag == "" || len(tag) > maxTag || strings.ContainsFunc(tag, unicode.IsSpace) {
			return fmt.Errorf("--tag %q: want one word of up to %d octets", tag, maxTag)
		}
	}
	return nil
}

// Write stores n unless it is there, and reports whether it was not. An error leaves open whether it is
// stored; writing it again is harmless.
func Write(ctx context.Context, conn driver.Conn, n Note) (isNew bool, err error) {
	return warehouse.Annotate(ctx, conn, event.Annotation{Node: n.Node, Time: n.Time, Name: n.Name, Text: n.Text, Tags: n.Tags})
}

// List returns the notes since a time that have all of tags, the newest limit of them, in order.
func List(ctx context.Context, conn driver.Conn, since time.Time, tags []string, limit uint) ([]Note, error) {
	return scan(conn.Query(ctx, `
SELECT time, node, name, text, tags
FROM annotations
WHERE time >= fromUnixTimestamp64Micro(?, 'UTC') AND hasAll(arrayMap(t -> toString(t), tags), ?)
ORDER BY time DESC, node, incarnation, seq
LIMIT ?`, since.UnixMicro(), append([]string{}, tags...), limit))
}

func scan(rows driver.Rows, err error) ([]Note, error) {
	if err != nil {
		return nil, fmt.Errorf("read annotations: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	notes := []Note{}
	for rows.Next() {
		var n Note
		if err := rows.Scan(&n.Time, &n.Node, &n.Name, &n.Text, &n.Tags); err != nil {
			return nil, fmt.Errorf("read annotations: %w", err)
		}
		notes = append(notes, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read annotations: %w", err)
	}
	slices.Reverse(notes)
	return notes, nil
}

func show(w io.Writer, notes []Note, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(notes)
	}
	if len(notes) == 0 {
		_, err := fmt.Fprintln(w, "There are no notes of that time.")
		return err
	}
	var b strings.Builder
	for _, n := range notes {
		fmt.Fprintf(&b, "%s  %-20s %-8s %s", n.Time.UTC().Format(time.DateTime), printable(n.Node), printable(n.Name), printable(n.Text))
		for _, tag := range n.Tags {
			fmt.Fprintf(&b, " #%s", printable(tag))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printable makes one line of a text that could hold commands to the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "\uFFFD"))
}
