package account

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// cell appends the value of a column to a row.
type cell func(row []byte, e *event.Event, l *Layout) []byte

// column is one column of an accounting file.
type column struct {
	name    string
	types   string // the record types that have it by default
	also    string // those that have it when they ask for it
	cell    cell
	starred bool // it is there because of "*"
}

// everyType is what types says of a column that all records have.
const everyType = "d b t tq r rb rs f"

// holds reports whether a record type has the column by default.
func (c column) holds(letter string) bool { return listed(c.types, letter) }

// has reports whether a record type can have the column.
func (c column) has(letter string) bool { return c.holds(letter) || listed(c.also, letter) }

func listed(types, letter string) bool { return strings.Contains(" "+types+" ", " "+letter+" ") }

const userString = "userString"

// columns lists the fields of all record types in the order in which PowerMTA writes those that it
// writes by default (User's Guide 5.0, chapter 11), and behind them those that must be asked for.
var columns = []column{
	{name: "timeLogged", types: everyType, cell: func(row []byte, e *event.Event, l *Layout) []byte { return l.stamp(row, e.Time, &l.logged) }},
	{name: "timeQueued", types: "d b t", cell: func(row []byte, e *event.Event, l *Layout) []byte {
		return l.stamp(row, e.Time.Add(-e.Queued), &l.queued)
	}},
	{name: "format", types: "rb rs f", cell: reportFormat},
	{name: "userAgent", types: "f", cell: header("User-Agent")},
	{name: "orig", types: "d b t r rb rs f", cell: text(func(e *event.Event) string { return e.MailFrom })},
	{name: "rcpt", types: "d b t r rb rs f", cell: text(func(e *event.Event) string { return e.Recipient })},
	{name: "orcpt", types: "d b t r rb rs", cell: header("ORCPT")},
	{name: "dsnAction", types: "d b t rb rs", cell: action},
	{name: "dsnStatus", types: "d b t tq rb rs", cell: status},
	{name: "dsnDiag", types: "d b t tq rb rs", cell: diagnostic},
	{name: "dsnMta", types: "d b t tq rb rs", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return hostWithIP(row, e.MXHost, e.MXIP) }},
	{name: "dsnReportingMta", types: "rb rs", cell: text(func(e *event.Event) string { return e.ReportingMTA })},
	{name: "reportingMta", types: "f", cell: text(func(e *event.Event) string { return e.ReportingMTA })},
	{name: "feedbackType", types: "f", cell: text(func(e *event.Event) string { return e.FeedbackType })},
	{name: "bounceCat", types: "d b t rb rs", cell: category},
	{name: "srcType", types: "d b t r rb rs", cell: text(func(*event.Event) string { return "smtp" })},
	{name: "srcMta", types: "d b t r rb rs", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return hostWithIP(row, e.ClientMTA, e.ClientIP) }},
	{name: "rcvSourceIp", types: "r", also: "d b t", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return address(row, e.ClientIP) }},
	{name: "rcvDestinationIp", types: "r", also: "d b t", cell: listenerIP},
	{name: "dlvType", types: "d b t tq", cell: deliveryType},
	{name: "dlvSourceIp", types: "d b t tq f", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return address(row, e.SourceIP) }},
	{name: "dlvDestinationIp", types: "d b t tq", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return address(row, e.MXIP) }},
	{name: "dlvEsmtpAvailable", types: "d b t", cell: header("ESMTP")},
	{name: "dlvSize", types: "d", also: "b t r", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return strconv.AppendUint(row, e.Size, 10) }},
	{name: "vmta", types: "d b t tq r", cell: text(func(e *event.Event) string { return e.VMTA })},
	{name: "jobId", types: "d b t r", cell: text(func(e *event.Event) string { return e.Job })},
	{name: "envId", types: "d b t r rb rs f", cell: text(func(e *event.Event) string { return e.EnvID })},
	{name: "queue", types: "d b t tq", cell: text(func(e *event.Event) string { return e.Queue })},
	{name: "vmtaPool", types: "d b t tq r", cell: text(func(e *event.Event) string { return e.Pool })},
	{name: userString, types: everyType, cell: func(row []byte, _ *event.Event, l *Layout) []byte { return append(row, l.options.UserString...) }},

	{name: "rcvSmtpUser", also: "d b t r", cell: text(func(e *event.Event) string { return e.SMTPUser })},
	{name: "dlvTlsProtocol", also: "d b t", cell: text(func(e *event.Event) string { return e.TLSVersion })},
	{name: "dlvTlsCipher", also: "d b t", cell: text(func(e *event.Event) string { return e.TLSCipher })},
	{name: "totalSecondsQueued", also: "d b t", cell: func(row []byte, e *event.Event, _ *Layout) []byte {
		return strconv.AppendInt(row, int64(e.Queued.Seconds()), 10)
	}},
	{name: "repSourceIp", also: "f", cell: listenerIP},
	{name: "reportedDomain", also: "f", cell: header("arf_Reported-Domain")},
	{name: "timeFirstAttempt"}, // no event knows it: the column is empty
	{name: "timeImprinted"},    // of PowerMTA 3 and 4.0: the column is empty
}

