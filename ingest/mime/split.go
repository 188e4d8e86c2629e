package mime

import (
	"bufio"
	"bytes"
	"iter"
	"strings"
	"sync"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/textproto"
)

// withLineFeeds returns data with CR as LF if no line of it ends in LF, as old mailers write.
func withLineFeeds(data []byte) []byte {
	if bytes.IndexByte(data, '\n') >= 0 || bytes.IndexByte(data, '\r') < 0 {
		return data
	}
	return bytes.ReplaceAll(data, []byte{'\r'}, []byte{'\n'})
}

// cutLine returns the first line of data without its end, and what follows it.
func cutLine(data []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(data, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'}), rest
}

// split yields the parts of a multipart body, RFC 2046 section 5.1.1. What stands before the
// first delimiter and behind the closing one is left out; a missing closing delimiter is at the
// end of body.
func split(body []byte, boundary string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		delimiter := []byte("--" + boundary)
		start := -1 // of the part that is open
		for at := 0; ; {
			found := bytes.Index(body[at:], delimiter)
			if found < 0 {
				break
			}
			line := at + found
			end, closing, ok := delimiterEnd(body, line, len(delimiter))
			if !ok {
				at = line + len(delimiter)
				continue
			}
			if start >= 0 && !yield(trimLineEnd(body[start:max(start, line)])) {
				return
			}
			if closing {
				return
			}
			start, at = end, end
		}
		if start >= 0 && start < len(body) {
			yield(body[start:])
		}
	}
}

// delimiterEnd reports whether the boundary of n bytes at position line of body is a delimiter
// line, where the next line begins and whether it is the closing one.
func delimiterEnd(body []byte, line, n int) (end int, closing, ok bool) {
	if line > 0 && body[line-1] != '\n' {
		return 0, false, false
	}
	rest := body[line+n:]
	if bytes.HasPrefix(rest, []byte("--")) {
		closing, rest = true, rest[2:]
	}
	length := bytes.IndexByte(rest, '\n')
	if length < 0 {
		length = len(rest)
	}
	if len(bytes.TrimSpace(rest[:length])) > 0 {
		return 0, false, false // a longer boundary that begins with this one
	}
	return min(len(body), len(body)-len(rest)+length+1), closing, true
}

func trimLineEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\r'})
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// ParseHeader reads the header at the beginning of data and returns what follows its blank line.
// Lines that are no fields are dropped; if the first line is none, there is no header and all of
// data is the body. A header of more than limit bytes (default Limits.HeaderBytes if limit is 0)
// gives a *LimitError and the fields before the limit.
func ParseHeader(data []byte, limit int) (header Header, body []byte, err error) {
	if limit <= 0 {
		limit = defaultHeaderBytes
	}
	block, body, broken := cutHeader(data)
	if len(block) > limit {
		err = &LimitError{"header bytes", limit}
		block = block[:bytes.LastIndexByte(block[:limit], '\n')+1]
	}
	if broken {
		block = fieldsOf(block)
	}
	if len(block) == 0 {
		return Header{}, body, err
	}
	r, _ := readers.Get().(*bufio.Reader)
	r.Reset(bytes.NewReader(block))
	// cutHeader and fieldsOf leave only lines that ReadHeader takes; its error is the end of block.
	fields, _ := textproto.ReadHeader(r)
	r.Reset(nil)
	readers.Put(r)
	return message.Header{Header: fields}, body, err
}

// cutHeader cuts data at its first blank line. broken says that block holds lines that are
// neither fields nor continuations.
func cutHeader(data []byte) (block, body []byte, broken bool) {
	first := true
	for rest := data; len(rest) > 0; {
		line, next := cutLine(rest)
		if len(line) == 0 {
			return data[:len(data)-len(rest)], next, broken
		}
		switch {
		case first && bytes.HasPrefix(line, []byte("From ")), first && bytes.HasPrefix(line, []byte(">From ")): // mbox
			broken = true
			rest = next
			continue
		case isContinuation(line):
			broken = broken || first
		case !isField(line):
			if first {
				return nil, data, false
			}
			broken = true
		}
		first = false
		rest = next
	}
	return data, nil, broken
}

// fieldsOf returns block without the lines that are neither fields nor their continuations.
func fieldsOf(block []byte) []byte {
	kept := make([]byte, 0, len(block))
	open := false // the line before belongs to a field
	for len(block) > 0 {
		line, rest := cutLine(block)
		open = isField(line) || open && isContinuation(line)
		if open {
			kept = append(append(kept, line...), '\r', '\n')
		}
		block = rest
	}
	return kept
}

func isContinuation(line []byte) bool { return len(line) > 0 && (line[0] == ' ' || line[0] == '\t') }

// isField reports whether line begins a field: a name of printable ASCII (RFC 5322 section 2.2),
// blanks, which are obsolete (section 4.5), and a colon.
func isField(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return false
	}
	name := bytes.TrimRight(line[:colon], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(name) > 0
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
			if isContinuation(line) || !isField(line) {
				continue
			}
			name, value, _ := bytes.Cut(line, []byte{':'})
			f := Field{Name: strings.ToLower(string(bytes.TrimSpace(name)))}
			f.Value, body = unfold(value, body)
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
