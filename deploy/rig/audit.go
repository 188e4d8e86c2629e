package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"carom/schemas/event"
	"carom/schemas/seglog"
)

// Audit holds what feeders, receivers and the event log say of each recipient.
//
// What never may be is a problem at once: a message that arrives changed, an event for a recipient
// that nobody handed over, a second end, a hole in the sequence, and a second delivery where the
// first was not in flight when the node was killed. In flight is a transaction that the receiver has
// answered with 250 while the node has neither sent the end of another message over the connection nor
// QUIT: only then may the node be without a record of it, so it is one a connection. What is to come, like the delivery of what was accepted, Settle
// asks for when the spool is empty.
type Audit struct {
	// Fate says how a recipient has to end, event.Delivered or event.Bounced. If nil, all are
	// delivered.
	Fate func(number uint64, k int) event.Kind

	mu       sync.Mutex
	messages map[uint64]*message
	problems []string
	missing  int // problems that are too many to keep
	counts   Counts
	flying   map[*Transaction]bool
	next     uint64 // sequence number of the next event
	log      string // incarnation
}

// Counts are what an Audit has counted, in recipients if nothing else is said.
type Counts struct {
	Messages   int // with a 250
	InDoubt    int // messages without an answer to their content
	Accepted   int // of messages with a 250
	Received   int // received events
	Deferred   int // deferred events
	Delivered  int // delivered events
	Bounced    int // bounced events
	Arrived    int // that receivers took, duplicates too
	Duplicates int
	Repeated   int // transactions with duplicates
	InFlight   int // transactions in flight at kills
	Kills      int
	Events     uint64 // in the log
}

type state uint8

const (
	inDoubt state = iota
	accepted
	refused
)

type message struct {
	state      state
	recipients []recipient
}

type recipient struct {
	received, ends, arrived uint8 // up to 255
	end                     event.Kind
	last                    *Transaction
}

// Transaction is a message that a receiver took.
type Transaction struct {
	number   uint64
	life     int  // kills before it
	wentOn   bool // the node ended another message or the session after it
	excused  bool // it was in flight when the node was killed
	repeated bool // it was counted in Repeated
}

// maxProblems bounds what is kept of a run that goes wrong altogether.
const maxProblems = 50

func (a *Audit) problem(format string, args ...any) {
	if len(a.problems) >= maxProblems {
		a.missing++
		return
	}
	a.problems = append(a.problems, fmt.Sprintf(format, args...))
}

// Offered notes a message before its content is sent.
func (a *Audit) Offered(m Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.messages == nil {
		a.messages, a.flying = map[uint64]*message{}, map[*Transaction]bool{}
	}
	a.messages[m.Number] = &message{recipients: make([]recipient, len(m.Recipients))}
	a.counts.InDoubt++
}

// Accepted notes that the node answered with 250.
func (a *Audit) Accepted(number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.messages[number]
	m.state = accepted
	a.counts.InDoubt--
	a.counts.Messages++
	a.counts.Accepted += len(m.recipients)
}

// Refused notes that the node refused the message.
func (a *Audit) Refused(number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.messages[number].state = refused
	a.counts.InDoubt--
}

// delivered notes what a receiver takes. damage is what is wrong with the content.
func (a *Audit) delivered(number uint64, addresses []string, damage error) *Transaction {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &Transaction{number: number, life: a.counts.Kills}
	if damage != nil {
		a.problem("a receiver got a damaged message for %q: %v", addresses, damage)
	}
	for _, address := range addresses {
		n, k, err := ParseAddress(address)
		m := a.messages[n]
		switch {
		case err != nil || m == nil || k >= len(m.recipients):
			a.problem("a receiver got mail for %q, to whom nobody sent any", address)
			continue
		case n != number && damage == nil:
			a.problem("a receiver got message %d for %q", number, address)
		case m.state == refused:
			a.problem("a receiver got mail for %q, which the node had refused", address)
		}
		r := &m.recipients[k]
		r.arrived++
		a.counts.Arrived++
		if before := r.last; before != nil {
			a.counts.Duplicates++
			if !before.repeated {
				a.counts.Repeated++
				before.repeated = true
			}
			if !before.excused {
				a.problem("%q got message %d again after %d kills; the first was not in flight at a kill: it came after %d kills, the node went on after it: %t, the event log read so far has %d received and %d final events",
					address, number, a.counts.Kills, before.life, before.wentOn, r.received, r.ends)
			}
		}
		r.last = t
	}
	a.flying[t] = true
	return t
}

// confirmed notes that the node went on after a transaction.
func (a *Audit) confirmed(t *Transaction) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t != nil {
		t.wentOn = true
	}
	delete(a.flying, t)
}

// ended notes the end of a connection and what was taken last over it.
func (a *Audit) ended(last *Transaction, quit bool) {
	if quit {
		a.confirmed(last)
	}
}

