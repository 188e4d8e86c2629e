package smtpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/schedule"
)

type backend struct {
	ctx context.Context // go-smtp's sessions get none
}

// NewSession is part of smtp.Backend; it is called at the first EHLO.
func (b *backend) NewSession(c *smtp.Conn) (smtp.Session, error) {
	wire, ok := c.Conn().(*conn)
	if !ok {
		return nil, fmt.Errorf("connection of an unknown kind %T", c.Conn())
	}
	local := addrPort(wire.LocalAddr())
	wire.session = &session{
		server: wire.server, ctx: b.ctx, wire: wire, smtp: c, source: &wire.source,
		local: local.Addr(), listener: local.String(),
	}
	return wire.session, nil
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
	server   *Server
	ctx      context.Context // go-smtp's methods get none
	wire     *conn
	smtp     *smtp.Conn
	source   *config.Source
	local    netip.Addr // where the feeder connected to
	listener string     // with the port
	hello    string     // "" without EHLO or HELO

	message   *Message // since MAIL; nil without
	announced int64    // what MAIL said of its size
	overRcpt  bool     // it has more recipients than it may, for too-many-rcpts-fails-message
	refusals  int

	header  fields // these two are memory for the next message
	scratch []byte
	from    []byte // the From field in the place of the message's own; nil: that stays
}

var _ smtp.Session = (*session)(nil)

// greet notes that the feeder has introduced itself.
func (s *session) greet() { s.hello = printable(s.smtp.Hostname(), 255) }

// Reset is part of smtp.Session.
func (s *session) Reset() { s.message = nil }

// Logout is part of smtp.Session.
func (s *session) Logout() error { return nil }

// Mail is part of smtp.Session.
func (s *session) Mail(from string, options *smtp.MailOptions) error {
	switch {
	case s.hello == "": // since STARTTLS
		return (&RefusalError{503, [3]int{5, 5, 1}, "say EHLO first"}).smtp()
	case s.message != nil: // go-smtp would go on with the recipients of the message before
		return (&RefusalError{503, [3]int{5, 5, 1}, "a transaction is in progress"}).smtp() // RFC 5321 section 4.1.4
	}
	m := &Message{
		ID: event.NewID(), Arrived: clock.Now(), From: from, EnvID: options.EnvelopeID, Ret: string(options.Return),
		Listener: s.listener, ClientIP: s.wire.client, ClientName: s.hello, Tenant: s.tenant(),
		VERP: s.wire.verp || s.source.VERPDefault,
	}
	if m.Ret == "" {
		m.Ret = ret[s.source.DSNReturnDefault]
	}
	if s.wire.user != nil {
		m.SMTPUser = s.wire.user.Name
	}
	if s.source.RequireAuth && s.wire.user == nil {
		return s.refuse(m, "", &RefusalError{530, [3]int{5, 7, 0}, "authentication required"})
	}
	if from != "" {
		address, ok := mailbox(from)
		if !ok {
			m.From = printable(from, maxAddress)
			return s.refuse(m, "", &RefusalError{501, [3]int{5, 1, 7}, "bad sender address"})
		}
		m.From = s.qualify(address)
	}
	if options.UTF8 && !s.source.AllowSMTPUTF8 {
		return s.refuse(m, "", &RefusalError{504, [3]int{5, 5, 4}, "SMTPUTF8 is not offered"})
	}
	if limit := s.maxBytes(); options.Size > limit {
		return s.refuse(m, "", tooLarge(limit))
	}
	if r := s.room(options.Size); r != nil {
		return s.refuse(m, "", r)
	}
	s.message, s.announced, s.overRcpt = m, options.Size, false
	return nil
}

// ret is how RET says what DSNs return, RFC 3461 section 4.3.
var ret = map[config.DSNReturn]string{config.ReturnHeaders: "HDRS", config.ReturnFull: "FULL"}

// room returns why no message can be taken now, or nil.
func (s *session) room(octets int64) *RefusalError {
	c := s.server.config.Load()
	if most := c.MaxMemoryUsagePercent; most < 100 && s.server.memory.percent() > most || !s.server.buffers.hasRoom(octets) {
		return errExhausted
	}
	return s.server.intake.Room(octets)
}

// qualify completes an address whose domain is one label by domain-suffix.
func (s *session) qualify(address string) string {
	suffix := s.server.config.Load().DomainSuffix
	if suffix == "" || !s.source.AutoQualifyDomain {
		return address
	}
	if _, domain, ok := cutLast(address, "@"); !ok || strings.ContainsAny(domain, ".[") {
		return address
	}
	return address + "." + suffix
}

