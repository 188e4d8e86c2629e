package pmta

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"carom/ingest/arf"
	"carom/ingest/classify"
	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/provider"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// The bounds of texts, as sender/reports has them: of an address, of a word that stands in a dictionary
// of the warehouse, and of all else, in octets.
const (
	maxAddress = 320
	maxWord    = 255
	maxText    = 2048
)

// maxKnown bounds what a Converter remembers, in entries; then it begins anew.
const maxKnown = 1 << 14

// Options say what a file does not.
type Options struct {
	Zone        *time.Location           // of times without an offset; nil: UTC
	Tenant      string                   // of mail of which the file does not tell it
	TenantField string                   // column with the tenant; "": rcvSmtpUser
	Key         func(addr string) string // suppression key of an address; nil: events have none
	Hide        func(*event.Event)       // takes recipients out of an event, as a node's privacy-policy does; nil: they are shown
}

// Converter makes events of records.
type Converter struct {
	options  Options
	cells    []string
	times    [2]stamp
	judged   map[question]answer
	hosts    map[string]string            // provider by MX host
	esmtp    map[string]map[string]string // headers of an event that has no others
	pairs    []pair
	layout   *Layout // that tenant is of
	tenantAt int     // column of the tenant, plus one; 0 for none
}

// pair is a header and its value.
type pair struct{ name, value string }

// stamp is a time as it stood in the last record: most records share it with the one before.
type stamp struct {
	text string
	at   time.Time
}

// question is what a verdict depends on.
type question struct {
	diag, status, provider string
	gaveUp                 bool
}

// answer is what a refusal becomes in an event.
type answer struct {
	code            uint16
	enhanced        string
	reply, template string
	verdict         classify.Verdict
}

// NewConverter returns a converter.
func NewConverter(o Options) *Converter {
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	return &Converter{options: o, judged: map[question]answer{}, hosts: map[string]string{}, esmtp: map[string]map[string]string{}}
}

// kinds gives the record types, in short and in long, their usual kind. A Converter looks closer.
var kinds = map[string]event.Kind{
	"d": event.Delivered, "delivery": event.Delivered,
	"b": event.Bounced, "bounce": event.Bounced,
	"t": event.Deferred, "transient": event.Deferred,
	"tq": event.QueueDeferred, "transient-queue": event.QueueDeferred,
	"r": event.Received, "receipt": event.Received,
	"rb": event.RemoteBounce, "remote-bounce": event.RemoteBounce,
	"rs": event.RemoteStatus, "remote-status": event.RemoteStatus,
	"f": event.Complaint, "feedback-loop": event.Complaint, "fbl": event.Complaint,
}

// row is the record that is being converted.
type row struct {
	cells  []string
	layout *Layout
	queued time.Time // when the message came in, zero if nothing tells
}

func (r *row) get(f field) string {
	if at := r.layout.at[f]; at > 0 {
		return r.cells[at-1]
	}
	return ""
}

// Convert makes an event of a record of a file with layout l and fills it into e, place apart. Strings of
// e are parts of record. The error wraps one of Reasons.
func (c *Converter) Convert(record string, l *Layout, e *event.Event) error {
	if !utf8.ValidString(record) {
		record = strings.ToValidUTF8(record, "?")
	}
	c.cells = Fields(c.cells[:0], record)
	if len(c.cells) != len(l.columns) {
		return fmt.Errorf("%w: %d, not %d", ErrFields, len(c.cells), len(l.columns))
	}
	r := row{cells: c.cells, layout: l}
	kind, ok := kinds[r.get(fieldType)]
	if !ok {
		if kind, ok = kinds[strings.ToLower(strings.TrimSpace(r.get(fieldType)))]; !ok {
			return fmt.Errorf("%w %q", ErrType, cut(r.get(fieldType), 20))
		}
	}
	at, ok := c.time(r.get(timeLogged), &c.times[0])
	if !ok {
		return fmt.Errorf("%w: timeLogged %q", ErrTime, cut(r.get(timeLogged), 40))
	}
	*e = event.Event{} // a literal with values would be made apart and copied, a kilobyte
	e.FormatVersion, e.Time, e.Kind, e.Recipients = event.FormatVersion, at, kind, 1
	c.envelope(e, &r)
	c.addresses(e, &r)
	c.headers(e, &r)
	switch kind {
	case event.Delivered:
		c.delivered(e, &r)
	case event.Bounced:
		c.refused(e, &r, false)
		bounced(e, &r)
	case event.Deferred:
		c.refused(e, &r, false)
	case event.QueueDeferred:
		c.refused(e, &r, false)
		e.Tenant, e.RecipientDomain = "", queueDomain(e.Queue)
	case event.RemoteBounce:
		c.refused(e, &r, true)
		report(e, &r)
	case event.RemoteStatus:
		e.SetReply(parse(r.get(dsnDiag), r.get(dsnStatus)))
		e.FeedbackType = cut(r.get(dsnAction), maxWord)
		report(e, &r)
	case event.Complaint:
		complaint(e, &r)
		report(e, &r)
	default: // received: there is no answer in it
	}
	identify(e, &r)
	if c.options.Hide != nil {
		c.options.Hide(e) // last: the id of the message is made of the true address
	}
	return nil
}

