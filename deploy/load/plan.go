package load

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"carom/deploy/receivers/scenarios"
)

// message is one message to one recipient.
type message struct {
	at        time.Duration // scenario time
	index     int
	id        string // Message-ID without brackets
	sender    string
	recipient string
	tenant    string

	// The fields below belong to whoever has the message: the dispatcher or a worker.
	due       time.Time // of the next attempt
	attempts  int
	deferrals int
	inDoubt   bool
}

// plan yields the messages of a run in the order of their times.
type plan struct {
	o       *Options
	streams []*stream
	rate    float64 // in all; 0 leaves every stream its own
	end     time.Duration
	total   int
	made    int
	head    *message // made by peek, not yet popped
}

// stream is one load of the scenario.
type stream struct {
	load    *scenarios.Load
	weight  float64 // share of the load when the plan has one rate
	made    int
	domains []*share
}

// share is one domain of a stream.
type share struct {
	domain string
	weight float64 // of the stream, in all 1
	made   int
}

func newPlan(o *Options) (*plan, error) {
	p := &plan{o: o, rate: o.RatePerSecond, end: o.Duration}
	if len(o.Scenario.Load) == 0 {
		return nil, errors.New("the scenario has no load")
	}
	sum := 0.0
	for i := range o.Scenario.Load {
		l := &o.Scenario.Load[i]
		s := &stream{load: l, weight: l.Offered(max(o.Scenario.Duration.D(), time.Second))}
		sum += s.weight
		weights := 0.0
		for _, w := range l.Domains {
			weights += w
		}
		for _, d := range slices.Sorted(maps.Keys(l.Domains)) {
			s.domains = append(s.domains, &share{domain: d, weight: l.Domains[d] / weights})
		}
		p.streams = append(p.streams, s)
	}
	if sum == 0 {
		return nil, errors.New("the scenario's load is nothing at all")
	}
	for _, s := range p.streams {
		s.weight /= sum
	}
	switch {
	case o.Messages > 0:
		p.total = o.Messages
		p.end = math.MaxInt64
		if all := offeredEver(o.Scenario.Load); p.rate == 0 && float64(p.total) > all {
			return nil, fmt.Errorf("the scenario's rates end at 0 after %.0f messages: say a rate, or fewer messages", all)
		}
	case p.rate > 0:
		p.total = int(math.Ceil(p.rate*p.end.Seconds() - 1e-9))
	default:
		for _, s := range p.streams {
			p.total += int(math.Ceil(s.load.Offered(p.end) - 1e-9))
		}
	}
	return p, nil
}

// offeredEver returns how many messages all streams ever have, +Inf where a rate never ends.
func offeredEver(loads []scenarios.Load) float64 {
	sum := 0.0
	for i := range loads {
		l := &loads[i]
		if n := len(l.PerS); n > 0 && l.PerS[n-1].V > 0 {
			return math.Inf(1)
		} else if n > 0 {
			sum += l.Offered(l.PerS[n-1].At.D())
		} else {
			sum += float64(l.Backlog)
		}
	}
	return sum
}

// peek returns the next message without taking it; the same until pop.
func (p *plan) peek() (*message, bool) {
	if p.head != nil {
		return p.head, true
	}
	if p.made >= p.total {
		return nil, false
	}
	s, at, ok := p.nextStream()
	if !ok {
		p.total = p.made // rounding left a message over that is never due
		return nil, false
	}
	domain := slices.MaxFunc(s.domains, func(a, b *share) int { return cmpDeficit(a.weight, a.made, b.weight, b.made, s.made+1) })
	domain.made++
	s.made++
	local := p.made
	if p.o.Recipients > 0 {
		local %= p.o.Recipients
	}
	p.head = &message{
		at: at, index: p.made,
		id:        fmt.Sprintf("%s.%d@%s", p.o.Job, p.made, p.o.FromDomain),
		sender:    "news@" + p.o.FromDomain,
		recipient: person(p.o.Scenario.Seed, local) + "@" + domain.domain,
		tenant:    s.load.Tenant,
	}
	p.made++
	return p.head, true
}

// pop takes the message that peek returned.
func (p *plan) pop() { p.head = nil }

// nextStream returns the stream whose next message is due first, and when.
func (p *plan) nextStream() (*stream, time.Duration, bool) {
	if p.rate > 0 {
		s := slices.MaxFunc(p.streams, func(a, b *stream) int { return cmpDeficit(a.weight, a.made, b.weight, b.made, p.made+1) })
		return s, time.Duration(float64(p.made) / p.rate * float64(time.Second)), true
	}
	var first *stream
	var at time.Duration
	for _, s := range p.streams {
		due, ok := s.load.DueAt(s.made)
		if ok && due < p.end && (first == nil || due < at) {
			first, at = s, due
		}
	}
	return first, at, first != nil
}

// cmpDeficit compares how far behind its share each of two is once n are made.
func cmpDeficit(weightA float64, madeA int, weightB float64, madeB, n int) int {
	a, b := weightA*float64(n)-float64(madeA), weightB*float64(n)-float64(madeB)
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

var (
	firstNames = []string{"anna", "ben", "carla", "dario", "eva", "felix", "greta", "hugo", "ines", "jonas", "karin", "luis", "maria", "nils", "olga", "paul"}
	lastNames  = []string{"adler", "berg", "costa", "duval", "ek", "fischer", "garcia", "holm", "ivanov", "jansen", "keller", "lund", "moreau", "novak", "ortiz", "petit"}
)

// person returns the local part of recipient n, the same for the same seed and no other's.
func person(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	return fmt.Sprintf("%s.%s.%x", firstNames[r.IntN(len(firstNames))], lastNames[r.IntN(len(lastNames))], n)
}
