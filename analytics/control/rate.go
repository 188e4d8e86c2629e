package control

import (
	"fmt"
	"math"
	"time"
)

// pseudoMessages shrinks an accepted rate that few messages support towards 0.8 of the limit in
// force: it counts as pseudoAccepted messages taken in the time of pseudoMessages.
const (
	pseudoMessages = 5
	pseudoAccepted = 4
)

// decrease answers refusals (design/control.md 4.3, rule 3): COOLDOWN for a penalty, else
// BACKOFF. It reports whether it decided.
func (d *decision) decrease() bool {
	old := d.rate()
	limited := old
	if math.IsInf(old, 1) {
		limited = d.peak()
	}
	e := d.last(d.p.RecentWindow)
	if !d.refusing(&e) {
		if e = d.whole(old); !d.refusing(&e) {
			return false
		}
	}
	e.Idle = d.idle(&e, limited)
	since := (e.To - e.FirstRefusal - e.Idle).Seconds()
	a := (float64(e.AcceptedSince) + pseudoAccepted) / (since + pseudoMessages/limited)
	e.AcceptedRate, e.FromRate = a, limited

	next := d.State
	next.Chain++
	if next.Chain == 1 {
		next.ChainCap, next.CoolTime = a, max(d.p.Cooldown.Wait, 2*d.w.Delay)
		next.Before = d.acceptedUntil(e.FirstRefusal - d.p.Step)
	}
	c := &d.p.Cooldown
	few := e.Replies < d.p.Decrease.FewReplies
	if next.Chain >= c.Chain && e.RefusedShare > c.Share && (few && e.WilsonLow > c.FewSure || a < c.CapLost*next.ChainCap || next.Chain >= c.ChainSure) {
		next.Mode = Cooldown
		next.RatePerSecond = max(c.Below*a, c.Deepest*limited)
		next.CoolUntil = d.now + next.CoolTime
		next.CoolTime = min(c.WaitMax, stretch(next.CoolTime, c.WaitGrowth))
		next.Goal = max(next.Goal, next.ChainCap)
	} else {
		next.Mode = Backoff
		next.RatePerSecond = d.backoffRate(&e, a, limited)
		// A receiver that counts single messages refuses every second one as soon as the rate is a
		// little too high. With few replies, what was accepted then says less than the last clean rate.
		if clean := d.p.Decrease.CleanBack * d.Clean; few && next.Chain == 1 && clean > next.RatePerSecond && clean < limited {
			next.RatePerSecond = clean
			a = max(a, clean)
		}
		d.loseGoal(&next, a)
	}
	next.ProbeEvery = d.p.Probe.Interval
	if d.Cap > 0 && math.Abs(a-d.Cap) < d.p.Probe.SameShare*d.Cap {
		next.ProbeEvery = min(d.p.Probe.IntervalMax, stretch(max(d.ProbeEvery, d.p.Probe.Interval), d.p.Probe.IntervalGrowth))
	}
	if a < d.p.Probe.LowShare*d.LongTerm {
		next.ProbeEvery = min(next.ProbeEvery, d.p.Probe.IntervalLow)
	}
	next.Cap, next.ProbeStep, next.Clean = a, d.p.Probe.Step, 0
	next.NextProbe = d.now + max(next.ProbeEvery, min(d.p.Probe.IntervalMax, seconds(d.p.Probe.Messages/a)))
	next.RatePerSecond = max(min(next.RatePerSecond, d.p.Decrease.AtLeast*limited), d.floor(&e))
	next.RatePerSecond = min(next.RatePerSecond, d.ceiling.RatePerSecond)
	if next.RatePerSecond >= old {
		return false // the floor is reached
	}
	d.State = next
	rule := RuleBackoff
	if next.Mode == Cooldown {
		rule = RuleCooldown
	}
	d.because(rule, d.decreaseText(rule, &e, old), e)
	return true
}

// refusing reports whether e calls for a decrease, and completes it: enough replies, refusals
// above the noise, and enough data after the first refusal, whose bucket still holds the
// receiver's burst allowance. Heavy refusals are looked for in single buckets too: where the local
// guard cuts the rate, they last only seconds.
func (d *decision) refusing(e *Evidence) bool {
	p := &d.p.Decrease
	if e.Replies < p.MinReplies || e.Refusals < p.MinRefusals || e.WilsonLow <= p.Share || e.duration() < p.MinTime {
		return false
	}
	var since Counts
	heavy := func(c *Counts) bool {
		return c.replies() >= p.MinReplies && float64(d.refusals(c, e)) > p.HeavyShare*float64(c.replies())
	}
	wait := p.AfterFirst
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch != d.before.Epoch || b.Start < e.From || b.Start+d.p.Step > e.To {
			continue
		}
		if e.FirstRefusal == 0 {
			if d.refusals(&b.Counts, e) == 0 {
				continue
			}
			e.FirstRefusal = b.Start + d.p.Step
		} else {
			e.AcceptedSince += b.accepted()
		}
		since.Add(b.Counts)
		if heavy(&b.Counts) {
			wait = p.AfterFirstFast
		}
	}
	if heavy(&since) || e.AcceptedSince >= p.SureAccepted {
		wait = p.AfterFirstFast
	}
	return e.To-e.FirstRefusal >= wait
}

