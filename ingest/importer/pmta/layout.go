package pmta

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"
)

// field is what a column of an accounting file is.
type field uint8

const (
	unmapped field = iota
	fieldType
	timeLogged
	timeQueued
	totalSecondsQueued
	orig
	rcpt
	orcpt
	dsnAction
	dsnStatus
	dsnDiag
	dsnMta
	reportingMta
	bounceCat
	srcMta
	dlvType
	dlvSourceIP
	dlvDestinationIP
	dlvEsmtpAvailable
	dlvSize
	dlvTLSProtocol
	dlvTLSCipher
	vmta
	vmtaPool
	jobID
	envID
	queue
	rcvSMTPUser
	rcvSourceIP
	rcvDestinationIP
	userString
	format
	userAgent
	feedbackType
	reportedDomain
	known // and not needed: an event has no place for it, or knows it from elsewhere
	header

	fields = int(header)
)

// fieldOf names the fields of all record types, in lower case: those of the guides 4.5, 5.0 and 5.5,
// and the names that they had before.
var fieldOf = map[string]field{
	"type": fieldType, "timelogged": timeLogged, "timequeued": timeQueued, "totalsecondsqueued": totalSecondsQueued,
	"orig": orig, "rcpt": rcpt, "orcpt": orcpt, "dsnaction": dsnAction, "dsnstatus": dsnStatus, "dsndiag": dsnDiag, "dsnmta": dsnMta,
	"dsnreportingmta": reportingMta, "reportingmta": reportingMta, "bouncecat": bounceCat, "srcmta": srcMta,
	"dlvtype": dlvType, "dlvsourceip": dlvSourceIP, "vmtasrcip": dlvSourceIP, "dlvdestinationip": dlvDestinationIP,
	"dlvesmtpavailable": dlvEsmtpAvailable, "dlvsize": dlvSize, "dlvtlsprotocol": dlvTLSProtocol, "dlvtlscipher": dlvTLSCipher,
	"vmta": vmta, "vmtapool": vmtaPool, "jobid": jobID, "envid": envID, "queue": queue,
	"rcvsmtpuser": rcvSMTPUser, "rcvsourceip": rcvSourceIP, "rcvdestinationip": rcvDestinationIP, "userstring": userString,
	"format": format, "useragent": userAgent, "feedbacktype": feedbackType, "reporteddomain": reportedDomain,
	"srctype": known, "timeimprinted": known, "timefirstattempt": known, "repsourceip": known,
}

// Default is the header of a file with the default fields of d and b, as PowerMTA 4 and 5 write it.
const Default = "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,dlvType," +
	"dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool"

// maxColumns bounds a header line. PowerMTA has some forty fields; the rest are headers.
const maxColumns = 1000

// Layout says what the columns of a file are.
type Layout struct {
	columns  []column
	unmapped []string
	at       [fields]int // where a field is, plus one; 0 for nowhere
	refs     int         // where header_x-carom-ref is, plus one
}

// column is one column: a field, or a header of the message under the name that events have it by.
type column struct {
	field field
	name  string
}

// The names under which events carry what has no column of its own; see sender/account.
const (
	messageIDHeader = "Message-ID"
	formatHeader    = "Format"
	originalHeader  = "ORCPT"
	esmtpHeader     = "ESMTP"
	agentHeader     = "User-Agent"
	userHeader      = "User-String"
	domainHeader    = "arf_Reported-Domain"
	fromHeader      = "From"
	jobHeader       = "X-Job"
	referenceHeader = "X-Carom-Ref"
)

// IsHeader reports whether a record is a header line: it names the column of the type or of the time.
func IsHeader(cells []string) bool {
	for _, cell := range cells {
		if name := strings.TrimSpace(cell); strings.EqualFold(name, "type") || strings.EqualFold(name, "timeLogged") {
			return true
		}
	}
	return false
}

// NewLayout returns the layout of a file with these column names. It fails without a column for the
// type and one for the time, and for a name that stands twice.
func NewLayout(names []string) (*Layout, error) {
	if len(names) > maxColumns {
		return nil, fmt.Errorf("%d columns, %d at most", len(names), maxColumns)
	}
	l := &Layout{columns: make([]column, 0, len(names))}
	seen := map[string]bool{}
	for i, name := range names {
		name = strings.TrimSpace(name)
		lower := strings.ToLower(name)
		if seen[lower] && lower != "" {
			return nil, fmt.Errorf("column %q stands twice", name)
		}
		seen[lower] = true
		c := column{field: fieldOf[lower]}
		switch {
		case c.field != unmapped:
			if c.field != known {
				l.at[c.field] = i + 1
			}
		case strings.HasPrefix(lower, "header_") && len(lower) > len("header_"):
			c = column{header, headerKey(name[len("header_"):])}
			if c.name == referenceHeader {
				l.refs = i + 1
			}
		case strings.HasPrefix(lower, "arf_") && len(lower) > len("arf_"):
			c = column{header, "arf_" + headerKey(name[len("arf_"):])}
		default:
			l.unmapped = append(l.unmapped, name)
		}
		l.columns = append(l.columns, c)
	}
	switch {
	case l.at[fieldType] == 0:
		return nil, errors.New(`no column "type"`)
	case l.at[timeLogged] == 0:
		return nil, errors.New(`no column "timeLogged"`)
	}
	return l, nil
}

// Unmapped returns the names of columns that events have no place for, in their order.
func (l *Layout) Unmapped() []string { return l.unmapped }

// headerKey is the name under which an event has the value of a header.
func headerKey(name string) string {
	key := textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
	if key == "Message-Id" {
		return messageIDHeader // as received events and reports have it
	}
	return key
}
