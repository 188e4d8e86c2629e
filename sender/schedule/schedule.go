// Package schedule knows when a message may be delivered: PowerMTA's X-Schedule.
//
// It parses what feeders write, bounded in size, and never panics on any input (FuzzParse). Nothing
// here touches the clock. A Schedule is immutable and safe for concurrent use.
package schedule

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a time in which a message may be delivered: from From until just before To.
type Window struct{ From, To time.Time }

// Schedule are the windows of a message, the earliest first. The empty Schedule allows every time.
type Schedule []Window

// The bounds of what is parsed.
const (
	maxText    = 4096 // octets
	maxWindows = 50
)

const layout = "2006-01-02 15:04:05"

// Parse reads the value of an X-Schedule field: "START / END, START / END" with times such as
// 2026-11-29 12:00:00, which are those of the given zone where they have none of their own (+0100).
func Parse(text string, zone *time.Location) (Schedule, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("schedule of more than %d octets", maxText)
	}
	var s Schedule
	for part := range strings.SplitSeq(text, ",") {
		from, to, ok := strings.Cut(part, "/")
		if !ok {
			return nil, fmt.Errorf("bad window %q; want START / END", strings.TrimSpace(part))
		}
		w := Window{}
		var errFrom, errTo error
		w.From, errFrom = parseTime(from, zone)
		w.To, errTo = parseTime(to, zone)
		if err := errors.Join(errFrom, errTo); err != nil {
			return nil, err
		}
		if !w.From.Before(w.To) {
			return nil, fmt.Errorf("window %q ends before it begins", strings.TrimSpace(part))
		}
		s = append(s, w)
	}
	if len(s) > maxWindows {
		return nil, fmt.Errorf("schedule of more than %d windows", maxWindows)
	}
	slices.SortStableFunc(s, func(a, b Window) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
	return s, nil
}

func parseTime(text string, zone *time.Location) (time.Time, error) {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []string{layout, layout + "-0700", layout + " -0700"} {
		if t, err := time.ParseInLocation(l, text, zone); err == nil {
			if t.Year() < 1971 { // before any message, and what a count of microseconds takes
				break
			}
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("bad time %q; want for example %s", text, layout)
}

// String returns the schedule in a form that Parse reads in any zone.
func (s Schedule) String() string {
	var b strings.Builder
	for i, w := range s {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(w.From.UTC().Format(layout + "-0700"))
		b.WriteString(" / ")
		b.WriteString(w.To.UTC().Format(layout + "-0700"))
	}
	return b.String()
}

// Next returns the first time from t on at which the message may be delivered: t itself inside a
// window. It reports false behind the last window.
func (s Schedule) Next(t time.Time) (time.Time, bool) {
	if len(s) == 0 {
		return t, true
	}
	for _, w := range s {
		switch {
		case t.Before(w.From):
			return w.From, true
		case t.Before(w.To):
			return t, true
		}
	}
	return time.Time{}, false
}

// End returns when the message may no longer be delivered, zero for an empty Schedule.
func (s Schedule) End() time.Time {
	var end time.Time
	for _, w := range s {
		if w.To.After(end) {
			end = w.To
		}
	}
	return end
}
