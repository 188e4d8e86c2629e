package dkim

import (
	"bytes"
	"encoding/binary"
)

// Canonicalization is how much change on the way a signature tolerates (RFC 6376 section 3.4).
// The zero value is Relaxed.
type Canonicalization int

// The two that RFC 6376 has.
const (
	Relaxed Canonicalization = iota // white space may change
	Simple                          // nothing may
)

// String returns the word that stands in c=.
func (c Canonicalization) String() string {
	if c == Simple {
		return "simple"
	}
	return "relaxed"
}

// writeBody writes the canonical form of body to w.hash and returns its octets. A line may end in LF
// alone: it counts as CRLF.
//
// What is canonical as it stands, nearly always the whole body, is hashed where it lies.
func writeBody(w *work, c Canonicalization, body []byte) (octets int64) {
	put := func(b []byte) {
		_, _ = w.hash.Write(b) // never fails: hash.Hash says so
		octets += int64(len(b))
	}
	var (
		run, end int  // body[run:end] is canonical and not hashed yet; it ends in no end of line
		ends     int  // ends of line owed behind it, which count only if something follows
		any      bool // line that is not empty
	)
	for at := 0; at < len(body); {
		line, next := body[at:], len(body)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, next = line[:i], at+i+1
			line = bytes.TrimSuffix(line, []byte("\r"))
		}
		if c == Relaxed {
			for len(line) > 0 && isBlank(line[len(line)-1]) {
				line = line[:len(line)-1]
			}
		}
		if len(line) > 0 {
			any = true
			asIs := c == Simple || isReduced(line)
			if !asIs || at != end+2*ends || !isEnds(body[end:at]) {
				put(body[run:end])
				for ; ends > 0; ends-- {
					put(crlf)
				}
				run = at
			}
			end, ends = at+len(line), 0
			if !asIs {
				w.text = appendReduced(w.text[:0], line)
				put(w.text)
				run, end = next, next // nothing; what follows never joins it
			}
		}
		ends++
		at = next
	}
	put(body[run:end])
	if any || c == Simple {
		put(crlf) // RFC 6376 section 3.4.3: a simple empty body is a CRLF
	}
	return octets
}

var crlf = []byte("\r\n")

// isEnds reports whether b is nothing but ends of line.
func isEnds(b []byte) bool {
	for ; len(b) >= 2; b = b[2:] {
		if b[0] != '\r' || b[1] != '\n' {
			return false
		}
	}
	return len(b) == 0
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// appendReduced appends line with each run of blanks and tabs made one blank.
func appendReduced(out, line []byte) []byte {
	if isReduced(line) {
		return append(out, line...) // nearly always
	}
	blank := false
	for _, c := range line {
		if isBlank(c) {
			blank = true
			continue
		}
		if blank {
			out = append(out, ' ')
			blank = false
		}
		out = append(out, c)
	}
	return out
}

// isReduced reports whether line has no tab and no two blanks in a row. It looks at eight bytes at
// a time: every byte of a body comes by here.
func isReduced(line []byte) bool {
	const (
		each = 0x0101010101010101
		low  = 0x7f * each // the seven low bits of each byte
	)
	before := uint64(0) // 0x80 if the byte before is a blank
	for ; len(line) >= 8; line = line[8:] {
		word := binary.LittleEndian.Uint64(line)
		tab, blank := word^'\t'*each, word^' '*each // a byte is 0 where it is one
		blanks := ^(blank&low + low | blank | low)  // a byte is 0x80 where it is one
		if (tab-each)&^tab&^low != 0 || blanks&(blanks<<8|before) != 0 {
			return false
		}
		before = blanks >> 56
	}
	blank := before != 0
	for _, c := range line {
		if c == '\t' || c == ' ' && blank {
			return false
		}
		blank = c == ' '
	}
	return true
}

// appendField appends the canonical form of a header field, both without the end of line.
func appendField(out []byte, c Canonicalization, field []byte) []byte {
	if c == Simple {
		return append(out, field...)
	}
	name, value, _ := bytes.Cut(field, []byte(":"))
	at := len(out)
	out = append(out, bytes.Trim(name, " \t")...)
	for i, c := range out[at:] {
		if 'A' <= c && c <= 'Z' {
			out[at+i] = c + 'a' - 'A'
		}
	}
	out = append(out, ':')
	// Every CR and LF inside the value belongs to a fold, which is white space.
	blank, start := false, len(out)
	for _, c := range value {
		if isBlank(c) || c == '\r' || c == '\n' {
			blank = true
			continue
		}
		if blank && len(out) > start {
			out = append(out, ' ')
		}
		blank = false
		out = append(out, c)
	}
	return out
}
