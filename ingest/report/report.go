// Package report says what a mail is that came back: a delivery status notification, a feedback
// report, an automatic reply or none of them. It is the one place that decides; the parsers of
// each kind (ingest/dsn, ingest/notice, ingest/arf, ingest/aggregate, ingest/sns) do the reading.
//
// What an answer in it means is for ingest/classify to say (Verdict), and no word of a report is believed
// here (ingest/correlate).
// There are no errors: what nothing fits is None, and Report.Reason says why. Nothing here panics,
// keeps state or touches network, disk or clock; everything is safe for concurrent use.
package report

import (
	"errors"

	"carom/ingest/aggregate"
	"carom/ingest/arf"
	"carom/ingest/dsn"
	"carom/ingest/mime"
	"carom/ingest/notice"
	"carom/ingest/sns"
)

// Kind is what a mail is.
type Kind string

// The kinds.
const (
	Notification Kind = "dsn"       // a bounce, or another status of a delivery
	Feedback     Kind = "arf"       // a complaint, or another feedback report
	AutoReply    Kind = "autoreply" // an absence notice, a challenge, a read receipt
	Aggregate    Kind = "aggregate" // counts about many messages: DMARC, TLS-RPT
	None         Kind = "none"
)

// Report is what a mail says. Of the pointers, the one of its kind is set.
type Report struct {
	Kind         Kind
	Notification *dsn.Report
	Feedback     *arf.Report
	Aggregate    *aggregate.Report
	Reason       string // the rule by which it is an automatic reply, or why it is none of the rest
}

// Parse reads m. What is meant for machines counts before what is meant for people.
func Parse(m *mime.Message) Report {
	if r, err := arf.Parse(m); err == nil {
		return Report{Kind: Feedback, Feedback: r}
	}
	if r, err := dsn.Parse(m); err == nil {
		notice.Complete(m, r)
		return Report{Kind: Notification, Notification: r}
	}
	if r, err := aggregate.Parse(m); err == nil {
		return Report{Kind: Aggregate, Aggregate: r}
	}
	if notification, feedback, ok := sns.Parse(m); ok {
		if feedback != nil {
			return Report{Kind: Feedback, Feedback: feedback}
		}
		return Report{Kind: Notification, Notification: notification}
	}
	r, err := notice.Parse(m)
	if err == nil {
		return Report{Kind: Notification, Notification: r}
	}
	if automatic, ok := errors.AsType[*notice.AutomaticError](err); ok {
		return Report{Kind: AutoReply, Reason: automatic.Rule}
	}
	return Report{Kind: None, Reason: err.Error()}
}
