package mx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/scenarios"
)

const (
	idleTimeout  = 5 * time.Minute // RFC 5321 4.5.3.2.7
	writeTimeout = time.Minute
	drainTimeout = 2 * time.Second // for a peer to read the last reply and leave
	maxLine      = 4096            // far over RFC 5321 4.5.3.1.4 with the parameters of RFC 3461
	maxHeader    = 64 << 10
	maxSize      = 50 << 20
	maxRcpts     = 1000
)

// session is one connection; one goroutine owns it.
type session struct {
	*Server
	ctx    context.Context
	raw    net.Conn // the TCP connection
	conn   net.Conn // raw, or TLS over it
	r      *bufio.Reader
	w      *bufio.Writer
	source netip.Addr
	in     bool // counted as open at the provider
	tls    bool

	greeted  bool
	messages int // that had their verdict

	mailing    bool // MAIL was accepted
	from       string
	envID      string
	to         *provider.Provider // of the recipients so far
	recipients []Recipient
}

func (s *session) use(conn net.Conn) {
	s.conn, s.r, s.w = conn, bufio.NewReaderSize(conn, 16<<10), bufio.NewWriterSize(conn, 4<<10)
}

// run speaks until the connection is to be closed.
func (s *session) run() {
	if !s.enter(true) {
		return
	}
	for first := true; ; first = false {
		line, err := s.readLine()
		if err != nil {
			return
		}
		if first && strings.HasPrefix(line, "PROXY ") {
			if !s.proxied(line) {
				return
			}
			continue
		}
		if !s.command(line) {
			return
		}
	}
}

// proxied takes the source from a header of the PROXY protocol, version 1, which may stand before the
// first command. Who sends it does not wait for the greeting, so that went out already.
func (s *session) proxied(line string) bool {
	fields := strings.Fields(line)
	if len(fields) >= 2 && fields[1] == "UNKNOWN" {
		return true
	}
	var addr netip.Addr
	err := errNoProxy
	if len(fields) == 6 && (fields[1] == "TCP4" || fields[1] == "TCP6") {
		addr, err = netip.ParseAddr(fields[2])
	}
	if err != nil {
		s.leave()
		s.reply("501 5.5.4 Want PROXY TCP4 source destination port port")
		return false
	}
	s.leave()
	s.source = addr.Unmap()
	return s.enter(false)
}

var errNoProxy = errors.New("no PROXY header")

// enter asks the provider whether the source may connect. If so it greets, unless that has been done.
func (s *session) enter(greet bool) bool {
	v := s.Provider.Connect(s.Clock.Now(), s.source)
	if v.Class != provider.OK {
		s.refuse(v, "")
		return false
	}
	s.in = true
	return !greet || s.reply("220 "+s.Name+" ESMTP")
}

// leave gives the connection's place back; it comes before the last reply, so that a peer that
// reads it and connects again finds the place free.
func (s *session) leave() {
	if s.in {
		s.in = false
		s.Provider.Disconnect(s.Clock.Now(), s.source)
	}
}

// close ends the connection so that what was written arrives: closing with unread input would reset it.
func (s *session) close() {
	_ = s.flush()
	if conn, ok := s.conn.(*tls.Conn); ok {
		_ = conn.CloseWrite()
	}
	if tcp, ok := s.raw.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = s.raw.SetReadDeadline(time.Now().Add(drainTimeout))
		_, _ = io.Copy(io.Discard, s.raw)
	}
}

