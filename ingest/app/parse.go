package app

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/report"
	"carom/schemas/service"
	"carom/schemas/taxonomy"
)

const aboutParse = `carom ingest parse says what a mail is that came back: a bounce or another status of a delivery
("dsn"), a complaint or another feedback report ("arf"), an automatic reply, or none of them; for whom,
with which status, and what that means.

It reads each file of its arguments, all files below each folder, or one mail from its input if there
is no argument or it is "-". It changes nothing and believes nothing: whether a report is genuine is
found out by the node that it comes to. Mail that is no report is no error; a file that cannot be read
is one, and the others are still read.

Examples:
  carom ingest parse bounce.eml
  carom ingest parse --json /var/mail/bounces/new | jq -r 'select(.kind == "dsn") | .recipients[].recipient'
  carom ingest parse - < bounce.eml`

// parsed is a mail as --json prints it.
type parsed struct {
	File       string            `json:"file"`
	Kind       string            `json:"kind"`
	Format     string            `json:"format,omitempty"` // which rule read it
	Reason     string            `json:"reason,omitempty"` // why it is no report
	Recipients []parsedRecipient `json:"recipients"`
}

type parsedRecipient struct {
	Recipient    string `json:"recipient"`
	Action       string `json:"action,omitempty"`
	Status       string `json:"status,omitempty"`
	Category     string `json:"category,omitempty"`
	Hard         string `json:"hard,omitempty"` // the class of the category
	Rule         string `json:"rule,omitempty"` // of the category
	Diagnostic   string `json:"diagnostic,omitempty"`
	FeedbackType string `json:"feedbacktype,omitempty"`
}

// ParseCommand runs carom ingest parse. Files that cannot be read are told on stdio.Err and end in
// an error when all are done.
func ParseCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("ingest parse", aboutParse, stdio)
	asJSON := flags.Bool("json", false, "print one JSON object a mail, on one line")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := printer{out: bufio.NewWriter(stdio.Out), json: *asJSON}
	names := flags.Args()
	if len(names) == 0 {
		names = []string{"-"}
	}
	progress := newProgress(stdio.Err)
	unread := 0
	for _, name := range names {
		err := eachFile(name, func(file string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			progress.step()
			result, err := parseFile(file, stdio.In)
			if err != nil {
				unread++
				_, _ = fmt.Fprintln(stdio.Err, "carom ingest parse:", err)
				return nil
			}
			return p.print(result)
		})
		if err != nil {
			return errors.Join(err, p.out.Flush())
		}
	}
	progress.end()
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if unread > 0 {
		return fmt.Errorf("carom ingest parse: %d not read", unread)
	}
	return nil
}

// eachFile calls f with name or, if it is a folder, with each file below it in lexical order. What
// cannot be looked at is left to f, which fails to read it.
func eachFile(name string, f func(string) error) error {
	if info, err := os.Stat(name); name == "-" || err != nil || !info.IsDir() {
		return f(name)
	}
	return filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.Type().IsRegular() {
			return nil
		}
		return f(path)
	})
}

func parseFile(name string, in io.Reader) (parsed, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return parsed{}, err
		}
		defer func() { _ = file.Close() }() // nothing was written to it
		in = file
	}
	m, err := mime.Read(in, mime.Limits{})
	if errors.Is(err, mime.ErrEmpty) {
		return parsed{File: name, Kind: string(report.None), Reason: err.Error(), Recipients: []parsedRecipient{}}, nil
	}
	if err != nil {
		return parsed{}, fmt.Errorf("%s: %w", name, err)
	}
	return parsedOf(name, report.Parse(m)), nil
}

func parsedOf(name string, r report.Report) parsed {
	result := parsed{File: name, Kind: string(r.Kind), Reason: r.Reason, Recipients: []parsedRecipient{}}
	if n := r.Notification; n != nil {
		result.Format = n.Format
		for i := range n.Recipients {
			result.Recipients = append(result.Recipients, parsedBounce(&n.Recipients[i]))
		}
	}
	if f := r.Feedback; f != nil {
		result.Format = f.Format
		for _, to := range f.Recipients() {
			result.Recipients = append(result.Recipients, parsedRecipient{Recipient: to, FeedbackType: string(f.Type)})
		}
		if len(result.Recipients) == 0 {
			result.Recipients = append(result.Recipients, parsedRecipient{FeedbackType: string(f.Type)})
		}
	}
	return result
}

func parsedBounce(r *dsn.Recipient) parsedRecipient {
	p := parsedRecipient{
		Recipient: cmp.Or(r.Final, r.Original), Action: string(r.Action), Status: r.Status.String(), Diagnostic: r.Diagnostic,
	}
	if r.Action == dsn.Delivered || r.Action == dsn.Relayed || r.Action == dsn.Expanded {
		p.Category, p.Hard = string(taxonomy.Delivered), string(taxonomy.Delivered.Class())
		return p
	}
	v := report.Verdict(r)
	p.Category, p.Hard, p.Rule = string(v.Category), string(v.Class), v.Rule
	return p
}

// printer writes results.
type printer struct {
	out  *bufio.Writer
	json bool
}

func (p *printer) print(result parsed) error {
	var err error
	if p.json {
		err = json.NewEncoder(p.out).Encode(result)
	} else {
		err = p.text(result)
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func (p *printer) text(result parsed) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", result.File, result.Kind)
	for _, detail := range []string{result.Format, result.Reason} {
		if detail != "" {
			fmt.Fprintf(&b, " (%s)", detail)
		}
	}
	b.WriteByte('\n')
	for _, r := range result.Recipients {
		words := []string{cmp.Or(r.Recipient, "(no address)")}
		for _, word := range []string{r.Action, r.Status, r.FeedbackType} {
			if word != "" {
				words = append(words, word)
			}
		}
		if r.Category != "" {
			words = append(words, fmt.Sprintf("%s, %s", r.Category, r.Hard))
		}
		b.WriteString("  " + strings.Join(words, "  ") + "\n")
		if r.Diagnostic != "" {
			b.WriteString("    " + r.Diagnostic + "\n")
		}
	}
	_, err := p.out.WriteString(b.String())
	return err
}

// progressPeriod is the time between two lines of progress.
const progressPeriod = 2 * time.Second

// progress tells a person at a terminal how far a long run is; it is silent otherwise.
type progress struct {
	out    io.Writer // nil: silent
	count  int
	shown  bool
	showAt time.Time
}

func newProgress(w io.Writer) *progress {
	file, ok := w.(*os.File)
	if !ok {
		return &progress{}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{out: w, showAt: time.Now().Add(progressPeriod)}
}

func (p *progress) step() {
	p.count++
	if p.out == nil || p.count%100 != 0 || time.Now().Before(p.showAt) {
		return
	}
	p.shown, p.showAt = true, time.Now().Add(progressPeriod)
	_, _ = fmt.Fprintf(p.out, "\r%d mails read", p.count)
}

func (p *progress) end() {
	if p.shown {
		_, _ = fmt.Fprintf(p.out, "\r%d mails read\n", p.count)
	}
}
