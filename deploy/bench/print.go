package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

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
		fmt.Fprintf(&b, "\n%s: %s\n", m.Name, m.About)
		m.print(&b)
	}
	r.printCount(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// printCount says how many targets were reached, so that no miss is overlooked.
func (r Result) printCount(b *strings.Builder) {
	counts := map[string]int{}
	total := 0
	for _, m := range r.Scenarios {
		for _, v := range m.Verdicts {
			counts[v.Result]++
			total++
		}
	}
	if total == 0 {
		return
	}
	fmt.Fprintf(b, "\nTargets: %d", total)
	for _, result := range []string{reached, missed, small, undone} {
		if n := counts[result]; n > 0 {
			fmt.Fprintf(b, ", %d %s", n, result)
		}
	}
	b.WriteString("\n")
}

// busy reports whether others used more than a quarter of the CPUs in the minute before, by the load average.
func busy(load string, cpus int) bool {
	first, _, _ := strings.Cut(load, " ")
	running, err := strconv.ParseFloat(first, 64)
	return err == nil && running > float64(cpus)/4
}

func (m Measured) print(b *strings.Builder) {
	var parts []string
	if m.Messages > 0 {
		parts = append(parts, fmt.Sprintf("%d messages", m.Messages))
	}
	if m.Bytes > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes", m.Bytes))
	}
	if m.Sessions > 0 {
		parts = append(parts, fmt.Sprintf("%d sessions", m.Sessions))
	}
	fmt.Fprintln(b, strings.Join(append(parts, fmt.Sprintf("medians of %d", m.Runs)), ", "))
	m.printServers(b)
	m.printFigures(b)
	for _, v := range m.Verdicts {
		fmt.Fprintln(b, v)
	}
}

// printServers writes rates, CPU time and memory, with the ratios to the best peer if carom was
// compared to one.
func (m Measured) printServers(b *strings.Builder) {
	if len(m.Servers) == 0 {
		return
	}
	best := m.Servers[max(0, slices.IndexFunc(m.Servers, func(s ServerResult) bool { return s.Name == m.Best }))]
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', tabwriter.AlignRight)
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
}

// printFigures writes the figures that the table of servers does not show.
func (m Measured) printFigures(b *strings.Builder) {
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 3, ' ', tabwriter.AlignRight)
	for _, f := range m.Figures {
		switch {
		case f.Name == rateRatio, f.Name == cpuRatio:
		case f.Skipped != "":
			_, _ = fmt.Fprintf(t, "%s\tnot measured: %s\t\n", f.Name, f.Skipped)
		default:
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t\n", f.Name, number(f.Median), f.Unit)
		}
	}
	_ = t.Flush() // a strings.Builder takes everything
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(b, strings.TrimRight(line, " \n")) // where there is no unit
	}
}
