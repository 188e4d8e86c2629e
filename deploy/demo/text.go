package demo

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// text returns the summary as it is printed.
func (s *Summary) text() string {
	var b strings.Builder
	s.writeCounts(&b)
	s.writeChanges(&b)
	s.writeCourse(&b)
	b.WriteString("\nChecks\n")
	failed := 0
	for _, c := range s.Checks {
		mark := "ok    "
		if !c.OK {
			mark = "FAILED"
			failed++
		}
		fmt.Fprintf(&b, "  %s  %s\n          %s\n", mark, c.Name, c.Detail)
	}
	if failed == 0 {
		b.WriteString("\nThe loop closed, and everything adds up.\n")
	} else {
		fmt.Fprintf(&b, "\n%d of %d checks FAILED.\n", failed, len(s.Checks))
	}
	return b.String()
}

func (s *Summary) writeCounts(b *strings.Builder) {
	c := s.Counts
	row := func(name string, n uint64, remark string, args ...any) {
		if remark != "" {
			remark = "   " + fmt.Sprintf(remark, args...)
		}
		fmt.Fprintf(b, "  %-22s %7d%s\n", name, n, remark)
	}
	b.WriteString("\nSummary, by SQL from ClickHouse\n")
	row("accepted", c.Accepted, "by the node, of %d messages in %.0f s", s.Messages, s.Load.Seconds)
	row("delivered", c.Delivered, "receivers counted %d, %d of them twice", s.Receivers.Accepted, s.Receivers.Duplicates)
	row("deferred attempts", c.DeferredAttempts, "tried again later")
	categories := make([]string, 0, len(s.ByWhat))
	for _, x := range s.ByWhat {
		categories = append(categories, fmt.Sprintf("%d %s", x.Count, x.Category))
	}
	row("bounced", c.Bounced, "%s", strings.Join(categories, ", "))
	row("expired", c.Expired, "")
	row("still queued", s.Queued, "")
	row("bounced after delivery", c.RemoteBounces, "by DSN, joined to their messages")
	row("complaints", c.Complaints, "by ARF, joined to their messages")
	row("suppressed", c.SuppressedAtRcpt+c.SuppressedAfterAccepted, "%d refused at RCPT, %d after acceptance; %d addresses are suppressed now",
		c.SuppressedAtRcpt, c.SuppressedAfterAccepted, c.Suppressions)
	for _, stream := range s.Streams {
		if stream.Name == "event" {
			row("events shipped", stream.Rows, "gaps = %d, duplicates = %d", stream.Gaps, stream.Duplicates)
		}
	}
	if len(s.Restarts) > 0 {
		row("processes restarted", uint64(len(s.Restarts)), "%s", strings.Join(s.Restarts, ", "))
	}
}

func (s *Summary) writeChanges(b *strings.Builder) {
	fmt.Fprintf(b, "\nChanges of limits (limit_log); %s cut its limit from %.4g/s to %.4g/s at %.0f s\n", s.Cut.Provider, s.Cut.From, s.Cut.To, s.Cut.At)
	if len(s.Changes) == 0 {
		b.WriteString("  none\n")
	}
	for _, c := range s.Changes {
		kind := ""
		if c.Kind != kindChange {
			kind = " (" + c.Kind + ")"
		}
		fmt.Fprintf(b, "  %5.1f s  %s/%s  %s%s  %s -> %s\n           %s\n",
			c.Time.Sub(s.Started).Seconds(), c.Provider, c.Source, c.Rule, kind, rateText(c.RateOld), rateText(c.RateNew), c.Reason)
	}
	fmt.Fprintf(b, "  Deferred by %s: %s before the cut, %s right after it, %s at the end.\n", s.Cut.Provider,
		s.Deferrals.Before.text(), s.Deferrals.After.text(), s.Deferrals.End.text())
}

func rateText(perSecond float64) string {
	if perSecond == 0 || math.IsInf(perSecond, 1) {
		return "configured"
	}
	return fmt.Sprintf("%.3g/s", perSecond)
}

// text writes the share with what it is a share of.
func (s Share) text() string {
	return fmt.Sprintf("%.1f %% of %d", 100*s.share(), s.Attempts)
}

const plotWidth = 50

// writeCourse draws what the provider that cut accepted and deferred, under both limits.
func (s *Summary) writeCourse(b *strings.Builder) {
	if len(s.Buckets) == 0 {
		return
	}
	most := 1.0
	for _, x := range s.Buckets {
		most = max(most, x.Accepted+x.Deferred)
	}
	fmt.Fprintf(b, "\n%s, messages a second in steps of %s: # accepted, x deferred, | carom's limit, ! the hidden limit (> further right)\n",
		s.Cut.Provider, bucketSize.Round(time.Second))
	for _, x := range s.Buckets {
		fmt.Fprintf(b, "  %4.0f s  %5.1f +%5.1f x  limit %5.1f  %s\n", x.At, x.Accepted, x.Deferred, x.Limit, x.bar(most))
	}
}

// bar draws the bucket; most messages a second fill the width.
func (x Bucket) bar(most float64) string {
	column := func(v float64) int { return int(math.Round(v / most * (plotWidth - 1))) }
	line := []byte(strings.Repeat(" ", plotWidth+1))
	for i := range column(x.Accepted) {
		line[i] = '#'
	}
	for i := column(x.Accepted); i < min(plotWidth, column(x.Accepted+x.Deferred)); i++ {
		line[i] = 'x'
	}
	for _, limit := range []struct {
		rate float64
		mark byte
	}{{x.Limit, '|'}, {x.Hidden, '!'}} {
		if at := column(limit.rate); at < plotWidth {
			line[at] = limit.mark
		} else {
			line[plotWidth] = '>'
		}
	}
	return strings.TrimRight(string(line), " ")
}
