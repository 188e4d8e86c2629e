package app

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
	"carom/schemas/suppression"
	"carom/schemas/warehouse"
)

const aboutSuppress = `carom suppress shows and changes whom the nodes must not mail. Every change is a
row with its author and reason; nodes follow within seconds.

  carom suppress add ADDRESS...       suppress, for all tenants or one
  carom suppress remove ADDRESS...    take back, for all tenants or one
  carom suppress show ADDRESS         the state of an address and its history
  carom suppress list                 who is suppressed, or waits for a second bounce
  carom suppress undo                 take back what a provider's accident suppressed

The warehouse knows addresses by a keyed hash: name the file of the key, the same
as suppression-key-file in the nodes' <feed> (--key-file FILE), or the nodes'
configuration (-c FILE). In place of an address its key may stand, as list and
show print it. undo changes nothing without --yes: it shows what it would do.

Example:
  carom suppress add --file unsubscribed.txt --tenant shop --reason "web form" --key-file suppression.key
  carom suppress undo --provider outlook --from 2026-11-29T08:00 --to 2026-11-29T09:30`

// suppressFlags are the flags of carom suppress; each verb takes some.
type suppressFlags struct {
	rawURL               *string
	login                *warehouse.Options
	keyFile, config      string
	file, tenant, reason string
	expires, actor       string
	since, provider      string
	from, to             string
	pending, yes, asJSON bool
	limit                uint
	plain                []string // the arguments
	secretFrom           func(file string) (string, error)
}

// SuppressCommand runs carom suppress. secretFrom reads the key of the suppression hash from a
// node's configuration, for -c.
func SuppressCommand(ctx context.Context, args []string, stdio service.IO, secretFrom func(file string) (string, error)) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("suppress", verb), aboutSuppress, stdio)
	f := &suppressFlags{secretFrom: secretFrom}
	f.rawURL, f.login = warehouse.Flags(flags)
	flags.StringVar(&f.keyFile, "key-file", "", "`file` with the key of the hash, the nodes' suppression-key-file")
	flags.StringVar(&f.config, "c", "", "read the key from a node's configuration `FILE`")
	flags.StringVar(&f.file, "file", "", "`file` with an address a line, - for standard input (add, remove)")
	flags.StringVar(&f.tenant, "tenant", "", "only for the `tenant`; without it for all")
	flags.StringVar(&f.reason, "reason", "", "`text` that says why (add, remove, undo); with list, only this category")
	flags.StringVar(&f.expires, "expires", "", "`time` when it ends: 30d, 12h or 2026-12-31 (add)")
	flags.StringVar(&f.actor, "actor", "", "`name` of who does it; without it the user of this machine")
	flags.StringVar(&f.since, "since", "", "only since this `time`: 7d, 12h or 2026-11-01 (list)")
	flags.BoolVar(&f.pending, "pending", false, "those that wait for a second bounce (list)")
	flags.UintVar(&f.limit, "limit", 1000, "`number` of lines at most, newest first (list)")
	flags.StringVar(&f.provider, "provider", "", "`name` of the provider that had an accident (undo), or only this one's (list)")
	flags.StringVar(&f.from, "from", "", "start of the accident, a `time` (undo)")
	flags.StringVar(&f.to, "to", "", "end of the accident, a `time` (undo)")
	flags.BoolVar(&f.yes, "yes", false, "do it; without it undo only shows what it would do")
	flags.BoolVar(&f.asJSON, "json", false, "write the result as JSON")
	var err error
	if f.plain, err = parseMixed(flags, args); err != nil {
		return err
	}
	run, ok := suppressVerbs[verb]
	if !ok {
		return service.Configf("carom suppress %s: want add, remove, show, list or undo (see carom suppress --help)", strings.Join(append([]string{verb}, f.plain...), " "))
	}
	if f.actor == "" {
		f.actor = whoami()
	}
	if err := run(ctx, f, stdio); err != nil {
		if _, mistake := errors.AsType[*service.ConfigError](err); mistake && !strings.HasPrefix(err.Error(), "carom ") {
			return service.Configf("carom suppress %s: %w", verb, err)
		}
		return err
	}
	return nil
}

var suppressVerbs = map[string]func(context.Context, *suppressFlags, service.IO) error{
	"add": suppressAdd, "remove": suppressRemove, "show": suppressShow, "list": suppressList, "undo": suppressUndo,
}

// whoami returns the user that an operator is on this machine, also behind sudo.
func whoami() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "operator"
}

// connect opens the warehouse.
func (f *suppressFlags) connect(ctx context.Context) (driver.Conn, error) {
	conn, err := warehouse.Open(ctx, *f.rawURL, *f.login)
	if err != nil {
		return nil, err
	}
	if err := warehouse.Check(ctx, conn); err != nil {
		_ = conn.Close() // the first error is the one to tell
		return nil, err
	}
	return conn, nil
}

