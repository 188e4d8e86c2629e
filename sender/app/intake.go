package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/deliver"
	"carom/sender/dkim"
	"carom/sender/queue"
	"carom/sender/route"
	"carom/sender/smtpd"
	"carom/sender/spool"
)

var _ smtpd.Intake = (*node)(nil)

// Local is part of smtpd.Intake.
func (n *node) Local(address string) bool { return n.config.Load().Processor(address) != nil }

// Suppressed is part of smtpd.Intake.
func (n *node) Suppressed(tenant, address string) bool { return n.suppress.Suppressed(tenant, address) }

// SelectVMTA is part of smtpd.Intake.
func (n *node) SelectVMTA(source *config.Source, asked string, local netip.Addr) (vmta, pool string, r *smtpd.RefusalError) {
	choice, err := n.turns.SelectVMTA(n.config.Load(), source, asked, local)
	if err != nil {
		return "", "", &smtpd.RefusalError{Code: 550, Enhanced: [3]int{5, 5, 0}, Text: err.Error()}
	}
	return choice.VMTA, choice.Pool, nil
}

// Room is part of smtpd.Intake.
func (n *node) Room(octets int64) *smtpd.RefusalError {
	if err := n.spool.Room(octets); err != nil || n.budget.full.Load() {
		return errStorage
	}
	if most := n.config.Load().SpoolMaxRecipients; most > 0 && n.spool.Stats().Recipients >= most {
		return errStorage
	}
	return nil
}

var errStorage = &smtpd.RefusalError{Code: 452, Enhanced: [3]int{4, 3, 1}, Text: "insufficient system storage"} // RFC 5321 section 4.2.3

// Refused is part of smtpd.Intake.
func (n *node) Refused(m *smtpd.Message, recipient string, r *smtpd.RefusalError) {
	if m == nil {
		return
	}
	e := &event.Event{
		Kind: event.Rejected, MessageID: m.ID, MailFrom: m.From, Recipient: recipient, RecipientDomain: route.Domain(recipient),
		Tenant: m.Tenant, Job: m.Job, Listener: m.Listener, ClientIP: m.ClientIP, ClientMTA: m.ClientName,
	}
	e.SetReply(smtpstatus.New(r.Code, fmt.Sprintf("%d.%d.%d %s", r.Enhanced[0], r.Enhanced[1], r.Enhanced[2], r.Text)))
	e.Category = taxonomy.Policy
	if r.OfSuppression() {
		e.Category = taxonomy.Suppressed
	}
	if recipient == "" {
		e.Recipients = uint32(len(m.Recipients)) //nolint:gosec // bounded by the server
	} else {
		e.RecipientKey = n.suppress.Key(recipient)
	}
	e.Class, e.PMTACategory, e.Dimension = taxonomy.None, e.Category.PowerMTA(), taxonomy.Other
	n.recorder.Submit(e) // the refusal does not wait for it
}

// Accept is part of smtpd.Intake: it returns nil when the message is on disk, or when the report
// that it is has been written down.
func (n *node) Accept(ctx context.Context, m *smtpd.Message) error {
	recipients, err := expand(n.config.Load(), m.Recipients)
	if err != nil {
		return err
	}
	var local, others []smtpd.Recipient
	for _, r := range recipients {
		if n.Local(r.Address) {
			local = append(local, r)
		} else {
			others = append(others, r)
		}
	}
	if len(local) > 0 {
		return n.takeReport(ctx, m, local, others)
	}
	return n.store(ctx, m, others)
}

// maxExpanded bounds the recipients of one message after its aliases, as the server bounds those before.
const maxExpanded = 10_000

