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
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"carom/schemas/event"
	"carom/sender/config"
)

type backend struct {
	server *Server
	source string
	ctx    context.Context // go-smtp's sessions get none
}

// NewSession is part of smtp.Backend; it is called at the first EHLO.
func (b *backend) NewSession(c *smtp.Conn) (smtp.Session, error) {
	wire, ok := c.Conn().(*conn)
	if !ok {
		return nil, fmt.Errorf("connection of an unknown kind %T", c.Conn())
	}
	client, local := addrPort(wire.RemoteAddr()), addrPort(wire.LocalAddr())
	return &session{
		server: b.server, ctx: b.ctx, wire: wire, source: b.server.config.Source(client.Addr(), b.source),
		client: client.Addr(), local: local, hello: printable(c.Hostname(), 255),
	}, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// session is one connection of a feeder. go-smtp calls its methods one after another, but for
// Data, which runs beside the others while a message comes in by BDAT.
type session struct {
	server *Server
	ctx    context.Context // go-smtp's methods get none
	wire   *conn
	source config.Source
	client netip.Addr
	local  netip.AddrPort
	hello  string

	mu       sync.Mutex
	message  *Message // since MAIL; nil without
	refusals int
}

var _ smtp.Session = (*session)(nil)

// Reset is part of smtp.Session.
func (s *session) Reset() {
	s.begin(nil)
	if s.wire.isReceiving() { // by BDAT, which go-smtp would mix up with the next
		s.wire.hangUp()
	}
}

// Logout is part of smtp.Session.
func (s *session) Logout() error { return nil }

func (s *session) begin(m *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.message = m
}

func (s *session) current() *Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.message
}

// Mail is part of smtp.Session.
func (s *session) Mail(from string, options *smtp.MailOptions) error {
	if s.wire.isOver() {
		return (&RefusalError{421, [3]int{4, 3, 0}, "closing connection"}).smtp()
	}
	if s.current() != nil { // go-smtp would go on with the recipients of the message before
		return (&RefusalError{503, [3]int{5, 5, 1}, "a transaction is in progress"}).smtp() // RFC 5321 section 4.1.4
	}
	m := &Message{
		ID: event.NewID(), Arrived: time.Now().UTC(), From: from, EnvID: options.EnvelopeID, Ret: string(options.Return),
		Listener: s.local.String(), ClientIP: s.client, ClientName: s.hello, Tenant: s.source.Name,
	}
	if s.source.RequireAuth {
		return s.refuse(m, "", &RefusalError{530, [3]int{5, 7, 0}, "authentication required"})
	}
	if from != "" {
		address, ok := mailbox(from)
		if !ok {
			m.From = printable(from, maxAddress)
			return s.refuse(m, "", &RefusalError{501, [3]int{5, 1, 7}, "bad sender address"})
		}
		m.From = address
	}
	if limit := s.maxBytes(); options.Size > limit {
		return s.refuse(m, "", tooLarge(limit))
	}
	s.begin(m)
	return nil
}

// maxBytes returns the bound of a message.
func (s *session) maxBytes() int64 {
	switch configured := int64(s.source.MaxMessageSize); {
	case configured > 0:
		return min(configured, s.server.maxBytes)
	case s.source.AlwaysAllowRelaying:
		return s.server.maxBytes
	default:
		return s.server.strangerBytes
	}
}

func tooLarge(limit int64) *RefusalError {
	return &RefusalError{552, [3]int{5, 3, 4}, fmt.Sprintf("message is larger than %d octets", limit)}
}

// Rcpt is part of smtp.Session.
func (s *session) Rcpt(to string, options *smtp.RcptOptions) error {
	m := s.current()
	address, r := s.checkRecipient(m, to)
	if r != nil {
		return s.refuse(m, address, r)
	}
	recipient := Recipient{Address: address, ORcpt: options.OriginalRecipient}
	for i, notify := range options.Notify {
		if i > 0 {
			recipient.Notify += ","
		}
		recipient.Notify += string(notify)
	}
	m.Recipients = append(m.Recipients, recipient)
	return nil
}

