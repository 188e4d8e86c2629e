package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/suppression"
	"carom/schemas/warehouse"
)

const about = `carom trace tells the life of a message, or of what a recipient was sent, step by step: what came
in, each attempt with its answer, how long each part of it took, the limit that was in force and
why, and the bounces and complaints that came back.

  carom trace MESSAGE     a message id, as in the node's log and the column message_id, or a Message-ID
  carom trace RECIPIENT   an address, or its key in the column recipient_key

An address is found as it was written. Where the nodes hide recipients (privacy-policy), name the
key of the suppression hash with --key-file, and it is found by that.

Examples:
  carom trace 01936f3e-7c00-7abc-8def-0123456789ab
  carom trace ann@example.com --since 7d
  carom trace '<20261123.1@shop.example>' --json`

// Command runs carom trace. secretFrom reads the key of the suppression hash from a node's
// configuration file.
func Command(ctx context.Context, args []string, stdio service.IO, secretFrom func(file string) (string, error)) error {
	flags := service.NewFlags("trace", about, stdio)
	rawURL, login := warehouse.Flags(flags)
	since := flags.String("since", "30d", "how far back to look: `time` as 7d, 12h or 2026-11-01; a message id is found however old it is")
	limit := flags.Uint("limit", 20, "`number` of messages at most, the newest")
	keyFile := flags.String("key-file", "", "`file` with the key of the suppression hash: look for the address by its key too")
	config := flags.String("c", "", "read that key from a node's configuration `FILE`")
	asJSON := flags.Bool("json", false, "write the answer as JSON")
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
	q := Question{Limit: *limit}
	switch {
	case len(plain) != 1 || strings.TrimSpace(plain[0]) == "":
		return service.Configf("carom trace: want one message or recipient (see carom trace --help)")
	case *limit == 0 || *limit > math.MaxInt32:
		return service.Configf("carom trace: --limit is %d, want 1 or more", *limit)
	}
	q.Text = plain[0]
	var err error
	if q.Since, err = ParseTime(*since, time.Now()); err != nil {
		return service.Configf("carom trace: --since %q: want 7d, 12h, 2026-11-01 or 2026-11-01T12:00:00Z", *since)
	}
	if strings.Contains(q.Text, "@") && *keyFile+*config != "" {
		if q.Key, err = keyOf(q.Text, *keyFile, *config, secretFrom); err != nil {
			return err
		}
	}
	conn, err := warehouse.Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	t, err := Ask(ctx, conn, q)
	if t == nil {
		return err
	}
	if *asJSON {
		encoder := json.NewEncoder(stdio.Out)
		encoder.SetIndent("", "  ")
		if failed := encoder.Encode(t); failed != nil {
			return failed
		}
	}
	if err != nil {
		return fmt.Errorf("carom trace: %w", err)
	}
	if *asJSON {
		return nil
	}
	return t.write(stdio.Out)
}

