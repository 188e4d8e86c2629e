package bench

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Result is a whole run of the benchmark.
type Result struct {
	Started   time.Time  `json:"started"`
	Machine   Machine    `json:"machine"`
	Options   options    `json:"options"`
	Scenarios []Measured `json:"scenarios"`
}

// Measured is the result of a scenario.
type Measured struct {
	Name     string `json:"name"`
	About    string `json:"about"`
	Bytes    int    `json:"message_bytes,omitempty"`
	Sessions int    `json:"sessions,omitempty"` // of smtp-source
	Messages int    `json:"messages,omitempty"` // that wait, where that is the point
	Runs     int    `json:"runs"`

	Servers []ServerResult `json:"servers,omitempty"` // of a comparison carom is the first
	// Best is the name of the peer with the highest rate, to which carom is compared; empty if
	// nothing is compared or no peer could run.
	Best    string   `json:"best_peer,omitempty"`
	Figures []Figure `json:"figures,omitempty"`
	// Small says why the figures do not decide about the targets; empty if they do.
	Small    string    `json:"small,omitempty"`
	Verdicts []Verdict `json:"verdicts,omitempty"` // one for each target
}

// ServerResult is what one server did in a scenario.
type ServerResult struct {
	Name       string   `json:"name"`
	Skipped    string   `json:"skipped,omitempty"` // why there are no samples
	Samples    []Sample `json:"samples,omitempty"`
	Rate       float64  `json:"messages_per_second,omitempty"` // this and the following are medians
	CPUPer1000 float64  `json:"cpu_seconds_per_1000,omitempty"`
	PeakMiB    float64  `json:"peak_mib,omitempty"`
}

// Sample is one measurement of a rate.
type Sample struct {
	Messages   int     `json:"messages"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakMiB    float64 `json:"peak_mib"`
	// Landing is the last part of Seconds: after the last delivery, until everything else that
	// follows from it had happened.
	Landing float64 `json:"landing_seconds,omitempty"`
}

// Rate returns messages a second.
func (s Sample) Rate() float64 { return ratio(float64(s.Messages), s.Seconds) }

// delivering returns the seconds until the last delivery.
func (s Sample) delivering() float64 { return s.Seconds - s.Landing }

// CPUPer1000 returns the CPU seconds for 1000 messages.
func (s Sample) CPUPer1000() float64 { return ratio(1000*s.CPUSeconds, float64(s.Messages)) }

// String returns the measurement in a line.
func (s Sample) String() string {
	return fmt.Sprintf("%d messages in %.1f s, %.0f/s, %.3f CPU s for 1000, %.0f MiB", s.Messages, s.Seconds, s.Rate(), s.CPUPer1000(), s.PeakMiB)
}

// Figure is a number that is not a server's rate, CPU time or memory.
type Figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit,omitempty"` // none for a ratio
	Values []float64 `json:"values"`         // in the order of the runs
	Median float64   `json:"median"`
	// Skipped says why there are no values.
	Skipped string `json:"skipped,omitempty"`
}

// Target is what a figure is to reach: AtLeast or AtMost, whichever is not 0.
type Target struct {
	Figure  string  `json:"figure"`
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
}

// The results of a Verdict.
const (
	reached = "reached"
	missed  = "missed"
	undone  = "not measured"
	small   = "not judged"
)

// Verdict says whether a figure reached its target.
type Verdict struct {
	Target

	Got    float64 `json:"got"`
	Unit   string  `json:"unit,omitempty"`
	Result string  `json:"result"`        // reached, missed, not measured or not judged
	Why    string  `json:"why,omitempty"` // it was not measured or judged
}

// ratio returns a/b, and 0 where there is none.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// median returns the middle of values, the mean of the middle two if their number is even, and 0
// without values.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// add adds a value to the figure of that name, which it makes if there is none.
func (m *Measured) add(name, unit string, value float64) {
	i := slices.IndexFunc(m.Figures, func(f Figure) bool { return f.Name == name })
	if i < 0 {
		i = len(m.Figures)
		m.Figures = append(m.Figures, Figure{Name: name, Unit: unit})
	}
	m.Figures[i].Values = append(m.Figures[i].Values, value)
}

// skip notes that a figure could not be measured.
func (m *Measured) skip(name, why string) {
	m.Figures = append(m.Figures, Figure{Name: name, Skipped: why})
}

// last returns the last value of the figure of that name, and whether there is one.
func (m *Measured) last(name string) (float64, bool) {
	f, ok := m.figure(name)
	if !ok {
		return 0, false
	}
	return f.Values[len(f.Values)-1], true
}

// figure returns the figure of that name with its median, and whether there is one.
func (m *Measured) figure(name string) (Figure, bool) {
	i := slices.IndexFunc(m.Figures, func(f Figure) bool { return f.Name == name })
	if i < 0 {
		return Figure{}, false
	}
	f := m.Figures[i]
	f.Median = median(f.Values)
	return f, len(f.Values) > 0
}

// summarise works out medians.
func (m *Measured) summarise() {
	for i := range m.Servers {
		s := &m.Servers[i]
		of := func(f func(Sample) float64) float64 {
			values := make([]float64, len(s.Samples))
			for i, sample := range s.Samples {
				values[i] = f(sample)
			}
			return median(values)
		}
		s.Rate, s.CPUPer1000 = of(Sample.Rate), of(Sample.CPUPer1000)
		s.PeakMiB = of(func(s Sample) float64 { return s.PeakMiB })
	}
	for i := range m.Figures {
		m.Figures[i].Median = median(m.Figures[i].Values)
	}
}

// compare finds the best peer and the ratios of carom, the first server, to it.
func (m *Measured) compare() {
	m.summarise()
	var best *ServerResult
	for i := range m.Servers {
		if s := &m.Servers[i]; i > 0 && s.Rate > 0 && (best == nil || s.Rate > best.Rate) {
			best = s
		}
	}
	if carom := m.Servers[0]; best != nil && carom.Rate > 0 {
		m.Best = best.Name
		m.add(rateRatio, "", ratio(carom.Rate, best.Rate))
		m.add(cpuRatio, "", ratio(carom.CPUPer1000, best.CPUPer1000))
	}
}

// judge says of each target whether it is reached.
func (m *Measured) judge(targets []Target) {
	for _, t := range targets {
		v := Verdict{Target: t, Result: missed}
		f, ok := m.figure(t.Figure)
		v.Got, v.Unit = f.Median, f.Unit
		switch {
		case !ok:
			v.Result, v.Why = undone, f.Skipped
		case m.Small != "":
			v.Result, v.Why = small, m.Small
		case t.AtLeast > 0 && v.Got >= t.AtLeast, t.AtMost > 0 && v.Got <= t.AtMost:
			v.Result = reached
		default: // missed
		}
		m.Verdicts = append(m.Verdicts, v)
	}
}

// String returns the verdict in a line.
func (v Verdict) String() string {
	want, bound := "at least", v.AtLeast
	if v.AtMost > 0 {
		want, bound = "at most", v.AtMost
	}
	unit := ""
	if v.Unit != "" {
		unit = " " + v.Unit
	}
	got := " " + number(v.Got) + unit
	if v.Result == undone {
		got = ""
	}
	why := ""
	if v.Why != "" {
		why = " (" + v.Why + ")"
	}
	return fmt.Sprintf("%s%s, wanted %s %s%s: %s%s", v.Figure, got, want, number(bound), unit, v.Result, why)
}

// number writes a figure with as many digits as one can believe.
func number(v float64) string {
	digits := 2
	switch {
	case v >= 100:
		digits = 0
	case v >= 20:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}
