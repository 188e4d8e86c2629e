package notice

import (
	"bytes"
	"strings"

	"carom/ingest/mime"
)

// telling are the fields that a message has and the text of a notice hasn't. A block of fields with
// one of them is the header of the message that comes back.
var telling = map[string]bool{
	"received": true, "return-path": true, "message-id": true, "mime-version": true, "dkim-signature": true,
	"x-mailer": true, "delivered-to": true, "x-received": true,
	"domainkey-signature": true, "authentication-results": true, "arc-seal": true, "x-google-dkim-signature": true,
}

// notReturned are fields of a report's machine part: a block with one of them is read by package dsn.
var notReturned = map[string]bool{
	"final-recipient": true, "original-recipient": true, "reporting-mta": true, "action": true, "diagnostic-code": true,
}

// maxHeaderLines is how far a block of fields is read to see what it is.
const maxHeaderLines = 200

// returnedAt returns the line of t with which the returned message begins; len(t.lines) without one.
func (t *text) returnedAt() int {
	for n := 0; n < len(t.lines); {
		length, returned := t.block(n)
		if returned {
			return n
		}
		n += max(length, 1)
	}
	return len(t.lines)
}

// block returns the number of lines, from line n on, that are fields without a blank line between
// them, and whether they are the header of a message.
func (t *text) block(n int) (length int, returned bool) {
	fields := 0
	other := false
	for i := n; i < len(t.lines) && i-n < maxHeaderLines; i++ {
		l := t.lines[i]
		if i > n && l.gap {
			break
		}
		name, indent := t.fieldName(l)
		if name == "" {
			if indent > 0 && i > n { // a continuation
				length++
				continue
			}
			break
		}
		if indent > 0 {
			if i > n { // "Received: from a\n  by b; Thu: ..." reads on
				length++
				continue
			}
			break
		}
		length++
		fields++
		other = other || notReturned[name]
		returned = returned || telling[name]
	}
	return length, returned && !other && (fields > 1 || length > 1 || t.isReceived(n))
}

// isReceived reports whether line n begins a Received field with its usual first word.
func (t *text) isReceived(n int) bool {
	return strings.HasPrefix(strings.TrimLeft(t.low[t.lines[n].start:], "> "), "received: from ")
}

// fieldName returns the lower-case name of the field that begins in l, "" if none does, and the
// number of blanks before it. The marks of a quotation are left out.
func (t *text) fieldName(l line) (name string, indent int) {
	content := t.low[l.start:l.end]
	indent = l.indent
	if quoted := strings.TrimLeft(content, ">"); len(quoted) < len(content) {
		content = strings.TrimLeft(quoted, " ")
		indent = max(0, len(quoted)-len(content)-1)
	}
	colon := strings.IndexByte(content, ':')
	if colon <= 0 || colon > 40 {
		return "", indent
	}
	name = strings.TrimRight(content[:colon], " ")
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "", indent
		}
	}
	return name, indent
}

// headerFrom returns the header that begins in line n of t.
func (t *text) headerFrom(n int) mime.Header {
	if n >= len(t.lines) {
		return mime.Header{}
	}
	source := t.source[t.lines[n].at:]
	if bytes.HasPrefix(source, []byte(">")) {
		source = unquoted(source)
	}
	// A header that is too long comes back as far as the limit goes, and that is enough here.
	header, _, _ := mime.ParseHeader(source, 0)
	return header
}

// unquoted returns the lines at the beginning of source that are quoted, without their mark.
func unquoted(source []byte) []byte {
	var lines []byte
	for len(source) > 0 && source[0] == '>' {
		end := bytes.IndexByte(source, '\n') + 1
		if end == 0 {
			end = len(source)
		}
		lines = append(lines, bytes.TrimPrefix(source[1:end], []byte{' '})...)
		source = source[end:]
	}
	return lines
}

// statusFields returns the fields of a delivery status that stand in the text (RFC 3464 section 2.3
// without a part of its own), nil without them.
func (t *text) statusFields() []byte {
	first := -1
	found := false
	for n, l := range t.lines {
		switch name, _ := t.fieldName(l); name {
		case "final-recipient", "original-recipient":
			found = true
			if first < 0 {
				first = n
			}
		case "reporting-mta", "action", "status", "diagnostic-code":
			if first < 0 {
				first = n
			}
		}
	}
	if !found {
		return nil
	}
	l := t.lines[first]
	fields := t.source[l.at:]
	if l.indent == 0 {
		return fields
	}
	margin := fields[:l.indent]
	return bytes.ReplaceAll(fields[l.indent:], append([]byte{'\n'}, margin...), []byte{'\n'})
}
