package smtpd

import (
	"bytes"
	"net/mail"
	"slices"
	"strings"
)

// field is one field of a header as it is written: with its folding and its line end, so that
// joining the fields gives the header back.
type field struct {
	name string
	raw  []byte
}

// value returns the value of the field, unfolded and without blanks around it.
func (f field) value() string {
	_, v, _ := bytes.Cut(f.raw, []byte(":"))
	if bytes.ContainsAny(v, "\r\n") {
		v = bytes.ReplaceAll(bytes.ReplaceAll(v, []byte("\r"), nil), []byte("\n"), nil)
	}
	return string(bytes.TrimSpace(v))
}

// fields is the header section of a message.
type fields []field

// splitHeader cuts a message into the fields of its header and the rest, which begins with the
// empty line. A line that is neither a field nor folded counts as the end of the header, as it
// does for most receivers; so does the end of a field that goes beyond limit.
func splitHeader(message []byte, limit int) (header fields, rest []byte) {
	rest = message
	for len(rest) > 0 && len(message)-len(rest) <= limit && !bytes.HasPrefix(rest, []byte("\r\n")) {
		name, ok := fieldName(rest)
		if !ok {
			break
		}
		end := lineEnd(rest)
		for end < len(rest) && (rest[end] == ' ' || rest[end] == '\t') {
			end += lineEnd(rest[end:])
		}
		header = append(header, field{name, rest[:end:end]})
		rest = rest[end:]
	}
	return header, rest
}

// fieldName returns the name of the field at the beginning of b: printable ASCII (RFC 5322 section
// 2.2), perhaps blanks, which are obsolete (section 4.5.8), and a colon.
func fieldName(b []byte) (name string, ok bool) {
	for i, c := range b {
		switch {
		case c == ':':
			trimmed := bytes.TrimRight(b[:i], " \t")
			return string(trimmed), len(trimmed) > 0 && !bytes.ContainsAny(trimmed, " \t")
		case c < ' ' && c != '\t', c >= 0x7f:
			return "", false
		}
	}
	return "", false
}

// lineEnd returns the length of the first line of b with its line end.
func lineEnd(b []byte) int {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}

// get returns the value of the first field called name.
func (f fields) get(name string) string {
	if i := slices.IndexFunc(f, func(f field) bool { return strings.EqualFold(f.name, name) }); i >= 0 {
		return f[i].value()
	}
	return ""
}

// count returns the number of fields called name.
func (f fields) count(name string) int {
	n := 0
	for _, field := range f {
		if strings.EqualFold(field.name, name) {
			n++
		}
	}
	return n
}

// without returns the fields that have none of the names.
func (f fields) without(names ...string) fields {
	return slices.DeleteFunc(slices.Clone(f), func(f field) bool {
		return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(f.name, name) })
	})
}

// maxFrom bounds the From field that is parsed, in octets: net/mail is made for honest ones.
const maxFrom = 16 << 10

// fromDomain returns the domain of the first address in the From field, in lower case, or "".
func (f fields) fromDomain() string {
	from := f.get("From")
	if list, err := mail.ParseAddressList(from[:min(len(from), maxFrom)]); err == nil && len(list) > 0 { // a group may be empty
		from = list[0].Address
	}
	_, domain, found := cutLast(from, "@")
	if !found {
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
