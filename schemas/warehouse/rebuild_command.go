package warehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"carom/schemas/service"
)

const aboutRebuild = `carom schema rebuild computes the roll-ups of a span of time anew from the events.

Use it when "carom analytics run completeness" reports a difference, or after events were
brought in without roll-ups. Agents may go on inserting: what they bring meanwhile is kept, and
the rebuild begins again if it could have been counted wrongly. It may be run again at any time.
Hours of which the events have passed retention become empty, so keep the span within it; hours
that are past a roll-up's own retention are left alone.

Times are UTC: 2026-11-29, 2026-11-29T14:00 or 2026-11-29T14:00:00Z. The span is widened to whole
hours, and to whole days for tables of days.

Example:
  carom schema rebuild --url http://127.0.0.1:8123/carom --from 2026-11-29T10:00 --to 2026-11-29T12:00`

// rebuildCommand runs carom schema rebuild.
func rebuildCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("schema rebuild", aboutRebuild, stdio)
	rawURL, options := Flags(flags)
	from := flags.String("from", "", "start of the span, a `time` (required)")
	to := flags.String("to", "", "end of the span, a `time`; now without it")
	idle := flags.Bool("idle", false, "nobody inserts: rebuild the newest minutes too, and check nothing afterwards")
	asJSON := flags.Bool("json", false, "write a line of JSON for each table instead of text")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if *from == "" {
		return service.Configf("carom schema rebuild: --from is missing, such as --from %s", time.Now().UTC().Format(time.DateOnly))
	}
	start, err := parseTime("--from", *from)
	if err != nil {
		return err
	}
	end := time.Now()
	if *to != "" {
		if end, err = parseTime("--to", *to); err != nil {
			return err
		}
	}
	conn, err := Open(ctx, *rawURL, *options)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if err := Check(ctx, conn); err != nil {
		return err
	}
	var writing error
	err = Rebuild(ctx, conn, start, end, RebuildOptions{Idle: *idle, Report: func(r Rebuilt) {
		if *asJSON {
			writing = json.NewEncoder(stdio.Out).Encode(r)
			return
		}
		span := r.From.Format(time.RFC3339) + " to " + r.To.Format(time.RFC3339)
		if !r.From.Before(r.To) {
			span = "nothing: it keeps rows from " + r.From.Format(time.RFC3339) + " on"
		}
		_, writing = fmt.Fprintf(stdio.Out, "%2d/%d %-16s %s\n", r.Done, r.Total, r.Table, span)
	}})
	if err != nil {
		return err
	}
	return writing
}

// parseTime reads the UTC time that was given for a flag.
func parseTime(flag, text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, service.Configf("%s %q is no time: write 2026-11-29, 2026-11-29T14:00 or 2026-11-29T14:00:00Z", flag, text)
}
