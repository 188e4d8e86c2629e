package loop

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// What all public cases together must reach (issue 7 of the design): the mean goodput of the loop in
// percent of the oracle, and how many times the best baseline that is.
const (
	wantMean  = 97.0
	wantTimes = 1.2
)

// Report is what carom-loop found, and its JSON.
type Report struct {
	Version int           `json:"version"` // 1
	Seeds   []uint64      `json:"seeds"`
	Cases   []CaseReport  `json:"cases,omitempty"`
	Methods []MethodMean  `json:"methods,omitempty"`
	Random  *RandomReport `json:"random,omitempty"`
	Missed  []string      `json:"missed"` // what was not reached; empty if all was
}

// CaseReport is one row of the table.
type CaseReport struct {
	Name  string `json:"name"`
	About string `json:"about"`
	Apart bool   `json:"apart,omitempty"`
	Want  Want   `json:"want"`
	// Mean is that of the loop over the seeds, but the worst of what must never be.
	Mean Measures `json:"loop"`
	// Goodput is the mean goodput of every method, in percent.
	Goodput map[string]float64 `json:"goodput_pct"`
	Runs    []Run              `json:"runs"`
	Missed  []string           `json:"missed"`
}

// MethodMean is the mean goodput of a method over the cases that count.
type MethodMean struct {
	Name  string  `json:"name"`
	About string  `json:"about"`
	Mean  float64 `json:"goodput_pct"`
}

// add joins a run to the row.
func (c *CaseReport) add(r *Run) { c.Runs = append(c.Runs, *r) }

// finish computes the means and compares them with what is wanted.
func (c *CaseReport) finish() {
	sums, counts := map[string]float64{}, map[string]float64{}
	var loop []Measures
	for i := range c.Runs {
		r := &c.Runs[i]
		sums[r.Method] += r.Goodput
		counts[r.Method]++
		if r.Method == loopName {
			loop = append(loop, r.Measures)
		}
	}
	c.Goodput = map[string]float64{}
	for method, sum := range sums {
		c.Goodput[method] = sum / counts[method]
	}
	c.Mean = average(loop)
	c.Missed = c.Want.missed(&c.Mean)
	if g, ok := c.Goodput[staticName]; ok && c.Want.Static > 0 && g > c.Want.Static {
		c.Missed = append(c.Missed, fmt.Sprintf("the configuration alone reaches %.1f %%, at most %.1f is expected: the case proves nothing", g, c.Want.Static))
	}
}

// average is the mean of runs; of blocks, leases, changes an hour and what is explained the worst.
func average(runs []Measures) Measures {
	var m Measures
	n := float64(len(runs))
	for i, r := range runs {
		m.Goodput += r.Goodput / n
		m.Deferrals += r.Deferrals / n
		m.Recovery += r.Recovery / n
		m.Delay95 += r.Delay95 / n
		m.BlockedRate += r.BlockedRate / n
		m.Others += r.Others / n
		m.Oracle += r.Oracle / n
		m.Accepted += r.Accepted / len(runs)
		m.Attempts += r.Attempts / len(runs)
		m.Changes += r.Changes
		m.Decreases += r.Decreases
		m.Blocked = max(m.Blocked, r.Blocked)
		m.LeaseSum, m.LeaseAge = max(m.LeaseSum, r.LeaseSum), max(m.LeaseAge, r.LeaseAge)
		m.PerHour = max(m.PerHour, r.PerHour)
		if i == 0 || r.Explained < m.Explained {
			m.Explained = r.Explained
		}
	}
	if len(runs) > 0 {
		m.Changes /= len(runs)
	}
	return m
}

// Bounds that hold in every case (design/control.md 5.4): leases never add up to more than the limit,
// every change recomputes, and no key changes without end.
const (
	maxLeaseSum = 1 + 1e-9
	maxPerHour  = 48
)

