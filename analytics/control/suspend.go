package control

import "fmt"

// suspend answers a block or an outage (design/control.md 4.3, rule 2) and reports whether it did.
func (d *decision) suspend() bool {
	p := &d.p.Suspend
	e := d.last(p.Window)
	if e.Counts.all() < p.FewReplies {
		e = d.last(p.WindowMax)
	}
	n := e.Counts.all()
	reached := func(count uint64, share float64, least uint64) bool {
		return n >= least && float64(count) >= share*float64(n)
	}
	outage := reached(e.Counts.Unavailable, p.OutageShare, p.MinReplies)
	refusals := canaryRefusals(&e.Counts)
	if !outage && !reached(e.Counts.Block, p.BlockShare, p.MinReplies) && !reached(refusals, p.AllShare, p.AllReplies) {
		return false
	}
	old := d.rate()
	d.Mode, d.Outage, d.PreCap = Suspended, outage, d.Cap
	d.CanaryFast, d.CanaryAccepted = false, 0
	d.RatePerSecond = min(d.canaryRate(), old)
	what := "blocks this source"
	if outage {
		what = "cannot be reached"
	}
	d.because(RuleSuspend, fmt.Sprintf(
		"%d of %d attempts in %s were refused (%d blocked, %d unavailable): the receiver %s. %s -> trials, %s.",
		refusals, n, e.duration(), e.Counts.Block, e.Counts.Unavailable, what, perSecond(old), perSecond(d.RatePerSecond),
	), e)
	return true
}

// canaryRefusals counts what says that a suspended key must stay suspended.
func canaryRefusals(c *Counts) uint64 { return c.refused() + c.Other + c.Connections }

// canaryAnswers counts what says that the receiver talks to us: greylisting, a full connection and
// refused content are no block.
func canaryAnswers(c *Counts) uint64 {
	return c.accepted() + c.Greylist + c.Messages + c.Content + c.Auth
}

func (d *decision) canaryRate() float64 {
	every := d.p.Suspend.Canary
	if d.Outage {
		every = d.p.Suspend.CanaryOutage
	}
	if d.CanaryFast {
		every = d.p.Suspend.CanaryFast
	}
	return 1 / every.Seconds()
}

// canaries looks after a suspended key (design/control.md 4.5): the first canary that is accepted
// speeds them up, two that outnumber the refusals end the suspension.
func (d *decision) canaries() {
	p := &d.p.Suspend
	e := d.last(p.AcceptedIn)
	accepted, refused := d.CanaryAccepted+canaryAnswers(&e.Counts), canaryRefusals(&e.Counts)
	switch {
	case accepted >= p.Accepted && accepted > refused && !d.w.stale(d.now):
		d.resume(e, accepted, refused)
	case !d.CanaryFast && accepted > 0 && accepted > refused && !d.w.stale(d.now):
		d.CanaryFast, d.CanaryAccepted = true, accepted
		d.RatePerSecond = min(d.canaryRate(), d.ceiling.RatePerSecond)
		d.because(RuleCanaryFast, fmt.Sprintf("A trial was accepted. Trials %s -> %s.",
			perSecond(d.before.RatePerSecond), perSecond(d.RatePerSecond)), e)
	case d.CanaryFast && refused > accepted:
		d.CanaryFast, d.CanaryAccepted = false, 0
		d.RatePerSecond = min(d.canaryRate(), d.ceiling.RatePerSecond)
		d.because(RuleCanarySlow, fmt.Sprintf("%d trials were refused and %d accepted. Trials %s -> %s.", refused, accepted,
			perSecond(d.before.RatePerSecond), perSecond(d.RatePerSecond)), e)
	}
}

func (d *decision) resume(e Evidence, accepted, refused uint64) {
	p := &d.p.Suspend
	back := p.Back
	if d.Outage {
		back = p.BackOutage
	}
	if d.PreCap > 0 {
		d.Mode, d.Cap, d.RatePerSecond = Recover, d.PreCap, back*d.PreCap
	} else {
		d.Mode, d.Cap, d.RatePerSecond = Startup, 0, d.coldRate()
	}
	d.RatePerSecond = min(max(d.RatePerSecond, d.p.Decrease.FloorRate), d.ceiling.RatePerSecond)
	d.ProbeStep, d.ProbeEvery = d.p.Probe.Step, d.p.Probe.Interval
	d.NextProbe = d.now + p.ProbeAfter
	d.Chain, d.CoolUntil = 0, 0
	d.Outage, d.CanaryFast, d.CanaryAccepted, d.PreCap = false, false, 0, 0
	d.because(RuleResume, fmt.Sprintf("%d trials were accepted and %d refused: the receiver talks to us again. Rate is %s.",
		accepted, refused, perSecond(d.RatePerSecond)), e)
}

// coldRate is the rate to come back with where no capacity is known: a share of the configured
// one, or of the largest that was seen where none is configured.
func (d *decision) coldRate() float64 {
	if !d.w.Static.HasRate() {
		return max(1, d.p.Suspend.ColdShare*d.LongTerm)
	}
	conf := d.w.Static.RatePerSecond
	return max(min(conf, 0.1), d.p.Suspend.ColdShare*conf)
}
