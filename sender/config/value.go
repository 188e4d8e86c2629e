package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// value is what stands behind a directive's name, on its way to a Go value.
type value struct {
	text string
	pos  Pos
	*loader
}

func newValue(n *node, l *loader) *value { return &value{text: n.Value, pos: n.ValuePos, loader: l} }

// parser turns a value into a V. Its errors leave out the directive's name and, where the value
// as a whole is meant, the position; loader.add puts both in.
type parser[V any] func(v *value) (V, error)

// add reports err as a mistake of the directive name.
func (l *loader) add(name string, pos Pos, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		pos = e.Pos
		err = errors.New(e.Message)
	}
	l.errorf(pos, "%s: %v", name, err)
}

type word struct {
	text   string
	quoted bool
	pos    Pos
}

func (w word) errorf(format string, args ...any) error {
	return &Error{w.pos, fmt.Sprintf(format, args...)}
}

// unexpected returns the mistake of a word too much.
func (w word) unexpected(want string) error {
	if w.text == "{" {
		want = noBraces
	}
	return w.errorf("unexpected %q; %s", w.text, want)
}

// noBraces is for those who write sections as other languages do.
const noBraces = "sections are written <name …> and </name>, with no braces"

// words splits the value at blanks. A quoted word may hold blanks; in it \" and \\ stand for
// themselves, and so do "\ " and "\$"; any other backslash stays, for paths like c:\mail\key.pem.
// A pattern /…/ may hold blanks too and keeps its backslashes and slashes.
func (v *value) words() ([]word, error) {
	var all []word
	s, at := v.text, v.pos
	for s = strings.TrimLeft(s, blanks); s != ""; s = strings.TrimLeft(s, blanks) {
		at.Column = v.pos.Column + len(v.text) - len(s)
		w := word{pos: at}
		var n int
		switch s[0] {
		case '"':
			text, rest, ok := unquote(s)
			if !ok {
				return nil, w.errorf("the quote is never closed: %s (a # starts a comment, even in quotes)", s)
			}
			w.text, w.quoted, n = text, true, len(s)-len(rest)
		case '/':
			n = patternEnd(s)
			if i := strings.IndexAny(s, blanks); n < 0 {
				n = i
			}
			if n < 0 {
				n = len(s)
			}
			w.text = s[:n]
		default:
			if n = strings.IndexAny(s, blanks); n < 0 {
				n = len(s)
			}
			w.text = s[:n]
		}
		if w.quoted && n < len(s) && !strings.ContainsRune(blanks, rune(s[n])) {
			return nil, w.errorf("%q follows the closing quote: a blank is missing", s[n:])
		}
		all = append(all, w)
		s = s[n:]
	}
	return all, nil
}

// patternEnd returns the index behind the slash that closes the pattern at the start of s, where
// that slash ends the word; else -1, and s starts with a path.
func patternEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '/' && (i+1 == len(s) || strings.IndexByte(blanks, s[i+1]) >= 0):
			return i + 1
		}
	}
	return -1
}