// envelope fills in what was known when the message came in.
func (c *Converter) envelope(e *event.Event, r *row) {
	e.MailFrom, e.Recipient = cut(r.get(orig), maxAddress), cut(r.get(rcpt), maxAddress)
	e.MailFromDomain, e.RecipientDomain = domainOf(e.MailFrom), domainOf(e.Recipient)
	if c.options.Key != nil && e.RecipientDomain != "" {
		e.RecipientKey = c.options.Key(e.Recipient)
	}
	e.Queue, e.VMTA, e.Pool = cut(r.get(queue), maxWord), cut(r.get(vmta), maxWord), cut(r.get(vmtaPool), maxWord)
	e.Job, e.EnvID = cut(r.get(jobID), maxWord), cut(r.get(envID), maxWord)
	e.SMTPUser = cut(r.get(rcvSMTPUser), maxWord)
	if e.Tenant = c.tenant(r); e.Tenant == "" && !isReport(e.Kind) {
		e.Tenant = c.options.Tenant
	}
	if e.VMTA == "" {
		_, e.VMTA, _ = strings.Cut(e.Queue, "/")
	}
	e.Size, _ = strconv.ParseUint(r.get(dlvSize), 10, 64) // 0 for none and for what is no number
	if e.Kind == event.Received {
		r.queued = e.Time
		return
	}
	if at, ok := c.time(r.get(timeQueued), &c.times[1]); ok {
		r.queued = at
	} else if s, err := strconv.ParseUint(r.get(totalSecondsQueued), 10, 31); err == nil {
		r.queued = e.Time.Add(-time.Duration(s) * time.Second) //nolint:gosec // 31 bits
	}
	if !r.queued.IsZero() {
		e.Queued = max(0, e.Time.Sub(r.queued))
	}
}

// isReport reports whether an event came back later: whose it is the attribution says.
func isReport(k event.Kind) bool {
	return k == event.RemoteBounce || k == event.RemoteStatus || k == event.Complaint
}

// tenant returns what the file says of the tenant.
func (c *Converter) tenant(r *row) string {
	if c.options.TenantField == "" {
		return cut(r.get(rcvSMTPUser), maxWord)
	}
	if c.layout != r.layout {
		c.layout, c.tenantAt = r.layout, r.layout.column(c.options.TenantField)
	}
	if c.tenantAt == 0 {
		return ""
	}
	return cut(r.cells[c.tenantAt-1], maxWord)
}

// addresses fills in hosts and addresses of both sides, and the provider where the host tells it.
func (c *Converter) addresses(e *event.Event, r *row) {
	e.ClientMTA, e.ClientIP = hostAndIP(r.get(srcMta))
	if ip, ok := address(r.get(rcvSourceIP)); ok {
		e.ClientIP = ip
	}
	if ip, ok := address(r.get(rcvDestinationIP)); ok {
		e.Listener = netip.AddrPortFrom(ip, 0).String() // the port is not in the file
	}
	if ip, ok := address(r.get(dlvSourceIP)); ok {
		e.SourceIP = ip
	}
	e.MXHost, e.MXIP = hostAndIP(r.get(dsnMta))
	if ip, ok := address(r.get(dlvDestinationIP)); ok {
		e.MXIP = ip
	}
	switch e.Kind {
	case event.Delivered, event.Bounced, event.Deferred, event.QueueDeferred:
		e.Source = event.SourceKey(e.SourceIP)
		e.Provider = c.providerOf(e.MXHost)
		e.TLSVersion, e.TLSCipher = tlsVersion(r.get(dlvTLSProtocol)), cut(r.get(dlvTLSCipher), maxWord)
	default: // which delivery a report is about is for the attribution to say
	}
}