func (s *session) readLine() (string, error) {
	if s.r.Buffered() == 0 {
		if err := s.flush(); err != nil {
			return "", err
		}
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
	line, err := s.r.ReadSlice('\n')
	if err == nil && len(line) <= maxLine {
		return strings.TrimRight(string(line), "\r\n"), nil
	}
	if err == nil || errors.Is(err, bufio.ErrBufferFull) {
		s.leave()
		s.reply("500 5.5.2 Line too long")
		err = bufio.ErrBufferFull
	}
	return "", err
}

func (s *session) flush() error {
	if s.w.Buffered() == 0 {
		return nil
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return s.w.Flush()
}

// reply buffers a reply of one or more lines, each with its code, and reports whether the connection
// goes on: a reply with 421 ends it. The separators are set right here.
func (s *session) reply(text string) bool {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		separator := byte('-')
		if i == len(lines)-1 {
			separator = ' '
		}
		_, _ = s.w.WriteString(line[:3]) // the writer keeps its first error for Flush
		_ = s.w.WriteByte(separator)
		_, _ = s.w.WriteString(strings.TrimLeft(line[3:], " -"))
		_, _ = s.w.WriteString("\r\n")
	}
	if strings.HasPrefix(text, "421") {
		s.leave()
		return false
	}
	return true
}

// refuse answers a verdict that is not OK.
func (s *session) refuse(v provider.Verdict, rcpt string) bool {
	switch v.Outage {
	case scenarios.OutageRefuse:
		s.leave()
		if tcp, ok := s.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = s.raw.Close()
		return false
	case scenarios.OutageTimeout:
		_ = s.flush()
		_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		_, _ = io.Copy(io.Discard, s.conn)
		return false
	default:
		return s.reply(s.text(v, rcpt))
	}
}

func (s *session) text(v provider.Verdict, rcpt string) string {
	return strings.NewReplacer("{ip}", s.source.String(), "{mx}", s.Name, "{rcpt}", rcpt).Replace(v.Reply)
}

func (s *session) reset() {
	s.mailing, s.from, s.envID, s.to, s.recipients = false, "", "", nil, nil
}

// command answers one command and reports whether the connection goes on.
func (s *session) command(line string) bool {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "HELO":
		return s.hello(strings.EqualFold(verb, "EHLO"), arg)
	case "MAIL":
		return s.mail(arg)
	case "RCPT":
		return s.rcpt(arg)
	case "DATA":
		return s.data()
	case "RSET":
		s.reset()
		return s.reply("250 2.0.0 Ok")
	case "NOOP":
		return s.reply("250 2.0.0 Ok")
	case "VRFY":
		return s.reply("252 2.5.0 Send some mail and see")
	case "STARTTLS":
		return s.startTLS()
	case "XCLIENT":
		return s.xclient(arg)
	case "QUIT":
		s.leave()
		s.reply("221 2.0.0 " + s.Name + " closing connection")
		return false
	default:
		return s.reply("500 5.5.1 Command not recognised")
	}
}

func (s *session) hello(extended bool, name string) bool {
	if strings.TrimSpace(name) == "" {
		return s.reply("501 5.5.4 Say who you are")
	}
	s.greeted = true
	s.reset()
	if !extended {
		return s.reply("250 " + s.Name)
	}
	lines := []string{
		"250 " + s.Name, "250 PIPELINING", "250 SIZE " + strconv.Itoa(maxSize), "250 8BITMIME",
		"250 ENHANCEDSTATUSCODES", "250 DSN", "250 XCLIENT ADDR",
	}
	if s.TLS != nil && !s.tls {
		lines = append(lines, "250 STARTTLS")
	}
	return s.reply(strings.Join(lines, "\n"))
}

func (s *session) startTLS() bool {
	if s.TLS == nil || s.tls {
		return s.reply("502 5.5.1 STARTTLS is not offered")
	}
	if s.r.Buffered() > 0 {
		// What was pipelined behind STARTTLS came in clear text and must not count as encrypted.
		s.leave()
		s.reply("554 5.5.1 Commands behind STARTTLS")
		return false
	}
	s.reply("220 2.0.0 Ready")
	if s.flush() != nil {
		return false
	}
	conn := tls.Server(s.raw, s.TLS)
	_ = conn.SetDeadline(time.Now().Add(writeTimeout))
	if err := conn.HandshakeContext(s.ctx); err != nil {
		return false
	}
	_ = conn.SetDeadline(time.Time{})
	s.use(conn)
	s.tls, s.greeted = true, false
	s.reset()
	return true
}

func (s *session) xclient(arg string) bool {
	for field := range strings.FieldsSeq(arg) {
		name, value, _ := strings.Cut(field, "=")
		addr, err := netip.ParseAddr(strings.TrimPrefix(value, "IPV6:"))
		if !strings.EqualFold(name, "ADDR") || err != nil {
			return s.reply("501 5.5.4 Want XCLIENT ADDR=address")
		}
		s.leave()
		s.source = addr.Unmap()
		s.greeted = false
		s.reset()
		return s.enter(true)
	}
	return s.reply("501 5.5.4 Want XCLIENT ADDR=address")
}

func (s *session) mail(arg string) bool {
	path, ok := parsePath("FROM:", arg)
	switch {
	case !s.greeted:
		return s.reply("503 5.5.1 EHLO first")
	case s.mailing:
		return s.reply("503 5.5.1 Nested MAIL")
	case !ok:
		return s.reply("501 5.5.4 Want MAIL FROM:<address>")
	}
	envID, size := "", 0
	for name, value := range path.parameters {
		var err error
		switch name {
		case "SIZE":
			size, err = strconv.Atoi(value)
		case "ENVID":
			envID, err = decodeXtext(value)
		case "BODY", "RET":
		default:
			return s.reply("555 5.5.4 Unknown parameter")
		}
		if err != nil {
			return s.reply("501 5.5.4 Bad parameter value")
		}
	}
	if size > maxSize {
		return s.reply("552 5.3.4 Message too big")
	}
	s.Clock.FirstMessage()
	cfg := s.Provider.Config()
	if cfg.MsgsPerConn > 0 && s.messages >= cfg.MsgsPerConn {
		return s.refuse(s.Provider.EndOfConnection(s.Clock.Now(), s.source), "")
	}
	if v := s.Provider.Mail(s.Clock.Now(), s.source); v.Class != provider.OK {
		if v.Outage == "" && !s.think(cfg.LatencyMS) {
			return false
		}
		return s.refuse(v, "")
	}
	s.mailing, s.from, s.envID = true, path.address, envID
	return s.reply("250 2.1.0 Ok")
}