// idle adds up the breaks after the first refusal of e, in which mail did not wait for the limit:
// nothing was accepted then because nothing was sent. limited is the rate in force.
func (d *decision) idle(e *Evidence, limited float64) time.Duration {
	pause := max(d.p.RecentWindow, seconds(pseudoMessages/limited))
	var sum time.Duration
	last := e.FirstRefusal
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch != d.before.Epoch || b.Start < last || b.Start+d.p.Step > e.To || b.all() == 0 {
			continue
		}
		if b.Start-last > pause {
			sum += b.Start - last
		}
		last = b.Start + d.p.Step
	}
	return sum
}

// refusals counts the refusals in c as e counts them.
func (d *decision) refusals(c *Counts, e *Evidence) uint64 {
	if e.Unclassified {
		return c.refused() + c.Other
	}
	return c.refused()
}

// peak returns the largest attempt rate of the last window, which stands for a limit that is not
// configured.
func (d *decision) peak() float64 {
	var most uint64
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch == d.before.Epoch && b.Start >= d.w.end()-d.p.WindowMin && b.Start+d.p.Step <= d.w.end() {
			most = max(most, b.attempts())
		}
	}
	return max(d.p.Decrease.FloorRate, float64(most)/d.p.Step.Seconds())
}

// acceptedUntil returns the rate accepted under the limit in force before t, 0 where less than
// Increase.MinTime of it was seen.
func (d *decision) acceptedUntil(t time.Duration) float64 {
	from := max(t-d.p.WindowMin, d.before.Since.Truncate(d.p.Step), d.before.EvidenceFrom.Truncate(d.p.Step))
	e := d.p.evidence(d.w.Buckets, d.before.Epoch, from, t)
	if e.duration() < d.p.Increase.MinTime {
		return 0
	}
	return e.AcceptedRate
}

// acceptedBefore returns what the receiver accepted before it began to refuse: before the first
// decrease where the refusals led to some already.
func (d *decision) acceptedBefore() float64 {
	if d.Chain > 0 {
		return d.Before
	}
	to := d.w.end()
	for i := range d.w.Buckets {
		b := &d.w.Buckets[i]
		if b.Epoch == d.before.Epoch && b.Start+d.p.Step <= to && canaryRefusals(&b.Counts) > 0 && b.Start >= to-d.p.Suspend.WindowMax {
			to = b.Start
			break
		}
	}
	return d.acceptedUntil(to)
}

func (d *decision) backoffRate(e *Evidence, a, old float64) float64 {
	p := &d.p.Decrease
	rate := max(p.Below*a, p.Deepest*old)
	if e.RefusedShare > p.HeavyShare {
		rate = max(p.BelowHeavy*a, p.DeepestHeavy*old)
	}
	if e.Replies < p.FewReplies {
		deepest := p.FewDeepest
		if e.WilsonLow > p.FewSureShare {
			deepest = p.FewDeepestSure
		}
		rate = max(rate, deepest*old)
	}
	return rate
}

// loseGoal lowers a goal that was not reached, or forgets one that is near enough.
func (d *decision) loseGoal(next *State, a float64) {
	p := &d.p.Decrease
	if a >= p.GoalLost*next.Goal {
		next.Goal, next.RecoveryFailed = 0, 0
		return
	}
	next.Goal *= p.GoalDecay
	next.RecoveryFailed++
	wait := max(p.GoalWait, d.w.Delay) * time.Duration(next.RecoveryFailed)
	next.CoolUntil = d.now + min(p.GoalWaitMax, wait)
}

// floor is the smallest rate of a key that is not suspended.
func (d *decision) floor(e *Evidence) float64 {
	p := &d.p.Decrease
	floor := max(p.FloorRate, p.Floor*d.LongTerm)
	unclear := e.Unclassified && float64(e.Counts.Other) > 0.8*float64(e.Refusals) && e.WilsonLow < p.FloorUnclearUpTo
	if unclear {
		floor = max(floor, p.FloorUnclear*d.LongTerm)
		if d.w.Static.HasRate() {
			floor = max(floor, p.FloorUnclearConf*d.w.Static.RatePerSecond)
		}
	}
	return floor
}

