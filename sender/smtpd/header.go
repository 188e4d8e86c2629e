package smtpd

import (
	"bytes"
	"net/mail"
	"strings"
)

// field is one field of a header as it is written: with its folding and its line end, so that
// joining the fields gives the header back. It lies in the message.
type field struct {
	name    []byte
	raw     []byte
	removed bool
}

// is reports whether the field has the name, whatever the case.
func (f *field) is(name string) bool {
	if len(f.name) != len(name) {
		return false
	}
	for i, c := range f.name { // ASCII, see fieldName
		if lower(c) != lower(name[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// value returns the value of the field, unfolded and without blanks around it.
func (f *field) value() string { return string(bytes.TrimSpace(f.unfolded())) }

func (f *field) unfolded() []byte {
	v := f.raw[bytes.IndexByte(f.raw, ':')+1:]
	v = bytes.TrimRight(v, "\r\n")
	if bytes.ContainsAny(v, "\r\n") {
		v = bytes.ReplaceAll(bytes.ReplaceAll(v, []byte("\r"), nil), []byte("\n"), nil)
	}
	return v
}

// fields is the header section of a message.
type fields []field

// splitHeader cuts a message into the fields of its header, which it puts into the given slice,
// and the rest, which begins with the empty line. A line that is neither a field nor folded counts
// as the end of the header, as it does for most receivers; so does the end of a field that goes
// beyond limit.
func splitHeader(into fields, message []byte, limit int) (header fields, rest []byte) {
	header, rest = into[:0], message
	for len(rest) > 0 && len(message)-len(rest) <= limit && !bytes.HasPrefix(rest, []byte("\r\n")) {
		name, ok := fieldName(rest)
		if !ok {
			break
		}
		end := lineEnd(rest)
		for end < len(rest) && (rest[end] == ' ' || rest[end] == '\t') {
			end += lineEnd(rest[end:])
		}
		header = append(header, field{name: name, raw: rest[:end:end]})
		rest = rest[end:]
	}
	return header, rest
}

// fieldName returns the name of the field at the beginning of b: printable ASCII (RFC 5322 section
// 2.2), perhaps blanks, which are obsolete (section 4.5.8), and a colon.
func fieldName(b []byte) (name []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == ':':
			name = bytes.TrimRight(b[:i], " \t")
			return name, len(name) > 0 && !bytes.ContainsAny(name, " \t")
		case c < ' ' && c != '\t', c >= 0x7f:
			return nil, false
		}
	}
	return nil, false
}

// lineEnd returns the length of the first line of b with its line end.
func lineEnd(b []byte) int {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}

// find returns the first field called name that is not removed, or nil.
func (f fields) find(name string) *field {
	for i := range f {
		if !f[i].removed && f[i].is(name) {
			return &f[i]
		}
	}
	return nil
}

// get returns the value of the first field called name.
func (f fields) get(name string) string {
	if found := f.find(name); found != nil {
		return found.value()
	}
	return ""
}

// raw returns the values of all fields called name as they stand there, but for the line end.
func (f fields) raw(name string) []string {
	var values []string
	for i := range f {
		if f[i].is(name) {
			values = append(values, strings.TrimRight(string(f[i].raw[bytes.IndexByte(f[i].raw, ':')+1:]), "\r\n"))
		}
	}
	return values
}

// count returns the number of fields called name.
func (f fields) count(name string) int {
	n := 0
	for i := range f {
		if !f[i].removed && f[i].is(name) {
			n++
		}
	}
	return n
}

// remove removes all fields called name.
func (f fields) remove(name string) {
	for i := range f {
		if f[i].is(name) {
			f[i].removed = true
		}
	}
}

// maxFrom bounds the From field that is parsed, in octets: net/mail is made for honest ones.
const maxFrom = 16 << 10

// fromDomain returns the domain of the first address in the From field, in lower case, or "".
func (f fields) fromDomain() string {
	found := f.find("From")
	if found == nil {
		return ""
	}
	value := bytes.TrimSpace(found.unfolded())
	if domain, ok := plainFrom(value); ok {
		return domain
	}
	from := string(value)
	if list, err := mail.ParseAddressList(from[:min(len(from), maxFrom)]); err == nil && len(list) > 0 { // a group may be empty
		from = list[0].Address
	}
	_, domain, at := cutLast(from, "@")
	if !at {
		return ""
	}
	if end := strings.IndexAny(domain, "<>()[],;:\" \t"); end >= 0 { // of a list that net/mail does not take
		domain = domain[:end]
	}
	if _, ok := mailbox("x@" + domain); !ok {
		return ""
	}
	return strings.ToLower(domain)
}

// plainFrom returns what fromDomain does for the usual From, words and one address in brackets or
// that address alone, of letters, digits and little else. It spares net/mail's work.
func plainFrom(from []byte) (domain string, ok bool) {
	address := from
	if open := bytes.IndexByte(from, '<'); open >= 0 {
		if from[len(from)-1] != '>' || !isPlain(from[:open], " ") {
			return "", false
		}
		address = from[open+1 : len(from)-1]
	}
	local, host, _ := bytes.Cut(address, []byte("@"))
	if !isPlain(local, "") || !isPlain(host, "") || len(address) > maxAddress || !isDotAtom(local) || !isDotAtom(host) {
		return "", false
	}
	return strings.ToLower(string(host)), true
}

// isPlain reports whether b holds letters, digits, dots, hyphens, underscores and what is in more.
func isPlain(b []byte, more string) bool {
	for _, c := range b {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// isDotAtom reports whether b, which is plain, has something before, between and behind its dots.
func isDotAtom(b []byte) bool {
	return len(b) > 0 && b[0] != '.' && b[len(b)-1] != '.' && !bytes.Contains(b, []byte(".."))
}

// withCRLF returns message with every bare LF made a CRLF and every bare CR a blank. SMTP knows no
// other line end (RFC 5321 section 2.3.8), and a message that holds others reads differently at
// each server behind us.
func withCRLF(message []byte) []byte {
	bare := 0
	for i, c := range message {
		if c == '\n' && !after(message, i) || c == '\r' && !before(message, i) {
			bare++
		}
	}
	if bare == 0 {
		return message
	}
	out := make([]byte, 0, len(message)+bare)
	for i, c := range message {
		switch {
		case c == '\n' && !after(message, i):
			out = append(out, '\r', '\n')
		case c == '\r' && !before(message, i):
			out = append(out, ' ')
		default:
			out = append(out, c)
		}
	}
	return out
}

// after reports whether the octet at i follows a CR, before whether it stands before a LF.
func after(b []byte, i int) bool  { return i > 0 && b[i-1] == '\r' }
func before(b []byte, i int) bool { return i+1 < len(b) && b[i+1] == '\n' }
