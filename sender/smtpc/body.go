package smtpc

import (
	"bufio"
	"bytes"
)

// dotWriter writes the body of a message after 354: it doubles the dot at the beginning of a
// line (RFC 5321 section 4.5.2) and ends the data. It works on runs, not on bytes: what needs no
// change goes through in one piece.
//
// It refuses a CR or LF outside a CRLF pair before the bytes around it are written.
type dotWriter struct {
	w *bufio.Writer
	// netErr is the first error of w, to tell it from an error of the message's source.
	netErr error

	dotAlone bool // the end of data goes out in a write of its own

	midLine bool // the last byte written is not the LF of a CRLF; false at the beginning
	heldCR  bool // the last chunk ended in CR, which waits for its LF
}

// Write implements io.Writer.
func (d *dotWriter) Write(p []byte) (int, error) {
	if d.netErr != nil {
		return 0, d.netErr
	}
	total := len(p)
	if total == 0 {
		return 0, nil
	}
	if d.heldCR {
		if p[0] != '\n' {
			return 0, ErrBareLineEnd
		}
		d.heldCR, d.midLine = false, false
		d.put(crlf)
		p = p[1:]
	}
	if n := len(p); n > 0 && p[n-1] == '\r' {
		d.heldCR = true
		p = p[:n-1]
	}
	if len(p) > 0 {
		if err := d.run(p); err != nil {
			return 0, err
		}
	}
	if d.netErr != nil {
		return 0, d.netErr
	}
	return total, nil
}

// run writes p, which neither begins inside a CRLF nor ends inside one.
func (d *dotWriter) run(p []byte) error {
	if !onlyCRLF(p) {
		return ErrBareLineEnd
	}
	if !d.midLine && p[0] == '.' {
		d.put(dot)
	}
	rest := p
	for {
		i := bytes.Index(rest, crlfDot)
		if i < 0 {
			break
		}
		d.put(rest[:i+len(crlfDot)])
		rest = rest[i+len(crlf):] // begins with the dot, which goes out a second time
	}
	d.put(rest)
	d.midLine = p[len(p)-1] != '\n'
	return nil
}

// onlyCRLF reports whether every CR in p is followed by LF and every LF follows a CR; p does not
// end in CR.
func onlyCRLF(p []byte) bool {
	pairs := 0
	for rest := p; ; pairs++ {
		i := bytes.IndexByte(rest, '\r')
		if i < 0 {
			return bytes.Count(p, lf) == pairs
		}
		if rest[i+1] != '\n' {
			return false
		}
		rest = rest[i+2:]
	}
}

// finish ends the data. A last line without an end gets one: RFC 5321 section 4.1.1.4.
func (d *dotWriter) finish() error {
	if d.heldCR {
		return ErrBareLineEnd
	}
	if d.midLine {
		d.put(crlf)
	}
	if d.dotAlone && d.netErr == nil {
		d.netErr = d.w.Flush()
	}
	d.put(endOfData)
	if d.netErr == nil {
		d.netErr = d.w.Flush()
	}
	return d.netErr
}

var (
	cr        = []byte("\r")
	lf        = []byte("\n")
	crlf      = []byte("\r\n")
	crlfDot   = []byte("\r\n.")
	dot       = []byte(".")
	endOfData = []byte(".\r\n")
)

func (d *dotWriter) put(p []byte) {
	if d.netErr == nil {
		_, d.netErr = d.w.Write(p)
	}
}
