package queue

import (
	"strings"
	"sync"
	"time"
	"unique"

	"carom/schemas/clock"
	"carom/schemas/event"
)

// Moment is a time in microseconds since 1970, 0 for none, by a clock that is the wall clock when
// the process begins and then runs on steadily: somebody who sets the wall clock neither ends a wait nor
// makes it longer. It means nothing to another process. A time.Time has three times its size, and a
// node may hold millions.
type Moment int64

// began is where the clock of moments starts.
var began = sync.OnceValue(clock.Now)

// far bounds how far from now a moment is: a Duration holds 292 years.
const far = 200 * 365 * 24 * time.Hour

// At returns the moment of t; the zero Time has none. A time without a monotonic reading, which is one
// that was written down or is of the calendar, is as far from now as the wall clock says.
func At(t time.Time) Moment {
	if t.IsZero() {
		return 0
	}
	now := clock.Now()
	passed := now.Sub(began()) + max(-far, min(t.Sub(now), far))
	return Moment(max(began().UnixMicro()+passed.Microseconds(), 1))
}

// Time returns m as a time with a monotonic reading, the zero Time for none. Its date is what the wall
// clock will show then, or would have shown, if nobody sets it.
func (m Moment) Time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	now := clock.Now()
	return now.Add(time.Duration(m-At(now)) * time.Microsecond)
}

// DefaultPriority is that of recipients which nothing gives another (PowerMTA's recipient-priority).
const DefaultPriority = 50

// Labels are what operators select mail by, beside its queue.
type Labels struct{ Job, Tenant string }

// Label returns the labels as items carry them: equal ones share their memory.
func Label(job, tenant string) unique.Handle[Labels] { return unique.Make(Labels{job, tenant}) }

// Item is the part of one message that waits in one queue: recipients that are due together. It
// takes 80 bytes with one recipient.
type Item struct {
	Message    event.ID
	Recipients []uint32 // indexes of the recipients in the message's envelope
	Labels     unique.Handle[Labels]
	Arrived    Moment
	Expires    Moment
	Due        Moment // 0 for new mail
	one        [1]uint32
	Attempts   uint16 // that were made for these recipients
	Priority   uint8  // 0 to 100; within a queue the higher goes first
	Parked     bool   // it is kept back by Park, or was when its time was over
}

// AddRecipient adds a recipient; the first one needs no memory of its own.
func (i *Item) AddRecipient(index uint32) {
	if i.Recipients == nil {
		i.one[0] = index
		i.Recipients = i.one[:]
		return
	}
	i.Recipients = append(i.Recipients, index)
}

// Filter selects mail. The zero Filter selects all.
type Filter struct {
	Queue         string `json:"queue,omitempty"`  // domain/vmta with * for any text; without a slash the domain
	Domain        string `json:"domain,omitempty"` // of the queue, likewise
	VMTA          string `json:"vmta,omitempty"`   // likewise
	Job           string `json:"job,omitempty"`    // exactly
	Tenant        string `json:"tenant,omitempty"` // exactly
	ArrivedBefore Moment `json:"arrived_before,omitempty"`
}

// MatchQueue reports whether mail of the queue may be selected.
func (f *Filter) MatchQueue(n Name) bool {
	if f.Queue != "" {
		domain, vmta, hasVMTA := strings.Cut(f.Queue, "/")
		if !wildcard(domain, n.Domain) || hasVMTA && !wildcard(vmta, n.VMTA) {
			return false
		}
	}
	return (f.Domain == "" || wildcard(f.Domain, n.Domain)) && (f.VMTA == "" || wildcard(f.VMTA, n.VMTA))
}

// WholeQueues reports whether f selects all mail of the queues that it matches.
func (f *Filter) WholeQueues() bool { return f.Job == "" && f.Tenant == "" && f.ArrivedBefore == 0 }

// MatchItem reports whether an item of a queue that f matches is selected.
func (f *Filter) MatchItem(i *Item) bool {
	if f.ArrivedBefore != 0 && i.Arrived >= f.ArrivedBefore {
		return false
	}
	if f.Job == "" && f.Tenant == "" {
		return true
	}
	var l Labels
	if i.Labels != (unique.Handle[Labels]{}) {
		l = i.Labels.Value()
	}
	return (f.Job == "" || f.Job == l.Job) && (f.Tenant == "" || f.Tenant == l.Tenant)
}

// wildcard matches text without regard to case; a * in the pattern stands for any text.
func wildcard(pattern, text string) bool {
	pattern, text = strings.ToLower(pattern), strings.ToLower(text)
	first, rest, found := strings.Cut(pattern, "*")
	if !found {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	for ok {
		if first, rest, found = strings.Cut(rest, "*"); !found {
			return strings.HasSuffix(text, first)
		}
		_, text, ok = strings.Cut(text, first)
	}
	return false
}

// Hold keeps mail back that Filter selects, until SetHolds says otherwise.
type Hold struct {
	ID     string
	Filter Filter
}
