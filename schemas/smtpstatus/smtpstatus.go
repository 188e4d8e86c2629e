// Package smtpstatus holds what an SMTP server answers: reply codes (RFC 5321 section 4.2) and
// enhanced status codes (RFC 3463, RFC 5248).
//
// It parses and prints values; it reads no connection and judges no reply. Values are immutable
// by custom and safe for concurrent use.
package smtpstatus

import (
	"strconv"
	"strings"
)

// Enhanced is an enhanced status code, RFC 3463 section 2: class "." subject "." detail.
// The zero value means that there was none.
type Enhanced struct {
	Class, Subject, Detail uint16
}

// IsZero reports whether there is no enhanced status code.
func (e Enhanced) IsZero() bool { return e == Enhanced{} }

// String returns the code as in "5.1.1", or "" for the zero value.
func (e Enhanced) String() string {
	if e.IsZero() {
		return ""
	}
	var text [len("5.999.999")]byte
	b := strconv.AppendUint(text[:0], uint64(e.Class), 10)
	b = strconv.AppendUint(append(b, '.'), uint64(e.Subject), 10)
	return string(strconv.AppendUint(append(b, '.'), uint64(e.Detail), 10))
}

// ParseEnhanced returns the enhanced status code at the beginning of s and what follows it with
// leading blanks removed. Without one it returns the zero value and s.
func ParseEnhanced(s string) (code Enhanced, rest string) {
	word, rest, _ := strings.Cut(s, " ")
	var n [3]uint16
	part, digits := 0, 0
	for i := range len(word) {
		switch c := word[i]; {
		case c >= '0' && c <= '9' && digits < 3: // RFC 3463 section 2: 1 to 3 digits
			n[part] = 10*n[part] + uint16(c-'0')
			digits++
		case c == '.' && digits > 0 && part < 2:
			part, digits = part+1, 0
		default:
			return Enhanced{}, s
		}
	}
	if part != 2 || digits == 0 {
		return Enhanced{}, s
	}
	if n[0] != 2 && n[0] != 4 && n[0] != 5 {
		return Enhanced{}, s
	}
	return Enhanced{Class: n[0], Subject: n[1], Detail: n[2]}, strings.TrimLeft(rest, " ")
}

// Reply is one SMTP reply. The zero value means that the peer sent none.
type Reply struct {
	Code     int      // 200 to 599, RFC 5321 section 4.2.1
	Enhanced Enhanced // of the first line; zero if the peer sends none
	Lines    []string // text of each line behind code and separator, enhanced codes kept
}

// New returns a reply with one line of text, from which the enhanced status code is taken.
func New(code int, text string) Reply {
	enhanced, _ := ParseEnhanced(text)
	return Reply{Code: code, Enhanced: enhanced, Lines: []string{text}}
}

// Parse reads a reply written on one line or on several, as String writes it ("550 5.1.1 no such
// user"). Text without a code at its beginning gives a reply with Code 0 and the text as it is.
func Parse(text string) Reply {
	var r Reply
	for line := range strings.SplitSeq(strings.TrimRight(text, "\r\n"), "\n") {
		line = strings.TrimRight(line, "\r")
		if code, rest, ok := cutCode(line); ok && (r.Code == 0 || r.Code == code) {
			r.Code, line = code, rest
		}
		r.Lines = append(r.Lines, line)
	}
	r.Enhanced, _ = ParseEnhanced(r.Lines[0])
	return r
}

// cutCode splits "250-text", "250 text" and "250".
func cutCode(line string) (code int, text string, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, "", false
	}
	code, err := strconv.Atoi(line[:3])
	if err != nil || code < 200 || code > 599 {
		return 0, "", false
	}
	if len(line) > 3 {
		text = line[4:]
	}
	return code, text, true
}

// IsZero reports whether there is no reply.
func (r Reply) IsZero() bool { return r.Code == 0 && len(r.Lines) == 0 }

// Positive reports whether the command succeeded (2yz) or may go on (3yz).
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 400 }

// Transient reports whether the reply is a transient negative completion (4yz).
func (r Reply) Transient() bool { return r.Code >= 400 && r.Code < 500 }

// Permanent reports whether the reply is a permanent negative completion (5yz).
func (r Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// String returns the reply on one line: the code, then the lines joined by blanks; enhanced
// codes that only repeat the first line's are left out of the later lines.
func (r Reply) String() string {
	if r.IsZero() {
		return ""
	}
	size := len("250")
	for _, line := range r.Lines {
		size += 1 + len(line)
	}
	var b strings.Builder
	b.Grow(size)
	if r.Code != 0 {
		b.WriteString(strconv.Itoa(r.Code))
	}
	for i, line := range r.Lines {
		if i > 0 {
			if enhanced, rest := ParseEnhanced(line); !enhanced.IsZero() && enhanced == r.Enhanced {
				line = rest
			}
		}
		if line == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(line)
	}
	return b.String()
}