// checkRecipient returns the address to accept or refuse, and why it is refused.
func (s *session) checkRecipient(m *Message, to string) (string, *RefusalError) {
	address, ok := mailbox(to)
	switch limit := s.source.MaxRcptPerMessage; {
	case !ok:
		return printable(to, maxAddress), &RefusalError{501, [3]int{5, 1, 3}, "bad recipient address"}
	case limit > 0 && len(m.Recipients) >= limit:
		return address, &RefusalError{452, [3]int{4, 5, 3}, "too many recipients"} // RFC 5321 section 4.5.3.1.10
	case s.server.intake.Local(address):
		return address, nil
	case !s.source.AlwaysAllowRelaying && !s.server.config.Relays(address):
		return address, &RefusalError{550, [3]int{5, 7, 1}, "relaying denied"}
	case s.server.intake.Suppressed(s.tenantAtRcpt(), address):
		return address, errSuppressed
	}
	return address, nil
}

var errSuppressed = &RefusalError{550, [3]int{5, 7, 1}, "recipient is suppressed"}

// tenantAtRcpt returns the tenant before the header is known: "", where a field may name another
// than the source.
func (s *session) tenantAtRcpt() string {
	if s.source.TenantHeader != "" {
		return ""
	}
	return s.source.Name
}

// refuse tells the intake of a refusal that is final, and ends sessions of strangers who only
// collect them.
func (s *session) refuse(m *Message, recipient string, r *RefusalError) error {
	switch {
	case r == errSuppressed && recipient == "": // allSuppressed
		for _, each := range m.Recipients {
			s.server.intake.Refused(m, each.Address, r)
		}
	case r.Code >= 500:
		s.server.intake.Refused(m, recipient, r)
	}
	s.mu.Lock()
	s.refusals++
	enough := s.refusals >= maxRefusals && !s.source.AlwaysAllowRelaying
	s.mu.Unlock()
	if enough {
		s.wire.hangUp()
		r = &RefusalError{421, [3]int{4, 7, 0}, "too many errors"}
	}
	return r.smtp()
}

// Data is part of smtp.Session.
func (s *session) Data(r io.Reader) error {
	m := s.current()
	if m == nil { // a RSET overtook the first BDAT
		return smtp.ErrDataReset
	}
	s.wire.receive(true)
	defer s.wire.receive(false)
	content, err := s.read(r)
	if err == nil {
		err = s.prepare(m, withCRLF(content))
	}
	if err == nil {
		err = s.server.intake.Accept(s.ctx, m)
	}
	refusal, ok := errors.AsType[*RefusalError](err)
	switch {
	case err == nil:
		return nil
	case ok:
		return s.refuse(m, "", refusal)
	case errors.Is(err, errIncomplete):
		s.server.logger.Debug("message not complete", "error", err, "client", s.client.String())
		return (&RefusalError{451, [3]int{4, 4, 2}, "message is incomplete"}).smtp() // for those who still listen
	default:
		s.server.logger.Error("message not accepted", "error", err, "message_id", m.ID.String(), "client", s.client.String())
		return (&RefusalError{451, [3]int{4, 3, 0}, "message not accepted, try again later"}).smtp()
	}
}

var errIncomplete = errors.New("read message")

// read returns the message, errIncomplete or a *RefusalError.
func (s *session) read(r io.Reader) ([]byte, error) {
	limit := s.maxBytes()
	var content bytes.Buffer
	_, err := content.ReadFrom(io.LimitReader(r, limit+1))
	switch {
	case int64(content.Len()) > limit, errors.Is(err, smtp.ErrDataTooLarge):
		return nil, tooLarge(limit)
	case errors.Is(err, smtp.ErrTooLongLine):
		return nil, &RefusalError{554, [3]int{5, 6, 0}, "a line of the message is too long"}
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errIncomplete, err)
	case s.wire.isOver(): // go-smtp takes the end of the connection for the end of the last BDAT
		return nil, fmt.Errorf("%w: %w", errIncomplete, io.ErrUnexpectedEOF)
	}
	return content.Bytes(), nil
}

// maxName bounds the job ID and the tenant's name, in octets: both are dictionaries in the
// warehouse.
const maxName = 255

