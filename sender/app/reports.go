package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"carom/schemas/event"
	"carom/sender/config"
	"carom/sender/reports"
	"carom/sender/route"
	"carom/sender/smtpd"
)

// handling returns what the configuration says about the reports of one of its processors.
func handling(c *config.Config, p *config.ReportProcessor) *reports.Handling {
	h := &reports.Handling{Trusted: p.TrustedDKIM}
	for _, section := range p.Patterns {
		for _, pattern := range section.Patterns {
			h.Patterns = append(h.Patterns, reports.Pattern{
				Name: pattern.File, Regexp: pattern.Regexp, Complaint: p == c.FeedbackLoopProcessor, Log: section.LogMatchInfo,
			})
		}
	}
	for _, rule := range p.Rules {
		h.Rules = append(h.Rules, reports.Rule{
			Pattern: rule.Pattern, Delete: rule.Action == config.DeleteReport, Suppress: rule.Action != config.KeepReport,
		})
	}
	return h
}

// takeReport reads a mail that came to a processor's addresses, local, and passes it on where the
// processor says so, and to its other recipients. The processor of the first local address counts
// for all of them. It returns nil when everything is on disk.
//
// What is passed on is there before the report is written down: an error in between makes the
// sender come again, and a report twice is better than one that nobody hears of.
func (n *node) takeReport(ctx context.Context, m *smtpd.Message, local, others []smtpd.Recipient) error {
	c := n.config.Load()
	processor := c.Processor(local[0].Address)
	if processor == nil {
		return errors.New("the configuration was reloaded: the address is no report address any more") // the sender comes again
	}
	report := *m
	if len(others) > 0 || processor.DeliverMatched {
		report.ID = event.NewID() // two messages from here on, each with recipients from index 0
	}
	mail := reports.Mail{
		ID: report.ID, Arrived: m.Arrived.UTC(), ClientIP: m.ClientIP, ClientName: m.ClientName, Content: m.Content, Handling: handling(c, processor),
	}
	for _, r := range local {
		mail.Recipients = append(mail.Recipients, r.Address)
	}
	finding, err := n.reports.Process(ctx, mail)
	w, err := n.wayOf(m, processor, &finding, err)
	if err != nil {
		return err
	}
	for _, address := range finding.Suppress {
		if err := n.suppress.Add(address); err != nil {
			return err
		}
	}
	var events []*event.Event
	if w.deliver && n.canDeliver(m, local) {
		others = append(others, local...)
		events = finding.Events
	} else {
		events = n.consumed(&report, local, w.what, finding.Events)
	}
	if len(w.forward) > 0 {
		if err := n.store(ctx, forwarded(m), w.forward); err != nil {
			return err
		}
	}
	if len(others) > 0 {
		if err := n.store(ctx, m, others); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	return n.recorder.Record(ctx, events...)
}

// way is what becomes of a mail that was read.
type way struct {
	what    string // the mail is, for whoever counts them
	deliver bool   // to the addresses it came to
	forward []smtpd.Recipient
}

// wayOf says what becomes of a mail, by what was found in it or why nothing was.
func (n *node) wayOf(m *smtpd.Message, p *config.ReportProcessor, f *reports.Finding, err error) (way, error) {
	log := n.logger.With("message_id", m.ID.String())
	if f.Pattern != nil && f.Pattern.Log {
		log.Info("a pattern read a report", "pattern", f.Pattern.Name, "recipients", len(f.Events))
	}
	switch {
	case err == nil && f.Kind == "autoreply":
		// Somebody is away, or asks whether we are human. It came to an address that programs read.
		return way{what: f.Kind}, nil
	case err == nil:
		return way{what: f.Kind, deliver: p.DeliverMatched && !f.Delete}, nil
	case errors.Is(err, reports.ErrUnreadable) && len(p.ForwardErrorsTo) > 0:
		log.Info("mail to a report address is not readable", "error", err)
		return way{what: "unreadable", forward: recipients(p.ForwardErrorsTo)}, nil
	case errors.Is(err, reports.ErrUnreadable), errors.Is(err, reports.ErrNotAReport):
		log.Info("mail to a report address is no report", "error", err)
		return way{what: "none", deliver: p.DeliverUnmatched, forward: recipients(p.ForwardUnmatchedTo)}, nil
	}
	return way{}, err
}

func recipients(addresses []string) []smtpd.Recipient {
	all := make([]smtpd.Recipient, 0, len(addresses))
	for _, a := range addresses {
		all = append(all, smtpd.Recipient{Address: a})
	}
	return all
}

// forwarded returns the message to be sent to others. Its bounces go nowhere: to the author they say
// nothing, and to a processor they would be reports about reports.
func forwarded(m *smtpd.Message) *smtpd.Message {
	f := *m
	f.ID, f.From, f.EnvID, f.Ret, f.Schedule = event.NewID(), "", "", "", nil
	return &f
}

// canDeliver reports whether smtp-hosts say where mail for the addresses goes. By MX it would come
// back to this node.
func (n *node) canDeliver(m *smtpd.Message, local []smtpd.Recipient) bool {
	for _, r := range local {
		domain := route.Domain(r.Address)
		if len(n.config.Load().Domain(domain, config.DefaultVMTA).SMTPHosts) == 0 {
			n.logger.Info("mail to a report address is not delivered: no smtp-hosts say where to", "message_id", m.ID.String(), "domain", domain)
			return false
		}
	}
	return true
}

// consumed returns the events of a mail that ends here: it was received, says what it says, and is
// gone.
func (n *node) consumed(m *smtpd.Message, local []smtpd.Recipient, what string, says []*event.Event) []*event.Event {
	events := make([]*event.Event, 0, 2*len(local)+len(says))
	for i, r := range local {
		events = append(events, reportEvent(event.Received, m, i, r))
	}
	events = append(events, says...)
	for i, r := range local {
		e := reportEvent(event.ReportConsumed, m, i, r)
		e.FeedbackType = what
		events = append(events, e)
	}
	n.accepted.Add(int64(len(local)))
	return events
}

func reportEvent(kind event.Kind, m *smtpd.Message, index int, r smtpd.Recipient) *event.Event {
	return &event.Event{
		Kind: kind, Time: m.Arrived.UTC(), MessageID: m.ID, RecipientIdx: uint32(index), //nolint:gosec // bounded by the server
		MailFrom: m.From, Recipient: r.Address, RecipientDomain: route.Domain(r.Address), Tenant: m.Tenant,
		Listener: m.Listener, ClientIP: m.ClientIP, ClientMTA: m.ClientName, Size: uint64(len(m.Content)),
	}
}

// bounceLog writes a line into the log for each bounce, here or reported: log-bounces. Which address
// it was, the accounting file and the event log say.
type bounceLog struct{ logger *slog.Logger }

func (l bounceLog) Write(e *event.Event, _ uint64) error {
	if e.Kind == event.Bounced || e.Kind == event.RemoteBounce {
		l.logger.Info("bounce", "kind", e.Kind.String(), "message_id", e.MessageID.String(), "recipient_index", e.RecipientIdx,
			"domain", strings.ToLower(e.RecipientDomain), "category", string(e.Category), "reply_code", e.Code, "reply", e.ReplyTemplate)
	}
	return nil
}

// Flush is part of account.Sink.
func (bounceLog) Flush() error { return nil }
