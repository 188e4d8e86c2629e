package app

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"carom/analytics/jobs"
)

// reportCompleteness writes what the job found as text.
func reportCompleteness(w io.Writer, r *jobs.CompletenessReport) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NODE\tSTREAM\tFIRST\tHIGHEST\tROWS\tGAPS\tDUPLICATES\tLAG\tLAST ARRIVED") // Flush tells what went wrong
	for _, s := range r.Streams {
		lag := time.Duration(s.LagSeconds * float64(time.Second)).Round(time.Millisecond)
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n",
			s.Node, s.Stream, s.First, s.Highest, s.Rows, s.Gaps, s.Duplicates, lag, s.LastArrived.Format(time.RFC3339))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, h := range r.RebuiltHours {
		if _, err := fmt.Fprintf(w, "roll-ups of the hour from %s differed from the events and were computed again\n", h.Format(time.RFC3339)); err != nil {
			return err
		}
	}
	for _, wrong := range r.Wrong {
		if _, err := fmt.Fprintln(w, "WRONG:", wrong); err != nil {
			return err
		}
	}
	said := "nothing is missing, nothing is there twice, and the roll-ups say what the events say"
	if len(r.Wrong) > 0 {
		said = fmt.Sprintf("%d things are wrong", len(r.Wrong))
	}
	_, err := fmt.Fprintf(w, "%d rows were looked at, to those that arrived at %s: %s\n", r.Rows, r.ArrivedTo.Format(time.RFC3339), said)
	return err
}
