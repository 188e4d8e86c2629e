package smtpd

import (
	"bytes"
	"net/mail"
	"strings"
)

// fields is the header section of a message, cut into its fields. Each keeps its folding and its
// line end, so that joining them gives the section back.
type fields [][]byte

// splitHeader cuts a message into the fields of its header and the rest, which begins with the
// empty line. A line that is neither a field nor folded counts as the end of the header, as it
// does for most receivers.
func splitHeader(message []byte) (header fields, rest []byte) {
	rest = message
	for len(rest) > 0 && !bytes.HasPrefix(rest, []byte("\r\n")) {
		end := lineEnd(rest)
		for end < len(rest) && (rest[end] == ' ' || rest[end] == '\t') {
			end += lineEnd(rest[end:])
		}
		if !isField(rest[:end]) {
			break
		}
		header = append(header, rest[:end:end])
		rest = rest[end:]
	}
	return header, rest
}

// isField reports whether line begins with a field name and a colon (RFC 5322 section 2.2).
func isField(line []byte) bool {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return false
	}
	for _, c := range bytes.TrimRight(line[:i], " \t") {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// lineEnd returns the length of the first line of b with its line end.
func lineEnd(b []byte) int {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}

// name returns the name of a field as it is written.
func name(field []byte) string {
	before, _, _ := bytes.Cut(field, []byte(":"))
	return string(bytes.TrimRight(before, " \t"))
}

// value returns the value of a field, unfolded and without blanks around it.
func value(field []byte) string {
	_, v, _ := bytes.Cut(field, []byte(":"))
	if !bytes.Contains(v, []byte("\n")) {
		return string(bytes.TrimSpace(v))
	}
	v = bytes.ReplaceAll(bytes.ReplaceAll(v, []byte("\r"), nil), []byte("\n"), nil)
	return string(bytes.TrimSpace(v))
}

// get returns the value of the first field called key.
func (f fields) get(key string) string {
	for _, field := range f {
		if strings.EqualFold(name(field), key) {
			return value(field)
		}
	}
	return ""
}

// has reports whether there is a field called key.
func (f fields) has(key string) bool {
	for _, field := range f {
		if strings.EqualFold(name(field), key) {
			return true
		}
	}
	return false
}

// count returns the number of fields called key.
func (f fields) count(key string) int {
	n := 0
	for _, field := range f {
		if strings.EqualFold(name(field), key) {
			n++
		}
	}
	return n
}

// without returns the fields that are not called key.
func (f fields) without(key string) fields {
	var kept fields
	for _, field := range f {
		if !strings.EqualFold(name(field), key) {
			kept = append(kept, field)
		}
	}
	return kept
}

// fromDomain returns the domain of the first address in the From field, in lower case, or "".
func (f fields) fromDomain() string {
	from := f.get("From")
	if from == "" {
		return ""
	}
	if list, err := mail.ParseAddressList(from); err == nil && len(list) > 0 {
		from = list[0].Address
	}
	_, domain, found := cutLast(strings.TrimRight(from, "> \t"), "@")
	if !found {
		return ""
	}
	return strings.ToLower(domain)
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// withCRLF returns message with every bare LF and every bare CR made a CRLF. SMTP knows no other
// line end (RFC 5321 section 2.3.8), and a message that holds others reads differently at each
// server behind us.
func withCRLF(message []byte) []byte {
	bare := 0
	for i, c := range message {
		switch {
		case c == '\n' && (i == 0 || message[i-1] != '\r'):
			bare++
		case c == '\r' && (i+1 == len(message) || message[i+1] != '\n'):
			bare++
		}
	}
	if bare == 0 {
		return message
	}
	out := make([]byte, 0, len(message)+bare)
	for i, c := range message {
		switch {
		case c == '\n' && (i == 0 || message[i-1] != '\r'):
			out = append(out, '\r', '\n')
		case c == '\r' && (i+1 == len(message) || message[i+1] != '\n'):
			out = append(out, '\r', '\n')
		default:
			out = append(out, c)
		}
	}
	return out
}
