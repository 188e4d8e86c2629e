package account

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// cell appends the value of a column to a row.
type cell func(row []byte, e *event.Event, f *File) []byte

// column is one column of an accounting file. Types lists the record types that have it, "" all.
type column struct {
	name  string
	types string
	cell  cell
}

func (c column) holds(letter string) bool {
	return c.types == "" || strings.Contains(" "+c.types+" ", " "+letter+" ")
}

// columns lists the default fields of all record types in the order in which PowerMTA writes them
// (User's Guide 5.0, chapter 11).
var columns = []column{
	{"type", "", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Kind.PowerMTA()...) }},
	{"timeLogged", "", func(row []byte, e *event.Event, f *File) []byte { return f.stamp(row, e.Time) }},
	{"timeQueued", "d b t", func(row []byte, e *event.Event, f *File) []byte { return f.stamp(row, e.Time.Add(-e.Queued)) }},
	{"format", "rb rs f", reportFormat},
	{"userAgent", "f", header("User-Agent")},
	{"orig", "d b t r rb rs f", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.MailFrom...) }},
	{"rcpt", "d b t r rb rs f", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Recipient...) }},
	{"orcpt", "d b t r rb rs", header("ORCPT")},
	{"dsnAction", "d b t rb rs", action},
	{"dsnStatus", "d b t tq rb rs", status},
	{"dsnDiag", "d b t tq rb rs", diagnostic},
	{"dsnMta", "d b t tq rb rs", func(row []byte, e *event.Event, _ *File) []byte { return hostWithIP(row, e.MXHost, e.MXIP) }},
	{"dsnReportingMta", "rb rs", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.ReportingMTA...) }},
	{"reportingMta", "f", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.ReportingMTA...) }},
	{"feedbackType", "f", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.FeedbackType...) }},
	{"bounceCat", "d b t rb rs", category},
	{"srcType", "d b t r rb rs", func(row []byte, _ *event.Event, _ *File) []byte { return append(row, "smtp"...) }},
	{"srcMta", "d b t r rb rs", func(row []byte, e *event.Event, _ *File) []byte { return hostWithIP(row, e.ClientMTA, e.ClientIP) }},
	{"rcvSourceIp", "r", func(row []byte, e *event.Event, _ *File) []byte { return address(row, e.ClientIP) }},
	{"rcvDestinationIp", "r", listenerIP},
	{"dlvType", "d b t tq", deliveryType},
	{"dlvSourceIp", "d b t tq f", func(row []byte, e *event.Event, _ *File) []byte { return address(row, e.SourceIP) }},
	{"dlvDestinationIp", "d b t tq", func(row []byte, e *event.Event, _ *File) []byte { return address(row, e.MXIP) }},
	{"dlvEsmtpAvailable", "d b t", header("ESMTP")},
	{"dlvSize", "d", func(row []byte, e *event.Event, _ *File) []byte { return strconv.AppendUint(row, e.Size, 10) }},
	{"vmta", "d b t tq r", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.VMTA...) }},
	{"jobId", "d b t r", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Job...) }},
	{"envId", "d b t r rb rs f", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.EnvID...) }},
	{"queue", "d b t tq", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Queue...) }},
	{"vmtaPool", "d b t tq r", func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Pool...) }},
	{"userString", "", func(row []byte, _ *event.Event, f *File) []byte { return append(row, f.options.UserString...) }},
}

// quote makes what stands in row from start on a field by RFC 4180 section 2, in UTF-8.
func quote(row []byte, start int) []byte {
	field := row[start:]
	ascii, plain := true, true
	for _, c := range field {
		ascii = ascii && c < utf8.RuneSelf
		plain = plain && c != '"' && c != ',' && c != '\r' && c != '\n'
	}
	if !ascii && !utf8.Valid(field) {
		row = append(row[:start], bytes.ToValidUTF8(field, []byte("?"))...)
		field = row[start:]
	}
	if plain {
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
	return func(row []byte, e *event.Event, _ *File) []byte { return append(row, e.Headers[name]...) }
}

func (f *File) stamp(row []byte, t time.Time) []byte {
	if f.options.UnixTimes {
		return strconv.AppendInt(row, t.Unix(), 10)
	}
	return t.In(f.zone).AppendFormat(row, "2006-01-02 15:04:05-0700")
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

func listenerIP(row []byte, e *event.Event, _ *File) []byte {
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

func reportFormat(row []byte, e *event.Event, _ *File) []byte {
	if format := e.Headers[FormatHeader]; format != "" {
		return append(row, format...)
	}
	if isFeedback(e) {
		return append(row, "arf"...)
	}
	return append(row, "dsn"...)
}

func action(row []byte, e *event.Event, _ *File) []byte {
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
func status(row []byte, e *event.Event, _ *File) []byte {
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
func diagnostic(row []byte, e *event.Event, _ *File) []byte {
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

func category(row []byte, e *event.Event, _ *File) []byte {
	if e.Kind == event.Delivered || e.Kind == event.Discarded {
		return row
	}
	return append(row, e.PMTACategory...)
}

func deliveryType(row []byte, e *event.Event, _ *File) []byte {
	if e.Kind == event.Discarded {
		return append(row, "discard"...)
	}
	return append(row, "smtp"...)
}
