package mime

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
)

// decode undoes transfer encoding and, for text, charset, as far as they are known. What is broken
// in them is read around.
func decode(encoding, mediaType, charsetName string, body []byte, limit int) (decoded []byte, cut bool) {
	switch transferEncoding(encoding) {
	case "base64":
		body, cut = base64Decoded(body, limit)
	case "quoted-printable":
		body, cut = quotedPrintableDecoded(body, limit)
	default:
		body, cut = cutAt(body, limit)
	}
	if !strings.HasPrefix(mediaType, "text/") {
		return body, cut
	}
	text, again := cutAt(toUTF8(charsetName, body, limit), limit)
	return text, cut || again
}

// transferEncoding returns the word of a Content-Transfer-Encoding, lower-case: what follows it, a
// comment as a rule, does not count.
func transferEncoding(value string) string {
	if end := strings.IndexAny(value, " \t;("); end >= 0 {
		value = value[:end]
	}
	return strings.ToLower(value)
}

func cutAt(body []byte, limit int) (rest []byte, cut bool) {
	if len(body) > limit {
		return body[:limit:limit], true
	}
	return body, false
}

// base64Values holds the value of each byte of the alphabet of RFC 4648 section 4, and noBase64.
var base64Values = func() (values [256]byte) {
	for i := range values {
		values[i] = noBase64
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range len(alphabet) {
		values[alphabet[i]] = byte(i) //nolint:gosec // below 64
	}
	return values
}()

const noBase64 = 0xff

// base64Decoded decodes body until limit bytes are there. Bytes that are not of the alphabet are
// ignored, as RFC 2045 section 6.8 asks. Padding ends a group and not the text: reports are pasted
// together.
func base64Decoded(body []byte, limit int) (decoded []byte, cut bool) {
	decoded = make([]byte, 0, min(len(body)/4*3+3, limit+3))
	var group uint32
	n := 0 // sextets in group
	for _, c := range body {
		v := base64Values[c]
		if v == noBase64 {
			if c == '=' && n > 0 {
				decoded = appendGroup(decoded, group, n)
				group, n = 0, 0
			}
			continue
		}
		group = group<<6 | uint32(v)
		if n++; n < 4 {
			continue
		}
		decoded = append(decoded, byte(group>>16), byte(group>>8), byte(group)) //nolint:gosec // the bytes of it
		group, n = 0, 0
		if len(decoded) > limit {
			return decoded[:limit], true
		}
	}
	return cutAt(appendGroup(decoded, group, n), limit)
}

// appendGroup appends the whole bytes of a group of n sextets, fewer than four.
func appendGroup(decoded []byte, group uint32, n int) []byte {
	switch n {
	case 2:
		return append(decoded, byte(group>>4)) //nolint:gosec // the bytes of it
	case 3:
		return append(decoded, byte(group>>10), byte(group>>2)) //nolint:gosec // the bytes of it
	}
	return decoded
}

// quotedPrintableDecoded decodes body until limit bytes are there (RFC 2045 section 6.7). An "="
// that begins nothing stands for itself.
func quotedPrintableDecoded(body []byte, limit int) (decoded []byte, cut bool) {
	decoded = make([]byte, 0, min(len(body), limit+2))
	for len(body) > 0 {
		if len(decoded) > limit {
			return decoded[:limit], true
		}
		line, rest, ended := bytes.Cut(body, []byte{'\n'})
		crlf := bytes.HasSuffix(line, []byte{'\r'})
		line = bytes.TrimRight(line, " \t\r") // (3): blanks at the end were added on the way
		soft := bytes.HasSuffix(line, []byte{'='})
		if soft {
			line = line[:len(line)-1]
		}
		decoded = appendUnquoted(decoded, line, limit)
		if ended && !soft {
			if crlf {
				decoded = append(decoded, '\r')
			}
			decoded = append(decoded, '\n')
		}
		body = rest
	}
	return cutAt(decoded, limit)
}

// appendUnquoted appends line with its "=XY" undone, up to one byte more than limit.
func appendUnquoted(decoded, line []byte, limit int) []byte {
	for len(decoded) <= limit && len(line) > 0 {
		if line[0] == '=' {
			b, ok := hexByte(line[1:])
			if ok {
				line = line[3:]
			} else {
				b, line = '=', line[1:]
			}
			decoded = append(decoded, b)
			continue
		}
		end := bytes.IndexByte(line, '=')
		if end < 0 {
			end = len(line)
		}
		decoded = append(decoded, line[:min(end, limit+1-len(decoded))]...)
		line = line[end:]
	}
	return decoded
}

// hexByte reads two hexadecimal digits, of either case.
func hexByte(s []byte) (b byte, ok bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, low := hexDigit(s[0]), hexDigit(s[1])
	return high<<4 | low&0xf, high < 16 && low < 16
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return noHex
}

const noHex = 0xff

// toUTF8 returns text in UTF-8, where it may be three times as long; of a text in another charset at
// least limit bytes, if there are as many. Of a charset that nobody knows, and of one that the text is not
// in, it makes the best: UTF-8 as it is, and anything else as Windows-1252, the superset of
// ISO 8859-1 that mail without a charset is in most often.
func toUTF8(name string, text []byte, limit int) []byte {
	switch name = strings.ToLower(strings.Trim(name, " '\"")); name {
	case "", "us-ascii", "ascii", "utf-8", "utf8":
	default:
		if converted, err := convert(name, text, limit); err == nil {
			return converted
		}
	}
	if utf8.Valid(text) {
		return text
	}
	if converted, err := convert("windows-1252", text, limit); err == nil {
		return converted
	}
	return bytes.ToValidUTF8(text, []byte("\uFFFD"))
}

// convert converts text from a charset to UTF-8, up to a little more than limit bytes. The error says
// that the charset is unknown.
func convert(name string, text []byte, limit int) ([]byte, error) {
	r, err := charset.Reader(name, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(min(len(text)+len(text)/8, limit) + bytes.MinRead)
	// An error says that the text ends within a character; what stands before is used.
	_, _ = b.ReadFrom(io.LimitReader(r, int64(limit)+utf8.UTFMax))
	return b.Bytes(), nil
}