// rejectColumns lists the fields of a reject log.
var rejectColumns = []column{
	{name: "timeLogged", types: "c r", cell: func(row []byte, e *event.Event, l *Layout) []byte { return l.stamp(row, e.Time, &l.logged) }},
	{name: "orig", types: "r", cell: text(func(e *event.Event) string { return e.MailFrom })},
	{name: "rcpt", types: "r", cell: text(func(e *event.Event) string { return e.Recipient })},
	{name: "dsnStatus", types: "c r", cell: status},
	{name: "dsnDiag", types: "c r", cell: diagnostic},
	{name: "srcType", types: "c r", cell: text(func(*event.Event) string { return "smtp" })},
	{name: "srcMta", types: "c r", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return hostWithIP(row, e.ClientMTA, e.ClientIP) }},
	{name: "rcvSourceIp", types: "c r", cell: func(row []byte, e *event.Event, _ *Layout) []byte { return address(row, e.ClientIP) }},
	{name: "rcvDestinationIp", types: "c r", cell: listenerIP},
	{name: "rcvSmtpUser", types: "r", cell: text(func(e *event.Event) string { return e.SMTPUser })},
	{name: "jobId", types: "r", cell: text(func(e *event.Event) string { return e.Job })},
	{name: userString, types: "c r", cell: func(row []byte, _ *event.Event, l *Layout) []byte { return append(row, l.options.UserString...) }},
}

// complaintHeaders are the headers of the reported message that a complaint's record has by default.
var complaintHeaders = []string{"From", "Return-Path", "X-job", "Subject"}

// ComplaintHeaders returns the names of the headers of the reported message that a complaint's record
// has by default.
func ComplaintHeaders() []string { return slices.Clone(complaintHeaders) }

// FieldNames returns the names of all fields, less those of headers.
func FieldNames() []string {
	names := make([]string, 1, 1+len(columns))
	names[0] = "type"
	for _, c := range columns {
		names = append(names, c.name)
	}
	return names
}

// columnOf returns the column of a name, in whatever case it is written.
func (l *Layout) columnOf(name string) (column, bool) {
	lower := strings.ToLower(name)
	switch {
	case strings.HasPrefix(lower, "header_") && len(name) > len("header_"), strings.HasPrefix(lower, "arf_") && len(name) > len("arf_"):
		return headerColumn(name), true
	case lower == "type":
		return column{name: "type"}, true
	}
	for _, c := range l.table {
		if strings.EqualFold(c.name, name) {
			return c, true
		}
	}
	return column{}, false
}

