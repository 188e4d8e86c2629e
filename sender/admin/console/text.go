package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"carom/schemas/clock"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/orders"
)

// printable returns s without what would command the terminal: names come from foreign mail.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// rows writes a table. Cells are made printable; an empty one is shown as a dash.
func rows(w io.Writer, head string, lines [][]string) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, strings.ReplaceAll(head, "|", "\t")) // Flush tells of an error
	for _, line := range lines {
		for i, cell := range line {
			if cell == "" {
				cell = "-"
			}
			if i > 0 {
				cell = "\t" + printable(cell)
			} else {
				cell = printable(cell)
			}
			_, _ = io.WriteString(table, cell)
		}
		_, _ = fmt.Fprintln(table)
	}
	return table.Flush()
}

// ago returns how long ago a time is, "" for the zero time.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return config.FormatDuration(now.Sub(t).Truncate(time.Second))
}

// in returns how far ahead a time is, "" for the zero time.
func in(t, now time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case !t.After(now):
		return "now"
	default:
		return "in " + config.FormatDuration(t.Sub(now)+time.Second-1)
	}
}

// mail says how much mail a result is about, and in how many queues where that is known.
func mail(r *admin.Result) string {
	text := count(r.Recipients, "recipient") + " of " + count(r.Messages, "message")
	if r.Queues > 0 {
		text += " in " + count(r.Queues, "queue")
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func until(o *orders.Order) string {
	if o == nil || o.Expires.IsZero() {
		return "until it is resumed"
	}
	return "until " + o.Expires.Format(time.RFC3339)
}

func wouldText(w io.Writer, i *admin.Instruction, r *admin.Result) error {
	var err error
	switch i.Kind {
	case admin.Resume, admin.EnableSource:
		lines := make([]string, 0, len(r.Ended))
		for _, o := range r.Ended {
			lines = append(lines, fmt.Sprintf("  order %d: %s\n", o.ID, printable(o.String())))
		}
		_, err = fmt.Fprintf(w, "Would end %s.\n%sNothing was changed.\n", count(len(r.Ended), "order"), strings.Join(lines, ""))
	case orders.SetMode, orders.DisableSource:
		_, err = fmt.Fprintf(w, "Would meet %s. Nothing was changed.\n", count(r.Queues, "queue"))
	default:
		_, err = fmt.Fprintf(w, "Would %s %s. Nothing was changed.\n", i.Kind, mail(r))
	}
	return err
}

// onlyJob reports whether f is about a job and nothing else, where PowerMTA has words of its own.
func onlyJob(f orders.Filter) bool {
	job := f.Job
	f.Job, f.ArrivedBefore = "", time.Time{}
	return job != "" && f.IsZero()
}

func pausedText(w io.Writer, r *admin.Result) error {
	said := "Queue(s) paused."
	if r.Order != nil && onlyJob(r.Order.Filter) {
		said = "paused job."
	}
	_, err := fmt.Fprintf(w, "%s\n%s%s, %s.\n", said, orderNumber(r), mail(r), until(r.Order))
	return err
}

func resumedText(w io.Writer, r *admin.Result) error {
	said := "Queue(s) resumed."
	if len(r.Ended) > 0 && onlyJob(r.Ended[0].Filter) {
		said = "resumed job."
	}
	lines := make([]string, 0, len(r.Ended))
	for _, o := range r.Ended {
		lines = append(lines, fmt.Sprintf("Order %d ended: %s\n", o.ID, printable(o.String())))
	}
	_, err := fmt.Fprintf(w, "%s\n%s", said, strings.Join(lines, ""))
	return err
}

func deletedText(w io.Writer, r *admin.Result) error {
	_, err := fmt.Fprintf(w, "%s%s deleted. Their records are written in the background.\n", orderNumber(r), mail(r))
	return err
}

func reroutedText(w io.Writer, r *admin.Result) error {
	_, err := fmt.Fprintf(w, "%s%s rerouted.\n", orderNumber(r), mail(r))
	return err
}

func modeText(w io.Writer, r *admin.Result) error {
	if r.Order != nil {
		_, err := fmt.Fprintf(w, "%s%s met; %s\n", orderNumber(r), count(r.Queues, "queue"), printable(r.Order.String()))
		return err
	}
	_, err := fmt.Fprintf(w, "%s in normal mode; %s ended.\n", count(r.Queues, "queue"), count(len(r.Ended), "order"))
	return err
}

func messagesText(w io.Writer, messages []admin.Message, most int) error {
	now := clock.Now()
	lines := make([][]string, len(messages))
	for i, m := range messages {
		due := in(m.Due, now)
		if m.Due.IsZero() {
			due = "new"
		}
		lines[i] = []string{
			m.Recipient, m.Queue, m.MailFrom, m.Job, m.Tenant, ago(m.Arrived, now), strconv.FormatUint(uint64(m.Attempts), 10), due, m.ID,
		}
	}
	if err := rows(w, "RECIPIENT|QUEUE|FROM|JOB|TENANT|AGE|ATTEMPTS|DUE|MESSAGE", lines); err != nil {
		return err
	}
	more := ""
	if len(messages) == most {
		more = " There may be more (--max)."
	}
	_, err := fmt.Fprintf(w, "%s shown.%s\n", count(len(messages), "recipient"), more)
	return err
}

func ordersText(w io.Writer, all []admin.Order) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "No order is in force.")
		return err
	}
	now := clock.Now()
	lines := make([][]string, len(all))
	for i := range all {
		o := &all[i]
		bare := o.Order
		bare.Expires = time.Time{} // has a column of its own
		what := bare.String()
		if o.Left > 0 {
			what += fmt.Sprintf(" (%d left)", o.Left)
		}
		lines[i] = []string{strconv.FormatUint(o.ID, 10), what, o.Actor, ago(o.Made, now), in(o.Expires, now), o.Reason}
	}
	return rows(w, "ORDER|WHAT|BY|AGE|ENDS|REASON", lines)
}

