package demo

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// kindChange is the kind of the rows of limit_log that took effect.
const kindChange = "change"

// Check is a claim of the summary, and whether it holds.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // the numbers that were compared
}

// check compares every count with every other that it must agree with.
func (s *Summary) check() []Check {
	return []Check{
		s.checkHandedOver(), s.checkAccepted(), s.checkIdentity(), s.checkShipped(), s.checkRollups(),
		s.checkReceivers(), s.checkReports(), s.checkSuppressed(), s.checkLoop(), s.checkObeyed(), s.checkDeferrals(), s.checkEvidence(),
	}
}

// verdict returns nil if every check holds, else an error that names those that do not.
func (s *Summary) verdict() error {
	var errs []error
	for _, c := range s.Checks {
		if !c.OK {
			errs = append(errs, fmt.Errorf("check %q failed: %s", c.Name, c.Detail))
		}
	}
	return errors.Join(errs...)
}

func (s *Summary) checkHandedOver() Check {
	l, refused := s.Load, s.Counts.SuppressedAtRcpt
	// A refusal whose answer was lost is repeated, and written down twice.
	repeated := uint64(l.Refused + l.Reconnects) //nolint:gosec // counts
	return Check{
		"all messages handed over", l.Planned == s.Messages && l.Unfinished == 0 && uint64(l.Refused) <= refused && refused <= repeated, //nolint:gosec // counts
		fmt.Sprintf("%d messages: %d accepted, %d refused (%d as suppressed), %d left over", l.Planned, l.Accepted, l.Refused, refused, l.Unfinished),
	}
}

func (s *Summary) checkAccepted() Check {
	l := s.Load
	most := uint64(l.Accepted + l.InDoubt) //nolint:gosec // counts
	return Check{
		"accepted is what got a 250", uint64(l.Accepted) <= s.Counts.Accepted && s.Counts.Accepted <= most, //nolint:gosec // counts
		fmt.Sprintf("%d answers 250 and %d without an answer, %d messages accepted", l.Accepted, l.InDoubt, s.Counts.Accepted),
	}
}

// checkIdentity is the identity of accepted recipients (design/architecture.md, Events).
func (s *Summary) checkIdentity() Check {
	c := s.Counts
	accounted := c.Delivered + c.Bounced + c.Expired + c.SuppressedAfterAccepted + c.Deleted + c.Discarded + c.ReportsConsumed + s.Queued
	return Check{
		"every accepted recipient is accounted for", c.Received+c.Expanded == accounted,
		fmt.Sprintf("%d accepted (%d of the load, %d reports) + %d by expansion = %d delivered + %d bounced + %d expired + %d suppressed + %d deleted + %d discarded + %d reports consumed + %d queued",
			c.Received, c.Accepted, c.Received-c.Accepted, c.Expanded, c.Delivered, c.Bounced, c.Expired,
			c.SuppressedAfterAccepted, c.Deleted, c.Discarded, c.ReportsConsumed, s.Queued),
	}
}

func (s *Summary) checkShipped() Check {
	ok := s.Quarantined == 0 && s.Written["event"] > 0
	parts := make([]string, 0, len(s.Written))
	for _, name := range slices.Sorted(maps.Keys(s.Written)) {
		var sum Stream
		lives := 0
		for _, stream := range s.Streams {
			if stream.Name == name {
				lives++
				sum.Rows += stream.Rows
				sum.LastSeq = max(sum.LastSeq, stream.LastSeq)
				sum.Gaps += stream.Gaps
				sum.Duplicates += stream.Duplicates
			}
		}
		ok = ok && lives <= 1 && sum.Gaps == 0 && sum.Duplicates == 0 && sum.LastSeq >= s.Written[name]
		parts = append(parts, fmt.Sprintf("%s: %d written, %d rows, gaps = %d, duplicates = %d", name, s.Written[name], sum.Rows, sum.Gaps, sum.Duplicates))
	}
	return Check{"every record is in ClickHouse exactly once", ok, fmt.Sprintf("%s; %d quarantined", strings.Join(parts, "; "), s.Quarantined)}
}

func (s *Summary) checkRollups() Check {
	return Check{
		"roll-ups agree with events", s.Rollup10s == s.Counts.Delivered && s.Rollup1m == s.Counts.Delivered,
		fmt.Sprintf("%d delivered, %d in k10s, %d in k1m", s.Counts.Delivered, s.Rollup10s, s.Rollup1m),
	}
}

func (s *Summary) checkReceivers() Check {
	r := s.Receivers
	ok := uint64(r.Accepted) == s.Counts.Delivered+uint64(r.Duplicates) && (r.Duplicates == 0 || len(s.Restarts) > 0) //nolint:gosec // counts
	return Check{
		"receivers counted the same", ok,
		fmt.Sprintf("receivers accepted %d = %d delivered + %d duplicates", r.Accepted, s.Counts.Delivered, r.Duplicates),
	}
}

