package smtpd

import (
	"bytes"
	"net/netip"
	"strconv"
	"time"

	"carom/sender/config"
)

// assemble returns the message with our fields in front and without those that are removed. It
// uses the room in front of the message; where that does not do it makes a copy.
func (s *session) assemble(m *Message, in message, header fields, rest []byte) []byte {
	added := s.added(m, header)
	if !bytes.HasPrefix(rest, []byte("\r\n")) {
		return join(added, header, rest)
	}
	at := in.end - len(rest)
	for i := len(header) - 1; i >= 0; i-- {
		if f := &header[i]; !f.removed {
			end := at
			at -= len(f.raw)
			copy(in.b[at:end], f.raw)
		}
	}
	if len(added) > at {
		return append(append(make([]byte, 0, len(added)+in.end-at), added...), in.b[at:in.end]...)
	}
	at -= len(added)
	copy(in.b[at:], added)
	return in.b[at:in.end:in.end]
}

// join is assemble for a message whose header does not end as it should.
func join(added []byte, header fields, rest []byte) []byte {
	size := len(added) + len(rest) + 2*len("\r\n")
	for _, f := range header {
		size += len(f.raw)
	}
	b := append(make([]byte, 0, size), added...)
	for _, f := range header {
		if !f.removed {
			b = append(b, f.raw...)
		}
	}
	if len(b) > 0 && b[len(b)-1] != '\n' { // BDAT may end a message anywhere
		b = append(b, "\r\n"...)
	}
	if !bytes.HasPrefix(rest, []byte("\r\n")) {
		b = append(b, "\r\n"...)
	}
	return append(b, rest...)
}

// added returns the fields that go in front of the message, in memory that the next call uses again.
func (s *session) added(m *Message, header fields) []byte {
	b := s.scratch[:0]
	if s.source.AddReceivedHeader {
		b = append(b, "Received: "...)
		b = s.appendFrom(b, m)
		b = append(b, "by "...)
		b = append(b, s.server.host...)
		b = append(b, " with "...)
		b = append(b, s.protocol()...)
		b = append(b, " id "...)
		b = append(b, m.ID.String()...)
		b = append(b, ";\r\n\t"...)
		b = m.Arrived.UTC().AppendFormat(b, time.RFC1123Z)
		b = append(b, "\r\n"...)
	}
	c := s.server.config.Load()
	if vmta, ok := c.VMTA(m.VMTA); ok {
		b = append(b, c.HeadersOf(vmta)...)
	}
	if s.source.AddDateHeader == config.AddDateOverride {
		header.remove("Date")
	}
	switch {
	case s.source.AddDateHeader == config.AddDateNo, header.find("Date") != nil:
	case s.source.DateHeaderTime == config.DateAtDelivery:
		m.DateAtDelivery = true
	default:
		b = append(b, "Date: "...)
		b = m.Arrived.UTC().AppendFormat(b, time.RFC1123Z)
		b = append(b, "\r\n"...)
	}
	if s.source.AddMessageIDHeader && header.find("Message-ID") == nil {
		b = append(b, "Message-ID: "...)
		b = s.appendMessageID(b, m)
		b = append(b, "\r\n"...)
	}
	if s.source.AddXVirtualMTAHeader && header.find("X-Virtual-MTA") == nil {
		b = append(b, "X-Virtual-MTA: "...)
		b = append(b, m.VMTA...)
		b = append(b, "\r\n"...)
	}
	b = append(b, s.from...)
	s.scratch = b
	return b
}

// appendMessageID appends a Message-ID of the node's own.
func (s *session) appendMessageID(b []byte, m *Message) []byte {
	b = append(b, '<')
	b = append(b, m.ID.String()...)
	if id := s.server.config.Load().HostID; id != 0 {
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(id), 10)
	}
	b = append(b, '@')
	b = append(b, s.server.host...)
	return append(b, '>')
}

// appendFrom appends the from clause of our Received field, RFC 5321 section 4.4.
func (s *session) appendFrom(b []byte, m *Message) []byte {
	if s.source.HideMessageSource {
		return b
	}
	b = append(b, "from "...)
	b = append(b, m.ClientName...)
	b = append(b, " (["...)
	b = appendLiteral(b, m.ClientIP)
	return append(b, "])\r\n\t"...)
}

// appendLiteral appends an address as it stands in brackets, RFC 5321 section 4.1.3.
func appendLiteral(b []byte, a netip.Addr) []byte {
	if a.Is6() {
		b = append(b, "IPv6:"...)
	}
	return a.WithZone("").AppendTo(b)
}

// protocol returns the keyword of the with clause, RFC 3848.
func (s *session) protocol() string {
	switch {
	case s.wire.isTLS() && s.wire.user != nil:
		return "ESMTPSA"
	case s.wire.isTLS():
		return "ESMTPS"
	case s.wire.user != nil:
		return "ESMTPA"
	}
	return "ESMTP"
}