func explainText(w io.Writer, e *admin.Explanation) error {
	now := clock.Now()
	q := &e.Queue
	_, err := fmt.Fprintf(w, "%s: %s, %d due, %s, %s mode, %d in and %d out in the last minute\n",
		printable(q.Name), count(q.Recipients, "recipient"), q.Due, count(q.Sessions, "session"), q.Mode, q.InPerMinute, q.OutPerMinute)
	if err != nil {
		return err
	}
	for i, why := range e.Waits {
		lead := "Waits: "
		if i > 0 {
			lead = "   and "
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", lead, printable(why)); err != nil {
			return err
		}
	}
	if len(e.Waits) == 0 {
		if _, err := io.WriteString(w, "Nothing keeps it.\n"); err != nil {
			return err
		}
	}
	if len(e.Orders) > 0 {
		if _, err := io.WriteString(w, "\nOrders\n"); err != nil {
			return err
		}
		if err := ordersText(w, e.Orders); err != nil {
			return err
		}
	}
	for _, p := range e.Paths {
		if err := pathText(w, &p, now); err != nil {
			return err
		}
	}
	return nil
}

func pathText(w io.Writer, p *admin.Path, now time.Time) error {
	where := "\nLimits"
	if p.Source != "" {
		where += " from " + printable(p.Source)
	}
	if p.Provider != "" {
		where += " to " + printable(p.Provider)
	}
	if _, err := fmt.Fprintln(w, where); err != nil {
		return err
	}
	lines := make([][]string, len(p.Limits))
	for i, b := range p.Limits {
		mark := " "
		if b.Binds {
			mark = ">"
		}
		lines[i] = []string{mark + " " + b.Scope, b.Name, b.Directive, b.Configured, b.InForce, b.Used, in(b.Next, now), b.SetBy, b.Reason, in(b.Expires, now)}
	}
	return rows(w, "  SCOPE|OF|LIMIT|CONFIGURED|IN FORCE|USED|NEXT|SET BY|WHY|ENDS", lines)
}
