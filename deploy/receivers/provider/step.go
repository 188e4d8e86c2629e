package provider

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"carom/deploy/receivers/scenarios"
)

// Step is a change of a provider's hidden parameters while it runs, from now on. Nil fields stay as
// they are; steps that the scenario has for later still come.
type Step struct {
	Provider       string   `json:"provider"`
	RatePerS       *float64 `json:"rate_per_s,omitempty"`
	Connections    *int     `json:"conc,omitempty"`
	BurstSeconds   *float64 `json:"burst_s,omitempty"`
	MsgsPerConn    *int     `json:"msgs_per_conn,omitempty"`
	SilentClose    *bool    `json:"silent_close,omitempty"`
	UnknownUsers   *float64 `json:"unknown_user_frac,omitempty"`
	GreyFrac       *float64 `json:"grey_frac,omitempty"`
	ComplaintsBase *float64 `json:"complaints_base,omitempty"`
	Ambiguous      *bool    `json:"ambiguous,omitempty"`
	// Block is the length of a scripted block.
	Block *scenarios.Duration `json:"block,omitempty"`
	// Outage is an outage; its At is ignored.
	Outage *scenarios.Outage `json:"outage,omitempty"`
}

func (s *Step) validate() error {
	var errs []error
	fraction := func(name string, v *float64, most float64) {
		if v != nil && (*v < 0 || *v > most) {
			errs = append(errs, fmt.Errorf("%s: is %g, want 0 to %g", name, *v, most))
		}
	}
	count := func(name string, v *int) {
		if v != nil && *v < 0 {
			errs = append(errs, fmt.Errorf("%s: is %d, want at least 0", name, *v))
		}
	}
	fraction("rate_per_s", s.RatePerS, 1e9)
	fraction("burst_s", s.BurstSeconds, 1e9)
	fraction("unknown_user_frac", s.UnknownUsers, 1)
	fraction("grey_frac", s.GreyFrac, 1)
	fraction("complaints_base", s.ComplaintsBase, 1)
	count("conc", s.Connections)
	count("msgs_per_conn", s.MsgsPerConn)
	if s.Block != nil && *s.Block == 0 {
		errs = append(errs, errors.New("block: is 0s"))
	}
	if o := s.Outage; o != nil && (o.Len == 0 || !slices.Contains(scenarios.OutageKinds, o.Kind)) {
		errs = append(errs, fmt.Errorf("outage: want len and kind, one of %q", scenarios.OutageKinds))
	}
	return errors.Join(errs...)
}

// Apply takes the step at time t. The schedules keep what was in force before t, so the oracle and
// the truth about the past stay right. A step with a mistake changes nothing.
func (p *Provider) Apply(t time.Duration, s Step) error {
	if err := s.validate(); err != nil {
		return err
	}
	at := scenarios.Duration(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.cfg
	if s.ComplaintsBase != nil && *s.ComplaintsBase > 0 && c.Complaints.FBLTo == "" {
		return errors.New("complaints_base: the provider has no complaints.fbl_to")
	}
	if s.RatePerS != nil {
		i := len(c.Rate)
		for i > 0 && c.Rate[i-1].At > at {
			i--
		}
		c.Rate = slices.Insert(slices.Clone(c.Rate), i, scenarios.RateStep{At: at, PerSecond: *s.RatePerS})
	}
	if s.Connections != nil {
		i := len(c.Conc)
		for i > 0 && c.Conc[i-1].At > at {
			i--
		}
		c.Conc = slices.Insert(slices.Clone(c.Conc), i, scenarios.ConcStep{At: at, N: *s.Connections})
	}
	if s.Block != nil {
		c.Block.Scripted = append(slices.Clone(c.Block.Scripted), scenarios.ScriptedBlock{At: at, Len: *s.Block})
	}
	if s.Outage != nil {
		c.Outage = append(slices.Clone(c.Outage), scenarios.Outage{At: at, Len: s.Outage.Len, Kind: s.Outage.Kind})
	}
	set(&c.BurstSeconds, s.BurstSeconds)
	set(&c.MsgsPerConn, s.MsgsPerConn)
	set(&c.SilentClose, s.SilentClose)
	set(&c.UnknownUsers, s.UnknownUsers)
	set(&c.Grey.Frac, s.GreyFrac)
	set(&c.Complaints.Base, s.ComplaintsBase)
	set(&c.Ambiguous, s.Ambiguous)
	return nil
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}
