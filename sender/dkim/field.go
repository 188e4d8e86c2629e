package dkim

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// fieldName begins the field and, in lower case, its canonical form.
const fieldName = "DKIM-Signature"

// lineOctets is where the lines of the field are folded: RFC 5322 section 2.1.1 asks for no more
// than 78.
const lineOctets = 76

// fieldBuilder writes a DKIM-Signature field, folded between tags.
type fieldBuilder struct {
	text []byte
	line int // octets in the last line
}

func (b *fieldBuilder) raw(s string) {
	b.text = append(b.text, s...)
	b.line += len(s)
}

func (b *fieldBuilder) fold() {
	b.text = append(b.text, "\r\n\t"...)
	b.line = 1
}

// tag appends " name=value;".
func (b *fieldBuilder) tag(name, value string) {
	if b.line+len(name)+len(value)+3 > lineOctets {
		b.fold()
	} else {
		b.raw(" ")
	}
	b.raw(name)
	b.raw("=")
	b.raw(value)
	b.raw(";")
}

// names appends the h= tag, which may be folded at its colons (RFC 6376 section 3.5).
func (b *fieldBuilder) names(list []string) {
	b.fold()
	b.raw("h=")
	for i, name := range list {
		if i > 0 {
			b.raw(":")
			if b.line+len(name)+1 > lineOctets {
				b.fold()
			}
		}
		b.raw(name)
	}
	b.raw(";")
}

// number appends a tag with a number, as times in seconds since 1970 are.
func (b *fieldBuilder) number(name string, n int64) {
	b.tag(name, strconv.FormatInt(n, 10))
}

// bodyHash appends the bh= tag on a line of its own.
func (b *fieldBuilder) bodyHash(sum [sha256.Size]byte) {
	b.fold()
	b.raw("bh=")
	b.text = append(base64.StdEncoding.AppendEncode(b.text, sum[:]), ';')
}

// signature appends the value of b=, which the text ends with, and the end of the field.
func (b *fieldBuilder) signature(signature []byte) {
	var room [1024]byte // for RSA keys of up to 6144 bits
	for s := base64.StdEncoding.AppendEncode(room[:0], signature); len(s) > 0; {
		if b.line >= lineOctets {
			b.fold()
		}
		n := min(len(s), lineOctets-b.line)
		b.text = append(b.text, s[:n]...)
		b.line += n
		s = s[n:]
	}
	b.raw("\r\n")
}

// quoted returns the value of an i= tag in the encoding that it demands (dkim-quoted-printable,
// RFC 6376 section 2.11).
func quoted(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ';' || c == '=' {
			b.WriteByte('=')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
