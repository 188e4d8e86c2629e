// Package orders keeps what operators told a node to do with its mail: pause it, delete it, reroute
// it, hold a queue in a mode, leave a source alone. Each order has a number, a reason, who gave it,
// and when it ends.
//
// A Store holds the orders in force in one file, which it replaces as a whole and syncs: an order
// that was answered survives a restart and kill -9. What an order means for queues is not known
// here. A file that cannot be read is an error and not an empty list: mail that somebody stopped
// must not flow because of it.
//
// A Store is safe for concurrent use. Reading takes no lock: List and Disabled see the orders of
// one moment.
package orders

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind says what an order does.
type Kind string

// The kinds of orders.
const (
	Pause         Kind = "pause"          // matching mail is not tried
	Delete        Kind = "delete"         // matching mail that arrived before is finished as deleted
	Reroute       Kind = "reroute"        // matching mail that arrived before goes to another virtual MTA
	SetMode       Kind = "set-mode"       // matching queues are held in backoff, or left alone by an older order
	DisableSource Kind = "disable-source" // matching queues do not use a local address
)

// The modes of SetMode.
const (
	ModeNormal  = "normal"
	ModeBackoff = "backoff"
)

// Filter says which mail an order is about: all that meets every field that is set. In Queue (a
// pattern domain/vmta), Domain and VMTA a * stands for any text; Job and Tenant are whole names.
type Filter struct {
	Queue         string    `json:"queue,omitempty"`
	Job           string    `json:"job,omitempty"`
	Tenant        string    `json:"tenant,omitempty"`
	Domain        string    `json:"domain,omitempty"` // of the recipient, as the queue is named
	VMTA          string    `json:"vmta,omitempty"`
	ArrivedBefore time.Time `json:"arrived_before,omitzero"`
}

// IsZero reports whether f names no mail: no field but a time is set.
func (f Filter) IsZero() bool {
	return f.Queue == "" && f.Job == "" && f.Tenant == "" && f.Domain == "" && f.VMTA == ""
}

// MatchesQueue reports whether mail that waits in the queue may meet f; what is not about queues
// does not count.
func (f Filter) MatchesQueue(domain, vmta string) bool {
	return (f.Domain == "" || Match(f.Domain, domain)) && (f.VMTA == "" || Match(f.VMTA, vmta)) &&
		(f.Queue == "" || Match(f.Queue, domain+"/"+vmta))
}

// Covers reports whether f names everything that g names, in the words of g: each field of g is
// set in f too and stands for it. So a pause of a job is ended by naming the job, and not along
// with the queues.
func (f Filter) Covers(g Filter) bool {
	for _, field := range [...]struct{ f, g string }{{f.Queue, g.Queue}, {f.Domain, g.Domain}, {f.VMTA, g.VMTA}} {
		if (field.f == "") != (field.g == "") || !Covers(field.f, field.g) {
			return false
		}
	}
	return f.Job == g.Job && f.Tenant == g.Tenant
}

// NamesQueues reports whether f tells queues apart, by what they are called.
func (f Filter) NamesQueues() bool {
	domain, vmta, _ := strings.Cut(f.Queue, "/")
	for _, name := range [...]string{domain, vmta, f.Domain, f.VMTA} {
		if strings.Trim(name, "*") != "" {
			return true
		}
	}
	return false
}

// MayGoTo reports whether mail that was rerouted to the virtual MTA may meet f there.
func (f Filter) MayGoTo(vmta string) bool {
	_, pattern, _ := strings.Cut(f.Queue, "/")
	return (f.VMTA == "" || Match(f.VMTA, vmta)) && (f.Queue == "" || Match(pattern, vmta))
}

// String returns f in the words of the command line: "queue gmail.com/* job june".
func (f Filter) String() string {
	var words []string
	for _, field := range [...]struct{ name, value string }{
		{"queue", f.Queue}, {"job", f.Job}, {"tenant", f.Tenant}, {"domain", f.Domain}, {"vmta", f.VMTA},
	} {
		if field.value != "" {
			words = append(words, field.name+" "+field.value)
		}
	}
	return strings.Join(words, " ")
}