// ParseTime reads a time, or an age of days or of what time.ParseDuration knows, before now.
func ParseTime(text string, now time.Time) (time.Time, error) {
	if days, err := strconv.ParseUint(strings.TrimSuffix(text, "d"), 10, 16); err == nil && strings.HasSuffix(text, "d") {
		return now.AddDate(0, 0, -int(days)), nil
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if at, err := time.Parse(time.DateTime, text); err == nil {
		return at, nil
	}
	return time.Parse(time.DateOnly, text)
}

func keyOf(address, keyFile, config string, secretFrom func(string) (string, error)) (string, error) {
	if keyFile != "" && config != "" {
		return "", service.Configf("carom trace: --key-file and -c exclude each other")
	}
	secret, err := suppression.ReadSecret(keyFile)
	if config != "" {
		secret, err = secretFrom(config)
	}
	if err != nil {
		return "", service.Configf("carom trace: %w", err)
	}
	return suppression.Key([]byte(secret), address), nil
}

// write tells t as text.
func (t *Trace) write(w io.Writer) error {
	var b strings.Builder
	for i, m := range t.Messages {
		if i > 0 {
			b.WriteByte('\n')
		}
		m.write(&b)
	}
	if t.More {
		fmt.Fprintf(&b, "\nThere are more: these are the newest %d messages (--limit).\n", len(t.Messages))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (m *Message) write(b *strings.Builder) {
	fmt.Fprintf(b, "message %s, recipient %d: %s\n", m.ID, m.Index, printable(orWord(m.Recipient, "(not told)")))
	var facts []string
	for _, fact := range []struct{ name, value string }{{"from", m.MailFrom}, {"job", m.Job}, {"tenant", m.Tenant}} {
		if fact.value != "" {
			facts = append(facts, fact.name+" "+printable(fact.value))
		}
	}
	if m.Size > 0 {
		facts = append(facts, fmt.Sprintf("%d octets", m.Size))
	}
	if len(facts) > 0 {
		fmt.Fprintf(b, "  %s\n", strings.Join(facts, ", "))
	}
	var first time.Time
	for i, s := range m.Steps {
		if i == 0 {
			first = s.Time
		}
		s.write(b, s.Time.Sub(first))
	}
}

// indent is where the lines of a step begin that say more of it.
const indent = "      "

func (s *Step) write(b *strings.Builder, after time.Duration) {
	fmt.Fprintf(b, "  %s  +%-8s %s", s.Time.UTC().Format("2006-01-02 15:04:05.000"), lasted(uint64(max(0, after.Microseconds()))), strings.ToUpper(s.Kind)) //nolint:gosec // not negative
	switch s.Kind {
	case event.Received.String(), event.Rejected.String():
		if s.Client != "" {
			fmt.Fprintf(b, " from %s", printable(s.Client))
		}
	default:
		if s.Attempt > 0 && s.Report == nil {
			fmt.Fprintf(b, " at attempt %d", s.Attempt)
		}
	}
	b.WriteByte('\n')
	s.writePath(b)
	if s.Reply != "" {
		fmt.Fprintf(b, indent+"%s\n", printable(s.Reply))
	}
	if s.Category != "" && s.Category != "delivered" {
		fmt.Fprintf(b, indent+"means %s: %s, %s\n", s.Category, s.Class, s.Dimension)
	}
	if text := s.Timings.text(); text != "" {
		fmt.Fprintf(b, indent+"took %s\n", text)
	}
	if s.Limit != nil {
		s.Limit.write(b)
	}
	if s.Report != nil {
		s.Report.write(b)
	}
}

func (s *Step) writePath(b *strings.Builder) {
	if s.Report != nil {
		return
	}
	var path []string
	if s.Source != "" {
		path = append(path, "by "+s.Source+brackets(s.VMTA))
	}
	if s.Provider != "" {
		to := "to " + s.Provider
		if host := hostAndIP(s.MXHost, s.MXIP); host != "" {
			to += " at " + host
		}
		path = append(path, to)
	}
	if s.TLSVersion != "" {
		path = append(path, "over "+s.TLSVersion)
	}
	if s.Phase != "" && s.Phase != "final-dot" {
		path = append(path, "ended at "+s.Phase)
	}
	if len(path) > 0 {
		fmt.Fprintf(b, indent+"%s\n", printable(strings.Join(path, " ")))
	}
}

func brackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

func orWord(text, word string) string {
	if text == "" {
		return word
	}
	return text
}

// text lists the parts that took time.
func (t *Timings) text() string {
	list := func(parts ...any) string {
		var out []string
		for i := 0; i < len(parts); i += 2 {
			name, us := parts[i].(string), parts[i+1].(uint64) //nolint:errcheck,forcetypeassert // by the callers below
			if us > 0 {
				out = append(out, name+" "+lasted(us))
			}
		}
		return strings.Join(out, ", ")
	}
	text := list("DNS", t.DNS, "connect", t.Connect, "TLS", t.TLS, "transfer", t.Transfer)
	if parts := list("MAIL", t.Mail, "RCPT", t.Rcpt, "DATA", t.Data, "content", t.Body, "final dot", t.FinalDot); parts != "" {
		text += " (" + parts + ")"
	}
	return text
}

func (l *Limit) write(b *strings.Builder) {
	fmt.Fprintf(b, indent+"limit of epoch %d by %s", l.Epoch, orWord(l.Actor, "config"))
	if l.Rate > 0 {
		fmt.Fprintf(b, ": %s/s over all nodes", strconv.FormatFloat(l.Rate, 'g', 4, 64))
	}
	if l.Scope != "" {
		fmt.Fprintf(b, ", held back by %s", l.Scope)
	}
	if l.Canary {
		b.WriteString(", a canary")
	}
	b.WriteByte('\n')
	if l.Reason != "" {
		fmt.Fprintf(b, indent+"  because of %s: %s\n", l.Rule, printable(l.Reason))
	}
}

func (r *Report) write(b *strings.Builder) {
	var parts []string
	if r.FeedbackType != "" {
		parts = append(parts, r.FeedbackType)
	}
	if r.ReportingMTA != "" {
		parts = append(parts, "reported by "+r.ReportingMTA)
	}
	switch {
	case r.Method == "" || r.Method == "none":
		parts = append(parts, "no delivery was found for it")
	case r.Proven:
		parts = append(parts, "proven by "+r.Method)
	default:
		parts = append(parts, fmt.Sprintf("joined by %s, confidence %.1f", r.Method, r.Confidence))
	}
	if !r.DeliveredAt.IsZero() {
		parts = append(parts, "delivered "+r.DeliveredAt.UTC().Format("2006-01-02 15:04:05"))
	}
	fmt.Fprintf(b, indent+"%s\n", printable(strings.Join(parts, ", ")))
}

// printable makes one line of text that a stranger wrote: it could hold commands to the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "\uFFFD"))
}