// missed says what m does not reach of w.
func (w *Want) missed(m *Measures) []string {
	missed := []string{}
	check := func(bad bool, format string, values ...any) {
		if bad {
			missed = append(missed, fmt.Sprintf(format, values...))
		}
	}
	check(m.Goodput < w.Goodput, "goodput %.1f %%, want at least %.1f", m.Goodput, w.Goodput)
	check(w.GoodputMost > 0 && m.Goodput > w.GoodputMost, "goodput %.1f %%, want at most %.1f", m.Goodput, w.GoodputMost)
	check(w.Deferrals > 0 && m.Deferrals > w.Deferrals, "deferrals %.1f %%, want at most %.1f", m.Deferrals, w.Deferrals)
	check(m.Blocked > w.Blocked, "%.1f minutes of block caused, want at most %.1f", m.Blocked, w.Blocked)
	check(w.Recovery > 0 && m.Recovery > w.Recovery, "recovery took %.1f minutes, want at most %.1f", m.Recovery, w.Recovery)
	check(w.BlockedRate > 0 && m.BlockedRate > w.BlockedRate, "%.1f attempts a minute met the block, want at most %.1f", m.BlockedRate, w.BlockedRate)
	check(m.Others < w.Others, "%.1f %% of the other tenants' mail got through, want at least %.1f", m.Others, w.Others)
	check(w.NoDecrease && m.Decreases > 0, "%d decreases, want none", m.Decreases)
	check(m.PerHour > maxPerHour, "%d changes in an hour, want at most %d", m.PerHour, maxPerHour)
	check(m.LeaseSum > maxLeaseSum, "leases add up to %.4f of the limit", m.LeaseSum)
	check(m.Explained < 100, "only %.1f %% of the changes recompute from their evidence", m.Explained)
	return missed
}

// finish computes what all cases together say.
func (r *Report) finish(methods []Method) {
	for _, m := range methods {
		sum, n := 0.0, 0
		for i := range r.Cases {
			if c := &r.Cases[i]; !c.Apart {
				sum += min(100, c.Goodput[m.Name])
				n++
			}
		}
		if n > 0 {
			r.Methods = append(r.Methods, MethodMean{Name: m.Name, About: m.About, Mean: sum / float64(n)})
		}
	}
	for i := range r.Cases {
		for _, missed := range r.Cases[i].Missed {
			r.Missed = append(r.Missed, r.Cases[i].Name+": "+missed)
		}
	}
}

// judge compares the means with what all cases together must reach.
func (r *Report) judge() {
	loop, best := r.mean(loopName), r.best()
	if loop < wantMean {
		r.Missed = append(r.Missed, fmt.Sprintf("the mean goodput of the loop is %.1f %%, want at least %.1f", loop, wantMean))
	}
	if best.Mean > 0 && loop < wantTimes*best.Mean {
		r.Missed = append(r.Missed, fmt.Sprintf("the loop reaches %.2f times the %.1f %% of %s, want at least %.1f times", loop/best.Mean, best.Mean, best.Name, wantTimes))
	}
}

func (r *Report) mean(name string) float64 {
	for _, m := range r.Methods {
		if m.Name == name {
			return m.Mean
		}
	}
	return math.NaN()
}

