package notice

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/phrase"
	"carom/schemas/smtpstatus"
)

// ErrNotNotice is returned for a message that tells of no delivery.
var ErrNotNotice = errors.New("not a notice about a delivery")

const (
	// enough is the evidence that makes a notice, enoughHeader the part of it that the header must
	// give: everybody may write about bounces.
	enough       = 5
	enoughHeader = 2
	// most is what the text can give.
	most = 6
)

// AutomaticError says that a message is an answer that a machine gives on behalf of a person or a
// list: an absence notice, a challenge, a receipt.
type AutomaticError struct {
	Rule string // of rules.txt, or the RFC
}

func (e *AutomaticError) Error() string { return "an automatic reply by " + e.Rule }

// Parse reads the notice in m. For a message that is none it returns an *AutomaticError or
// ErrNotNotice, wrapped with what is missing. The report has at least one recipient; its address is
// "" if the notice doesn't name it.
func Parse(m *mime.Message) (*dsn.Report, error) { return builtin().parse(m, 0) }

// maxNested is how many notices inside notices are opened: a provider that wraps another server's
// notice in one of its own.
const maxNested = 1

func (set *ruleSet) parse(m *mime.Message, depth int) (*dsn.Report, error) {
	if m.Part("message/disposition-notification") != nil || strings.EqualFold(m.Params["report-type"], "disposition-notification") {
		return nil, &AutomaticError{"rfc8098"}
	}
	r := reader{set: set, said: map[meaning][]find{}}
	r.header(m)
	report, err := r.parse(m, depth)
	if err != nil {
		if rule := r.automatic(m); rule != "" {
			return nil, &AutomaticError{rule}
		}
	}
	return report, err
}

// automatic returns by which rule or RFC m is an automatic reply, "" if it is none.
func (r *reader) automatic(m *mime.Message) string {
	if finds := r.said[automatic]; len(finds) > 0 {
		return finds[0].rule.id
	}
	if auto := phrase.Lower(strings.TrimSpace(m.Header.Get("Auto-Submitted"))); auto != "" && !strings.HasPrefix(auto, "no") {
		return "rfc3834"
	}
	switch phrase.Lower(strings.TrimSpace(m.Header.Get("Precedence"))) {
	case "auto_reply", "auto-reply":
		return "precedence"
	}
	return ""
}

// parse reads the text of m, whose header was read.
func (r *reader) parse(m *mime.Message, depth int) (*dsn.Report, error) {
	if r.evidence+most < enough {
		return nil, fmt.Errorf("%w: nothing in the header says so", ErrNotNotice)
	}
	r.headerEvidence = r.evidence
	whole := newText(textOf(m))
	cut := whole.returnedAt()
	r.text = whole.cut(cut)
	r.read()
	if r.headerEvidence < enoughHeader || r.evidence < enough {
		return nil, fmt.Errorf("%w: evidence %d (header %d), want %d (%d)", ErrNotNotice, r.evidence, r.headerEvidence, enough, enoughHeader)
	}
	original, ok := m.Original()
	if !ok {
		original, ok = whole.headerFrom(cut), cut < len(whole.lines)
	}
	r.original = original
	if (!r.byServer || !r.named()) && !replied(r.text.low) && r.format == "" && !ok {
		return nil, fmt.Errorf("%w: neither a mail server's name and words, nor a reply of one, nor a message that comes back", ErrNotNotice)
	}
	report := r.report()
	if depth < maxNested && report.Recipients[0].Final == "" && cut < len(whole.lines) {
		if inner, err := r.set.nested(whole.source[whole.lines[cut].at:], depth+1); err == nil {
			return inner, nil
		}
	}
	return report, nil
}

// nested reads the notice that a notice returns.
func (set *ruleSet) nested(source []byte, depth int) (*dsn.Report, error) {
	m, err := mime.Parse(source, mime.Limits{})
	if err != nil {
		return nil, err
	}
	if r, err := dsn.Parse(m); err == nil {
		return r, nil
	}
	return set.parse(m, depth)
}

// Complete adds to r, which package dsn read of m, what only the text of m says: the reply that a
// recipient's fields lack, and the address where they hold none.
func Complete(m *mime.Message, r *dsn.Report) {
	if !slices.ContainsFunc(r.Recipients, lacking) {
		return
	}
	text := newText(textOf(m))
	reader := reader{set: builtin(), said: map[meaning][]find{}, original: r.Original}
	reader.text = text.cut(text.returnedAt())
	reader.look(inText, reader.text.low)
	mentions := reader.text.mentions()
	var chosen []mention
	for i := range r.Recipients {
		rcpt := &r.Recipients[i]
		if !lacking(*rcpt) {
			continue
		}
		if nobody(*rcpt) {
			if chosen == nil {
				chosen = reader.choose(mentions, reader.scores(mentions))
			}
			if len(chosen) == 1 {
				rcpt.Final = chosen[0].address
			}
		}
		reader.complete(rcpt, mentions)
	}
}