// providerOf returns the provider of an MX host, "" for none.
func (c *Converter) providerOf(host string) string {
	if host == "" || !strings.Contains(host, ".") {
		return ""
	}
	name, ok := c.hosts[host]
	if !ok {
		if len(c.hosts) >= maxKnown {
			clear(c.hosts)
		}
		name = provider.OfMX(host)
		c.hosts[strings.Clone(host)] = strings.Clone(name)
	}
	return name
}

// headers fills in what has no column of its own.
func (c *Converter) headers(e *event.Event, r *row) {
	c.pairs = c.pairs[:0]
	set := func(name, value string) {
		if value != "" {
			c.pairs = append(c.pairs, pair{name, cut(value, maxText)})
		}
	}
	set(originalHeader, r.get(orcpt))
	set(agentHeader, r.get(userAgent))
	set(userHeader, r.get(userString))
	set(domainHeader, r.get(reportedDomain))
	if f := r.get(format); f != "dsn" && f != "arf" { // those that events have no word for
		set(formatHeader, f)
	}
	for i, column := range r.layout.columns {
		if column.field != header || r.cells[i] == "" || i+1 == r.layout.refs && !isReport(e.Kind) {
			continue
		}
		switch column.name {
		case fromHeader:
			e.FromDomain = domainOf(r.cells[i])
		case jobHeader:
			if e.Job == "" {
				e.Job = cut(r.cells[i], maxWord)
			}
		}
		set(column.name, r.cells[i])
	}
	esmtp := cut(r.get(dlvEsmtpAvailable), maxText)
	if len(c.pairs) == 0 && esmtp != "" {
		e.Headers = c.shared(esmtp) // as most deliveries have it
		return
	}
	set(esmtpHeader, esmtp)
	if len(c.pairs) == 0 {
		return
	}
	e.Headers = make(map[string]string, len(c.pairs))
	for _, p := range c.pairs {
		e.Headers[p.name] = p.value
	}
}

// shared returns a map with nothing but what a receiver can do, which nobody changes.
func (c *Converter) shared(esmtp string) map[string]string {
	m, ok := c.esmtp[esmtp]
	if !ok {
		if len(c.esmtp) >= maxKnown {
			clear(c.esmtp)
		}
		esmtp = strings.Clone(esmtp)
		m = map[string]string{esmtpHeader: esmtp}
		c.esmtp[esmtp] = m
	}
	return m
}

// delivered fills in an acceptance.
func (c *Converter) delivered(e *event.Event, r *row) {
	if strings.EqualFold(r.get(dlvType), "discard") {
		e.Kind = event.Discarded
	} else {
		e.Phase = event.PhaseFinalDot
	}
	e.SetReply(parse(r.get(dsnDiag), r.get(dsnStatus)))
	setVerdict(e, classify.Verdict{Category: taxonomy.Delivered, Class: taxonomy.None, Dimension: taxonomy.OK})
}

// refused fills in a refusal and what it means.
func (c *Converter) refused(e *event.Event, r *row, gaveUp bool) {
	q := question{r.get(dsnDiag), r.get(dsnStatus), e.Provider, gaveUp}
	if gaveUp { // a remote bounce has no provider, but the host that refused tells which rules to read it by
		q.provider = c.providerOf(e.MXHost)
	}
	a, ok := c.judged[q]
	if !ok {
		a = judge(q)
		if len(c.judged) >= maxKnown {
			clear(c.judged)
		}
		q.diag, q.status, q.provider = strings.Clone(q.diag), strings.Clone(q.status), strings.Clone(q.provider)
		c.judged[q] = a
	}
	e.Code, e.Enhanced, e.Reply, e.ReplyTemplate = a.code, a.enhanced, a.reply, a.template
	setVerdict(e, a.verdict)
	if category := r.get(bounceCat); category != "" {
		e.PMTACategory = cut(category, maxWord)
	}
}