// best returns the baseline with the highest mean, the zero MethodMean without any.
func (r *Report) best() MethodMean {
	var best MethodMean
	for _, m := range r.Methods {
		if m.Name != loopName && m.Name != closedName && m.Mean > best.Mean {
			best = m
		}
	}
	return best
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report as a table for people.
func (r *Report) WriteText(w io.Writer, methods []Method) error {
	var b strings.Builder
	if len(r.Cases) > 0 {
		r.table(&b, methods)
	}
	if r.Random != nil {
		r.Random.write(&b)
	}
	if len(r.Missed) == 0 {
		fmt.Fprintln(&b, "\nEverything that is wanted was reached.")
	} else {
		fmt.Fprintf(&b, "\nNot reached:\n  %s\n", strings.Join(r.Missed, "\n  "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) table(b *strings.Builder, methods []Method) {
	fmt.Fprintf(b, "Goodput in percent of an oracle that knows every hidden limit, mean of %d seeds.\n\n", len(r.Seeds))
	head := append(make([]string, 0, len(methods)+8), "case", "want")
	for _, m := range methods {
		head = append(head, m.Name)
	}
	rows := make([][]string, 0, len(r.Cases)+2)
	rows = append(rows, append(head, "deferred", "block min", "recover min", "p95 delay s", "changes", "most/h"))
	for i := range r.Cases {
		c := &r.Cases[i]
		name := c.Name
		if c.Apart {
			name = "(" + name + ")"
		}
		if len(c.Missed) > 0 {
			name = "! " + name
		}
		row := append(make([]string, 0, len(methods)+8), name, number(c.Want.Goodput))
		for _, m := range methods {
			row = append(row, fmt.Sprintf("%.1f", c.Goodput[m.Name]))
		}
		rows = append(rows, append(row, fmt.Sprintf("%.1f %%", c.Mean.Deferrals), fmt.Sprintf("%.1f", c.Mean.Blocked),
			fmt.Sprintf("%.1f", c.Mean.Recovery), fmt.Sprintf("%.0f", c.Mean.Delay95), strconv.Itoa(c.Mean.Changes), strconv.Itoa(c.Mean.PerHour)))
	}
	mean := append(make([]string, 0, len(r.Methods)+2), "mean", "")
	for _, m := range r.Methods {
		mean = append(mean, fmt.Sprintf("%.1f", m.Mean))
	}
	align(b, append(rows, mean))
	fmt.Fprintln(b)
	for i := range r.Cases {
		fmt.Fprintf(b, "  %-5s %s\n", r.Cases[i].Name, r.Cases[i].About)
	}
	fmt.Fprintln(b, "\nA case in brackets measures something else than goodput and counts in no mean; over 100 is the receiver's burst.")
	for _, m := range methods {
		fmt.Fprintf(b, "  %-12s %s\n", m.Name, m.About)
	}
	if best := r.best(); best.Mean > 0 {
		fmt.Fprintf(b, "\nThe loop reaches %.1f %%, %.2f times the best baseline (%s, %.1f %%).\n", r.mean(loopName), r.mean(loopName)/best.Mean, best.Name, best.Mean)
	}
}

// align writes rows as columns that end in one line.
func align(b *strings.Builder, rows [][]string) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		_, _ = io.WriteString(t, strings.Join(row, "\t")+"\t\n") // to memory
	}
	_ = t.Flush()
}

func number(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", x)
}

// RandomReport is the result over random scenarios, which no rule was tuned on.
type RandomReport struct {
	From    uint64         `json:"seed_from"`
	Count   int            `json:"count"`
	Methods []RandomMethod `json:"methods"`
	Worst   []RandomRun    `json:"worst"` // of the loop
}

// RandomMethod is what one method reached, in percent.
type RandomMethod struct {
	Name string  `json:"name"`
	Mean float64 `json:"mean_pct"`
	P10  float64 `json:"p10_pct"` // a tenth of the scenarios is worse
	Min  float64 `json:"min_pct"`
}

// RandomRun is one scenario.
type RandomRun struct {
	Seed    uint64  `json:"seed"`
	About   string  `json:"about"`
	Goodput float64 `json:"goodput_pct"`
}

// What the random scenarios must reach, in percent.
const (
	wantRandomMean = 90.0
	wantRandomP10  = 75.0
)

// summarize computes the statistics of goodput by method; runs are in the order of their seeds.
func summarize(from uint64, abouts []string, methods []Method, goodput map[string][]float64) *RandomReport {
	r := &RandomReport{From: from, Count: len(abouts)}
	for _, m := range methods {
		sorted := slices.Sorted(slices.Values(goodput[m.Name]))
		if len(sorted) == 0 {
			continue
		}
		sum := 0.0
		for _, g := range sorted {
			sum += min(100, g)
		}
		r.Methods = append(r.Methods, RandomMethod{
			Name: m.Name, Mean: sum / float64(len(sorted)), P10: sorted[len(sorted)/10], Min: sorted[0],
		})
	}
	for i, g := range goodput[loopName] {
		r.Worst = append(r.Worst, RandomRun{from + uint64(i), abouts[i], g}) //nolint:gosec // not negative
	}
	slices.SortFunc(r.Worst, func(a, b RandomRun) int { return cmp.Compare(a.Goodput, b.Goodput) })
	r.Worst = r.Worst[:min(10, len(r.Worst))]
	return r
}

// judge compares the random scenarios with what is wanted of them.
func (r *RandomReport) judge() []string {
	var missed []string
	for _, m := range r.Methods {
		if m.Name != loopName {
			continue
		}
		if m.Mean < wantRandomMean {
			missed = append(missed, fmt.Sprintf("random scenarios: mean goodput %.1f %%, want at least %.1f", m.Mean, wantRandomMean))
		}
		if m.P10 < wantRandomP10 {
			missed = append(missed, fmt.Sprintf("random scenarios: a tenth is under %.1f %%, want at least %.1f", m.P10, wantRandomP10))
		}
	}
	return missed
}

func (r *RandomReport) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n%d random scenarios, seeds %d to %d: goodput in percent of the oracle.\n\n", r.Count, r.From, r.From+uint64(r.Count)-1) //nolint:gosec // not negative
	rows := append(make([][]string, 0, len(r.Methods)+1), []string{"method", "mean", "p10", "min"})
	for _, m := range r.Methods {
		rows = append(rows, []string{m.Name, fmt.Sprintf("%.1f", m.Mean), fmt.Sprintf("%.1f", m.P10), fmt.Sprintf("%.1f", m.Min)})
	}
	align(b, rows)
	fmt.Fprintln(b, "\nThe loop's worst:")
	for _, w := range r.Worst {
		fmt.Fprintf(b, "  %5.1f  seed %d: %s\n", w.Goodput, w.Seed, w.About)
	}
}