// lacking reports whether the fields of a recipient leave out an address or what the server replied.
func lacking(r dsn.Recipient) bool {
	if nobody(r) {
		return true
	}
	if r.Action != dsn.Failed && r.Action != dsn.Delayed {
		return false
	}
	_, replied := dsn.FindReply(r.Diagnostic, 0)
	return !replied && (r.Diagnostic == "" || r.Status.Subject == 0)
}

// nobody reports whether the fields of a recipient have no local part: sendmail writes "@mx.mail.example".
func nobody(r dsn.Recipient) bool {
	return strings.LastIndexByte(r.Final, '@') == 0 && r.Original == ""
}

// complete takes the reason that the text gives for a recipient, if it tells more than the fields.
func (r *reader) complete(rcpt *dsn.Recipient, mentions []mention) {
	i := slices.IndexFunc(mentions, func(m mention) bool {
		return strings.EqualFold(m.address, rcpt.Final) || strings.EqualFold(m.address, rcpt.Original)
	})
	reason := ""
	if i >= 0 {
		var listed []mention
		for _, m := range mentions {
			if r.text.standing(m) >= prominent && !strings.EqualFold(m.address, mentions[i].address) {
				listed = append(listed, m)
			}
		}
		reason = r.reasonFor(mentions, listed, mentions[i])
	} else if at, ok := dsn.FindReply(r.text.low, 0); ok {
		reason = limit(r.text.raw[r.text.replyStart(at):r.text.paragraphEnd(r.text.lineAt(at), len(r.text.raw))])
	}
	if !replied(reason) && (rcpt.Diagnostic != "" || rcpt.Action != dsn.Failed) {
		return
	}
	rcpt.Diagnostic = reason
	if code := dsn.FindEnhanced(reason); !code.IsZero() {
		rcpt.Status = code
	}
}

// named reports whether the header has words for what a notice is.
func (r *reader) named() bool {
	for _, says := range []meaning{failed, delayed, delivered, notice} {
		if slices.ContainsFunc(r.said[says], func(f find) bool { return f.place != inText }) {
			return true
		}
	}
	return r.isReport
}

// find is a phrase that was found.
type find struct {
	rule       *rule
	place      place
	start, end int // in the text
}

// reader reads one notice.
type reader struct {
	set            *ruleSet
	text           text
	original       mime.Header
	subject        string
	said           map[meaning][]find
	evidence       int
	headerEvidence int
	byServer       bool     // the header shows that no person wrote the mail
	isReport       bool     // by its media type
	format         string   // id of the product's rule that tells most, "" if no product's does
	formatWeight   int      // of that rule
	failedTo       []string // X-Failed-Recipients and its like
	sender         []string // whom the notice was sent to: the sender of the message
}

// header collects what the header of m tells.
func (r *reader) header(m *mime.Message) {
	r.subject = decoded(m.Header, "Subject")
	r.look(inSubject, phrase.Lower(r.subject))
	from := decoded(m.Header, "From")
	r.look(inFrom, phrase.Lower(from))
	r.look(inMailer, phrase.Lower(m.Header.Get("X-Mailer")+" "+m.Header.Get("User-Agent")))
	for _, rule := range r.set.fields {
		for _, p := range rule.phrases {
			if p.place == inField && m.Header.Has(p.text) {
				r.note(find{rule: rule, place: inField})
			}
		}
	}
	returnPath := strings.Trim(m.Header.Get("Return-Path"), "<> ")
	if m.Header.Has("Return-Path") && returnPath == "" || strings.HasPrefix(phrase.Lower(returnPath), "mailer-daemon") {
		r.evidence += 2 // RFC 5321 section 4.5.5
		r.byServer = true
	}
	if m.Header.Has("From") && strings.Trim(from, "<> ") == "" {
		r.evidence += 2
		r.byServer = true
	}
	if m.MediaType == "multipart/report" && strings.EqualFold(m.Params["report-type"], "delivery-status") {
		r.evidence += 4 // RFC 3464 section 2
		r.byServer, r.isReport = true, true
	}
	auto := phrase.Lower(m.Header.Get("Auto-Submitted"))
	if strings.HasPrefix(auto, "auto-replied") || strings.HasPrefix(auto, "auto-generated") {
		r.evidence++ // RFC 3834 section 5: of a delivery status, too
		r.byServer = true
	}
	sentByServer := slices.ContainsFunc(r.said[notice], func(f find) bool { return f.place != inSubject })
	r.byServer = r.byServer || sentByServer
	if !sentByServer && (m.Header.Has("In-Reply-To") || strings.HasPrefix(phrase.Lower(r.subject), "re:")) {
		r.evidence -= 2
	}
	for _, name := range []string{"X-Failed-Recipients", "X-Failed-Recipient", "X-Mailer-Daemon-Recipients"} {
		for _, value := range m.Header.Values(name) {
			r.failedTo = append(r.failedTo, addressesIn(value)...)
		}
	}
	for _, name := range []string{"To", "Delivered-To"} {
		for _, value := range m.Header.Values(name) {
			r.sender = append(r.sender, addressesIn(value)...)
		}
	}
}

