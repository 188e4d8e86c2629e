package smtpd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// headroom is what is free in front of a message for the fields that are put there.
const headroom = 1024

// body is a message on its way in. The octets are received into the buffer in which they stay:
// nothing is moved but what follows a dot that was stuffed.
type body struct {
	*buffer
	limit int // of octets, without the headroom
	grow  func(*buffer) *buffer

	done  int  // b[headroom:done] is message
	next  int  // b[next:end] was received and is not looked at yet
	found int  // in b[next:found] is no LF
	end   int  // of what was received
	start bool // the octet at next begins a line, behind CRLF

	bare bool  // the message has a CR or LF that is not part of a CRLF
	lost error // why what comes is thrown away: errBodyTooLarge or errNoMemory
}

var (
	errBodyTooLarge = errors.New("message is too large")
	errNoMemory     = errors.New("no memory for the message")
)

// newBody returns a body in the buffer, which grow exchanges for a larger one that starts the
// same, or returns nil.
func newBody(b *buffer, limit int, grow func(*buffer) *buffer) *body {
	return &body{buffer: b, limit: limit, grow: grow, done: headroom, next: headroom, found: headroom, end: headroom, start: true}
}

// room returns where to read the next octets to, at least one.
func (d *body) room() []byte {
	if d.lost == nil && d.end == len(d.b) {
		if d.next-d.done >= min(len(d.b)/8, maxRead/2) {
			d.compact()
		} else if larger := d.grow(d.buffer); larger != nil {
			d.buffer = larger
		} else {
			d.lose(errNoMemory)
		}
	}
	if d.lost != nil {
		d.discard()
	}
	return d.b[d.end:min(len(d.b), d.end+maxRead)]
}

// compact closes the gap that stuffed dots have left.
func (d *body) compact() {
	gap := d.next - d.done
	copy(d.b[d.done:], d.b[d.next:d.end])
	d.next, d.found, d.end = d.done, d.found-gap, d.end-gap
}

func (d *body) lose(err error) {
	d.lost = err
	d.discard()
}

// discard forgets the message but what tells where it ends.
func (d *body) discard() {
	rest := d.b[d.next:d.end]
	if len(rest) > len(".\r\n") { // not the line that ends it
		rest, d.start = rest[len(rest)-1:], false
	}
	d.done, d.next = headroom, headroom
	d.end = headroom + copy(d.b[headroom:], rest)
	d.found = d.end
}

// take looks at what was received, n octets more than the last time. It reports whether that holds
// the end of the message, CRLF "." CRLF and nothing else; then d.b[d.next:d.end] is what follows.
func (d *body) take(n int) (complete bool) {
	d.end += n
	for {
		i := bytes.IndexByte(d.b[d.found:d.end], '\n')
		if i < 0 {
			d.found = d.end
			break
		}
		line := d.b[d.next : d.found+i+1]
		d.next += len(line)
		d.found = d.next
		text, crlf := bytes.CutSuffix(line, []byte("\r\n"))
		if d.start && line[0] == '.' {
			if crlf && len(text) == 1 {
				return true
			}
			line = line[1:] // RFC 5321 section 4.5.2
		}
		d.start = crlf
		d.bare = d.bare || !crlf || bytes.IndexByte(text, '\r') >= 0
		d.keep(line)
	}
	if d.lost == nil && d.end-d.next+d.done-headroom > d.limit+len(".\r\n") {
		d.lose(errBodyTooLarge)
	}
	return false
}

// keep makes line, which stands behind the message in the buffer, a part of it.
func (d *body) keep(line []byte) {
	if d.lost != nil {
		return
	}
	if d.done-headroom+len(line) > d.limit {
		d.lost = errBodyTooLarge
		return
	}
	if d.next-len(line) != d.done {
		copy(d.b[d.done:], line)
	}
	d.done += len(line)
}

// chunk reads n octets of BDAT, whatever they are, and makes them a part of the message. Its error
// is one of reading.
func (d *body) chunk(n int64, read func([]byte) (int, error)) error {
	if d.lost == nil && n > int64(d.limit-(d.done-headroom)) {
		d.lost = errBodyTooLarge
	}
	for n > 0 {
		d.next, d.end = d.done, d.done
		room := d.room()
		if int64(len(room)) > n {
			room = room[:n]
		}
		got, err := read(room)
		if err != nil {
			return err
		}
		n -= int64(got)
		if d.lost == nil {
			d.done += got
		}
	}
	return nil
}

// message returns the message, with the room in front of it that is free.
func (d *body) message() message { return message{d.b, headroom, d.done} }

// message is a message in a buffer: b[start:end], with room in front of it.
type message struct {
	b          []byte
	start, end int
}

func (m message) bytes() []byte { return m.b[m.start:m.end:m.end] }

// hasBareNewline reports whether a CR or LF in b is not part of a CRLF.
func hasBareNewline(b []byte) bool {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return bytes.IndexByte(b, '\r') >= 0
		}
		if i == 0 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
			return true
		}
		b = b[i+1:]
	}
	return false
}

// receiveBody reads the body of DATA up to its end. What follows it waits to be read as commands.
// Its error is one of reading, or wraps errBodyTooLarge or errNoMemory when the message has come
// and is lost.
func (c *conn) receiveBody(d *body) error {
	for {
		n := copy(d.room(), c.in[c.taken:])
		if c.taken += n; n == 0 {
			if err := c.flush(); err != nil {
				return err
			}
			var err error
			if n, err = c.stream.Read(d.room()); n == 0 {
				return fmt.Errorf("%w: %w", errIncomplete, noEOF(err))
			}
		}
		if d.take(n) {
			c.unread(d.b[d.next:d.end])
			return d.lost
		}
	}
}

// read reads what was received already, or else what comes.
func (c *conn) read(b []byte) (int, error) {
	if n := copy(b, c.in[c.taken:]); n > 0 {
		c.taken += n
		return n, nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	n, err := c.stream.Read(b)
	if n > 0 {
		return n, nil // an error comes again
	}
	return 0, fmt.Errorf("%w: %w", errIncomplete, noEOF(err))
}

// unread puts octets back in front of those that were received.
func (c *conn) unread(b []byte) {
	if len(b) <= c.taken {
		c.taken -= len(b)
		copy(c.in[c.taken:], b)
		return
	}
	c.in = slices.Concat(b, c.in[c.taken:])
	c.taken = 0
}

func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