func unquote(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`"\ $`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// fields returns the value's words, of which there must be at least low and at most high.
func (v *value) fields(low, high int, want string) ([]word, error) {
	words, err := v.words()
	switch {
	case err != nil:
		return nil, err
	case len(words) == 0:
		return nil, fmt.Errorf("value missing; %s", want)
	case len(words) < low:
		return nil, fmt.Errorf("%q is not enough; %s", v.text, want)
	case len(words) > high:
		return nil, words[high].unexpected(want)
	}
	return words, nil
}

// single returns the value's only word. It may be empty only if it was written as "".
func (v *value) single(want string) (string, error) {
	words, err := v.fields(1, 1, want)
	if err != nil {
		return "", err
	}
	return words[0].text, nil
}

// list returns the items of a comma-separated list, with the place of each. Blanks may follow a
// comma. The value "" is the empty list; items are otherwise not empty.
func (v *value) list(want string) ([]word, error) {
	words, err := v.words()
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("value missing; %s", want)
	}
	if len(words) == 1 && words[0].quoted && words[0].text == "" {
		return nil, nil
	}
	var items []word
	comma := true // whether the next item may start
	for _, w := range words {
		if w.quoted {
			if !comma {
				return nil, w.errorf("a comma is missing before %q; %s", w.text, want)
			}
			items = append(items, w)
			comma = false
			continue
		}
		at := w.pos
		for i, part := range strings.Split(w.text, ",") {
			if i > 0 {
				if comma {
					return nil, w.errorf("empty item in the list %q; %s", v.text, want)
				}
				comma = true
			}
			if part != "" {
				if !comma {
					return nil, w.errorf("a comma is missing before %q; %s", part, want)
				}
				items = append(items, word{text: part, pos: at})
				comma = false
			}
			at.Column += len(part) + 1
		}
	}
	if comma {
		return nil, fmt.Errorf("empty item in the list %q; %s", v.text, want)
	}
	return items, nil
}

// scalar makes a parser of one word.
func scalar[V any](want string, parse func(s string) (V, error)) parser[V] {
	return func(v *value) (V, error) {
		var zero V
		s, err := v.single(want)
		if err != nil {
			return zero, err
		}
		if s == "" {
			return zero, fmt.Errorf("empty value; %s", want)
		}
		return parse(s)
	}
}

// clearable makes parse accept "" as V's zero value, which clears what a wider section set.
func clearable[V any](parse parser[V]) parser[V] {
	return func(v *value) (V, error) {
		if strings.TrimSpace(v.text) == `""` {
			var zero V
			return zero, nil
		}
		return parse(v)
	}
}

var boolean = scalar("want yes or no", parseBoolean)

func parseBoolean(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes", "true":
		return true, nil
	case "no", "false":
		return false, nil
	}
	return false, fmt.Errorf("bad value %q; want yes or no", s)
}

// number parses a decimal number within bounds.
func number(low, high int) parser[int] {
	want := fmt.Sprintf("want a number from %d to %d", low, high)
	if high == maxCount {
		want = fmt.Sprintf("want a number, %d or more", low)
	}
	return scalar(want, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high || s[0] == '+' {
			return 0, fmt.Errorf("bad number %q; %s", s, want)
		}
		return n, nil
	})
}

const maxCount = 1_000_000_000

// limit parses a number of which 0 and "unlimited" mean no limit.
var limit = scalar(`want a number, or unlimited`, func(s string) (int, error) {
	if strings.EqualFold(s, "unlimited") {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > maxCount || s[0] == '+' {
		return 0, fmt.Errorf("bad number %q; want a number, or unlimited", s)
	}
	return n, nil
})

// port parses a TCP port.
func port(v *value) (uint16, error) {
	n, err := number(1, 65535)(v)
	return uint16(n), err
}

var interval = scalar(wantInterval, parseDuration)

// intervalUpTo parses an interval that must not be longer than longest.
func intervalUpTo(longest time.Duration) parser[time.Duration] {
	return func(v *value) (time.Duration, error) {
		d, err := interval(v)
		if err == nil && d > longest {
			err = fmt.Errorf("%s is too long; want at most %s", FormatDuration(d), FormatDuration(longest))
		}
		return d, err
	}
}

// positiveInterval parses an interval longer than zero.
func positiveInterval(v *value) (time.Duration, error) {
	d, err := interval(v)
	if err == nil && d == 0 {
		err = fmt.Errorf("bad time %q; want more than zero", v.text)
	}
	return d, err
}

// intervals parses a list of at most 30 intervals, PowerMTA's bound.
func intervals(v *value) ([]time.Duration, error) {
	const want = "want times separated by commas, for example 10m,30m,1h"
	items, err := v.list(want)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 || len(items) > 30 {
		return nil, fmt.Errorf("%d times; want 1 to 30 of them, for example 10m,30m,1h", len(items))
	}
	all := make([]time.Duration, len(items))
	for i, w := range items {
		if all[i], err = parseDuration(w.text); err != nil {
			return nil, w.errorf("%v", err)
		}
		if all[i] == 0 {
			return nil, w.errorf("bad time %q; want more than zero", w.text)
		}
	}
	return all, nil
}

var date = scalar(wantDate, func(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return t, fmt.Errorf("bad date %q; %s", s, wantDate)
	}
	return t, nil
})