// headerColumn returns the column of header_NAME or arf_NAME.
func headerColumn(name string) column {
	if i := len("arf_"); strings.EqualFold(name[:i], "arf_") {
		return column{name: name, also: "f", cell: header("arf_" + HeaderKey(name[i:]))}
	}
	key := HeaderKey(name[len("header_"):])
	c := column{name: name, also: "d b t r rb rs f", cell: header(key)}
	if key == "X-Carom-Ref" { // it is no header of the message that comes in
		c.cell = messageID
	}
	return c
}

// messageID writes the id of the message, or of the one that a report is about.
func messageID(row []byte, e *event.Event, _ *Layout) []byte {
	id := e.MessageID
	if e.Kind == event.RemoteBounce || e.Kind == event.RemoteStatus || e.Kind == event.Complaint {
		id = e.OriginalMessageID
	}
	if id == (event.ID{}) {
		return row
	}
	return append(row, id.String()...)
}

// text is a cell of one string.
func text(of func(e *event.Event) string) cell {
	return func(row []byte, e *event.Event, _ *Layout) []byte { return append(row, of(e)...) }
}

// What special says of an octet of a field.
const (
	notASCII    = 1 << iota // it may be no UTF-8
	needsQuotes             // RFC 4180 section 2
)

var special = func() (t [256]byte) {
	for c := utf8.RuneSelf; c < len(t); c++ {
		t[c] = notASCII
	}
	for _, c := range "\",\r\n" {
		t[c] = needsQuotes
	}
	return t
}()

// quote makes what stands in row from start on a field by RFC 4180 section 2, in UTF-8.
func quote(row []byte, start int) []byte {
	field := row[start:]
	var found byte
	for _, c := range field {
		found |= special[c]
	}
	if found == 0 {
		return row
	}
	if found&notASCII != 0 && !utf8.Valid(field) {
		row = append(row[:start], bytes.ToValidUTF8(field, []byte("?"))...)
		field = row[start:]
	}
	if found&needsQuotes == 0 {
		return row
	}
	quotes := bytes.Count(field, []byte{'"'})
	n := len(row)
	row = append(row, make([]byte, quotes+2)...)
	row[len(row)-1] = '"'
	to := len(row) - 2
	for from := n - 1; from >= start; from-- { // backwards, because it grows in its place
		row[to] = row[from]
		to--
		if row[from] == '"' {
			row[to] = '"'
			to--
		}
	}
	row[start] = '"'
	return row
}

func header(name string) cell {
	return func(row []byte, e *event.Event, _ *Layout) []byte { return append(row, e.Headers[name]...) }
}

func address(row []byte, ip netip.Addr) []byte {
	if !ip.IsValid() {
		return row
	}
	return ip.Unmap().AppendTo(row)
}

func hostWithIP(row []byte, host string, ip netip.Addr) []byte {
	row = append(row, host...)
	if !ip.IsValid() {
		return row
	}
	if host != "" {
		row = append(row, ' ')
	}
	return append(address(append(row, '('), ip), ')')
}

func listenerIP(row []byte, e *event.Event, _ *Layout) []byte {
	ap, err := netip.ParseAddrPort(e.Listener)
	if err != nil {
		return row
	}
	return address(row, ap.Addr())
}

// isFeedback reports whether e comes from a feedback report: a complaint, or a report of another
// type, which is a remote status without the action of one (RFC 3464 section 2.3.3).
func isFeedback(e *event.Event) bool {
	if e.Kind == event.RemoteStatus {
		switch e.FeedbackType {
		case "", "delayed", "delivered", "relayed", "expanded":
			return false
		}
		return true
	}
	return e.Kind == event.Complaint
}

// FormatHeader is the name under which an event carries the format of its report, where that is
// not the one that RFCs 3464 and 5965 describe.
const FormatHeader = "Format"

// MessageIDHeader is the name under which a received event carries the Message-ID of its message, and an
// event of a report that of the message which it quotes.
const MessageIDHeader = "Message-ID"