// Order is one order.
type Order struct {
	ID      uint64     `json:"id"` // 1, 2, 3 …; never used again
	Kind    Kind       `json:"kind"`
	Filter  Filter     `json:"filter"`
	To      string     `json:"to,omitempty"`   // Reroute: the virtual MTA
	Mode    string     `json:"mode,omitempty"` // SetMode: ModeNormal or ModeBackoff
	IP      netip.Addr `json:"ip,omitzero"`    // DisableSource: the local address
	Reason  string     `json:"reason,omitempty"`
	Actor   string     `json:"actor"` // user name
	Made    time.Time  `json:"made"`
	Expires time.Time  `json:"expires,omitzero"` // zero: until somebody ends it, or it is done
}

// expired reports whether o ends by itself at now.
func (o *Order) expired(now time.Time) bool { return !o.Expires.IsZero() && !o.Expires.After(now) }

// String returns o in one line, as logs and annotations show it.
func (o *Order) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", o.Kind)
	if o.Mode != "" {
		fmt.Fprintf(&b, " %s", o.Mode)
	}
	if o.IP.IsValid() {
		fmt.Fprintf(&b, " %s", o.IP)
	}
	if what := o.Filter.String(); what != "" {
		fmt.Fprintf(&b, " %s", what)
	}
	if o.To != "" {
		fmt.Fprintf(&b, " to %s", o.To)
	}
	if !o.Expires.IsZero() {
		fmt.Fprintf(&b, " until %s", o.Expires.Format(time.RFC3339))
	}
	return b.String()
}

// InvalidError is the error for an order that makes no sense. Its text is for whoever gave it.
type InvalidError struct{ Text string }

func (e *InvalidError) Error() string { return e.Text }

func invalidf(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}

// The longest names and reason, in bytes. A domain has 253 (RFC 1035 section 2.3.4), so a queue with its virtual
// MTA stays below 512; job and tenant are bounded by the header line that they come in.
const (
	maxName   = 998
	maxReason = 1000
)

// Validate returns an *InvalidError unless o says clearly what to do.
func (o *Order) Validate() error {
	for _, field := range [...]struct {
		name, value string
		longest     int
	}{
		{"queue", o.Filter.Queue, maxName},
		{"job", o.Filter.Job, maxName},
		{"tenant", o.Filter.Tenant, maxName},
		{"domain", o.Filter.Domain, maxName},
		{"virtual MTA", o.Filter.VMTA, maxName},
		{"virtual MTA", o.To, maxName},
		{"actor", o.Actor, maxName},
		{"reason", o.Reason, maxReason},
	} {
		switch {
		case len(field.value) > field.longest:
			return invalidf("the %s is longer than %d bytes", field.name, field.longest)
		case !utf8.ValidString(field.value) || strings.ContainsFunc(field.value, unicode.IsControl):
			return invalidf("the %s holds characters that cannot be shown", field.name)
		}
	}
	switch o.Kind {
	case Pause, Delete, Reroute:
		if o.Filter.IsZero() {
			return invalidf("%s what? name a queue, job, tenant, domain or virtual MTA (all mail is the queue *)", o.Kind)
		}
	case SetMode, DisableSource:
		f := o.Filter
		if f.Queue == "" || f.Job != "" || f.Tenant != "" || f.Domain != "" || f.VMTA != "" || !f.ArrivedBefore.IsZero() {
			return invalidf("%s is about queues: name them, and nothing else", o.Kind)
		}
	default:
		return invalidf("unknown kind of order %q", o.Kind)
	}
	if o.Filter.Queue != "" && !strings.Contains(o.Filter.Queue, "/") {
		return invalidf("queue %q: want domain/vmta", o.Filter.Queue)
	}
	if !o.Expires.IsZero() && !o.Expires.After(o.Made) {
		return invalidf("it would have ended at %s already", o.Expires.Format(time.RFC3339))
	}
	if o.Kind == Delete && !o.Expires.IsZero() {
		return invalidf("a delete does not expire")
	}
	if (o.Kind == Delete || o.Kind == Reroute) && o.Filter.ArrivedBefore.IsZero() {
		return invalidf("%s needs the time before which mail arrived", o.Kind)
	}
	if (o.Kind == Reroute) != (o.To != "") {
		return invalidf("%s: the virtual MTA to go to belongs to reroute, and reroute needs it", o.Kind)
	}
	if o.Kind == SetMode && o.Mode != ModeNormal && o.Mode != ModeBackoff || o.Kind != SetMode && o.Mode != "" {
		return invalidf("%s: mode %q, want normal or backoff for set-mode and none for anything else", o.Kind, o.Mode)
	}
	if (o.Kind == DisableSource) != o.IP.IsValid() {
		return invalidf("%s: the address belongs to disable-source, and disable-source needs it", o.Kind)
	}
	return nil
}
