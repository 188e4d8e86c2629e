package events

import (
	"fmt"
	"strings"

	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// basesOfProvider is how many wordings each provider has, one for each line of bases.
const basesOfProvider = 50

// A base is a reply as one kind of server words it. In its text {mx} is the provider's host,
// {mailbox}, {ip} and {id} differ from message to message.
type base struct {
	role  role
	phase event.Phase
	local classify.Local // the cause, where no receiver spoke
	text  string
}

// A role is what a reply is used for.
type role int

const (
	roleDelivered role = iota
	roleUnknown
	roleInactive
	roleFull
	roleRate
	roleConnections
	roleMessages
	roleGreylist
	roleBlock
	roleBlockForNow
	roleContent
	roleAuth
	roleTLS
	roleSize
	roleRelay
	roleUnavailable
	roleConnect
	roleOther
	roles // their number
)

// bases lists the wordings by role. They are written for this history in the manner of the servers that
// people meet; none is copied from one.
var bases = [basesOfProvider]base{
	{roleDelivered, event.PhaseFinalDot, "", "250 2.0.0 Ok: queued at {mx} as {id}"},
	{roleDelivered, event.PhaseFinalDot, "", "250 2.0.0 OK {id} - {mx}"},
	{roleDelivered, event.PhaseFinalDot, "", "250 2.6.0 <{id}@{mx}> Queued mail for delivery at {mx}"},
	{roleDelivered, event.PhaseFinalDot, "", "250 ok {id} accepted by {mx}"},
	{roleDelivered, event.PhaseFinalDot, "", "250 2.0.0 {id} Message accepted for delivery, {mx}"},
	{roleDelivered, event.PhaseFinalDot, "", "250 Requested mail action okay, completed: id={id} host={mx}"},

	{roleUnknown, event.PhaseRcpt, "", "550 5.1.1 <{mailbox}>: Recipient address rejected: User unknown in the table of {mx}"},
	{roleUnknown, event.PhaseRcpt, "", "550-5.1.1 The email account that you tried to reach does not exist at {mx}. Please check it for typos. {id}"},
	{roleUnknown, event.PhaseRcpt, "", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient {mailbox} not found by lookup at {mx}"},
	{roleUnknown, event.PhaseRcpt, "", "550 No such user {mailbox} here, says {mx}"},
	{roleUnknown, event.PhaseRcpt, "", "554 delivery error: dd This user doesn't have a {mx} account ({mailbox})"},
	{roleUnknown, event.PhaseRcpt, "", "550 5.1.1 {mailbox} mailbox does not exist ({mx})"},
	{roleInactive, event.PhaseRcpt, "", "550 5.2.1 The account {mailbox} is disabled at {mx}"},
	{roleInactive, event.PhaseRcpt, "", "550 5.2.1 <{mailbox}> mailbox inactive for a long time, {mx}"},
	{roleFull, event.PhaseRcpt, "", "452 4.2.2 <{mailbox}>: mailbox full at {mx}, try again later"},
	{roleFull, event.PhaseRcpt, "", "452-4.2.2 The recipient's inbox is out of storage space at {mx} {id}"},
	{roleFull, event.PhaseRcpt, "", "450 4.2.2 {mailbox} is over quota on {mx}"},

	{roleRate, event.PhaseMail, "", "421 4.7.28 Rate limit exceeded for [{ip}] at {mx}, slow down"},
	{roleRate, event.PhaseMail, "", "421 4.7.0 [TSS04] Messages from {ip} temporarily deferred by {mx} due to unexpected volume or user complaints"},
	{roleRate, event.PhaseRcpt, "", "450 4.7.1 Error: too much mail from {ip} to {mx}, hourly limit exceeded"},
	{roleRate, event.PhaseMail, "", "421 {mx} RP-001 The mail server IP {ip} has exceeded the rate limit allowed"},
	{roleConnections, event.PhaseGreeting, "", "421 {mx} too many connections from {ip}"},
	{roleConnections, event.PhaseGreeting, "", "421 4.7.0 {mx} Too many concurrent SMTP connections, please try again later"},
	{roleMessages, event.PhaseMail, "", "421 4.7.0 {mx} Too many messages in this session"},
	{roleGreylist, event.PhaseRcpt, "", "450 4.2.0 <{mailbox}>: Recipient address rejected: Greylisted by {mx}, see the postmaster's page"},
	{roleGreylist, event.PhaseRcpt, "", "451 4.7.1 Greylisting in action at {mx}, please come back in 00:05:00"},
	{roleGreylist, event.PhaseRcpt, "", "451 {mx} Temporary rejection: greylisted, try again later ({id})"},

	{roleBlock, event.PhaseGreeting, "", "554 5.7.1 Service unavailable; Client host [{ip}] blocked by {mx} using a DNSBL"},
	{roleBlock, event.PhaseMail, "", "550 5.7.1 Unfortunately, messages from [{ip}] weren't sent. Part of their network is on the block list of {mx}"},
	{roleBlock, event.PhaseGreeting, "", "554 {mx} IP={ip} - None/bad reputation, ask your postmaster for help"},
	{roleBlock, event.PhaseMail, "", "553 5.7.1 [BL21] Connections will not be accepted from {ip} by {mx}, because the ip is in Spamhaus's list"},
	{roleBlockForNow, event.PhaseMail, "", "451 4.7.650 The mail server [{ip}] has been temporarily rate limited due to IP reputation at {mx}"},
	{roleBlockForNow, event.PhaseMail, "", "421 4.7.1 [TS03] All messages from {ip} will be deferred by {mx} for now; retrying will not succeed soon"},
	{roleContent, event.PhaseFinalDot, "", "550 5.7.1 Our system {mx} has detected that this message is likely unsolicited mail {id}"},
	{roleContent, event.PhaseFinalDot, "", "554 5.7.1 Message rejected as spam by {mx} content filtering ({id})"},
	{roleContent, event.PhaseFinalDot, "", "554 5.7.0 Reject, id={id} - SPAM, {mx}"},
	{roleAuth, event.PhaseFinalDot, "", "550 5.7.26 Unauthenticated email is not accepted by {mx} due to the domain's DMARC policy {id}"},
	{roleAuth, event.PhaseFinalDot, "", "550 5.7.20 {mx}: No passing DKIM signature found"},
	{roleAuth, event.PhaseMail, "", "550 5.7.23 {mx}: The message was rejected because of SPF validation failure for {ip}"},
	{roleTLS, event.PhaseMail, "", "530 5.7.0 {mx}: Must issue a STARTTLS command first"},
	{roleSize, event.PhaseMail, "", "552 5.3.4 Message size exceeds the fixed limit of {mx}"},
	{roleRelay, event.PhaseRcpt, "", "554 5.7.1 <{mailbox}>: Relay access denied by {mx}"},
	{roleRelay, event.PhaseRcpt, "", "550 {mx}: relay not permitted"},
	{roleUnavailable, event.PhaseMail, "", "421 4.3.2 {mx} Service not available, closing transmission channel"},
	{roleUnavailable, event.PhaseFinalDot, "", "421 4.3.2 {mx} Service temporarily unavailable ({id})"},
	{roleUnavailable, event.PhaseMail, "", "450 4.3.2 System not accepting network messages at {mx}"},
	{roleConnect, event.PhaseConnect, classify.ConnectTimeout, "connect to {mx}: i/o timeout"},
	{roleConnect, event.PhaseConnect, classify.ConnectRefused, "connect to {mx}: connection refused"},
	{roleConnect, event.PhaseMail, classify.ConnectionLost, "connection to {mx} was reset by peer"},
	{roleOther, event.PhaseFinalDot, "", "554 {mx} sorry, not today ({id})"},
}

// The replies behind those of the providers: of events that no receiver said anything to.
const (
	replyExpired = Templates + iota
	replySuppressed
	replyRejected
	replyComplaint
	replyNone
	replies // their number
)

// A reply is one wording of one provider, with everything that follows from it.
type reply struct {
	code     uint16
	enhanced string
	// The text is head, variable, middle, variable, tail. A variable is one of the letters of vars,
	// or 0 for none.
	head, middle, tail string
	vars               [2]byte
	template           string
	phase              event.Phase
	verdict            classify.Verdict
}

// variables are what differs from message to message, by the letter that stands for it in SQL.
var variables = map[string]byte{"{mailbox}": 'm', "{ip}": 'i', "{id}": 'q'}

// samples are what variables may look like, to classify a reply by.
var samples = strings.NewReplacer("{mailbox}", "ann@mail.example", "{ip}", "192.0.2.7", "{id}", "4Zx9Q81pTzk2")

// allReplies returns every reply by its place.
func allReplies() ([]reply, error) {
	all := make([]reply, 0, replies)
	for provider := range Providers {
		for _, b := range bases {
			r, err := b.of(provider)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	said := func(enhanced, text string, category taxonomy.Category, dimension taxonomy.Dimension) reply {
		return reply{enhanced: enhanced, head: text, template: text, verdict: classify.Verdict{Category: category, Class: category.Class(), Dimension: dimension}}
	}
	expired := said("4.4.7", "delivery time expired", "", "")
	expired.verdict = classify.Classify(classify.Input{Local: classify.QueueExpired})
	suppressed := said("5.7.1", "recipient is suppressed", "", "")
	suppressed.verdict = classify.Classify(classify.Input{Local: classify.Suppressed})
	rejected := said("5.7.1", "550 5.7.1 not allowed to send from this domain", taxonomy.Policy, taxonomy.Other)
	rejected.code, rejected.verdict.Class = 550, taxonomy.None
	return append(all, expired, suppressed, rejected, said("", "", taxonomy.Complaint, taxonomy.User), reply{}), nil
}

// of returns the base in the words of a provider.
func (b base) of(provider int) (reply, error) {
	text := strings.ReplaceAll(b.text, "{mx}", "mx."+mxDomain(provider))
	r := reply{head: text, phase: b.phase}
	rest := &r.head
	for i, next := range []*string{&r.middle, &r.tail} {
		head, tail, letter := cutVariable(*rest)
		*rest, *next, r.vars[i] = head, tail, letter
		rest = next
	}
	if strings.ContainsAny(r.tail, "{}") {
		return reply{}, fmt.Errorf("reply %q has more than two variables", b.text)
	}
	sample := samples.Replace(text)
	in := classify.Input{Phase: b.phase, Provider: providers[provider], Local: b.local}
	if b.local == "" {
		in.Reply = smtpstatus.Parse(sample)
		r.code, r.enhanced = uint16(in.Reply.Code), in.Reply.Enhanced.String() //nolint:gosec // three digits
	}
	r.template, r.verdict = event.ReplyTemplate(sample), classify.Classify(in)
	return r, nil
}

// cutVariable returns what stands before and behind the first variable of text, and its letter.
func cutVariable(text string) (head, tail string, letter byte) {
	at := len(text)
	for name, l := range variables {
		if i := strings.Index(text, name); i >= 0 && i < at {
			at, head, tail, letter = i, text[:i], text[i+len(name):], l
		}
	}
	if letter == 0 {
		return text, "", 0
	}
	return head, tail, letter
}

// rolePlaces returns the place of each role's first base, from 0, and the number of its bases.
func rolePlaces() (first, count [roles]int) {
	for i, b := range bases {
		if count[b.role] == 0 {
			first[b.role] = i
		}
		count[b.role]++
	}
	return first, count
}