// increase answers a clean time in which the limit binds (design/control.md 4.3, rule 4).
func (d *decision) increase() {
	old := d.rate()
	p := &d.p.Increase
	e := d.whole(old)
	if !d.clean(&e) {
		return
	}
	if e.AttemptRate < p.Binding*old {
		e = d.last(d.p.RecentWindow) // mail that comes in bursts waits in each of them
	}
	enough := float64(p.MinReplies)
	if old < 0.5*d.Goal {
		enough = max(3, min(enough, 60*old))
	}
	switch {
	case math.IsInf(old, 1) || d.stale() || d.now < d.CoolUntil || d.badList():
		return
	case e.duration() < p.MinTime || float64(e.Replies) < enough || !d.clean(&e) || e.AttemptRate < p.Binding*old:
		return
	}
	d.Chain, d.Before = 0, 0
	d.LongTerm = max(d.LongTerm, e.AcceptedRate)
	d.Clean = old

	var rule Rule
	var rate float64
	mode, step := Recover, d.ProbeStep
	switch {
	case d.Cap > 0 && old < p.RecoverEdge*d.Cap:
		rule, rate = RuleRecover, min(p.Recover*old, p.RecoverTo*d.Cap)
	case d.Cap == 0 && old < d.w.Static.RatePerSecond:
		rule, rate, mode = RuleStartup, min(p.Startup*old, d.w.Static.RatePerSecond), Startup
	case d.Cap == 0:
		rule, rate, mode = RuleStartup, p.StartupOver*old, Startup
	case old < p.GoalEdge*d.Goal:
		rule, rate = RuleRecover, min(d.goalFactor(old)*old, p.GoalTo*d.Goal)
	case d.now >= d.NextProbe && (old > d.p.Probe.NearEdge*d.Cap || e.Replies >= d.p.Probe.MinReplies):
		rule, rate, mode = RuleProbe, old*(1+step), Probe
		if old <= d.p.Probe.NearEdge*d.Cap {
			step = min(d.p.Probe.NearMax, step*d.p.Probe.NearGrowth)
		} else {
			step = min(d.p.Probe.FarMax, step*d.p.Probe.FarGrowth)
		}
	}
	rate = min(rate, p.Max*old, d.ceiling.RatePerSecond)
	if rate <= old {
		if d.Mode != Startup {
			d.Mode = Cruise
		}
		return
	}
	d.Mode, d.ProbeStep, d.RatePerSecond = mode, step, rate
	d.because(rule, d.increaseText(rule, &e, old), e)
}

func (d *decision) goalFactor(old float64) float64 {
	p := &d.p.Increase
	switch {
	case d.RecoveryFailed > 0:
		return p.GoalRetry
	case old < p.GoalFarEdge*d.Goal:
		return p.GoalFar
	default:
		return p.Goal
	}
}

func (d *decision) decreaseText(rule Rule, e *Evidence, old float64) string {
	text := fmt.Sprintf("%d of %d replies in %s were refusals (%s; at least %s is sure), and %s was accepted after the first.",
		e.Refusals, e.Replies, e.duration(), percent(e.RefusedShare), percent(e.WilsonLow), perSecond(e.AcceptedRate))
	if rule == RuleCooldown {
		return text + fmt.Sprintf(" Refusals went on after %d decreases: a penalty. %s -> %s, and no increase for %s.",
			d.Chain-1, perSecond(old), perSecond(d.RatePerSecond), (d.CoolUntil-d.now).Round(time.Second))
	}
	if d.RatePerSecond > e.AcceptedRate {
		return text + fmt.Sprintf(" %s -> %s.", perSecond(old), perSecond(d.RatePerSecond))
	}
	return text + fmt.Sprintf(" %s -> %s, below what the receiver accepts.", perSecond(old), perSecond(d.RatePerSecond))
}

func (d *decision) increaseText(rule Rule, e *Evidence, old float64) string {
	text := fmt.Sprintf("%d refusals in %d replies in %s while the limit was used to %s: clean. %s -> %s",
		e.Refusals, e.Replies, e.duration(), percent(e.AttemptRate/old), perSecond(old), perSecond(d.RatePerSecond))
	switch {
	case rule == RuleProbe:
		return text + fmt.Sprintf(", to see whether more than the last measured %s is accepted.", perSecond(d.Cap))
	case rule == RuleStartup:
		return text + ", no limit of the receiver is known."
	case old < d.p.Increase.RecoverEdge*d.Cap:
		return text + fmt.Sprintf(", back towards the measured %s.", perSecond(d.Cap))
	default:
		return text + fmt.Sprintf(", back towards the %s before the penalty.", perSecond(d.Goal))
	}
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func perSecond(rate float64) string {
	switch {
	case math.IsInf(rate, 1):
		return "no limit"
	case rate < 0.1:
		return fmt.Sprintf("%.3g/min", 60*rate)
	case rate >= 100:
		return fmt.Sprintf("%.0f/s", rate)
	default:
		return fmt.Sprintf("%.3g/s", rate)
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}

func stretch(t time.Duration, factor float64) time.Duration {
	return time.Duration(float64(t) * factor)
}