// keysOf returns the keys of addresses, in their order and each once. It asks for the secret only
// if there is an address among them, and makes sure that the nodes use the same: a wrong one would
// suppress nobody and say nothing.
func (f *suppressFlags) keysOf(ctx context.Context, conn driver.Conn, addresses []string) ([]string, error) {
	var hasher *suppression.Hasher
	keys := make([]string, 0, len(addresses))
	seen := make(map[string]bool, len(addresses))
	for _, a := range addresses {
		key := strings.ToLower(a)
		if !suppression.IsKey(a) {
			if hasher == nil {
				secret, err := f.secret()
				if err != nil {
					return nil, err
				}
				hasher = suppression.NewHasher([]byte(secret))
				if err := checkSecret(ctx, conn, hasher); err != nil {
					return nil, err
				}
			}
			key = hasher.Key(a)
		}
		if !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// secret reads the key of the hash as a node does: what stands in the file, without white space
// around it.
func (f *suppressFlags) secret() (string, error) {
	switch {
	case f.keyFile != "" && f.config != "":
		return "", service.Configf("--key-file and -c exclude each other")
	case f.config != "":
		return f.secretFrom(f.config)
	case f.keyFile == "":
		return "", service.Configf("the warehouse knows addresses by a keyed hash: name the key with --key-file FILE (the nodes' suppression-key-file) or -c FILE")
	}
	secret, err := suppression.ReadSecret(f.keyFile)
	if err != nil {
		return "", service.Configf("%w", err)
	}
	return secret, nil
}

// checkSecret compares with what nodes have written lately, where they write addresses.
func checkSecret(ctx context.Context, conn driver.Conn, hasher *suppression.Hasher) error {
	rows, err := conn.Query(ctx, `
SELECT recipient, recipient_key FROM events
WHERE arrived > now64(6) - INTERVAL 2 DAY AND recipient_key != '' AND position(recipient, '@') > 1
LIMIT 20`)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	var read, same int
	err = each(rows, func() error {
		var recipient, key string
		if err := rows.Scan(&recipient, &key); err != nil {
			return err
		}
		read++
		if hasher.Key(recipient) == key {
			same++
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if read > 0 && same == 0 {
		return service.Configf("this is not the key that the nodes use: none of their last events has the hash that it makes (see suppression-key-file)")
	}
	return nil
}

// addresses returns the arguments and the lines of --file. All that is no address is named.
func (f *suppressFlags) addresses(stdin io.Reader) ([]string, error) {
	all := append([]string(nil), f.plain...)
	var errs []error
	for _, a := range all {
		if !suppression.IsKey(a) && !looksLikeAddress(a) {
			errs = append(errs, fmt.Errorf("%q is no address", a))
		}
	}
	if f.file != "" {
		in := stdin
		if f.file != "-" {
			file, err := os.Open(f.file)
			if err != nil {
				return nil, service.Configf("addresses: %w", err)
			}
			defer func() { _ = file.Close() }() // only read
			in = file
		}
		lines := bufio.NewScanner(in)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimSpace(lines.Text())
			switch {
			case line == "" || strings.HasPrefix(line, "#"):
			case !suppression.IsKey(line) && !looksLikeAddress(line):
				if len(errs) < maxComplaints {
					errs = append(errs, fmt.Errorf("%s, line %d: %q is no address", f.file, n, line))
				}
			default:
				all = append(all, line)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, service.Configf("%s: %w", f.file, err)
		}
	}
	if len(errs) > 0 {
		return nil, service.Configf("nothing was done: %w", errors.Join(errs...))
	}
	if len(all) == 0 {
		return nil, service.Configf("whom? name an address, or a file with --file")
	}
	return all, nil
}

// maxComplaints bounds what is said of a file that holds something else.
const maxComplaints = 20

func looksLikeAddress(a string) bool {
	at := strings.LastIndexByte(a, '@')
	return at > 0 && at < len(a)-1 && len(a) <= 320 && !strings.ContainsAny(a, "\t\r\n,;")
}

// moment reads a time: a date, a date and time (UTC unless it says otherwise), or how long ago or
// ahead: 30d, 12h. sign is -1 for ago.
func moment(text string, now time.Time, sign int) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n < 100_000 {
			return now.AddDate(0, 0, sign*n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(time.Duration(sign) * d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, service.Configf("%q is no time: want 2026-11-29T08:00 (UTC), 30d or 12h", text)
}

// suppressChange is the answer of add and remove.
type suppressChange struct {
	Addresses int    `json:"addresses"`
	Rows      int    `json:"rows"`
	Tenant    string `json:"tenant"`
	Actor     string `json:"actor"`
	Reason    string `json:"reason"`
}

func suppressAdd(ctx context.Context, f *suppressFlags, stdio service.IO) error {
	addresses, err := f.addresses(stdio.In)
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every insert was answered
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return err
	}
	expires := time.Unix(0, 0)
	if f.expires != "" {
		if expires, err = moment(f.expires, now, 1); err != nil {
			return err
		}
		if !expires.After(now) {
			return service.Configf("--expires %s has passed", f.expires)
		}
	}
	keys, err := f.keysOf(ctx, conn, addresses)
	if err != nil {
		return err
	}
	reason := cmp.Or(f.reason, "added by hand")
	rows := make([]statement, len(keys))
	for i, key := range keys {
		rows[i] = statement{key: key, tenant: f.tenant, expires: expires}
	}
	if err := writeStatements(ctx, conn, now, f.actor, reason, rows); err != nil {
		return err
	}
	done := suppressChange{Addresses: len(keys), Rows: len(rows), Tenant: f.tenant, Actor: f.actor, Reason: reason}
	return show(stdio.Out, done, f.asJSON, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d addresses are suppressed %s%s.\n", len(keys), forWhom(f.tenant), until(expires))
		return err
	})
}

func forWhom(tenant string) string {
	if tenant == suppression.Global {
		return "for all tenants"
	}
	return "for " + printable(tenant)
}

func until(expires time.Time) string {
	if expires.Unix() <= 0 {
		return ""
	}
	return " until " + expires.UTC().Format(time.DateTime)
}

func suppressRemove(ctx context.Context, f *suppressFlags, stdio service.IO) error {
	addresses, err := f.addresses(stdio.In)
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every insert was answered
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return err
	}
	keys, err := f.keysOf(ctx, conn, addresses)
	if err != nil {
		return err
	}
	held, err := holding(ctx, conn, keys)
	if err != nil {
		return err
	}
	reason := cmp.Or(f.reason, "removed by hand")
	var rows []statement
	for _, h := range held {
		if f.tenant == "" || h.tenant == f.tenant {
			rows = append(rows, statement{key: h.key, tenant: h.tenant, tombstone: true})
		}
	}
	if err := writeStatements(ctx, conn, now, f.actor, reason, rows); err != nil {
		return err
	}
	done := suppressChange{Addresses: len(keys), Rows: len(rows), Tenant: f.tenant, Actor: f.actor, Reason: reason}
	return show(stdio.Out, done, f.asJSON, func(w io.Writer) error {
		if len(rows) == 0 {
			_, err := fmt.Fprintf(w, "None of the %d addresses was suppressed%s; nothing was changed.\n", len(keys), otherTenants(f.tenant, len(held)))
			return err
		}
		_, err := fmt.Fprintf(w, "%d suppressions of %d addresses are taken back.\n", len(rows), len(keys))
		return err
	})
}

func otherTenants(tenant string, held int) string {
	if tenant == "" || held == 0 {
		return ""
	}
	return fmt.Sprintf(" for %s (there are %d for others)", printable(tenant), held)
}

// suppressionState is the answer of show.
type suppressionState struct {
	Key        string           `json:"key"`
	Suppressed []suppressedLine `json:"suppressed"`
	Pending    []suppressedLine `json:"pending"`
	History    []historyLine    `json:"history"`
	Events     []evidenceLine   `json:"events"`
}

func suppressShow(ctx context.Context, f *suppressFlags, stdio service.IO) error {
	if len(f.plain) != 1 {
		return service.Configf("want one address")
	}
	addresses, err := f.addresses(nil)
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	keys, err := f.keysOf(ctx, conn, addresses)
	if err != nil {
		return err
	}
	s, err := readState(ctx, conn, keys[0])
	if err != nil {
		return err
	}
	return show(stdio.Out, s, f.asJSON, func(w io.Writer) error { return s.text(w, f.plain[0]) })
}

func (s *suppressionState) text(w io.Writer, address string) error {
	var b strings.Builder
	switch {
	case len(s.Suppressed) > 0:
		for _, l := range s.Suppressed {
			fmt.Fprintf(&b, "%s is suppressed %s since %s%s: %s.\n", printable(address), forWhom(l.Tenant), l.Since.Format(time.DateTime), until(l.Expires), printable(l.Category))
		}
	case len(s.Pending) > 0:
		fmt.Fprintf(&b, "%s is not suppressed: it waits for a second bounce, a day after %s.\n", printable(address), s.Pending[0].Since.Format(time.DateTime))
	default:
		fmt.Fprintf(&b, "%s is not suppressed.\n", printable(address))
	}
	fmt.Fprintf(&b, "key %s\n", s.Key)
	if len(s.History) > 0 {
		b.WriteString("\nHistory, newest first:\n")
	}
	for _, h := range s.History {
		what := "suppressed"
		switch {
		case h.Tombstone:
			what = "taken back"
		case h.Pending:
			what = "pending"
		}
		fmt.Fprintf(&b, "  %s  %s %s%s by %s: %s\n", h.Time.Format(time.DateTime), what, forWhom(h.Tenant), until(h.Expires), printable(h.Actor),
			strings.TrimSpace(printable(h.Category+" "+h.Reason)))
		if h.MessageID != noMessage {
			fmt.Fprintf(&b, "    message %s, recipient %d", h.MessageID, h.Index)
			if h.Provider != "" {
				fmt.Fprintf(&b, ", provider %s", printable(h.Provider))
			}
			b.WriteByte('\n')
		}
	}
	if len(s.Events) > 0 {
		b.WriteString("\nWhat happened to these messages:\n")
	}
	for _, e := range s.Events {
		fmt.Fprintf(&b, "  %s  %s %s (%s) %s\n", e.Time.Format(time.DateTime), e.MessageID, e.Kind, printable(e.Tenant), printable(e.Reply))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func suppressList(ctx context.Context, f *suppressFlags, stdio service.IO) error {
	if len(f.plain) > 0 {
		return service.Configf("unexpected argument %q (carom suppress show ADDRESS shows one)", f.plain[0])
	}
	if f.limit == 0 || f.limit > 10_000_000 {
		return service.Configf("--limit is %d, want 1 to 10000000", f.limit)
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	since := time.Unix(0, 0)
	if f.since != "" {
		now, err := warehouse.Now(ctx, conn)
		if err != nil {
			return err
		}
		if since, err = moment(f.since, now, -1); err != nil {
			return err
		}
	}
	lines, total, err := listLines(ctx, conn, f, since)
	if err != nil {
		return err
	}
	return show(stdio.Out, lines, f.asJSON, func(w io.Writer) error {
		if len(lines) == 0 {
			_, err := fmt.Fprintln(w, "Nobody.")
			return err
		}
		table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "KEY\tTENANT\tSINCE\tUNTIL\tREASON\tPROVIDER\tBY\tDETAIL") // Flush tells of an error
		for _, l := range lines {
			end := "-"
			if l.Expires.Unix() > 0 {
				end = l.Expires.Format(time.DateTime)
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Key, printable(cmp.Or(l.Tenant, "all")), l.Since.Format(time.DateTime), end,
				printable(l.Category), printable(cmp.Or(l.Provider, "-")), printable(l.Actor), printable(cut(l.Reason, 80)))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if total > uint64(len(lines)) {
			_, err := fmt.Fprintf(w, "%d of %d (see --limit)\n", len(lines), total)
			return err
		}
		return nil
	})
}

// cut returns at most n letters of text.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

func suppressUndo(ctx context.Context, f *suppressFlags, stdio service.IO) error {
	switch {
	case len(f.plain) > 0:
		return service.Configf("unexpected argument %q", f.plain[0])
	case f.provider == "" || f.from == "" || f.to == "":
		return service.Configf("want --provider NAME, --from TIME and --to TIME (see carom suppress list for providers)")
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every insert was answered
	now, err := warehouse.Now(ctx, conn)
	if err != nil {
		return err
	}
	from, err := moment(f.from, now, -1)
	if err != nil {
		return err
	}
	to, err := moment(f.to, now, -1)
	if err != nil {
		return err
	}
	if !to.After(from) {
		return service.Configf("--to %s is not after --from %s", f.to, f.from)
	}
	u, rows, err := readUndo(ctx, conn, f.provider, from, to)
	if err != nil {
		return err
	}
	if f.yes {
		reason := cmp.Or(f.reason, fmt.Sprintf("undo of %s from %s to %s", f.provider, from.Format(time.DateTime), to.Format(time.DateTime)))
		if err := writeStatements(ctx, conn, now, f.actor, reason, rows); err != nil {
			return err
		}
		u.Done = true
	}
	return show(stdio.Out, u, f.asJSON, u.text)
}

func (u *undone) text(w io.Writer) error {
	var b strings.Builder
	verb := "would be taken back"
	if u.Done {
		verb = "are taken back"
	}
	fmt.Fprintf(&b, "%d suppressions and %d pending ones of %s from %s to %s %s.\n", u.Suppressed, u.Pending, printable(u.Provider),
		u.From.Format(time.DateTime), u.To.Format(time.DateTime), verb)
	if u.Kept > 0 {
		fmt.Fprintf(&b, "%d more stay: something else suppresses them too.\n", u.Kept)
	}
	for _, s := range u.Samples {
		fmt.Fprintf(&b, "  %s  %s  %s\n", s.Since.Format(time.DateTime), s.Key, printable(cut(s.Reason, 100)))
	}
	if !u.Done && u.Suppressed+u.Pending > 0 {
		b.WriteString("Nothing was changed: say --yes to do it.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
