package notice

import (
	"bytes"
	"html"
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

// textOf returns the text of m: its text/plain parts, or where they are blank its text/html parts
// without the tags. Messages inside m and attached files are no part of it.
func textOf(m *mime.Message) []byte {
	var plain, marked []byte
	for i := range m.Parts {
		part := &m.Parts[i]
		switch part.MediaType {
		case "text/html":
			marked = appendPart(marked, part.Body)
		case "text/plain", "text", "multipart/report", "multipart/mixed", "multipart/alternative":
			plain = appendPart(plain, part.Body)
		case "application/octet-stream":
			if isStatus(part.Body) {
				plain = appendPart(plain, part.Body)
			}
		}
	}
	if len(bytes.TrimSpace(plain)) == 0 {
		return withoutTags(marked)
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

// breaks are the elements that end a line.
var breaks = map[string]bool{
	"br": true, "p": true, "div": true, "tr": true, "li": true, "ul": true, "ol": true, "td": true, "table": true,
	"h1": true, "h2": true, "h3": true, "h4": true, "pre": true, "hr": true, "title": true, "blockquote": true,
}

// withoutTags returns the text of an HTML document, as far as looking for words needs it.
func withoutTags(document []byte) []byte {
	text := make([]byte, 0, len(document))
	hidden := "" // the element whose content is not shown
	for len(document) > 0 {
		open := bytes.IndexByte(document, '<')
		if open < 0 {
			open = len(document)
		}
		if hidden == "" {
			text = append(text, document[:open]...)
		}
		document = document[open:]
		if len(document) == 0 {
			break
		}
		end := bytes.IndexByte(document, '>')
		if end < 0 {
			break
		}
		if bytes.HasPrefix(document, []byte("<!--")) {
			after := bytes.Index(document, []byte("-->"))
			if after < 0 {
				break
			}
			end = after + 2
		}
		tag := document[1:end]
		document = document[end+1:]
		if bytes.IndexByte(tag, '@') >= 0 && !bytes.ContainsAny(tag, " =") { // an address in angle brackets
			text = append(append(append(text, '<'), tag...), '>')
			continue
		}
		name := tagName(tag)
		switch {
		case hidden != "":
			if name == hidden && tag[0] == '/' {
				hidden = ""
			}
		case name == "style" || name == "script":
			hidden = name
		case breaks[name]:
			text = append(text, '\n')
		}
	}
	return []byte(html.UnescapeString(string(text)))
}

func tagName(tag []byte) string {
	tag = bytes.TrimPrefix(tag, []byte{'/'})
	n := 0
	for n < len(tag) && n < 12 && (tag[n]|0x20 >= 'a' && tag[n]|0x20 <= 'z' || tag[n] >= '0' && tag[n] <= '9') {
		n++
	}
	return strings.ToLower(string(tag[:n]))
}

// newText makes a text of source.
func newText(source []byte) text {
	t := text{source: source}
	var b strings.Builder
	b.Grow(len(source))
	gap := false
	for at := 0; at < len(source); {
		next := bytes.IndexByte(source[at:], '\n')
		if next < 0 {
			next = len(source) - at
		}
		content := source[at : at+next]
		l := line{at: at, start: b.Len(), gap: gap}
		l.indent = fold(&b, content)
		l.end = b.Len()
		at += next + 1
		if l.end == l.start {
			gap = true
			continue
		}
		gap = false
		t.lines = append(t.lines, l)
		b.WriteByte(' ')
	}
	t.raw = b.String()
	t.low = phrase.Lower(t.raw)
	return t
}

// fold writes content with each run of blanks as one blank and returns the number of blanks before it.
func fold(b *strings.Builder, content []byte) (indent int) {
	start := b.Len()
	blank := false
	for i, c := range content {
		if c <= ' ' || c == 0xa0 && i > 0 && content[i-1] == 0xc2 {
			blank = true
			continue
		}
		if c == 0xc2 && i+1 < len(content) && content[i+1] == 0xa0 { // no-break space
			continue
		}
		if b.Len() == start {
			indent = i
		} else if blank {
			b.WriteByte(' ')
		}
		blank = false
		b.WriteByte(c)
	}
	return indent
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
