package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/jobs"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

// jobState is what carom analytics jobs tells of one job.
type jobState struct {
	jobs.Status

	PeriodSeconds float64 `json:"period_seconds"`
	// NextRun is when serve runs it again, by its period; not set if it never ran.
	NextRun    time.Time `json:"next_run,omitzero"`
	LagSeconds float64   `json:"lag_seconds,omitempty"` // from the watermark to now
}

// statuses returns the state of the given jobs.
func statuses(ctx context.Context, conn driver.Conn, all []job) ([]jobState, error) {
	known, now, err := jobs.Statuses(ctx, conn)
	if err != nil {
		return nil, err
	}
	states := make([]jobState, 0, len(all))
	for _, j := range all {
		s := jobState{Status: known[j.name], PeriodSeconds: j.period.Seconds()}
		s.Job = j.name
		if !s.LastRun.IsZero() {
			s.NextRun = s.LastRun.Add(j.period)
			if s.NextRun.Before(now) {
				s.NextRun = now
			}
		}
		if !s.Watermark.IsZero() {
			s.LagSeconds = now.Sub(s.Watermark).Seconds()
		}
		states = append(states, s)
	}
	return states, nil
}

// list prints the state of every job.
func list(ctx context.Context, stdio service.IO, o options) error {
	conn, err := warehouse.Open(ctx, *o.rawURL, *o.login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is buffered
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	all := make([]job, 0, len(jobNames))
	for _, name := range jobNames {
		all = append(all, job{name: name, period: o.periods[name]})
	}
	states, err := statuses(ctx, conn, all)
	if err != nil {
		return err
	}
	if *o.asJSON {
		return json.NewEncoder(stdio.Out).Encode(states)
	}
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "JOB\tEVERY\tWATERMARK\tLAG\tLAST RUN\tTOOK\tSTATUS\tNEXT RUN\tRUNS\tFAILED")
	for i := range states {
		s := &states[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n", s.Job, time.Duration(s.PeriodSeconds*float64(time.Second)), clockText(s.Watermark),
			seconds(s.LagSeconds), clockText(s.LastRun), s.LastTook.Round(time.Millisecond), orDash(s.LastStatus), clockText(s.NextRun), s.Runs, s.Failures)
	}
	_ = w.Flush() // into memory
	for i := range states {
		if s := &states[i]; s.LastError != "" {
			fmt.Fprintf(&text, "%s failed at %s: %s\n", s.Job, clockText(s.LastErrorAt), s.LastError)
		}
	}
	_, err = text.WriteTo(stdio.Out)
	return err
}

func clockText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func seconds(s float64) string {
	if s == 0 {
		return "-"
	}
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