const wantDate = "want YYYY-MM-DD"

var (
	rate = scalar(wantRate, ParseRate)
	size = scalar(wantSize, ParseSize)
)

// sizeLimit parses a size of which 0 and "unlimited" mean no limit.
var sizeLimit = scalar(wantSize+", or unlimited", func(s string) (Size, error) {
	if strings.EqualFold(s, "unlimited") {
		return 0, nil
	}
	return ParseSize(s)
})

var address = scalar("want an IP address", func(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("bad IP address %q", s)
	}
	return a.Unmap(), nil
})

// identifier parses a name of the operator's own, as of a vmta: one word, kept as written.
var identifier = scalar("want a name", checkName)

func checkName(s string) (string, error) {
	if strings.ContainsAny(s, " \t\",;/<>") {
		return "", fmt.Errorf(`bad name %q; a name holds no blanks, quotes, commas, slashes, ";", "<" or ">"`, s)
	}
	return s, nil
}

// freeText parses a string: one word, quoted if it holds blanks.
func freeText(v *value) (string, error) {
	return v.single(`want a string, "quoted" if it holds blanks`)
}

// filePath parses the name of a file or folder.
// A relative one counts from the folder of the configuration file that it stands in.
func filePath(v *value) (string, error) {
	s, err := v.single("want a path")
	switch {
	case err != nil:
		return "", err
	case s == "":
		return "", errors.New("empty value; want a path")
	}
	return v.absolute(s), nil
}

func (v *value) absolute(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(v.pos.File), file)
}

var hostName = scalar("want a host name", checkHostName)

// checkHostName returns s as a host name or domain in lower case and without its final dot.
func checkHostName(s string) (string, error) {
	switch i := strings.Index(s, "://"); {
	case i >= 0:
		return "", fmt.Errorf("bad host name %q; want the bare name %q, without %q", s, strings.Trim(s[i+3:], "/"), s[:i+3])
	case isIP(s):
		return "", fmt.Errorf("bad host name %q; want a name, not an address", s)
	}
	d, err := normalDomain(s)
	bad := func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}
	if err != nil || d == "" || d[0] == '.' || strings.Contains(d, "..") || strings.ContainsFunc(d, bad) {
		return "", fmt.Errorf("bad host name %q", s)
	}
	return d, nil
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// headerName parses the name of a header field (RFC 5322 2.2).
var headerName = scalar("want the name of a header", func(s string) (string, error) {
	s = strings.TrimSuffix(s, ":")
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
		return "", fmt.Errorf("bad header name %q", s)
	}
	return s, nil
})

// secret parses a string that must never be shown, so its errors do not quote it.
func secret(v *value) (Secret, error) {
	words, err := v.words()
	if err != nil || len(words) != 1 || words[0].text == "" {
		return Secret{}, errors.New(`want one string, "quoted" if it holds blanks (a # starts a comment, even in quotes)`)
	}
	return NewSecret(words[0].text), nil
}

// secretFile parses the name of a file and returns the file's content less surrounding blanks.
func secretFile(v *value) (Secret, error) {
	file, err := filePath(v)
	if err != nil {
		return Secret{}, err
	}
	data, err := v.files.ReadFile(file)
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	content := strings.TrimSpace(string(data))
	if content == "" {
		return Secret{}, fmt.Errorf("%s is empty", file)
	}
	return NewSecret(content), nil
}