func reportFormat(row []byte, e *event.Event, _ *Layout) []byte {
	if format := e.Headers[FormatHeader]; format != "" {
		return append(row, format...)
	}
	if isFeedback(e) {
		return append(row, "arf"...)
	}
	return append(row, "dsn"...)
}

func action(row []byte, e *event.Event, _ *Layout) []byte {
	switch {
	case e.Kind == event.Delivered, e.Kind == event.Discarded:
		return append(row, "relayed"...)
	case e.Kind == event.Deferred:
		return append(row, "delayed"...)
	case isFeedback(e):
		return row
	case e.Kind == event.RemoteStatus:
		return append(row, e.FeedbackType...)
	default:
		return append(row, "failed"...)
	}
}

// status writes the enhanced status code, or the one that the rest of the event implies, with the
// words that PowerMTA puts in brackets.
func status(row []byte, e *event.Event, _ *Layout) []byte {
	if isFeedback(e) {
		return row
	}
	code := e.Enhanced
	if code == "" {
		code = impliedStatus(e)
	}
	row = append(append(row, code...), " ("...)
	return append(append(row, statusWords(code)...), ')')
}

// impliedStatus returns the status of an event that has no enhanced status code.
func impliedStatus(e *event.Event) string {
	switch {
	case e.Code/100 == 2, e.Kind == event.Delivered, e.Kind == event.Discarded,
		e.Kind == event.RemoteStatus && e.FeedbackType != "delayed":
		return "2.0.0"
	case e.Code/100 == 4, e.Kind == event.RemoteStatus:
		return "4.0.0"
	case e.Code/100 == 5, e.Kind == event.RemoteBounce, e.Kind == event.Deleted:
		return "5.0.0"
	case e.Kind == event.Expired:
		return "4.4.7"
	default:
		return "4.4.1"
	}
}

// statusWords returns the words that PowerMTA gives to a status: RFC 3463's, in its own spelling.
func statusWords(code string) string {
	if code[0] == '2' {
		return "success"
	}
	e, _ := smtpstatus.ParseEnhanced(code)
	switch [2]uint16{e.Subject, e.Detail} {
	case [2]uint16{1, 1}:
		return "bad destination mailbox address"
	case [2]uint16{1, 2}:
		return "bad destination system address"
	case [2]uint16{3, 5}:
		return "system incorrectly configured"
	case [2]uint16{4, 1}:
		return "no answer from host"
	case [2]uint16{4, 7}:
		return "delivery time expired"
	case [2]uint16{5, 2}:
		return "syntax error"
	case [2]uint16{5, 4}:
		return "invalid command arguments"
	case [2]uint16{7, 1}:
		return "delivery not authorized"
	}
	switch e.Subject {
	case 2:
		return "mailbox-related failure"
	case 3:
		return "mail system-related failure"
	case 5:
		return "protocol-related failure"
	case 7:
		return "other or undefined security status"
	}
	return "undefined status"
}

// diagnostic writes what the receiver said, or what was wrong here, with its type (RFC 3464
// section 2.3.6). What a report quotes without a reply code is of a type that the event lacks.
func diagnostic(row []byte, e *event.Event, _ *Layout) []byte {
	switch {
	case e.Reply == "":
		return row
	case e.Code != 0, e.Kind == event.RemoteBounce, e.Kind == event.RemoteStatus:
		row = append(row, "smtp;"...)
	default:
		row = append(row, "x-pmta;"...) // PowerMTA's word for local causes, by which scripts tell them
	}
	return append(row, e.Reply...)
}

func category(row []byte, e *event.Event, _ *Layout) []byte {
	if e.Kind == event.Delivered || e.Kind == event.Discarded {
		return row
	}
	return append(row, e.PMTACategory...)
}

func deliveryType(row []byte, e *event.Event, _ *Layout) []byte {
	if e.Kind == event.Discarded {
		return append(row, "discard"...)
	}
	return append(row, "smtp"...)
}
