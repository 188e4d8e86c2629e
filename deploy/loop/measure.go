package loop

import (
	"slices"
	"time"

	"carom/deploy/receivers/provider"
)

// Measures are what one run is judged by (design/control.md section 8). Percentages are 0 to 100.
type Measures struct {
	Goodput   float64 `json:"goodput_pct"`   // G: accepted of what an oracle would have had accepted
	Deferrals float64 `json:"deferrals_pct"` // Df: refused for rate, block, outage or no named reason, of all but greylisting
	Blocked   float64 `json:"block_minutes"` // B: caused, beyond what the scenario scripts
	Recovery  float64 `json:"recovery_min"`  // R: longest, from a step of the receiver to 90 % of what it then takes
	Delay95   float64 `json:"delay_p95_s"`   // of what was accepted, from its arrival
	// Others is what of the other tenants' mail got through where one tenant is answered specially.
	Others      float64 `json:"others_pct,omitempty"`
	LeaseSum    float64 `json:"lease_sum"`     // S: largest sum of leases over the limit
	LeaseAge    float64 `json:"lease_age_s"`   // A: of the oldest lease that a node obeyed
	Explained   float64 `json:"explained_pct"` // X: changes whose evidence adds up again
	Changes     int     `json:"changes"`
	Decreases   int     `json:"decreases"`
	PerHour     int     `json:"changes_per_hour"` // most in any hour
	BlockedRate float64 `json:"blocked_attempts_per_min"`
	Accepted    int     `json:"accepted"`
	Attempts    int     `json:"attempts"`
	Oracle      float64 `json:"oracle"`
}

// measure judges a world that has run.
func (w *world) measure() Measures {
	totals := w.hidden.Totals(w.end)
	c := totals.Classes
	m := Measures{
		Oracle:   w.scenario.Oracle(&w.config, w.end, len(w.keys)).Oracle,
		Accepted: c[provider.OK] + c[provider.User], Attempts: totals.Attempts,
		Blocked: totals.BlockCaused / 60, Explained: 100,
	}
	m.Goodput = 100 * float64(m.Accepted) / max(1, m.Oracle)
	refused := c[provider.Rate] + c[provider.Block] + c[provider.Unav]
	m.Deferrals = 100 * float64(refused) / float64(max(1, totals.Attempts-c[provider.Grey]))
	if slices.Sort(w.delays); len(w.delays) > 0 {
		m.Delay95 = float64(w.delays[len(w.delays)*95/100])
	}
	checked := 0
	for _, k := range w.keys {
		own, ok := k.own.(*loopKey)
		if !ok {
			continue
		}
		m.Changes += len(own.changes)
		checked += own.checked
		m.LeaseSum, m.LeaseAge = max(m.LeaseSum, own.leaseOver), max(m.LeaseAge, own.oldest.Seconds())
		for i := range own.changes {
			if c := &own.changes[i].Reason; c.New.RatePerSecond < c.Old.RatePerSecond && !c.WouldChange {
				m.Decreases++
			}
			n := 0
			for j := i; j < len(own.changes) && own.changes[j].At < own.changes[i].At+time.Hour; j++ {
				n++
			}
			m.PerHour = max(m.PerHour, n)
		}
	}
	if m.Changes > 0 {
		m.Explained = 100 * float64(checked) / float64(m.Changes)
	}
	m.Others = w.others()
	m.Recovery = w.recovery()
	m.BlockedRate = w.blockedRate()
	return m
}

// others returns the share of the mail of tenants without a special answer that was accepted, in
// percent; 0 where no tenant has one.
func (w *world) others() float64 {
	accepted, made, some := 0, 0, false
	for i := range w.special {
		if w.special[i] != nil {
			some = true
			continue
		}
		accepted += w.accepted[i]
		made += w.made[i]
	}
	if !some || made == 0 {
		return 0
	}
	return 100 * float64(accepted) / float64(made)
}

// row is one bucket of the receiver's statistics, over all sources.
type row struct {
	at       time.Duration
	accepted float64 // a second
	refused  float64
	hidden   float64 // limit with the penalty in it; 0 while blocked
	offered  float64 // what an oracle would have had accepted, a second
	blocked  bool
	hits     int // attempts that met the block
}

