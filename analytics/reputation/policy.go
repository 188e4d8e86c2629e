package reputation

import (
	"errors"
	"fmt"
	"time"
)

// Policy holds every threshold of the scores. The zero value is not usable; start from Default.
type Policy struct {
	// FastHalfLife and SlowHalfLife are the ages at which an answer counts half; FastSpan and
	// SlowSpan are how far back answers count at all. The worse of the two estimates counts.
	FastHalfLife time.Duration `yaml:"fast-half-life"`
	FastSpan     time.Duration `yaml:"fast-span"`
	SlowHalfLife time.Duration `yaml:"slow-half-life"`
	SlowSpan     time.Duration `yaml:"slow-span"`
	FastLeast    float64       `yaml:"fast-least"`    // answers from which the fast estimate counts
	UnknownBelow float64       `yaml:"unknown-below"` // answers under which the band is unknown
	TailPerDay   float64       `yaml:"tail-per-day"`  // attempts a day under which keys share one prior, and recipient domains have no score

	Complaints   ComponentPolicy `yaml:"complaints"`
	UnknownUsers ComponentPolicy `yaml:"unknown-users"`
	Blocks       ComponentPolicy `yaml:"blocks"`
	Refusals     ComponentPolicy `yaml:"refusals"`

	Bands BandPolicy `yaml:"bands"`

	SilentWindow   time.Duration `yaml:"silent-window"`   // without a report in this time a feedback loop may be silent
	SilentExpected float64       `yaml:"silent-expected"` // reports that should have come in it by the days before
	PermanentCap   float64       `yaml:"permanent-cap"`   // highest score in the day after a reply that says "permanently deferred"
}

// ComponentPolicy is one component of the score.
type ComponentPolicy struct {
	Prior       float64 `yaml:"prior"`        // usual share
	PriorWeight float64 `yaml:"prior-weight"` // how many answers it weighs as much as
	Good        float64 `yaml:"good"`         // share up to which the sub-score is 1
	Bad         float64 `yaml:"bad"`          // share from which it is 0.01
	Weight      float64 `yaml:"weight"`       // in the score
}

// BandPolicy says where bands begin and when a score changes its band.
type BandPolicy struct {
	High     float64       `yaml:"high"`      // score from which the band is high
	Medium   float64       `yaml:"medium"`    // the same for medium
	Low      float64       `yaml:"low"`       // the same for low; below is bad
	UpMargin float64       `yaml:"up-margin"` // points above the edge that a better band needs
	UpDwell  time.Duration `yaml:"up-dwell"`  // and for how long
	// DownDwell is for how long a worse score must last, unless it is 90 % certain.
	DownDwell time.Duration `yaml:"down-dwell"`
}

// Default returns the thresholds of the design (section 3.4 of the control design).
func Default() Policy {
	return Policy{
		FastHalfLife: time.Hour, FastSpan: 3 * time.Hour, SlowHalfLife: 72 * time.Hour, SlowSpan: 14 * 24 * time.Hour,
		FastLeast: 50, UnknownBelow: 50, TailPerDay: 200,
		Complaints:   ComponentPolicy{Prior: 0.0005, PriorWeight: 2000, Good: 0.0005, Bad: 0.003, Weight: 0.40},
		UnknownUsers: ComponentPolicy{Prior: 0.010, PriorWeight: 500, Good: 0.005, Bad: 0.08, Weight: 0.20},
		Blocks:       ComponentPolicy{Prior: 0.002, PriorWeight: 200, Good: 0.002, Bad: 0.10, Weight: 0.25},
		Refusals:     ComponentPolicy{Prior: 0.010, PriorWeight: 100, Good: 0.02, Bad: 0.30, Weight: 0.15},
		Bands: BandPolicy{
			High: 80, Medium: 60, Low: 30, UpMargin: 5, UpDwell: 30 * time.Minute, DownDwell: 10 * time.Minute,
		},
		SilentWindow: 24 * time.Hour, SilentExpected: 10, PermanentCap: 25,
	}
}

// The components, as the warehouse names them.
const (
	Complaints   = "complaints"
	UnknownUsers = "unknown-users"
	Blocks       = "blocks"
	Refusals     = "refusals"
)

// names are the components in the order of Query.
var names = []string{Complaints, UnknownUsers, Blocks, Refusals}

// components returns the thresholds in the order of names.
func (p *Policy) components() []ComponentPolicy {
	return []ComponentPolicy{p.Complaints, p.UnknownUsers, p.Blocks, p.Refusals}
}

// component returns the thresholds of a component by name, and whether there is one.
func (p *Policy) component(name string) (ComponentPolicy, bool) {
	for i, c := range p.components() {
		if names[i] == name {
			return c, true
		}
	}
	return ComponentPolicy{}, false
}

// Validate returns every threshold that makes no sense, joined.
func (p *Policy) Validate() error {
	var errs []error
	for i, c := range p.components() {
		switch {
		case !(c.Prior > 0 && c.Prior < 1 && c.PriorWeight > 0):
			errs = append(errs, fmt.Errorf("%s: prior is %v and prior-weight %v, want a share over 0 and a weight over 0", names[i], c.Prior, c.PriorWeight))
		case !(c.Good > 0 && c.Good < c.Bad && c.Bad <= 1):
			errs = append(errs, fmt.Errorf("%s: good is %v and bad %v, want shares, good over 0 and under bad", names[i], c.Good, c.Bad))
		case !(c.Weight > 0 && c.Weight <= 1):
			errs = append(errs, fmt.Errorf("%s: weight is %v, want more than 0 and at most 1", names[i], c.Weight))
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"fast-half-life", p.FastHalfLife},
		{"slow-half-life", p.SlowHalfLife},
		{"fast-span", p.FastSpan},
		{"slow-span", p.SlowSpan},
		{"silent-window", p.SilentWindow},
	} {
		if d.d < time.Minute {
			errs = append(errs, fmt.Errorf("%s is %v, want a minute or more", d.name, d.d))
		}
	}
	if p.SlowSpan > 14*24*time.Hour || p.FastSpan > p.SlowSpan {
		errs = append(errs, fmt.Errorf("slow-span is %v and fast-span %v, want at most 336h, which the roll-ups hold, and fast-span under it", p.SlowSpan, p.FastSpan))
	}
	if b := p.Bands; !(b.High > b.Medium && b.Medium > b.Low && b.Low > 0 && b.High < 100) {
		errs = append(errs, errors.New("bands: want 100 > high > medium > low > 0"))
	}
	if p.Bands.UpDwell < 0 || p.Bands.DownDwell < 0 || p.Bands.UpMargin < 0 {
		errs = append(errs, errors.New("bands: up-margin, up-dwell and down-dwell may not be negative"))
	}
	if p.FastLeast < 0 || p.UnknownBelow < 0 || p.TailPerDay < 0 || p.SilentExpected <= 0 || !(p.PermanentCap > 0 && p.PermanentCap <= 100) {
		errs = append(errs, errors.New("fast-least, unknown-below and tail-per-day may not be negative, silent-expected must be over 0 and permanent-cap a score"))
	}
	return errors.Join(errs...)
}