func (s *session) rcpt(arg string) bool {
	path, ok := parsePath("TO:", arg)
	switch {
	case !s.mailing:
		return s.reply("503 5.5.1 MAIL first")
	case !ok || path.address == "":
		return s.reply("501 5.5.4 Want RCPT TO:<address>")
	case len(s.recipients) >= maxRcpts:
		return s.reply("452 4.5.3 Too many recipients")
	}
	rcpt := Recipient{Address: path.address}
	for name, value := range path.parameters {
		switch name {
		case "NOTIFY":
			rcpt.NeverNotify = strings.EqualFold(value, "NEVER")
		case "ORCPT":
			decoded, err := decodeXtext(value)
			if err != nil {
				return s.reply("501 5.5.4 Bad parameter value")
			}
			rcpt.Original = decoded
		default:
			return s.reply("555 5.5.4 Unknown parameter")
		}
	}
	to := s.ByDomain[strings.ToLower(path.address[strings.LastIndexByte(path.address, '@')+1:])]
	switch {
	case to == nil:
		return s.reply("550 5.7.1 <" + path.address + ">: Relaying denied")
	case s.to != nil && s.to != to:
		return s.reply("452 4.5.3 One provider for each message")
	}
	if v := to.Rcpt(s.Clock.Now(), s.source, s.from, path.address); v.Class != provider.OK {
		if v.Outage == "" && !s.think(to.Config().LatencyMS) {
			return false
		}
		return s.refuse(v, path.address)
	}
	s.to = to
	s.recipients = append(s.recipients, rcpt)
	return s.reply("250 2.1.5 Ok")
}

func (s *session) data() bool {
	if len(s.recipients) == 0 {
		return s.reply("503 5.5.1 No valid recipients")
	}
	s.reply("354 End data with <CR><LF>.<CR><LF>")
	if s.flush() != nil {
		return false
	}
	header, size, err := s.readMessage()
	if err != nil {
		return false
	}
	defer s.reset()
	cfg := s.to.Config()
	if !s.think(cfg.LatencyMS) {
		return false
	}
	s.messages++
	if size > maxSize {
		return s.reply("552 5.3.4 Message too big")
	}
	now := s.Clock.Now()
	v := s.to.Data(now, s.source, len(s.recipients))
	if v.Class != provider.OK {
		return s.refuse(v, s.recipients[0].Address)
	}
	err = s.Accept(&Delivery{
		Provider: s.to, MX: s.Name, Source: s.source, At: now, MailFrom: s.from, EnvID: s.envID,
		Recipients: s.recipients, Header: header, Size: size,
	})
	if err != nil {
		s.Log.Error("accepted message not recorded", "error", err)
		return s.reply("451 4.3.0 Local error")
	}
	owner := s.Provider.Config()
	if owner.SilentClose && s.messages >= owner.MsgsPerConn {
		s.Provider.EndOfConnection(now, s.source)
		s.leave()
		s.reply(s.text(v, ""))
		return false
	}
	return s.reply(s.text(v, s.recipients[0].Address))
}

// readMessage reads up to the line with the dot. Only CRLF ends a line there: a bare LF before the
// dot is content, or mail could be smuggled.
func (s *session) readMessage() (header []byte, size int64, err error) {
	inHeader, lineStart := true, true
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		chunk, err := s.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, 0, err
		}
		if lineStart {
			if string(chunk) == ".\r\n" {
				return header, size, nil
			}
			chunk = bytes.TrimPrefix(chunk, []byte("."))
			if string(chunk) == "\r\n" {
				inHeader = false
			}
		}
		if inHeader && len(header)+len(chunk) <= maxHeader {
			header = append(header, chunk...)
		}
		size += int64(len(chunk))
		lineStart = bytes.HasSuffix(chunk, []byte("\r\n"))
	}
}

// think waits as long as the provider takes for a verdict, and reports whether to go on after it.
func (s *session) think(ms [2]float64) bool {
	if ms[1] <= 0 {
		return true
	}
	if s.flush() != nil {
		return false
	}
	d := time.Duration((ms[0] + rand.Float64()*(ms[1]-ms[0])) * float64(time.Millisecond))
	timer := time.NewTimer(s.Clock.Real(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