// decoded returns the value of a field with its encoded words undone, RFC 2047.
func decoded(header mime.Header, name string) string {
	value, err := header.Text(name)
	if err != nil {
		return header.Get(name)
	}
	return value
}

// look notes the phrases of a place that low holds and counts what they tell. A rule counts once.
func (r *reader) look(where place, low string) {
	f := r.set.finders[where]
	if f == nil {
		return
	}
	for match := range f.All(low) {
		r.note(find{r.set.rules[f.owners[match.ID]], where, match.Start, match.End})
	}
}

// note keeps what was found and counts what it tells.
func (r *reader) note(found find) {
	rule := found.rule
	again := slices.ContainsFunc(r.said[rule.says], func(f find) bool { return f.rule == rule })
	r.said[rule.says] = append(r.said[rule.says], found)
	if again || rule.says == recipient || rule.says == stranger || rule.says == reply {
		return
	}
	r.evidence += rule.weight
	if rule.family != "" && rule.weight > r.formatWeight {
		r.format, r.formatWeight = rule.id, rule.weight
	}
}

// read collects what the text tells.
func (r *reader) read() {
	r.look(inText, r.text.low)
	if _, ok := dsn.FindReply(r.text.low, 0); ok {
		r.evidence++
		if !dsn.FindEnhanced(r.text.low).IsZero() {
			r.evidence++
		}
	}
	r.evidence = min(r.evidence, r.headerEvidence+most)
	for _, f := range r.said[returned] {
		if f.place == inText {
			r.text = r.text.cut(r.text.lineAt(f.start))
			break
		}
	}
}

// report makes the report of what was read.
func (r *reader) report() *dsn.Report {
	if fields := r.text.statusFields(); fields != nil {
		if report, ok := dsn.ParseFields(fields); ok {
			report.Original, report.Format = r.original, cmp.Or(r.format, "text")
			return report
		}
	}
	report := &dsn.Report{Original: r.original, Format: cmp.Or(r.format, "text")}
	action := r.action()
	for _, p := range r.recipients() {
		rcpt := dsn.Recipient{Final: p.address, Action: action, Diagnostic: p.reason}
		rcpt.Status = r.status(p.reason, action)
		rcpt.RemoteMTA = remoteMTA(p.reason)
		report.Recipients = append(report.Recipients, rcpt)
	}
	return report
}

// action returns what the notice says of the delivery. The subject counts first.
func (r *reader) action() dsn.Action {
	for _, where := range []place{inSubject, inText} {
		for _, what := range []struct {
			says   meaning
			action dsn.Action
		}{{failed, dsn.Failed}, {delayed, dsn.Delayed}, {delivered, dsn.Delivered}} {
			if slices.ContainsFunc(r.said[what.says], func(f find) bool { return f.place == where }) {
				return what.action
			}
		}
	}
	return dsn.Failed
}

// status returns the status that a reason gives: its enhanced code, or what its words are known to mean
// in the class of its reply code, or that class alone.
func (r *reader) status(reason string, action dsn.Action) smtpstatus.Enhanced {
	if code := dsn.FindEnhanced(reason); !code.IsZero() {
		return code
	}
	code := r.set.meant(reason)
	if at, ok := dsn.FindReply(reason, 0); ok {
		code.Class = uint16(reason[at] - '0')
	} else if action == dsn.Delayed && !code.IsZero() {
		code.Class = 4
	}
	if !code.IsZero() {
		return code
	}
	switch action {
	case dsn.Delayed:
		return smtpstatus.Enhanced{Class: 4}
	case dsn.Delivered:
		return smtpstatus.Enhanced{Class: 2}
	default:
		return smtpstatus.Enhanced{Class: 5}
	}
}

// meant returns the status that the words of a reason without an enhanced code are known to stand for;
// one that says that retries were given up before all others. It is zero if no rule knows.
func (set *ruleSet) meant(reason string) (code smtpstatus.Enhanced) {
	f := set.finders[inText]
	for match := range f.All(phrase.Lower(reason)) {
		if known := set.rules[f.owners[match.ID]].status; code.IsZero() || known.Class == 4 {
			code = cmp.Or(known, code)
		}
	}
	return code
}
