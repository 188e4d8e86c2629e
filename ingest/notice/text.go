package notice

import (
	"bytes"
	"slices"
	"strings"

	"carom/ingest/mime"
	"carom/ingest/phrase"
)

// maxText is the number of bytes of a mail's text that are looked at. Notices are a few KB; what
// follows them is the message that comes back.
const maxText = 64 << 10

// text is what a mail says to people, made for looking things up in it.
type text struct {
	source []byte // line by line as it came
	raw    string // the lines without blanks around them, each run of blanks as one, joined by one blank
	low    string // raw with its ASCII letters in lower case: a position in one is one in the other
	lines  []line
}

// line is a line that is not blank.
type line struct {
	start, end int  // in raw
	at         int  // in source
	indent     int  // blanks before it, in bytes
	gap        bool // a blank line stands before it
}

// textOf returns the text of m: its text/plain parts, or where they are blank what a reader sees of
// its HTML. Messages inside m and attached files are no part of it.
func textOf(m *mime.Message) []byte {
	var plain []byte
	for i := range m.Parts {
		part := &m.Parts[i]
		switch part.MediaType {
		case "text/plain", "text", "multipart/report", "multipart/mixed", "multipart/alternative":
			plain = appendPart(plain, part.Body)
		case "application/octet-stream":
			if isStatus(part.Body) {
				plain = appendPart(plain, part.Body)
			}
		}
	}
	if len(bytes.TrimSpace(plain)) == 0 {
		page := m.Text()
		return []byte(page[:min(len(page), maxText)])
	}
	return plain
}

// isStatus reports whether a part that a gateway calls a file is a delivery status, RFC 3464 section 2.1.
func isStatus(body []byte) bool {
	const first = "reporting-mta:"
	body = bytes.TrimLeft(body, "\r\n")
	return len(body) > len(first) && strings.EqualFold(string(body[:len(first)]), first)
}

func appendPart(text, body []byte) []byte {
	body = body[:min(len(body), maxText-len(text))]
	if len(text) == 0 {
		return slices.Clip(body)
	}
	return append(append(text, '\n'), body...)[:min(len(text)+1+len(body), maxText)]
}

// newText makes a text of source.
func newText(source []byte) text {
	t := text{source: source}
	raw := make([]byte, 0, len(source)+1)
	gap := false
	for at := 0; at < len(source); {
		next := bytes.IndexByte(source[at:], '\n')
		if next < 0 {
			next = len(source) - at
		}
		l := line{at: at, start: len(raw), gap: gap}
		raw, l.indent = fold(raw, source[at:at+next])
		l.end = len(raw)
		at += next + 1
		if gap = l.end == l.start; gap {
			continue
		}
		t.lines = append(t.lines, l)
		raw = append(raw, ' ')
	}
	t.raw = string(raw)
	t.low = phrase.Lower(t.raw)
	return t
}

// fold appends content to raw with each run of blanks as one blank and returns the number of blanks
// before it.
func fold(raw, content []byte) (joined []byte, indent int) {
	start, done := len(raw), 0 // content up to done is in raw
	for i := 0; i < len(content); {
		n := blanks(content[i:])
		if n == 0 {
			i++
			continue
		}
		if n == 1 && content[i] == ' ' && i > done && i+1 < len(content) && blanks(content[i+1:]) == 0 { // as most are
			i++
			continue
		}
		raw = append(raw, content[done:i]...)
		for ; n > 0; n = blanks(content[i:]) {
			i += n
		}
		done = i
		if len(raw) == start {
			indent = i
		} else if i < len(content) {
			raw = append(raw, ' ')
		}
	}
	return append(raw, content[done:]...), indent
}

// blanks returns the length of the blank at the beginning of s: a control byte, or a no-break space.
func blanks(s []byte) int {
	switch {
	case len(s) == 0:
		return 0
	case s[0] <= ' ':
		return 1
	case s[0] == 0xc2 && len(s) > 1 && s[1] == 0xa0:
		return 2
	}
	return 0
}

// lineAt returns the index of the line that holds position pos of t.raw.
func (t *text) lineAt(pos int) int {
	low, high := 0, len(t.lines)
	for low+1 < high {
		middle := (low + high) / 2
		if t.lines[middle].start <= pos {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// cut returns t up to line n.
func (t *text) cut(n int) text {
	if n >= len(t.lines) {
		return *t
	}
	l := t.lines[n]
	return text{source: t.source[:l.at], raw: t.raw[:l.start], low: t.low[:l.start], lines: t.lines[:n]}
}