// rows joins the statistics with the oracle.
func (w *world) rows() []row {
	n := int(w.end / bucketStep)
	out := make([]row, n)
	step := bucketStep.Seconds()
	waiting := 0.0
	before := 0.0
	for i := range out {
		at := time.Duration(i) * bucketStep
		out[i].at = at
		capacity := 0.0
		for s := time.Duration(0); s < bucketStep; s += time.Second {
			if _, blocked := w.config.ScriptedUntil(at + s); !blocked && w.config.OutageAt(at+s) == "" {
				capacity += w.config.Limit(at + s)
			}
		}
		out[i].hidden = capacity / step * float64(len(w.keys))
		offered := w.offered(at + bucketStep)
		waiting += offered - before
		before = offered
		took := min(waiting, capacity*float64(len(w.keys)))
		waiting -= took
		out[i].offered = took / step
	}
	for _, r := range w.hidden.Rows(w.end, 0, false) {
		i := int(r.T / step)
		if i >= n {
			continue
		}
		out[i].accepted += float64(r.OK+r.Classes[provider.User]) / step
		out[i].refused += float64(r.Classes[provider.Rate]+r.Classes[provider.Block]+r.Classes[provider.Unav]) / step
		out[i].hits += r.Classes[provider.Block]
		if r.Blocked {
			out[i].blocked = true
			out[i].hidden = 0
		} else if r.Limit != nil && len(w.keys) == 1 {
			out[i].hidden = min(out[i].hidden, *r.Limit)
		}
	}
	return out
}

func (w *world) offered(t time.Duration) float64 {
	if w.scenario.Duration > 0 {
		t = min(t, w.scenario.Duration.D())
	}
	sum := 0.0
	for i := range w.scenario.Load {
		sum += w.scenario.Load[i].Offered(t) * w.shares[i]
	}
	return sum
}

// recoveryWindow is what the accepted rate is averaged over to say that a sender has recovered.
const recoveryWindow = 2 * time.Minute

// recovery returns the longest time, in minutes, from a step of the hidden limit until 90 % of what
// the oracle has accepted in the same two minutes is accepted. What never recovers counts to the
// next step.
func (w *world) recovery() float64 {
	rows := w.rows()
	steps := w.steps()
	width := int(recoveryWindow / bucketStep)
	longest := 0.0
	for i, step := range steps {
		until := w.end
		if i+1 < len(steps) {
			until = steps[i+1]
		}
		took := until - step
		for from := int(step / bucketStep); from+width <= int(until/bucketStep); from++ {
			accepted, possible := 0.0, 0.0
			for _, r := range rows[from : from+width] {
				accepted += r.accepted
				possible += min(r.offered, w.config.Limit(r.at)*float64(len(w.keys)))
			}
			if accepted >= 0.9*possible {
				took = time.Duration(from)*bucketStep - step
				break
			}
		}
		longest = max(longest, took.Minutes())
	}
	return longest
}

// steps are the times at which the receiver changes what it takes.
func (w *world) steps() []time.Duration {
	at := make([]time.Duration, 0, len(w.config.Rate)+len(w.config.Block.Scripted)+len(w.config.Outage))
	for _, r := range w.config.Rate[min(1, len(w.config.Rate)):] {
		at = append(at, r.At.D())
	}
	for _, b := range w.config.Block.Scripted {
		at = append(at, (b.At + b.Len).D())
	}
	for _, o := range w.config.Outage {
		at = append(at, (o.At + o.Len).D())
	}
	slices.Sort(at)
	return slices.DeleteFunc(at, func(t time.Duration) bool { return t >= w.end })
}

// blockedAge is how old a block is when the senders must have noticed it.
const blockedAge = 5 * time.Minute

// blockedRate returns the attempts a minute that met a block, once it was blockedAge old.
func (w *world) blockedRate() float64 {
	hits, minutes := 0, 0.0
	age := time.Duration(0)
	for _, r := range w.rows() {
		if !r.blocked {
			age = 0
			continue
		}
		if age += bucketStep; age > blockedAge {
			hits += r.hits
			minutes += bucketStep.Minutes()
		}
	}
	if minutes == 0 {
		return 0
	}
	return float64(hits) / minutes
}