// prepare reads and rewrites the header: x- headers out, Received and what is missing in. Its error
// is a *RefusalError.
func (s *session) prepare(m *Message, content []byte) error {
	source := s.source
	header, rest := splitHeader(content, maxHeaderBytes)
	switch {
	case len(content)-len(rest) > maxHeaderBytes:
		return &RefusalError{552, [3]int{5, 3, 4}, "header of the message is too large"}
	case header.count("Received") > source.MaxMessageHops:
		return &RefusalError{554, [3]int{5, 4, 6}, "too many hops"}
	}
	m.FromDomain = header.fromDomain()
	ours := []string{"X-Carom-Ref"} // only carom's own, added at delivery, is to be believed
	var asked string
	if source.ProcessXVirtualMTA {
		asked = header.get("X-Virtual-MTA")
		if !source.RetainXVirtualMTA {
			ours = append(ours, "X-Virtual-MTA")
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
			ours = append(ours, "X-Job")
		}
	}
	if source.ProcessXEnvid {
		if envid := header.get("X-EnvID"); envid != "" {
			m.EnvID = printable(envid, 100) // RFC 3461 section 4.4
		}
		ours = append(ours, "X-EnvID")
	}
	if source.TenantHeader != "" {
		if tenant := header.get(source.TenantHeader); tenant != "" {
			m.Tenant = tenant
		}
		ours = append(ours, source.TenantHeader)
	}
	refusal := checkNames(m)
	if refusal != nil {
		return refusal
	}
	if m.VMTA, refusal = s.server.intake.SelectVMTA(source, asked, s.local.Addr()); refusal != nil {
		return refusal
	}
	if s.allSuppressed(m) {
		return errSuppressed
	}
	m.Content = s.assemble(m, header.without(ours...), rest)
	return nil
}

func checkNames(m *Message) *RefusalError {
	notInJob := func(r rune) bool { return r == ' ' || isControl(r) }
	switch {
	case len(m.Job) > maxName || strings.ContainsFunc(m.Job, notInJob):
		return &RefusalError{554, [3]int{5, 6, 0}, "job ID is too long or holds white space or control characters"}
	case len(m.Tenant) > maxName || strings.ContainsFunc(m.Tenant, isControl):
		return &RefusalError{554, [3]int{5, 6, 0}, "tenant is too long or holds control characters"}
	}
	return nil
}

// allSuppressed reports whether nobody is left for the tenant that the header named. Where some
// are, delivery finishes the suppressed ones: there is one answer to DATA for all of them.
func (s *session) allSuppressed(m *Message) bool {
	if s.source.TenantHeader == "" {
		return false // asked at RCPT
	}
	for _, r := range m.Recipients {
		if s.server.intake.Local(r.Address) || !s.server.intake.Suppressed(m.Tenant, r.Address) {
			return false
		}
	}
	return true
}

func (s *session) assemble(m *Message, header fields, rest []byte) []byte {
	size := len(rest)
	for _, field := range header {
		size += len(field.raw)
	}
	var b bytes.Buffer
	b.Grow(size + 1024) // what is added below
	if s.source.AddReceivedHeader {
		fmt.Fprintf(&b, "Received: %sby %s with ESMTP id %s;\r\n\t%s\r\n",
			s.from(m), s.server.host, m.ID, m.Arrived.Format(time.RFC1123Z))
	}
	if s.source.AddDateHeader == config.AddDateOverride {
		header = header.without("Date")
	}
	if s.source.AddDateHeader != config.AddDateNo && header.count("Date") == 0 {
		fmt.Fprintf(&b, "Date: %s\r\n", m.Arrived.Format(time.RFC1123Z))
	}
	if s.source.AddMessageIDHeader && header.count("Message-ID") == 0 {
		fmt.Fprintf(&b, "Message-ID: <%s@%s>\r\n", m.ID, s.server.host)
	}
	for _, field := range header {
		b.Write(field.raw)
	}
	if b.Len() > 0 && b.Bytes()[b.Len()-1] != '\n' { // BDAT may end a message anywhere
		b.WriteString("\r\n")
	}
	if !bytes.HasPrefix(rest, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	b.Write(rest)
	return b.Bytes()
}

// from returns the from clause of our Received field, RFC 5321 section 4.4.
func (s *session) from(m *Message) string {
	if s.source.HideMessageSource {
		return ""
	}
	literal := m.ClientIP.WithZone("").String()
	if m.ClientIP.Is6() {
		literal = "IPv6:" + literal // RFC 5321 section 4.1.3
	}
	return fmt.Sprintf("from %s ([%s])\r\n\t", m.ClientName, literal)
}
