package event

import "fmt"

// Kind says which step an event is.
type Kind uint8

// The kinds. Their numbers are written to disk and to ClickHouse: new ones come at the end.
const (
	Received Kind = iota + 1
	Delivered
	Deferred
	QueueDeferred
	Bounced
	RemoteBounce
	RemoteStatus
	Complaint
	Rejected
	Suppressed
	Expired
	Deleted
	Discarded
	Expanded
	ReportConsumed
	Held
	Released
	Rerouted
	LimitApplied
)

type kindInfo struct {
	name   string
	letter string // of PowerMTA's accounting file; "" if it has no such record
	final  bool   // the recipient is finished
}

var kinds = [...]kindInfo{
	Received:       {"received", "r", false},
	Delivered:      {"delivered", "d", true},
	Deferred:       {"deferred", "t", false},
	QueueDeferred:  {"queue-deferred", "tq", false},
	Bounced:        {"bounced", "b", true},
	RemoteBounce:   {"remote-bounce", "rb", false},
	RemoteStatus:   {"remote-status", "rs", false},
	Complaint:      {"complaint", "f", false},
	Rejected:       {"rejected", "", false},
	Suppressed:     {"suppressed", "b", true},
	Expired:        {"expired", "b", true},
	Deleted:        {"deleted", "b", true},
	Discarded:      {"discarded", "d", true},
	Expanded:       {"expanded", "", true},
	ReportConsumed: {"report-consumed", "", true},
	Held:           {"held", "", false},
	Released:       {"released", "", false},
	Rerouted:       {"rerouted", "", false},
	LimitApplied:   {"limit-applied", "", false},
}

func (k Kind) info() kindInfo {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return kindInfo{}
}

// Kinds returns every kind in the order of its number.
func Kinds() []Kind {
	all := make([]Kind, 0, len(kinds)-1)
	for k := Received; int(k) < len(kinds); k++ {
		all = append(all, k)
	}
	return all
}

// String returns the name of k, as the warehouse writes it.
func (k Kind) String() string {
	if name := k.info().name; name != "" {
		return name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// PowerMTA returns the letter of PowerMTA's accounting record for k, or "" if it has none.
func (k Kind) PowerMTA() string { return k.info().letter }

// Final reports whether the recipient is finished by an event of kind k: it leaves the queue.
func (k Kind) Final() bool { return k.info().final }

// Phase says where in an attempt it ended.
type Phase uint8

// The phases, in the order of an attempt. Their numbers are written to disk and to ClickHouse.
const (
	PhaseNone Phase = iota
	PhaseResolve
	PhaseConnect
	PhaseGreeting
	PhaseEHLO
	PhaseTLS
	PhaseAuth
	PhaseMail
	PhaseRcpt
	PhaseData
	PhaseBody
	PhaseFinalDot
)

var phases = [...]string{
	"", "resolve", "connect", "greeting", "ehlo", "tls", "auth", "mail", "rcpt", "data", "body", "final-dot",
}

// Phases returns every phase in the order of its number.
func Phases() []Phase {
	all := make([]Phase, 0, len(phases))
	for p := PhaseNone; int(p) < len(phases); p++ {
		all = append(all, p)
	}
	return all
}

// String returns the name of p; PhaseNone is "".
func (p Phase) String() string {
	if int(p) < len(phases) {
		return phases[p]
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}
