package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"carom/schemas/event"
	"carom/sender/config"
)

type backend struct {
	server *Server
	source string
	ctx    context.Context //nolint:containedctx // go-smtp's sessions get none
}

// NewSession is part of smtp.Backend; it is called at EHLO.
func (b *backend) NewSession(c *smtp.Conn) (smtp.Session, error) {
	client, local := addrPort(c.Conn().RemoteAddr()), addrPort(c.Conn().LocalAddr())
	source := b.server.config.Source(client.Addr(), b.source)
	if !source.SMTPService {
		return nil, (&RefusalError{521, [3]int{5, 3, 2}, "host does not accept mail from you"}).smtp()
	}
	return &session{
		server: b.server, ctx: b.ctx, source: source, client: client.Addr(), local: local, hello: c.Hostname(),
	}, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// session is one connection of a feeder. go-smtp calls its methods one after another.
type session struct {
	server *Server
	ctx    context.Context //nolint:containedctx // go-smtp's methods get none
	source config.Source
	client netip.Addr
	local  netip.AddrPort
	hello  string

	message *Message
}

var _ smtp.Session = (*session)(nil)

// Reset is part of smtp.Session.
func (s *session) Reset() { s.message = nil }

// Logout is part of smtp.Session.
func (s *session) Logout() error { return nil }

// Mail is part of smtp.Session.
func (s *session) Mail(from string, options *smtp.MailOptions) error {
	if s.source.RequireAuth {
		return (&RefusalError{530, [3]int{5, 7, 0}, "authentication required"}).smtp()
	}
	if limit := int64(s.source.MaxMessageSize); limit > 0 && options != nil && options.Size > limit {
		return smtp.ErrDataTooLarge
	}
	m := &Message{
		ID: event.NewID(), Arrived: time.Now().UTC(), From: from,
		Listener: s.local.String(), ClientIP: s.client, ClientName: s.hello, Tenant: s.source.Name,
	}
	if options != nil {
		m.EnvID = options.EnvelopeID
	}
	s.message = m
	return nil
}

// Rcpt is part of smtp.Session.
func (s *session) Rcpt(to string, options *smtp.RcptOptions) error {
	r := s.checkRecipient(to)
	if r != nil {
		s.server.intake.Refused(s.message, to, r)
		return r.smtp()
	}
	recipient := Recipient{Address: to}
	if options != nil && options.OriginalRecipient != "" {
		recipient.ORcpt = fmt.Sprintf("%s;%s", options.OriginalRecipientType, options.OriginalRecipient)
	}
	s.message.Recipients = append(s.message.Recipients, recipient)
	return nil
}

func (s *session) checkRecipient(to string) *RefusalError {
	local, domain, found := cutLast(to, "@")
	if !found || local == "" || domain == "" {
		return &RefusalError{501, [3]int{5, 1, 3}, "bad recipient address"}
	}
	if limit := s.source.MaxRcptPerMessage; limit > 0 && len(s.message.Recipients) >= limit {
		return &RefusalError{452, [3]int{4, 5, 3}, "too many recipients"} // RFC 5321 section 4.5.3.1.10
	}
	if s.server.intake.Local(to) {
		return nil
	}
	if !s.source.AlwaysAllowRelaying && !s.server.config.Relays(to) {
		return &RefusalError{550, [3]int{5, 7, 1}, "relaying denied"}
	}
	if s.server.intake.Suppressed(s.message.Tenant, to) {
		return &RefusalError{550, [3]int{5, 7, 1}, "recipient is suppressed"}
	}
	return nil
}

// Data is part of smtp.Session.
func (s *session) Data(r io.Reader) error {
	err := s.data(r)
	if err == nil {
		return nil
	}
	if refusal, ok := errors.AsType[*RefusalError](err); ok {
		s.server.intake.Refused(s.message, "", refusal)
		return refusal.smtp()
	}
	if smtpErr, ok := errors.AsType[*smtp.SMTPError](err); ok {
		return smtpErr
	}
	s.server.logger.Error("message not accepted", "error", err, "client", s.client.String())
	return (&RefusalError{451, [3]int{4, 3, 0}, "message not accepted, try again later"}).smtp()
}

func (s *session) data(r io.Reader) error {
	var content bytes.Buffer
	if _, err := content.ReadFrom(r); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if limit := int64(s.source.MaxMessageSize); limit > 0 && int64(content.Len()) > limit {
		return smtp.ErrDataTooLarge
	}
	if refusal := s.prepare(withCRLF(content.Bytes())); refusal != nil {
		return refusal
	}
	return s.server.intake.Accept(s.ctx, s.message)
}

// prepare reads and rewrites the header: x- headers out, Received and what is missing in.
func (s *session) prepare(content []byte) *RefusalError {
	m, source := s.message, s.source
	header, rest := splitHeader(content)
	if header.count("Received") > source.MaxMessageHops {
		return &RefusalError{554, [3]int{5, 4, 6}, "too many hops"}
	}
	m.FromDomain = header.fromDomain()
	var asked string
	if source.ProcessXVirtualMTA {
		asked = header.get("X-Virtual-MTA")
		if !source.RetainXVirtualMTA {
			header = header.without("X-Virtual-MTA")
		}
	}
	if source.JobIDHeader != "" {
		m.Job = header.get(source.JobIDHeader)
	}
	if source.ProcessXJob {
		if job := header.get("X-Job"); job != "" {
			m.Job = job
		}
		if !source.RetainXJob {
			header = header.without("X-Job")
		}
	}
	if strings.ContainsFunc(m.Job, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return &RefusalError{554, [3]int{5, 6, 0}, "job ID holds white space or control characters"}
	}
	if source.ProcessXEnvid {
		if envid := header.get("X-EnvID"); envid != "" {
			m.EnvID = envid
		}
		header = header.without("X-EnvID")
	}
	if source.TenantHeader != "" {
		if tenant := header.get(source.TenantHeader); tenant != "" {
			m.Tenant = tenant
		}
		header = header.without(source.TenantHeader)
	}
	header = header.without("X-Carom-Ref") // only carom's own, added at delivery, is to be believed
	var refusal *RefusalError
	if m.VMTA, refusal = s.server.intake.SelectVMTA(source, asked, s.local.Addr()); refusal != nil {
		return refusal
	}
	m.Content = s.assemble(header, rest)
	return nil
}

func (s *session) assemble(header fields, rest []byte) []byte {
	m := s.message
	var b bytes.Buffer
	b.Grow(len(rest) + 1024 + 64*len(header))
	if s.source.AddReceivedHeader {
		from := fmt.Sprintf("%s ([%s])", m.ClientName, m.ClientIP)
		if s.source.HideMessageSource {
			from = "(source hidden)"
		}
		fmt.Fprintf(&b, "Received: from %s\r\n\tby %s with ESMTP id %s;\r\n\t%s\r\n",
			from, s.server.host, m.ID, m.Arrived.Format(time.RFC1123Z))
	}
	if s.source.AddDateHeader == config.AddDateOverride {
		header = header.without("Date")
	}
	if s.source.AddDateHeader != config.AddDateNo && !header.has("Date") {
		fmt.Fprintf(&b, "Date: %s\r\n", m.Arrived.Format(time.RFC1123Z))
	}
	if s.source.AddMessageIDHeader && !header.has("Message-ID") {
		fmt.Fprintf(&b, "Message-ID: <%s@%s>\r\n", m.ID, s.server.host)
	}
	for _, field := range header {
		b.Write(field)
	}
	if !bytes.HasPrefix(rest, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	b.Write(rest)
	return b.Bytes()
}
