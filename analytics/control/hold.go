package control

import (
	"fmt"
	"math"
	"time"
)

// HoldPolicy says when complaints hold mail (design/control.md 5.5, rule 7).
type HoldPolicy struct {
	PriorShare      float64       `yaml:"prior-share"`     // complaint share that is assumed,
	PriorDelivered  float64       `yaml:"prior-delivered"` // with the weight of so many deliveries
	Share           float64       `yaml:"complaint-share"` // that the lower bound must be above
	Z               float64       `yaml:"z"`               // of the lower bound; 1.282 is the 10 % quantile
	Delivered       uint64        `yaml:"min-delivered"`
	Recipients      uint64        `yaml:"min-recipients"`
	Explains        float64       `yaml:"explains"`      // share of the excess that the held key must explain
	GoodShare       float64       `yaml:"good-share"`    // complaint share above which complaints are excess
	TrickleAfter    time.Duration `yaml:"trickle-after"` // of a hold, 0 for never
	Trickle         float64       `yaml:"trickle"`       // share of the mail that goes out then
	MaxVolume       float64       `yaml:"max-volume"`    // share of a provider's volume that is held without asking
	MaxHoldsPerHour int           `yaml:"max-holds-per-hour"`
}

// HoldHour is the mail that was delivered in one hour.
type HoldHour struct {
	Age        int    // hours since the delivery, 0 for the present hour
	Delivered  uint64 // at the provider
	Complaints uint64 // about exactly this mail; a report that names none of it does not count
}

// HoldCandidate is a key of whose mail could be held.
type HoldCandidate struct {
	Scope      string // "job", "from_domain" or "tenant"
	Value      string
	Hours      []HoldHour
	Recipients uint64 // distinct ones that complained
	Exempt     bool   // adaptive-hold no: it is alerted about, never held
}

// HoldEvidence is what is known of one tenant's complaints at one provider.
type HoldEvidence struct {
	// Candidates are the keys of the tenant that may be held, the narrowest first and the tenant
	// itself last.
	Candidates []HoldCandidate
	// Maturity[h] is the share of all complaints about a delivery that have come in h hours after
	// it, over a cohort of mail old enough to know; the last value holds for all later hours. An
	// empty curve says that they come at once.
	Maturity []float64
	// HeldVolume is the share of the provider's volume that is held now, Volume that of the
	// tenant, and Holds how many holds began in the last hour.
	HeldVolume float64
	Volume     float64
	Holds      int
	// HeldFor is how long the tenant or a part of it is held already, 0 for not.
	HeldFor time.Duration
}

// HoldAction is what is to be done about complaints.
type HoldAction string

// The actions.
const (
	HoldNone    HoldAction = ""
	HoldMail    HoldAction = "hold"    // hold the mail of the key at the provider
	HoldTrickle HoldAction = "trickle" // let a share of it go, to see
	HoldAsk     HoldAction = "ask"     // a human decides: the bounds of automatic holds are reached
	HoldAlert   HoldAction = "alert"   // the key is exempt: tell a human
)

// Hold is a decision about one tenant at one provider.
type Hold struct {
	Action HoldAction
	Scope  string // of the key to hold
	Value  string
	Share  float64 // of the key's mail that may go out, 0 to 1
}

// HoldReason holds the numbers of a Hold, those of the key that it names, or of the tenant.
type HoldReason struct {
	Text       string
	Delivered  uint64
	Matured    float64 // deliveries by now, weighed with how many of their complaints came in
	Complaints uint64
	Recipients uint64
	Share      float64 // posterior mean of the complaint share
	Low        float64 // its lower bound, which was compared
	Explains   float64 // share of the tenant's excess that the key explains
}