// expand puts those that aliases stand for in the place of recipients. Each address is there once.
func expand(c *config.Config, recipients []smtpd.Recipient) ([]smtpd.Recipient, error) {
	if !c.HasAliases() {
		return recipients, nil
	}
	var all []smtpd.Recipient
	known := map[string]bool{}
	for _, r := range recipients {
		to, ok := c.Expand(r.Address)
		if !ok || len(all)+len(to) > maxExpanded {
			return nil, &smtpd.RefusalError{Code: 554, Enhanced: [3]int{5, 4, 6}, Text: "the aliases of " + r.Address + " lead to too many"}
		}
		for _, address := range to {
			if known[strings.ToLower(address)] {
				continue
			}
			known[strings.ToLower(address)] = true
			one := r
			if address != r.Address {
				one.Address = address
				if one.ORcpt == "" {
					one.ORcpt = r.Address
				}
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// store puts the message into the spool, accounts for it and queues it.
func (n *node) store(ctx context.Context, m *smtpd.Message, recipients []smtpd.Recipient) error {
	envelope := &spool.Envelope{
		ID: m.ID, From: m.From, Arrived: m.Arrived.UTC(), Expires: m.Schedule.End(), VMTA: n.chooseVMTA(m.VMTA, recipients), Pool: m.Pool, Job: m.Job, EnvID: m.EnvID, Ret: m.Ret,
		Tenant: m.Tenant, SMTPUser: m.SMTPUser, ClientIP: m.ClientIP, ClientHost: m.ClientName,
		Attrs: map[string]string{deliver.AttrFromDomain: m.FromDomain, deliver.AttrListener: m.Listener},
	}
	envelope.Headers = m.Headers
	if m.MessageID != "" {
		if envelope.Headers == nil {
			envelope.Headers = map[string]string{}
		}
		envelope.Headers[account.MessageIDHeader] = m.MessageID
	}
	if m.AsksForDKIM {
		if _, err := dkim.ParseRequest(m.DKIMOptions); err != nil {
			return &smtpd.RefusalError{Code: 554, Enhanced: [3]int{5, 6, 0}, Text: "X-DKIM-Options: " + err.Error()}
		}
		envelope.Attrs[deliver.AttrDKIMOptions] = m.DKIMOptions
	}
	if m.VERP && m.From != "" {
		envelope.Attrs[deliver.AttrVERP] = "yes"
	}
	if m.DateAtDelivery {
		envelope.Attrs[deliver.AttrDate] = "yes"
	}
	if m.Priority != queue.DefaultPriority {
		envelope.Attrs[attrPriority] = strconv.Itoa(int(m.Priority))
	}
	if len(m.Schedule) > 0 {
		envelope.Attrs[deliver.AttrSchedule] = m.Schedule.String()
	}
	for _, r := range recipients {
		envelope.Recipients = append(envelope.Recipients, spool.Recipient{Address: r.Address, ORcpt: r.ORcpt, Notify: r.Notify})
	}
	t := tagOf(envelope)
	envelope.Tag = t.encode()
	err := n.spool.Put(ctx, envelope, m.Content)
	n.full.note(n.logger, err)
	if errors.Is(err, syscall.ENOSPC) {
		return errStorage
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	n.accepted.Add(int64(len(recipients)))
	live := make([]spool.LiveRecipient, len(recipients))
	for i := range live {
		live[i].Index = uint32(i) //nolint:gosec // bounded by the server
	}
	n.received(envelope, 0)
	n.enqueue(envelope.ID, m.Arrived, &t, live)
	return nil
}

// events are for reuse: the recorder keeps none, and one is a kilobyte.
var events = sync.Pool{New: func() any { return new(event.Event) }}

// received submits the received events of the recipients from index from on. Their order in the
// log is that of the recipients, before anything else happens to the message.
func (n *node) received(envelope *spool.Envelope, from int) {
	e := events.Get().(*event.Event) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer events.Put(e)
	for i := from; i < len(envelope.Recipients); i++ {
		*e = event.Event{Kind: event.Received, Time: envelope.Arrived}
		deliver.FillEnvelope(e, envelope, uint32(i), n.suppress) //nolint:gosec // bounded by the server
		if e.Headers == nil {
			e.Headers = envelope.Headers
		} else {
			maps.Copy(e.Headers, envelope.Headers) // the recipient's own map
		}
		n.traffic.Count(e)
		n.recorder.Submit(e)
	}
}

// enqueue puts the recipients into the queues that their domains have at present: those that are due
// together as one item.
func (n *node) enqueue(id event.ID, arrived time.Time, t *tag, recipients []spool.LiveRecipient) {
	if len(recipients) == 1 {
		r := recipients[0]
		plan := n.agent.Plan(t.domain(r.Index), t.VMTA)
		item := newItem(id, arrived, t, plan, r)
		item.AddRecipient(r.Index)
		n.queues.Add(plan.Queue, item)
		return
	}
	type part struct {
		plan     deliver.Plan
		attempts uint32
		due      time.Time
	}
	items := map[part]*queue.Item{}
	plans := map[string]deliver.Plan{} // one for each domain, or its recipients would part in a pool
	for _, r := range recipients {
		domain := t.domain(r.Index)
		plan, ok := plans[domain]
		if !ok {
			plan = n.agent.Plan(domain, t.VMTA)
			plans[domain] = plan
		}
		p := part{plan, r.Attempts, r.Due}
		item := items[p]
		if item == nil {
			item = newItem(id, arrived, t, plan, r)
			items[p] = item
		}
		item.AddRecipient(r.Index)
	}
	for p, item := range items {
		n.queues.Add(p.plan.Queue, item)
	}
}

// attrPriority is the attribute of an envelope that says the priority of the recipients within their
// queue, where it is not the usual one.
const attrPriority = "priority"

// newItem returns an item without recipients for those that are as r.
//
// What the spool says of a time was the wall clock's, which may have been set back since: nothing
// waits longer than if it had arrived, or been tried, now.
func newItem(id event.ID, arrived time.Time, t *tag, plan deliver.Plan, r spool.LiveRecipient) *queue.Item {
	now := clock.Now()
	expires := t.Expires
	if expires.IsZero() {
		expires = earlier(arrived, now).Add(plan.BounceAfter)
	}
	due := earlier(r.Due, now.Add(plan.RetryAfter))
	if len(t.Windows) > 0 {
		var ok bool
		if due, ok = t.Windows.Next(later(due, now)); !ok {
			due = expires // to be finished as expired
		}
	}
	return &queue.Item{
		Message: id, Attempts: uint16(min(r.Attempts, math.MaxUint16)), Due: queue.At(due), Arrived: queue.At(arrived), //nolint:gosec // bounded
		Expires: queue.At(expires), Labels: queue.Label(t.Job, t.Tenant), Priority: t.Priority,
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
