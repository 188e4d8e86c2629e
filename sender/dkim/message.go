package dkim

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"sync"
)

// Message is a message to be signed. It keeps what signatures of it have in common: the hash of
// its body and what stands in its header. It is for one goroutine at a time.
type Message struct {
	header, body []byte
	bodies       [Simple + 1]bodyHash // by canonicalization

	set    *fieldSet // that fields were chosen by
	fields fields
	err    error
}

// NewMessage returns a message to be signed. The text, which is the caller's, must not change
// while the Message is in use. Its lines end in CRLF; an LF alone counts as one, which it becomes
// on the wire.
func NewMessage(text []byte) *Message {
	end := headerEnd(text)
	return &Message{header: text[:end], body: text[end:]}
}

// headerEnd returns where the body of message begins: behind the first empty line.
func headerEnd(message []byte) int {
	if bytes.HasPrefix(message, []byte("\r\n")) {
		return 2
	}
	if i := bytes.Index(message, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return len(message)
}

// scan returns what set finds in the header. It is the Message's.
func (m *Message) scan(set *fieldSet) (*fields, error) {
	if m.set != set {
		m.fields, m.err = set.scan(m.header)
		m.set = set
	}
	return &m.fields, m.err
}

// bodyHash is the hash of a canonical body.
type bodyHash struct {
	done   bool
	sum    [sha256.Size]byte
	octets int64 // in the canonical body
}

func (m *Message) hashBody(c Canonicalization) bodyHash {
	b := &m.bodies[c]
	if !b.done {
		w := works.Get().(*work) //nolint:errcheck // the pool holds nothing else
		w.hash.Reset()
		b.octets = writeBody(w, c, m.body)
		w.hash.Sum(b.sum[:0])
		w.release()
		b.done = true
	}
	return *b
}

// work is memory for one signature.
type work struct {
	hash   hash.Hash
	text   []byte
	digest [sha256.Size]byte
}

// works holds *work between signatures.
var works = sync.Pool{New: func() any { return &work{hash: sha256.New()} }}

// maxWorkBytes is the text that a work may keep: more than all but the oddest header has.
const maxWorkBytes = 64 << 10

// release puts w back into works, unless a long line has made it big.
func (w *work) release() {
	if cap(w.text) <= maxWorkBytes {
		works.Put(w)
	}
}
