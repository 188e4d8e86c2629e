package deliver

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"carom/ingest/correlate"
	"carom/sender/queue"
	"carom/sender/schedule"
	"carom/sender/smtpc"
	"carom/sender/spool"
)

// tokenLife is how long a reference token is believed after the message was accepted. Receivers
// report complaints for weeks; none is known to do so after two months.
const tokenLife = 60 * 24 * time.Hour

// mail is a message that was read for an attempt.
type mail struct {
	envelope *spool.Envelope
	content  []byte

	signatures signatures // made for the last transaction
	hosts      urlNames   // of its URLs
}

// hasVERP reports whether the message is read and each recipient is to have a return path of his own.
func (m *mail) hasVERP() bool { return m != nil && m.envelope.Attrs[AttrVERP] != "" }

// due returns when the message may be sent, and whether that is now: x-schedule has windows. Behind the
// last one that is when it expires.
func (m *mail) due(now time.Time, expires queue.Moment) (time.Time, bool) {
	text := m.envelope.Attrs[AttrSchedule]
	if text == "" {
		return now, true
	}
	windows, err := schedule.Parse(text, time.UTC)
	if err != nil {
		return now, true // the node wrote it itself
	}
	due, ok := windows.Next(now)
	if !ok {
		return expires.Time(), false
	}
	return due, !due.After(now)
}

// load reads a message, less the header fields that the queue removes, and with the Date that it is to
// get only now.
func (s *session) load(item *queue.Item) (*mail, error) {
	envelope, content, err := s.Mail.Read(item.Message)
	if err != nil {
		return nil, err
	}
	if envelope.Attrs[AttrDate] != "" {
		content = withDate(content, time.Now())
	}
	if names := s.way.settings.RemoveHeader; len(names) > 0 {
		content = withoutFields(content, names)
	}
	return &mail{envelope: envelope, content: content}, nil
}

// withDate returns a message with a Date field in front.
func withDate(content []byte, now time.Time) []byte {
	const field = "Date: " + time.RFC1123Z + "\r\n"
	dated := make([]byte, 0, len(field)+len(content))
	dated = now.UTC().AppendFormat(append(dated, "Date: "...), time.RFC1123Z)
	return append(append(dated, "\r\n"...), content...)
}

// withoutFields returns a message without the header fields of those names, which are in lower case.
// A field is its line and the lines behind it that begin with a blank (RFC 5322 section 2.2.3).
func withoutFields(content []byte, names []string) []byte {
	out := make([]byte, 0, len(content))
	removed := false
	for rest := content; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		if len(bytes.TrimRight(line, "\r\n")) == 0 { // the end of the header
			return append(append(out, line...), rest...)
		}
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := bytes.Cut(line, []byte{':'})
			removed = slices.Contains(names, strings.ToLower(string(bytes.TrimRight(name, " \t"))))
		}
		if !removed {
			out = append(out, line...)
		}
	}
	return out
}

// transaction builds what is sent: the stored message with carom's reference and a signature in
// front. It returns the domains that signed.
func (s *session) transaction(m *mail, item *queue.Item) (smtpc.Transaction, []string, error) {
	t := smtpc.Transaction{
		From: m.envelope.From, EnvID: m.envelope.EnvID, Ret: m.envelope.Ret, BeforeEnd: s.beforeEnd,
		Needs8Bit: !isASCII(m.content), Recipients: s.rcpts[:0], NeedsUTF8: !isASCIIString(m.envelope.From),
	}
	for _, index := range item.Recipients {
		r := &m.envelope.Recipients[index]
		t.Recipients = append(t.Recipients, smtpc.Rcpt{Address: r.Address, ORcpt: r.ORcpt, Notify: notify(r.Notify)})
		t.NeedsUTF8 = t.NeedsUTF8 || !isASCIIString(r.Address)
	}
	s.rcpts = t.Recipients
	if m.hasVERP() && len(item.Recipients) == 1 {
		t.From = verp(m.envelope.From, t.Recipients[0].Address)
	}
	s.head = s.head[:0]
	if s.Keys != nil && len(item.Recipients) == 1 {
		index := item.Recipients[0]
		token, err := s.Keys.Sign(item.Message, index, m.envelope.Recipients[index].Address, item.Arrived.Time().Add(tokenLife))
		if err != nil {
			return t, nil, err
		}
		s.head = append(append(append(append(s.head, correlate.Field...), ": "...), token...), "\r\n"...)
		if t.EnvID == "" {
			t.EnvID = token
		}
		if s.way.settings.BounceDomain != "" && t.From != "" {
			t.From = token + "@" + s.way.settings.BounceDomain
		}
	}
	signature, domains := s.way.signer.sign(m)
	s.body = buffers{s.head, signature, m.content}
	for _, part := range s.body {
		t.Size += int64(len(part))
	}
	t.Body = &s.body
	return t, domains, nil
}

// verp returns PowerMTA's variable return path: jsmith@example.com to jdoe@yahoo.com becomes
// jsmith-jdoe=yahoo.com@example.com. A local part that is no dot-string (RFC 5321 section 4.1.2) is quoted.
func verp(from, to string) string {
	local, domain, ok := cutAt(from)
	name, at, known := cutAt(to)
	if !ok || !known {
		return from
	}
	local = unquoted(local) + "-" + unquoted(name) + "=" + at
	if strings.ContainsAny(local, ` "(),:;<>[\]`) || strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") || strings.Contains(local, "..") {
		local = `"` + local + `"`
	}
	return local + "@" + domain
}

// cutAt parts an address at its last @.
func cutAt(address string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return "", "", false
	}
	return address[:i], address[i+1:], true
}

// unquoted returns a local part without its quotes, with the backslashes in it.
func unquoted(local string) string {
	if len(local) >= 2 && local[0] == '"' && local[len(local)-1] == '"' {
		return local[1 : len(local)-1]
	}
	return local
}

// notify reads the value of NOTIFY (RFC 3461 section 4.1) as the spool keeps it; words that are
// none do not count.
func notify(value string) smtpc.Notify {
	if value == "" {
		return 0
	}
	var n smtpc.Notify
	for word := range strings.SplitSeq(value, ",") {
		switch strings.ToUpper(strings.TrimSpace(word)) {
		case "NEVER":
			return smtpc.NotifyNever
		case "SUCCESS":
			n |= smtpc.NotifySuccess
		case "FAILURE":
			n |= smtpc.NotifyFailure
		case "DELAY":
			n |= smtpc.NotifyDelay
		}
	}
	return n
}

// buffers is a body in parts: reference, signature, message. Unlike net.Buffers it can be written
// again.
type buffers [3][]byte

// WriteTo is part of io.WriterTo.
func (b *buffers) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, part := range b {
		if len(part) == 0 {
			continue
		}
		n, err := w.Write(part)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// isASCII looks at eight bytes at a time: it sees every byte of every message.
func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isASCIIString is isASCII for an address.
func isASCIIString(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
