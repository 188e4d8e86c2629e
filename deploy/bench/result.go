package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
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
	Name     string         `json:"name"`
	About    string         `json:"about"`
	Bytes    int            `json:"message_bytes"`
	Sessions int            `json:"sessions"`
	Servers  []ServerResult `json:"servers"` // carom is the first
	// Best is the name of the peer with the highest rate, to which carom is compared; empty if no
	// peer could run.
	Best     string   `json:"best_peer,omitempty"`
	Rate     float64  `json:"rate_ratio,omitempty"` // carom's divided by the best peer's
	CPU      float64  `json:"cpu_ratio,omitempty"`
	Targets  []Target `json:"targets,omitempty"`
	Verdicts []string `json:"verdicts,omitempty"` // one for each target
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

// Sample is one measurement.
type Sample struct {
	Messages   int     `json:"messages"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakMiB    float64 `json:"peak_mib"`
}

// Rate returns messages a second.
func (s Sample) Rate() float64 { return ratio(float64(s.Messages), s.Seconds) }

// CPUPer1000 returns the CPU seconds for 1000 messages.
func (s Sample) CPUPer1000() float64 { return ratio(1000*s.CPUSeconds, float64(s.Messages)) }

// String returns the measurement in a line.
func (s Sample) String() string {
	return fmt.Sprintf("%d messages in %.1f s, %.0f/s, %.3f CPU s for 1000", s.Messages, s.Seconds, s.Rate(), s.CPUPer1000())
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

// summarise works out medians, ratios and verdicts.
func (m *Measured) summarise() {
	var best *ServerResult
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
		if i > 0 && s.Rate > 0 && (best == nil || s.Rate > best.Rate) {
			best = s
		}
	}
	if best == nil {
		return
	}
	carom := m.Servers[0]
	m.Best, m.Rate, m.CPU = best.Name, ratio(carom.Rate, best.Rate), ratio(carom.CPUPer1000, best.CPUPer1000)
	for _, t := range m.Targets {
		m.Verdicts = append(m.Verdicts, t.verdict(m.Rate, m.CPU))
	}
}

// verdict says whether the ratios reach the target.
func (t Target) verdict(rate, cpu float64) string {
	got, want, reached := rate, "at least", rate >= t.Ratio
	if t.What == whatCPU {
		got, want, reached = cpu, "at most", cpu <= t.Ratio
	}
	word := "missed"
	if reached {
		word = "reached"
	}
	return fmt.Sprintf("%s ratio %.2f, wanted %s %.2f: %s", t.What, got, want, t.Ratio, word)
}

// print writes the result as tables.
func (r Result) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d CPUs, kernel %s, %s, %s; load average %s before, %s after\n", r.Machine.CPUs, r.Machine.Kernel,
		r.Machine.FileSystem, r.Machine.Go, r.Machine.LoadBefore, r.Machine.LoadAfter)
	if r.Machine.FileSystem == "tmpfs" {
		b.WriteString("The folder is in memory (tmpfs): fsync costs nothing there. Use --dir.\n")
	}
	if busy(r.Machine.LoadBefore, r.Machine.CPUs) {
		b.WriteString("The machine was busy before the run: rates are too low, and ratios uncertain.\n")
	}
	for _, m := range r.Scenarios {
		fmt.Fprintf(&b, "\n%s: %s\n%d sessions, medians of %d\n", m.Name, m.About, m.Sessions, r.Options.Runs)
		m.print(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// busy reports whether others used more than a quarter of the CPUs in the minute before, by the load average.
func busy(load string, cpus int) bool {
	first, _, _ := strings.Cut(load, " ")
	running, err := strconv.ParseFloat(first, 64)
	return err == nil && running > float64(cpus)/4
}

func (m Measured) print(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', tabwriter.AlignRight)
	best := m.Servers[max(0, slices.IndexFunc(m.Servers, func(s ServerResult) bool { return s.Name == m.Best }))]
	_, _ = fmt.Fprint(t, "server\tmsg/s\tratio\tCPU s/1000\tratio\tpeak MiB\t\n")
	for _, s := range m.Servers {
		if s.Skipped != "" {
			continue
		}
		_, _ = fmt.Fprintf(t, "%s\t%.0f\t%.2f\t%.3f\t%.2f\t%.0f\t\n", s.Name, s.Rate, ratio(s.Rate, best.Rate),
			s.CPUPer1000, ratio(s.CPUPer1000, best.CPUPer1000), s.PeakMiB)
	}
	_ = t.Flush() // a strings.Builder takes everything
	for _, s := range m.Servers {
		if s.Skipped != "" {
			fmt.Fprintf(b, "%s was skipped: %s\n", s.Name, s.Skipped)
		}
	}
	for _, v := range m.Verdicts {
		fmt.Fprintln(b, v)
	}
}
