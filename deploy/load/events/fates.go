package events

import (
	"math/rand/v2"
	"time"

	"carom/schemas/event"
)

// A fate is what becomes of a message. The first fate is being delivered at the first attempt.
type fate struct {
	name string
	// per10k is how many of ten thousand messages meet it by chance; 0 for the fates that have a cause.
	per10k int
	// first is the event that the life begins with; a life of Rejected or ReportConsumed has no other.
	first event.Kind
	// deferrals is how many attempts fail for now by replies of the role deferral; the SQL works out
	// how many during an incident.
	deferrals int
	deferral  role
	// final is the last event, with a reply of the role.
	final     event.Kind
	finalRole role
}

// attemptsUntilExpiry is how many attempts fit into the two days that a message may wait: the pause
// begins with ten minutes and doubles, and the tenth attempt would come on the fourth day.
const attemptsUntilExpiry = 9

// fates in the order of their numbers in the SQL.
var fates = []fate{
	{name: "delivered", first: event.Received, final: event.Delivered, finalRole: roleDelivered},
	{name: "suppressed", first: event.Received, final: event.Suppressed},
	{name: "unknown", first: event.Received, final: event.Bounced, finalRole: roleUnknown},
	{name: "full", first: event.Received, deferrals: attemptsUntilExpiry, deferral: roleFull, final: event.Expired},
	{name: "blocked", first: event.Received, final: event.Bounced, finalRole: roleBlock},
	{name: "limited", first: event.Received, deferrals: 1, deferral: roleRate, final: event.Delivered, finalRole: roleDelivered},
	{name: "block-for-now", first: event.Received, deferrals: 1, deferral: roleBlockForNow, final: event.Delivered, finalRole: roleDelivered},
	{name: "outage", first: event.Received, final: event.Delivered, finalRole: roleDelivered},
	{name: "greylisted", first: event.Received, deferrals: 1, deferral: roleGreylist, final: event.Delivered, finalRole: roleDelivered},
	{name: "spam", per10k: 55, first: event.Received, final: event.Bounced, finalRole: roleContent},
	{name: "unauthenticated", per10k: 12, first: event.Received, final: event.Bounced, finalRole: roleAuth},
	{name: "inactive", per10k: 18, first: event.Received, final: event.Bounced, finalRole: roleInactive},
	{name: "over-quota-for-now", per10k: 30, first: event.Received, deferrals: 3, deferral: roleFull, final: event.Delivered, finalRole: roleDelivered},
	{name: "rate", per10k: 130, first: event.Received, deferrals: 1, deferral: roleRate, final: event.Delivered, finalRole: roleDelivered},
	{name: "rate-twice", per10k: 50, first: event.Received, deferrals: 2, deferral: roleRate, final: event.Delivered, finalRole: roleDelivered},
	{name: "connections", per10k: 35, first: event.Received, deferrals: 1, deferral: roleConnections, final: event.Delivered, finalRole: roleDelivered},
	{name: "messages", per10k: 20, first: event.Received, deferrals: 1, deferral: roleMessages, final: event.Delivered, finalRole: roleDelivered},
	{name: "unavailable", per10k: 60, first: event.Received, deferrals: 1, deferral: roleUnavailable, final: event.Delivered, finalRole: roleDelivered},
	{name: "unreachable", per10k: 40, first: event.Received, deferrals: 2, deferral: roleConnect, final: event.Delivered, finalRole: roleDelivered},
	{name: "unreachable-for-good", per10k: 5, first: event.Received, deferrals: attemptsUntilExpiry, deferral: roleConnect, final: event.Expired},
	{name: "tls", per10k: 3, first: event.Received, final: event.Bounced, finalRole: roleTLS},
	{name: "size", per10k: 4, first: event.Received, final: event.Bounced, finalRole: roleSize},
	{name: "relay", per10k: 5, first: event.Received, final: event.Bounced, finalRole: roleRelay},
	{name: "unclear", per10k: 6, first: event.Received, final: event.Bounced, finalRole: roleOther},
	{name: "rejected", per10k: 8, first: event.Rejected},
	{name: "report", per10k: 10, first: event.ReportConsumed},
}

// fateOf returns the number of the fate of that name. An unknown name is a mistake in this package
// that every test finds.
func fateOf(name string) int {
	for i, f := range fates {
		if f.name == name {
			return i
		}
	}
	panic("events: no fate " + name)
}

// chances returns ten thousand places with the numbers of the fates that come by chance.
func chances() []int {
	weights := make([]int, len(fates))
	weights[0] = 10_000
	for i, f := range fates {
		weights[i] += f.per10k
		weights[0] -= f.per10k
	}
	return slots(weights)
}

// An incident is a time in which a provider treats a source, or all of them, badly.
type incident struct {
	fate     string
	provider int
	source   int // -1 for all
	from, to time.Time
}

// incidentsPerMonth is how many incidents of each kind thirty days have.
const incidentsPerMonth = 8

// incidentKinds are the fates of incidents: a block for hours, limits, deferrals for complaints, and
// a receiver that is away.
var incidentKinds = []string{"blocked", "limited", "block-for-now", "outage"}

// incidents returns those of a history, the same for the same seed and time.
func incidents(seed uint64, from time.Time, days int) []incident {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a plan, no secret
	all := make([]incident, max(1, days*incidentsPerMonth/30)*len(incidentKinds))
	for i := range all {
		in := incident{fate: incidentKinds[i%len(incidentKinds)], provider: r.IntN(12), source: r.IntN(Sources)}
		if in.fate == "outage" {
			in.source = -1
		}
		in.from = from.Add(time.Duration(r.Int64N(int64(days) * int64(24*time.Hour)))).Truncate(time.Minute)
		in.to = in.from.Add(time.Hour + time.Duration(r.Int64N(int64(7*time.Hour)))).Truncate(time.Minute)
		all[i] = in
	}
	return all
}