func (s *Summary) checkReports() Check {
	r, c := s.Receivers.Reports, s.Counts
	known := c.Complaints + c.RemoteBounces
	ok := r.Failed == 0 && r.Pending == 0 && r.Sent > 0 && known == c.ReportsMatched && c.ReportsConsumed == known &&
		known >= uint64(r.Sent) && (known == uint64(r.Sent) || len(s.Restarts) > 0) //nolint:gosec // counts
	return Check{
		"every report found its message", ok,
		fmt.Sprintf("receivers sent %d (%d failed, %d pending); %d consumed: %d complaints and %d bounces, %d of them by a verified token",
			r.Sent, r.Failed, r.Pending, c.ReportsConsumed, c.Complaints, c.RemoteBounces, c.ReportsMatched),
	}
}

func (s *Summary) checkSuppressed() Check {
	c := s.Counts
	return Check{
		"whoever bounced or complained is suppressed", c.Unsuppressed == 0 && c.Suppressions > 0,
		fmt.Sprintf("%d addresses are suppressed, %d are missing", c.Suppressions, c.Unsuppressed),
	}
}

// answers returns the changes that lowered the limit of the provider that cut, after it did.
func (s *Summary) answers() []Change {
	var list []Change
	for _, c := range s.Changes {
		if c.Kind == kindChange && c.Provider == s.Cut.Provider && c.RateNew < c.RateOld && c.Time.After(s.Cut.Time) {
			list = append(list, c)
		}
	}
	return list
}

func (s *Summary) checkLoop() Check {
	answers := s.answers()
	if len(answers) == 0 {
		return Check{"the loop lowered the limit after the cut", false, fmt.Sprintf("no change lowered the limit of %s after %.0f s", s.Cut.Provider, s.Cut.At)}
	}
	first := answers[0]
	return Check{
		"the loop lowered the limit after the cut", true,
		fmt.Sprintf("%s from %.3g/s to %.3g/s (the hidden limit: %.3g/s), %.1f s after the cut",
			first.Rule, first.RateOld, first.RateNew, s.Cut.To, first.Time.Sub(s.Cut.Time).Seconds()),
	}
}

// A node may be a little above its lease in a short time: its bucket holds two seconds of it, and
// an attempt is written down when it ends.
const (
	burstSeconds  = 3
	burstMessages = 5
)

// checkObeyed is about the first answer to the cut: the node must have sent under its epoch, and not
// faster than it says.
func (s *Summary) checkObeyed() Check {
	const name = "the node obeyed the new limit"
	answers := s.answers()
	if len(answers) == 0 {
		return Check{name, false, "there is none"}
	}
	c := answers[0]
	if c.Attempts == 0 {
		return Check{name, false, fmt.Sprintf("no attempt carries epoch %d", c.Epoch)}
	}
	span := c.Last.Sub(c.First).Seconds()
	allowed := c.RateNew*(span+burstSeconds) + burstMessages
	return Check{
		name, float64(c.Attempts) <= allowed,
		fmt.Sprintf("%d attempts under epoch %d in %.1f s, first %.1f s after the decision; at %.3g/s at most %.0f",
			c.Attempts, c.Epoch, span, c.First.Sub(c.Time).Seconds(), c.RateNew, allowed),
	}
}

const (
	// fewAttempts is what a share of deferrals is worth nothing below.
	fewAttempts = 30
	// clearly is the share of what it was right after the cut that deferrals may have at the end. With
	// the local guard alone they fall too, to about a third.
	clearly = 0.25
)

func (s *Summary) checkDeferrals() Check {
	d := s.Deferrals
	ok := d.Before.Attempts >= fewAttempts && d.After.Attempts >= fewAttempts && d.End.Attempts >= fewAttempts &&
		d.After.share() > d.Before.share() && d.End.share() <= clearly*d.After.share()
	return Check{
		"deferrals rose with the cut and fell again", ok,
		fmt.Sprintf("before %s, right after %s, at the end %s", d.Before.text(), d.After.text(), d.End.text()),
	}
}

func (s *Summary) checkEvidence() Check {
	const name = "the evidence of every change re-computes"
	for _, c := range s.Changes {
		for _, dimension := range slices.Sorted(maps.Keys(c.Evidence)) {
			if got, want := c.Recomputed[dimension], c.Evidence[dimension]; got != want {
				return Check{name, false, fmt.Sprintf("%s of %s/%s at %s was decided on %d attempts of dimension %s, the roll-up has %d",
					c.Rule, c.Provider, c.Source, c.Time.Format(time.TimeOnly), want, dimension, got)}
			}
		}
		if len(c.Evidence) == 0 && c.Kind == kindChange {
			return Check{name, false, fmt.Sprintf("%s of %s/%s has none", c.Rule, c.Provider, c.Source)}
		}
	}
	return Check{name, len(s.Changes) > 0, fmt.Sprintf("%d changes", len(s.Changes))}
}