// Killed notes that the node was killed, after all its connections have ended, and returns how many
// transactions were in flight.
func (a *Audit) Killed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.flying)
	for t := range a.flying {
		t.excused = true
	}
	clear(a.flying)
	a.counts.Kills++
	a.counts.InFlight += n
	return n
}

// ReadEvents reads on in the event log in dir, in which nobody need write.
func (a *Audit) ReadEvents(dir string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	reader, err := seglog.OpenReader(dir, a.next, seglog.Options{})
	if errors.Is(err, fs.ErrNotExist) && a.next == 0 {
		return nil // the node was killed before it made one
	}
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	defer func() { _ = reader.Close() }() // only read
	if a.log != "" && a.log != reader.Incarnation() {
		a.problem("the event log is a new one")
	}
	a.log = reader.Incarnation()
	for {
		entry, ok, err := reader.TryNext()
		if err != nil {
			return fmt.Errorf("event log: %w", err)
		}
		if !ok {
			return nil
		}
		if want := max(a.next, 1); entry.Seq != want {
			a.problem("event %d follows %d", entry.Seq, want-1)
		}
		a.next = entry.Seq + 1
		a.counts.Events = entry.Seq
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			a.problem("event %d: %v", entry.Seq, err)
			continue
		}
		a.event(entry.Seq, &e)
	}
}

func (a *Audit) event(seq uint64, e *event.Event) {
	switch {
	case e.Kind == event.Received, e.Kind == event.Deferred, e.Kind.Final():
	default:
		return // of a queue, or a refusal
	}
	n, k, err := ParseAddress(e.Recipient)
	m := a.messages[n]
	if err != nil || m == nil || k >= len(m.recipients) {
		a.problem("event %d, %s, is about %q, to whom nobody sent mail", seq, e.Kind, e.Recipient)
		return
	}
	r := &m.recipients[k]
	switch {
	case e.Kind == event.Received:
		r.received++
		a.counts.Received++
		if r.received > 1 {
			a.problem("event %d: %q was received %d times", seq, e.Recipient, r.received)
		}
		return
	case r.received == 0 || r.ends > 0:
		a.problem("event %d: %s for %q after %d received and %d final events", seq, e.Kind, e.Recipient, r.received, r.ends)
	}
	switch e.Kind {
	case event.Deferred:
		a.counts.Deferred++
		return
	case event.Delivered:
		a.counts.Delivered++
	case event.Bounced:
		a.counts.Bounced++
	default:
	}
	r.ends++
	r.end = e.Kind
}

// Counts returns what was counted so far.
func (a *Audit) Counts() Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts
}

// Problems returns what was wrong so far.
func (a *Audit) Problems() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list()
}

func (a *Audit) list() []string {
	list := slices.Clone(a.problems)
	if a.missing > 0 {
		list = append(list, fmt.Sprintf("and %d more", a.missing))
	}
	return list
}

// Settle compares everything and returns all problems. The spool must be empty and the event log
// read to its end.
func (a *Audit) Settle() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for number, m := range a.messages {
		a.settle(number, m)
	}
	if a.counts.Repeated > a.counts.InFlight {
		a.problem("%d transactions were repeated, %d were in flight at kills", a.counts.Repeated, a.counts.InFlight)
	}
	return a.list()
}

func (a *Audit) settle(number uint64, m *message) {
	taken := m.state == accepted || m.state == inDoubt && m.recipients[0].received > 0
	for k, r := range m.recipients {
		want := event.Delivered
		if a.Fate != nil {
			want = a.Fate(number, k)
		}
		switch {
		case !taken && (r.received > 0 || r.ends > 0 || r.arrived > 0):
			a.problem("message %d, recipient %d: not accepted, but %d received events, %d ends, arrived %d times", number, k, r.received, r.ends, r.arrived)
		case !taken:
		case r.received != 1 || r.ends != 1 || r.end != want:
			a.problem("message %d, recipient %d: %d received events, %d ends, the last %s; want one %s", number, k, r.received, r.ends, r.end, want)
		case (r.arrived > 0) != (want == event.Delivered):
			a.problem("message %d, recipient %d: ended as %s and arrived %d times: it is lost, or too many have it", number, k, r.end, r.arrived)
		}
	}
}

// Events returns all events of the log in dir.
func Events(dir string) ([]event.Event, error) {
	reader, err := seglog.OpenReader(dir, 1, seglog.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }() // only read
	var list []event.Event
	for {
		entry, ok, err := reader.TryNext()
		if err != nil || !ok {
			return list, err
		}
		var e event.Event
		if err := event.Decode(entry.Data, &e); err != nil {
			return nil, fmt.Errorf("event %d: %w", entry.Seq, err)
		}
		list = append(list, e)
	}
}
