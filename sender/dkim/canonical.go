package dkim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
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

// flushBytes is how much of a canonical body is gathered before it is hashed: enough that calls
// cost nothing, little enough to stay in the first-level cache.
const flushBytes = 8 << 10

// bodyHasher hashes the canonical form of a body that is written to it piece by piece. A line may
// end in LF alone: it counts as CRLF, which it becomes on the wire.
type bodyHasher struct {
	hash    hash.Hash
	simple  bool
	ends    int    // ends of line that count only if something follows
	partial []byte // of a line whose end was not in the last piece
	out     []byte // canonical, not hashed yet
	any     bool   // line that is not empty
}

// hashers holds *bodyHasher between signatures.
var hashers = sync.Pool{New: func() any { return &bodyHasher{hash: sha256.New()} }}

// release puts h back into hashers, unless a long line has made it big.
func (h *bodyHasher) release() {
	if cap(h.out)+cap(h.partial) <= 16*flushBytes {
		hashers.Put(h)
	}
}

func (h *bodyHasher) reset(c Canonicalization) {
	h.hash.Reset()
	h.simple, h.ends, h.any = c == Simple, 0, false
	h.partial, h.out = h.partial[:0], h.out[:0]
}

// Write is io.Writer's. It returns no error.
func (h *bodyHasher) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			h.partial = append(h.partial, b...)
			return n, nil
		}
		line := b[:i]
		if len(h.partial) > 0 {
			h.partial = append(h.partial, line...)
			line = h.partial
		}
		h.line(bytes.TrimSuffix(line, []byte("\r")))
		h.partial = h.partial[:0]
		b = b[i+1:]
	}
}

// sum ends the body and returns its hash.
func (h *bodyHasher) sum() []byte {
	if len(h.partial) > 0 {
		h.line(h.partial)
	}
	if h.any || h.simple {
		h.out = append(h.out, "\r\n"...)
	}
	h.flush()
	return h.hash.Sum(nil)
}

// line takes a line without its end.
func (h *bodyHasher) line(line []byte) {
	if !h.simple {
		for len(line) > 0 && isBlank(line[len(line)-1]) {
			line = line[:len(line)-1]
		}
	}
	if len(line) > 0 {
		for ; h.ends > 0; h.ends-- {
			h.out = append(h.out, "\r\n"...)
			h.flushIfFull()
		}
		if h.simple {
			h.out = append(h.out, line...)
		} else {
			h.out = appendReduced(h.out, line)
		}
		h.any = true
		h.flushIfFull()
	}
	h.ends++
}

func (h *bodyHasher) flushIfFull() {
	if len(h.out) >= flushBytes {
		h.flush()
	}
}

func (h *bodyHasher) flush() {
	_, _ = h.hash.Write(h.out) // never fails: hash.Hash says so
	h.out = h.out[:0]
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