// judge reads an answer. Its strings share nothing with the record.
func judge(q question) answer {
	reply := parse(strings.Clone(q.diag), strings.Clone(q.status))
	var e event.Event
	e.SetReply(reply)
	return answer{e.Code, e.Enhanced, e.Reply, e.ReplyTemplate, classify.Classify(classify.Input{
		Reply: reply, Provider: q.provider, GaveUp: q.gaveUp,
	})}
}

// setVerdict fills the fields of e that the classifier gives.
func setVerdict(e *event.Event, v classify.Verdict) {
	e.Category, e.Class, e.Dimension, e.Scope, e.ScopeValue = v.Category, v.Class, v.Dimension, v.Scope, v.ScopeValue
	e.ClassifierVersion, e.PMTACategory = classify.Version, v.Category.PowerMTA()
}

// parse reads a diagnostic with its type before it (RFC 3464 section 2.3.6), and the status that stands
// beside it where the diagnostic has none. "bounce-queue;reply:" is what PowerMTA puts before the reply
// that made it bounce a whole queue.
func parse(diag, status string) smtpstatus.Reply {
	diag = cut(diag, maxText)
	if kind, text, ok := strings.Cut(diag, ";"); ok && isDiagnosticType(kind) {
		diag = text
	}
	if text, ok := strings.CutPrefix(diag, "bounce-queue;"); ok {
		diag = strings.TrimPrefix(text, "reply:")
	}
	var reply smtpstatus.Reply
	if diag = strings.TrimSpace(diag); diag != "" {
		reply = smtpstatus.Parse(diag)
	}
	if reply.Enhanced.IsZero() {
		reply.Enhanced, _ = smtpstatus.ParseEnhanced(status)
	}
	return reply
}

func isDiagnosticType(kind string) bool {
	switch strings.ToLower(kind) {
	case "smtp", "x-pmta", "x-unix", "dns", "x-powermta":
		return true
	}
	return false
}

// bounced looks closer at a bounce: it may be one that no receiver decided.
func bounced(e *event.Event, r *row) {
	isLocal := e.Code == 0
	switch text := strings.ToLower(e.Reply); {
	case isLocal && strings.Contains(text, "deleted by"):
		e.Kind, e.Category, e.Class, e.Dimension = event.Deleted, taxonomy.Unknown, taxonomy.None, taxonomy.Other
	case isLocal && strings.Contains(text, "suppress"):
		category := e.PMTACategory
		e.Kind = event.Suppressed
		setVerdict(e, classify.Classify(classify.Input{Local: classify.Suppressed}))
		e.PMTACategory = category
	case expired(e, r):
		category := e.PMTACategory
		e.Kind = event.Expired
		setVerdict(e, classify.Classify(classify.Input{Local: classify.QueueExpired}))
		e.PMTACategory = category
	}
}

// expired reports whether a bounce is the end of bounce-after: PowerMTA says so in the status or the
// category and keeps the last answer, which asked to try again, as the diagnostic.
func expired(e *event.Event, r *row) bool {
	if e.Code/100 == 5 {
		return false
	}
	status, _ := smtpstatus.ParseEnhanced(r.get(dsnStatus))
	return status.Subject == 4 && status.Detail == 7 || e.PMTACategory == "message-expired"
}

// report fills in what reports have in common.
func report(e *event.Event, r *row) {
	e.ReportingMTA = cut(r.get(reportingMta), maxWord)
	// A reference in a quoted header is nobody's proof, and what PowerMTA has matched is not signed.
	e.MatchMethod = string(correlate.None)
}

// complaint fills in a feedback report. One that complains of nothing is a remote status.
func complaint(e *event.Event, r *row) {
	e.FeedbackType = cut(strings.ToLower(r.get(feedbackType)), maxWord)
	if e.FeedbackType != "" && !arf.FeedbackType(e.FeedbackType).Complaint() {
		e.Kind = event.RemoteStatus
		return
	}
	setVerdict(e, classify.Verdict{Category: taxonomy.Complaint, Class: taxonomy.Complaint.Class(), Dimension: taxonomy.User})
}

