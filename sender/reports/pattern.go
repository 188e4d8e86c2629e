package reports

import (
	"net/netip"
	"regexp"
	"strings"

	"carom/ingest/arf"
	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/report"
	"carom/schemas/smtpstatus"
)

// Pattern reads reports that no parser knows: PowerMTA's <email-patterns>. Its named groups say
// what is what. For bounces: r (recipient), or (original recipient), orig (originator), diag
// (diagnostic), action, repMta (reporting MTA), remMta (remote MTA). For complaints: rcpt, orig,
// dlvSourceIp, reportedDomainTo, reportedDomainFrom.
type Pattern struct {
	Name      string // of the file that holds it
	Regexp    *regexp.Regexp
	Complaint bool // it reads complaints, else bounces
	Log       bool // the log is to say that it matched
}

const (
	// maxPatternText bounds the text of one part that patterns look at, in octets.
	maxPatternText = 64 << 10
	// maxPatternMatches bounds the recipients that a pattern finds.
	maxPatternMatches = 50
)

// read looks for the pattern in the parts of a message that are text.
func (p *Pattern) read(m *mime.Message) (report.Report, bool) {
	for i := range m.Parts {
		part := &m.Parts[i]
		if !strings.HasPrefix(part.MediaType, "text/") {
			continue
		}
		text := string(part.Body[:min(len(part.Body), maxPatternText)])
		found := p.Regexp.FindAllStringSubmatch(text, maxPatternMatches)
		if len(found) == 0 {
			continue
		}
		original, _ := m.Original()
		if p.Complaint {
			return p.feedback(found, original)
		}
		return p.notification(found, original)
	}
	return report.Report{}, false
}

// groups returns the named groups that matched, less the blanks around them.
func (p *Pattern) groups(match []string) map[string]string {
	groups := map[string]string{}
	for i, name := range p.Regexp.SubexpNames() {
		if value := strings.TrimSpace(match[i]); name != "" && value != "" {
			groups[name] = value
		}
	}
	return groups
}

func (p *Pattern) notification(found [][]string, original mime.Header) (report.Report, bool) {
	r := &dsn.Report{Original: original}
	for _, match := range found {
		g := p.groups(match)
		recipient := dsn.Recipient{
			Final: bare(g["r"]), Original: bare(g["or"]), Action: dsn.Failed,
			RemoteMTA: g["remMta"], Diagnostic: strings.Join(strings.Fields(g["diag"]), " "), DiagnosticType: "smtp",
		}
		if recipient.Final == "" && recipient.Original == "" {
			continue
		}
		recipient.Status = smtpstatus.Parse(recipient.Diagnostic).Enhanced
		switch action := dsn.Action(strings.ToLower(g["action"])); action {
		case dsn.Failed, dsn.Delayed, dsn.Delivered, dsn.Relayed, dsn.Expanded:
			recipient.Action = action
		}
		r.ReportingMTA = g["repMta"]
		r.Recipients = append(r.Recipients, recipient)
	}
	return report.Report{Kind: report.Notification, Notification: r}, len(r.Recipients) > 0
}

func (p *Pattern) feedback(found [][]string, original mime.Header) (report.Report, bool) {
	r := &arf.Report{Type: arf.Abuse, Word: string(arf.Abuse), Incidents: 1, Original: original}
	for _, match := range found {
		g := p.groups(match)
		if address := bare(g["rcpt"]); address != "" {
			r.OriginalRcptTo = append(r.OriginalRcptTo, address)
		}
		if address := bare(g["orig"]); address != "" {
			r.OriginalMailFrom = address
		}
		if ip, err := netip.ParseAddr(strings.Trim(g["dlvSourceIp"], "[]")); err == nil {
			r.SourceIP = ip.Unmap()
		}
		for _, name := range []string{"reportedDomainTo", "reportedDomainFrom"} {
			if g[name] != "" {
				r.ReportedDomains = append(r.ReportedDomains, strings.ToLower(g[name]))
			}
		}
	}
	return report.Report{Kind: report.Feedback, Feedback: r}, len(r.OriginalRcptTo) > 0
}

// bare returns an address without angle brackets.
func bare(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">") }
