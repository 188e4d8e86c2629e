package mime

import (
	"bytes"
	"iter"
	"net/textproto"
	"strings"
)

// Header is the header of a message or of a part. The zero value is an empty header. It shares the
// bytes that it was read from.
type Header struct {
	fields []headerField
}

type headerField struct {
	name  []byte
	value []byte // as it stands behind the colon, with its folds
}

// Get returns the value of the first field of that name, whatever the case, unfolded and without
// blanks around it; "" if there is none.
func (h Header) Get(name string) string {
	for i := range h.fields {
		if isNamed(h.fields[i].name, name) {
			return unfolded(h.fields[i].value)
		}
	}
	return ""
}

// Values returns the values of all fields of that name, in their order, as Get does.
func (h Header) Values(name string) []string {
	var values []string
	for i := range h.fields {
		if isNamed(h.fields[i].name, name) {
			values = append(values, unfolded(h.fields[i].value))
		}
	}
	return values
}

// Has reports whether there is a field of that name.
func (h Header) Has(name string) bool {
	for i := range h.fields {
		if isNamed(h.fields[i].name, name) {
			return true
		}
	}
	return false
}

// Text returns the value of the first field of that name for people: with the encoded words of RFC
// 2047 decoded, in UTF-8. The error says that the charset of a word is unknown; that word stands as
// it is.
func (h Header) Text(name string) (string, error) { return decodeWords(h.Get(name)) }

// Len returns the number of fields.
func (h Header) Len() int { return len(h.fields) }

// All yields the fields in their order: the name as it stands, and the value as Get returns it.
func (h Header) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, f := range h.fields {
			if !yield(string(f.name), unfolded(f.value)) {
				return
			}
		}
	}
}

// Map returns the values by name, in the form of names that net/textproto calls canonical.
func (h Header) Map() map[string][]string {
	m := make(map[string][]string, len(h.fields))
	for name, value := range h.All() {
		name = textproto.CanonicalMIMEHeaderKey(name)
		m[name] = append(m[name], value)
	}
	return m
}

// isNamed reports whether name, a field's, equals want but for the case of its ASCII letters.
func isNamed(name []byte, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i, c := range name {
		if c != want[i] && lower(c) != lower(want[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// unfolded returns value on one line: each fold with the blanks around it is one blank.
func unfolded(value []byte) string {
	value = bytes.TrimSpace(value)
	if bytes.IndexByte(value, '\n') < 0 {
		return string(value)
	}
	var b strings.Builder
	b.Grow(len(value))
	for len(value) > 0 {
		var line []byte
		line, value = cutLine(value)
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.Write(line)
	}
	return b.String()
}

// ParseHeader reads the header at the beginning of data and returns what follows its blank line.
// Lines that are no fields are dropped; if the first line is none, there is no header and all of
// data is the body. A header of more than limit bytes (default Limits.HeaderBytes if limit is 0)
// or 10,000 fields gives a *LimitError and the fields that there is room for.
func ParseHeader(data []byte, limit int) (header Header, body []byte, err error) {
	if limit <= 0 {
		limit = defaultHeaderBytes
	}
	var fields []headerField
	value := -1 // where the value of the last field begins, while it can go on
	first, room := true, limit
	for rest := data; len(rest) > 0; {
		line, next := cutLine(rest)
		if len(line) == 0 {
			return Header{fields}, next, err
		}
		begin, end := len(data)-len(rest), len(data)-len(next)
		fits := end-begin <= room && len(fields) < maxFields
		rest = next
		if first && isMboxLine(line) {
			continue
		}
		colon := -1
		if !isContinuation(line) {
			if colon = fieldColon(line); colon < 0 && first {
				return Header{}, data, nil
			}
		}
		first = false
		switch {
		case !fits: // what follows may be short
			if err == nil {
				err = &LimitError{"header bytes", limit}
			}
			value = -1
			continue
		case colon >= 0:
			if fields == nil {
				fields = make([]headerField, 0, usualFields)
			}
			value = begin + colon + 1
			fields = append(fields, headerField{bytes.TrimRight(line[:colon], " \t"), data[value:end]})
		case !isContinuation(line):
			value = -1
		case value >= 0:
			fields[len(fields)-1].value = data[value:end]
		}
		room -= end - begin
	}
	return Header{fields}, nil, err
}

const (
	// usualFields is how many fields there is room for at first: enough for most parts.
	usualFields = 16
	// maxFields is the number of fields of a header: a message that goes through many servers has a
	// hundred.
	maxFields = 10_000
)

func isMboxLine(line []byte) bool {
	return bytes.HasPrefix(line, []byte("From ")) || bytes.HasPrefix(line, []byte(">From "))
}

func isContinuation(line []byte) bool { return len(line) > 0 && (line[0] == ' ' || line[0] == '\t') }

// fieldColon returns where the colon of a line is that begins a field, or -1 if it begins none. A
// field's name is of printable ASCII (RFC 5322 section 2.2); blanks behind it are obsolete (section
// 4.5).
func fieldColon(line []byte) int {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || line[0] <= ' ' {
		return -1
	}
	blank := false
	for _, c := range line[:colon] {
		switch {
		case c == ' ' || c == '\t':
			blank = true
		case c < ' ' || c >= 0x7f || blank:
			return -1
		}
	}
	return colon
}

// Field is one field of a report's machine-readable part.
type Field struct {
	Name  string // lower-case
	Value string // unfolded, without blanks around it
}

// maxFieldValue bounds the value of a Field, in bytes; the rest of a longer one is dropped.
const maxFieldValue = 16 << 10

// Fields yields the fields of body, a part that consists of groups of header fields with blank
// lines between them (message/delivery-status, message/feedback-report), each with the number of
// its group, from 0. Lines that are no fields are skipped. It holds one field at a time.
func Fields(body []byte) iter.Seq2[int, Field] {
	return func(yield func(int, Field) bool) {
		body = withLineFeeds(body)
		group, used := 0, false
		for len(body) > 0 {
			line, rest := cutLine(body)
			body = rest
			if len(bytes.TrimSpace(line)) == 0 {
				if used {
					group, used = group+1, false
				}
				continue
			}
			colon := fieldColon(line)
			if colon < 0 {
				continue
			}
			f := Field{Name: strings.ToLower(string(bytes.TrimRight(line[:colon], " \t")))}
			f.Value, body = unfold(line[colon+1:], body)
			used = true
			if !yield(group, f) {
				return
			}
		}
	}
}

// unfold joins value with the continuation lines at the beginning of rest.
func unfold(value, rest []byte) (joined string, after []byte) {
	value = bytes.TrimSpace(value)
	line, next := cutLine(rest)
	if !isContinuation(line) || len(bytes.TrimSpace(line)) == 0 {
		return string(value[:min(len(value), maxFieldValue)]), rest
	}
	b := append(make([]byte, 0, len(value)+len(line)), value...)
	for isContinuation(line) && len(bytes.TrimSpace(line)) > 0 {
		if len(b) < maxFieldValue {
			if len(b) > 0 {
				b = append(b, ' ')
			}
			b = append(b, bytes.TrimSpace(line)...)
		}
		rest = next
		line, next = cutLine(rest)
	}
	return string(b[:min(len(b), maxFieldValue)]), rest
}