// DecideHold says whether a tenant's complaints at one provider hold mail, and whose. Complaints
// and deliveries count by the hour of the delivery, and a delivery counts as far as its complaints
// have had the time to come: a list at the usual share is not held because its mail is old, nor is
// a bad one spared because it is fresh. It needs enough deliveries and recipients, so that a few
// people cannot hold anybody's mail, and holds the narrowest key that explains the excess.
func DecideHold(p *HoldPolicy, e *HoldEvidence) (Hold, HoldReason) {
	if len(e.Candidates) == 0 {
		return Hold{Action: HoldNone, Share: 1}, HoldReason{Text: "No mail."}
	}
	all := p.judge(&e.Candidates[len(e.Candidates)-1], e.Maturity)
	whole := p.excess(&all)
	for i := range e.Candidates {
		c := &e.Candidates[i]
		r := p.judge(c, e.Maturity)
		if i == len(e.Candidates)-1 {
			r.Explains = 1
		} else if whole > 0 {
			r.Explains = min(1, p.excess(&r)/whole)
		}
		if !p.bad(&r) || r.Explains < p.Explains {
			continue
		}
		h := Hold{Action: HoldMail, Scope: c.Scope, Value: c.Value}
		said := fmt.Sprintf("%d complaints of %d recipients about %d deliveries (%.0f with their complaints in): %s, at least %s is sure. %s %q explains %s of the excess.",
			r.Complaints, r.Recipients, r.Delivered, r.Matured, percent3(r.Share), percent3(r.Low), c.Scope, c.Value, percent(r.Explains))
		switch {
		case c.Exempt:
			h.Action, h.Share, r.Text = HoldAlert, 1, said+" It is exempt: nothing is held."
		case e.HeldFor > 0 && p.TrickleAfter > 0 && e.HeldFor >= p.TrickleAfter:
			h.Action, h.Share = HoldTrickle, p.Trickle
			r.Text = said + fmt.Sprintf(" Held for %s: %s of it goes out.", e.HeldFor.Round(time.Minute), percent(p.Trickle))
		case e.HeldFor > 0:
			r.Text = said + " It stays held."
		case e.HeldVolume+e.Volume > p.MaxVolume || e.Holds >= p.MaxHoldsPerHour:
			h.Action, h.Share = HoldAsk, 1
			r.Text = said + fmt.Sprintf(" %d holds in the last hour and %s of the volume held with it: a human decides.", e.Holds, percent(e.HeldVolume+e.Volume))
		default:
			r.Text = said + " Its mail is held at this provider."
		}
		return h, r
	}
	all.Explains = 1
	all.Text = fmt.Sprintf("%d complaints about %d deliveries (%.0f with their complaints in): at least %s is sure, not more than %s.",
		all.Complaints, all.Delivered, all.Matured, percent3(all.Low), percent3(p.Share))
	if all.Low > p.Share {
		all.Text = fmt.Sprintf("%d complaints of %d recipients about %d deliveries: too few to hold mail (want %d recipients and %d deliveries).",
			all.Complaints, all.Recipients, all.Delivered, p.Recipients, p.Delivered)
	}
	return Hold{Action: HoldNone, Share: 1}, all
}

// judge computes the complaint share of a candidate and its lower bound: the quantile of a gamma
// distribution by Wilson and Hilferty, as the reputation score uses it.
func (p *HoldPolicy) judge(c *HoldCandidate, maturity []float64) HoldReason {
	r := HoldReason{Recipients: c.Recipients}
	for _, h := range c.Hours {
		r.Delivered += h.Delivered
		r.Complaints += h.Complaints
		r.Matured += float64(h.Delivered) * matured(maturity, h.Age)
	}
	a := float64(r.Complaints) + p.PriorShare*p.PriorDelivered
	b := r.Matured + p.PriorDelivered
	r.Share = a / b
	r.Low = r.Share * math.Pow(max(0, 1-1/(9*a)-p.Z/(3*math.Sqrt(a))), 3)
	return r
}

// matured returns the share of the complaints about mail of an age that have come in.
func matured(curve []float64, age int) float64 {
	if len(curve) == 0 {
		return 1
	}
	return min(1, max(0, curve[min(max(0, age), len(curve)-1)]))
}

func (p *HoldPolicy) bad(r *HoldReason) bool {
	return r.Low > p.Share && r.Delivered >= p.Delivered && r.Recipients >= p.Recipients
}

// excess is the number of complaints beyond what is usual.
func (p *HoldPolicy) excess(r *HoldReason) float64 {
	return float64(r.Complaints) - p.GoodShare*r.Matured
}

func percent3(share float64) string { return fmt.Sprintf("%.3f %%", 100*share) }