// identify gives e the id of its message. PowerMTA has none, so it is made of what all records of one
// message and recipient share: of the same length, time-ordered like carom's own (RFC 9562 section 5.7).
// A file of carom's own may have the true one.
func identify(e *event.Event, r *row) {
	if e.Kind == event.QueueDeferred {
		return
	}
	standsAlone := isReport(e.Kind) || r.queued.IsZero() && e.Headers[messageIDHeader] == ""
	if at := r.layout.refs; at > 0 && !isReport(e.Kind) {
		if id, ok := reference(r.cells[at-1]); ok {
			e.MessageID = id
			return
		}
	}
	buf := make([]byte, 0, 512)
	for _, s := range []string{e.MailFrom, e.Recipient, e.EnvID, e.Headers[messageIDHeader]} {
		buf = append(binary.AppendUvarint(buf, uint64(len(s))), s...)
	}
	at := r.queued
	if standsAlone { // nothing ties it to other records
		at = e.Time
		buf = append(buf, byte(e.Kind))
		buf = append(buf, e.Reply...)
	}
	ms := int64(0)
	if !at.IsZero() {
		ms = at.UnixMilli()
		buf = binary.AppendVarint(buf, ms)
	}
	sum := sha256.Sum256(buf)
	copy(e.MessageID[:], sum[:])
	for i := range 6 {
		e.MessageID[i] = byte(ms >> (40 - 8*i))
	}
	e.MessageID[6] = e.MessageID[6]&0x0f | 0x70 // version 7
	e.MessageID[8] = e.MessageID[8]&0x3f | 0x80 // RFC 9562's variant
}

// reference parses the id in carom's own files.
func reference(text string) (event.ID, bool) {
	var id event.ID
	err := id.UnmarshalText([]byte(text))
	return id, err == nil
}

// column returns where the column of a name is, plus one; 0 for nowhere.
func (l *Layout) column(name string) int {
	f := fieldOf[strings.ToLower(name)]
	if f != unmapped && f != known {
		return l.at[f]
	}
	if len(name) > len("header_") && strings.EqualFold(name[:len("header_")], "header_") {
		key := headerKey(name[len("header_"):])
		for i, c := range l.columns {
			if c.field == header && c.name == key {
				return i + 1
			}
		}
	}
	return 0
}

// domainOf returns the domain of an address in lower case, as A-labels, "" for none. It takes what stands
// in a From field too: the last address counts.
func domainOf(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	domain := address[at+1:]
	if end := strings.IndexAny(domain, "> ,;)\"\t"); end >= 0 {
		domain = domain[:end]
	}
	domain = strings.TrimSuffix(domain, ".")
	for i := range len(domain) {
		if domain[i] < utf8.RuneSelf {
			continue
		}
		if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
			domain = ascii
		}
		break
	}
	return strings.ToLower(cut(domain, maxWord))
}

// queueDomain returns the domain or rollup of a queue, "" for none.
func queueDomain(queueName string) string {
	domain, _, _ := strings.Cut(queueName, "/")
	return strings.ToLower(domain)
}

// address parses an address, with or without a port.
func address(text string) (netip.Addr, bool) {
	if text == "" {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}, false
	}
	return ip.Unmap().WithZone(""), true
}

// hostAndIP splits "host (address)", of which either may be missing.
func hostAndIP(text string) (host string, ip netip.Addr) {
	host = text
	if open := strings.LastIndexByte(text, '('); open >= 0 && strings.HasSuffix(text, ")") {
		if addr, ok := address(text[open+1 : len(text)-1]); ok {
			host, ip = strings.TrimSpace(text[:open]), addr
		}
	}
	return cut(strings.TrimSuffix(host, "."), maxWord), ip
}

// tlsVersion writes a version as carom's own events have it.
func tlsVersion(text string) string {
	if number, ok := strings.CutPrefix(text, "TLSv"); ok {
		if !strings.Contains(number, ".") {
			number += ".0"
		}
		return "TLS " + cut(number, 10)
	}
	return cut(text, maxWord)
}

// cut returns the first n octets of s, in whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