// tenant returns on whose behalf mail is that nothing else says it of.
func (s *session) tenant() string {
	if s.wire.user != nil {
		return s.wire.user.Name
	}
	return s.source.Name
}

// maxRecipients returns the bound of a message's recipients.
func (s *session) maxRecipients() int {
	if most := s.source.MaxRcptPerMessage; most > 0 {
		return min(most, maxRecipients)
	}
	return maxRecipients
}

// maxBytes returns the bound of a message.
func (s *session) maxBytes() int64 {
	switch configured := int64(s.source.MaxMessageSize); {
	case configured > 0:
		return min(configured, s.server.most())
	case s.source.AlwaysAllowRelaying:
		return s.server.most()
	default:
		return min(s.server.strangerBytes, s.server.most())
	}
}

// most returns the bound of all messages: what the memory for them holds, if that is less.
func (s *Server) most() int64 {
	if s.buffers.limit > 0 {
		return min(s.maxBytes, s.buffers.limit-headroom-maxRead)
	}
	return s.maxBytes
}

func tooLarge(limit int64) *RefusalError {
	return &RefusalError{552, [3]int{5, 3, 4}, fmt.Sprintf("message is larger than %d octets", limit)}
}

// Rcpt is part of smtp.Session.
func (s *session) Rcpt(to string, options *smtp.RcptOptions) error {
	m := s.message
	if s.wire.chunking != nil {
		return (&RefusalError{503, [3]int{5, 5, 1}, "BDAT has begun"}).smtp()
	}
	address, r := s.checkRecipient(m, to)
	switch {
	case r == errTooManyRcpts && s.source.TooManyRcptsFailsMessage:
		s.overRcpt = true // refused with the message
		return nil
	case r != nil:
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
	address = s.qualify(address)
	switch limit := s.source.MaxRcptPerMessage; {
	case !ok:
		return printable(to, maxAddress), &RefusalError{501, [3]int{5, 1, 3}, "bad recipient address"}
	case limit > 0 && len(m.Recipients) >= limit:
		return address, errTooManyRcpts
	case s.server.intake.Local(address):
		return address, nil
	case !s.source.AlwaysAllowRelaying && !s.server.config.Load().Relays(address):
		if s.server.config.Load().RelayDebug {
			return address, &RefusalError{450, [3]int{4, 7, 1}, "relaying denied"}
		}
		return address, &RefusalError{550, [3]int{5, 7, 1}, "relaying denied"}
	case s.server.config.Load().SuppressionList(s.source, address) != "":
		list := s.server.config.Load().SuppressionList(s.source, address)
		return address, &RefusalError{550, [3]int{5, 7, 1}, fmt.Sprintf("%s %q: <%s>", inSuppressionList, list, address)}
	case s.rejectsSuppressed() && s.server.intake.Suppressed(s.tenantAtRcpt(), address):
		return address, errSuppressed
	}
	return address, nil
}

// rejectsSuppressed reports whether suppressed recipients are refused here; else delivery bounces
// them.
func (s *session) rejectsSuppressed() bool {
	return s.source.SuppressedRecipients == config.SuppressedReject
}

// errTooManyRcpts is RFC 5321 section 4.5.3.1.10's.
var errTooManyRcpts = &RefusalError{452, [3]int{4, 5, 3}, "too many recipients"}

var errSuppressed = &RefusalError{550, [3]int{5, 7, 1}, "recipient is suppressed"}

// inSuppressionList begins the text about a recipient of a suppression list; it is PowerMTA's.
const inSuppressionList = "recipient is in suppression list"

// OfSuppression reports whether the recipient was refused because nobody may write to him, and not
// because of how the feeder behaves.
func (r *RefusalError) OfSuppression() bool {
	return r == errSuppressed || strings.HasPrefix(r.Text, inSuppressionList)
}

// tenantAtRcpt returns the tenant before the header is known: "", where a field may name another
// than the source.
func (s *session) tenantAtRcpt() string {
	if s.source.TenantHeader != "" {
		return ""
	}
	return s.tenant()
}

// refuse is refusal for go-smtp.
func (s *session) refuse(m *Message, recipient string, r *RefusalError) error {
	return s.refusal(m, recipient, r).smtp()
}

// refusal tells the intake of a refusal that is final, ends sessions of strangers who only collect
// them, and returns what the feeder is told.
func (s *session) refusal(m *Message, recipient string, r *RefusalError) *RefusalError {
	switch {
	case r == errSuppressed && recipient == "": // allSuppressed
		for _, each := range m.Recipients {
			s.server.intake.Refused(m, each.Address, r)
		}
	case r.Code >= 500:
		s.server.intake.Refused(m, recipient, r)
	}
	s.refusals++
	if s.refusals >= maxRefusals && !s.source.AlwaysAllowRelaying {
		s.wire.hangUp()
		return &RefusalError{421, [3]int{4, 7, 0}, "too many errors"}
	}
	if r.Code < 500 && s.source.DisconnectOnTransientError {
		s.wire.hangUp()
		s.wire.muted = "4"
	}
	return r
}

// takesChunk reports whether BDAT is in its place.
func (s *session) takesChunk() bool {
	return s.source.AllowChunking && s.message != nil && len(s.message.Recipients) > 0
}

// newBody returns where the message is received into. Where there is no memory for it, it is lost
// from the beginning.
func (s *session) newBody() *body {
	limit := int(s.maxBytes())
	most := headroom + limit + maxRead
	start := headroom + stuffed
	if s.announced > 0 { // believed only as far as a small buffer goes
		start += int(min(s.announced, int64(sizes[len(sizes)-1]/2)))
	}
	grow := func(b *buffer) *buffer { return s.server.buffers.exchange(b, most) }
	b := s.server.buffers.lend(start)
	if b == nil {
		d := newBody(s.server.buffers.scrap(), limit, grow)
		d.lost = errNoMemory
		return d
	}
	return newBody(b, limit, grow)
}

// stuffed is what is added to the announced size: for the end of the message and for stuffed dots.
const stuffed = 1024

// Data is part of smtp.Session. It reads the message itself, or has it from BDAT; go-smtp's reader
// finds the end of one afterwards.
func (s *session) Data(io.Reader) error {
	c, m := s.wire, s.message
	if m == nil { // go-smtp would not ask
		return (&RefusalError{503, [3]int{5, 5, 1}, "no transaction"}).smtp()
	}
	defer c.receive(false)
	d := c.chunking
	c.chunking = nil
	if d == nil {
		c.receive(true)
		d = s.newBody()
		if err := c.receiveBody(d); errors.Is(err, errIncomplete) {
			s.server.buffers.giveBack(d.buffer)
			s.server.logger.Debug("message not complete", "error", err, "client", c.client.String())
			c.hangUp()
			return incomplete.smtp() // for those who still listen
		}
	} else {
		d.bare = hasBareNewline(d.message().bytes())
	}
	defer func() { s.server.buffers.giveBack(d.buffer) }()
	c.handed = handedEnd
	err := s.accept(m, d)
	refusal, ok := errors.AsType[*RefusalError](err)
	switch {
	case err == nil:
		return nil
	case ok:
		return s.refuse(m, "", refusal)
	default:
		s.server.logger.Error("message not accepted", "error", err, "message_id", m.ID.String(), "client", c.client.String())
		return (&RefusalError{451, [3]int{4, 3, 0}, "message not accepted, try again later"}).smtp()
	}
}

var errIncomplete = errors.New("read message")

// accept hands the message on.
func (s *session) accept(m *Message, d *body) error {
	in := d.message()
	switch {
	case d.lost != nil:
		return s.lost(d.lost)
	case s.overRcpt:
		return &RefusalError{550, [3]int{5, 5, 3}, "too many recipients"}
	case d.bare && !s.source.FixBareNewline:
		return errBareNewline
	case d.bare:
		fixed := withCRLF(in.bytes())
		in = message{fixed, 0, len(fixed)}
	}
	if r := s.prepare(m, in); r != nil {
		return r
	}
	return s.server.intake.Accept(s.ctx, m)
}

// errBareNewline is for messages that others could read as two, or as none: SMTP knows no other
// line end than CRLF (RFC 5321 section 2.3.8).
var errBareNewline = &RefusalError{550, [3]int{5, 6, 11}, "message has a CR or LF alone, where only CRLF ends a line"}

// lost returns what the feeder is told of a message that was not kept.
func (s *session) lost(why error) *RefusalError {
	if errors.Is(why, errNoMemory) {
		return errExhausted
	}
	return tooLarge(s.maxBytes())
}

var errExhausted = &RefusalError{452, [3]int{4, 3, 2}, "Server resources temporarily exhausted"} // PowerMTA's text

// maxName bounds the job ID and the tenant's name, in octets: both are dictionaries in the
// warehouse.
const maxName = 255

// prepare reads and rewrites the header: x- headers out, Received and what is missing in.
func (s *session) prepare(m *Message, in message) *RefusalError {
	source := s.source
	header, rest := splitHeader(s.header, in.bytes(), maxHeaderBytes)
	if cap(header) <= maxKeptFields {
		s.header = header
	}
	switch {
	case in.end-in.start-len(rest) > maxHeaderBytes:
		return &RefusalError{552, [3]int{5, 3, 4}, "header of the message is too large"}
	case header.count("Received") > source.MaxMessageHops:
		return &RefusalError{554, [3]int{5, 4, 6}, "too many hops"}
	}
	m.FromDomain = header.fromDomain()
	asked := s.readFields(m, header)
	refusal := checkNames(m)
	if refusal == nil {
		refusal = s.readOptions(m, header)
	}
	if refusal == nil {
		refusal = s.chooseVMTA(m, header, asked)
	}
	switch {
	case refusal != nil:
		return refusal
	case s.allSuppressed(m):
		return errSuppressed
	}
	if bcc := source.BCC; bcc != "" && !slices.ContainsFunc(m.Recipients, func(r Recipient) bool { return strings.EqualFold(r.Address, bcc) }) {
		m.Recipients = append(m.Recipients, Recipient{Address: bcc, Notify: "NEVER"})
	}
	m.Headers = s.keptHeaders(header)
	s.rewrite(m, header)
	s.removeFields(header)
	m.MessageID = s.messageID(m, header)
	m.Content = s.assemble(m, in, header, rest)
	return nil
}

// maxKeptFields is how many fields a session has memory for between messages.
const maxKeptFields = 256

// readFields takes from the header what the feeder says to us. It returns the virtual MTA that the
// feeder asks for.
func (s *session) readFields(m *Message, header fields) (vmta string) {
	source := s.source
	if source.JobIDHeader != "" {
		m.Job = header.get(source.JobIDHeader)
	}
	if source.TenantHeader != "" {
		if tenant := header.get(source.TenantHeader); tenant != "" {
			m.Tenant = tenant
		}
	}
	if source.ProcessXVirtualMTA {
		vmta = header.get("X-Virtual-MTA")
		if vmta == "" && source.AllowEmptyXVirtualMTA && header.find("X-Virtual-MTA") != nil {
			vmta = config.DefaultVMTA
		}
	}
	if source.ProcessXJob {
		if job := header.get("X-Job"); job != "" {
			m.Job = job
		}
	}
	if source.ProcessXEnvid {
		if envid := header.get("X-EnvID"); envid != "" {
			m.EnvID = printable(envid, 100) // RFC 3461 section 4.4
		}
	}
	if m.Job != "" {
		m.Job = s.jobPrefix() + m.Job
	}
	return vmta
}

// jobPrefix returns what goes before a job ID.
func (s *session) jobPrefix() string {
	switch prefix := s.source.JobIDPrefix; {
	case prefix != config.JobIDPrefixAuth:
		return prefix
	case s.wire.user != nil:
		return s.wire.user.Name
	}
	return ""
}

// readOptions takes from the header when and how signed the message is to be delivered.
func (s *session) readOptions(m *Message, header fields) *RefusalError {
	if f := header.find("X-Schedule"); s.source.ProcessXSchedule && f != nil {
		windows, err := schedule.Parse(f.value(), time.Local)
		if err != nil {
			return &RefusalError{554, [3]int{5, 6, 0}, "X-Schedule: " + err.Error()}
		}
		m.Schedule = windows
	}
	if f := header.find("X-DKIM-Options"); s.source.ProcessXDKIMOptions && f != nil {
		m.AsksForDKIM, m.DKIMOptions = true, f.value()
		if len(m.DKIMOptions) > maxDKIMOptions {
			return &RefusalError{554, [3]int{5, 6, 0}, "X-DKIM-Options is too long"}
		}
	}
	return nil
}

// rewrite writes the sender otherwise where a rewrite list says so: the reverse-path and the domain of the
// From field.
func (s *session) rewrite(m *Message, header fields) {
	s.from = nil
	list := s.server.config.Load().RewriteListOf(s.source, m.VMTA, m.Pool)
	if list == nil {
		return
	}
	m.From = list.MailFrom(m.From)
	domain := list.FromDomain(m.FromDomain)
	if m.FromDomain == "" || domain == m.FromDomain || header.count("From") != 1 {
		return
	}
	if raw, ok := withDomain(header.find("From").raw, m.FromDomain, domain); ok {
		s.from, m.FromDomain = raw, domain
		header.remove("From")
	}
}

// withDomain returns a copy of a field with another domain in the place of the last address's. It reports
// false where the field does not hold the domain as it is known, in lower case.
func withDomain(raw []byte, old, to string) ([]byte, bool) {
	folded := make([]byte, len(raw))
	for i, c := range raw {
		folded[i] = lower(c)
	}
	at := bytes.LastIndex(folded, []byte("@"+old))
	if at < 0 || !bytes.HasSuffix(raw, []byte("\r\n")) { // a field that goes in front needs its line end
		return nil, false
	}
	end := at + 1 + len(old)
	if end < len(raw) && isPlain(raw[end:end+1], "") { // a longer one begins like it
		return nil, false
	}
	return slices.Concat(raw[:at+1], []byte(to), raw[end:]), true
}

// maxKept bounds a header that accounting files ask for, in octets: it goes into each event.
const maxKept = 1024

// keptHeaders returns the headers that accounting files ask for. Of several fields the first counts.
func (s *session) keptHeaders(header fields) map[string]string {
	var kept map[string]string
	for _, name := range s.server.kept {
		f := header.find(name)
		if f == nil {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		value := f.value()
		kept[name] = strings.ToValidUTF8(value[:min(len(value), maxKept)], "?")
	}
	return kept
}

// maxMessageID bounds the Message-ID that is noted, in octets: it goes into an event for each
// recipient. Usual ones have less than 100.
const maxMessageID = 255

// messageID returns the Message-ID that the message goes out with.
func (s *session) messageID(m *Message, header fields) string {
	f := header.find("Message-ID")
	switch {
	case f == nil && s.source.AddMessageIDHeader:
		return string(s.appendMessageID(nil, m))
	case f == nil || len(f.raw) > maxMessageID:
		return ""
	}
	return f.value()
}

// chooseVMTA chooses the virtual MTA: X-Virtual-MTA, which asks for one, goes before the pattern
// list.
func (s *session) chooseVMTA(m *Message, header fields, asked string) (refusal *RefusalError) {
	m.Priority = defaultPriority
	if s.source.PatternList != "" {
		recipients := func(yield func(string) bool) {
			for i := range m.Recipients {
				if !yield(m.Recipients[i].Address) {
					return
				}
			}
		}
		if d, ok := s.server.config.Load().Decide(s.source.PatternList, m.From, recipients, header.raw); ok {
			if d.Priority >= 0 {
				m.Priority = uint8(d.Priority) //nolint:gosec // at most 100
			}
			if asked == "" {
				asked = d.VirtualMTA
			}
		}
	}
	m.VMTA, m.Pool, refusal = s.server.intake.SelectVMTA(s.source, asked, s.local)
	return refusal
}

const defaultPriority = 50 // PowerMTA's of recipients

// removeFields removes from the header what is for us, and what the source wants removed.
func (s *session) removeFields(header fields) {
	source := s.source
	for _, f := range [...]struct {
		name    string
		removed bool
	}{
		{"X-EnvID", source.ProcessXEnvid},
		{"X-Virtual-MTA", source.ProcessXVirtualMTA && !source.RetainXVirtualMTA},
		{"X-Job", source.ProcessXJob && !source.RetainXJob},
		{"X-Schedule", source.ProcessXSchedule && !source.RetainXSchedule},
		{"X-DKIM-Options", source.ProcessXDKIMOptions && !source.RetainXDKIMOptions},
		{"Received", source.RemoveReceivedHeaders},
		{source.TenantHeader, source.TenantHeader != ""},
		{"X-Carom-Ref", true}, // only carom's own, added at delivery, is to be believed
	} {
		if f.removed {
			header.remove(f.name)
		}
	}
	for _, name := range source.RemoveHeader {
		header.remove(name)
	}
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
	if s.source.TenantHeader == "" || !s.rejectsSuppressed() {
		return false // asked at RCPT, or nowhere
	}
	for _, r := range m.Recipients {
		if s.server.intake.Local(r.Address) || !s.server.intake.Suppressed(m.Tenant, r.Address) {
			return false
		}
	}
	return true
}
