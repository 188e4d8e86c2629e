package control

import (
	"fmt"
	"math"
	"time"
)

// Restart returns the state of a key after the loop stood still for so long that its leases ended, and why. What the
// receiver took then is not known to be what it takes now: the rate begins under the capacity of before and climbs
// back, and what is older than a receiver's memory does not count at all (design/control.md 4.3). It
// raises nothing, leaves a suspension alone, which ends by trials, and returns no reason if nothing changes.
func Restart(p *Policy, s State, now, stood time.Duration, w *Windows) (State, []Reason) {
	if stood >= p.Restart.Forget {
		return Release(s, now, w, fmt.Sprintf("The loop stood still for %s, and what it knew is too old", stood.Round(time.Minute)))
	}
	if s.Epoch == 0 || s.Mode == Suspended || s.Cap <= 0 {
		return s, nil
	}
	share := p.Restart.Share
	if stood >= p.Restart.Old {
		share = p.Restart.OldShare
	}
	old := s.InForce(w.Static)
	rate := max(share*s.Cap, p.Decrease.FloorRate)
	if rate >= old.RatePerSecond || math.IsNaN(rate) {
		return s, nil
	}
	after := s
	after.Mode, after.RatePerSecond = Recover, rate
	after.LastEpoch = max(s.LastEpoch, s.Epoch) + 1
	after.Epoch, after.Since = after.LastEpoch, now
	after.Chain, after.CoolUntil = 0, 0
	return after, []Reason{{
		Rule: RuleRestart, Text: fmt.Sprintf("The loop stood still for %s, longer than leases last: it comes back with %s of the %s that were accepted before. %s -> %s.",
			stood.Round(time.Minute), percent(share), perSecond(s.Cap), perSecond(old.RatePerSecond), perSecond(rate)),
		EpochFrom: s.Epoch, Epoch: after.Epoch, ModeFrom: s.Mode, ModeTo: Recover,
		Old: old, New: after.InForce(w.Static), Evidence: Evidence{From: now, To: now, MinMessages: NoMessages},
	}}
}
