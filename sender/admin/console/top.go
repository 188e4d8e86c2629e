package console

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/orders"
)

// sorts are the orders of carom queue top.
var sorts = map[string]func(a, b admin.Queue) int{
	"recipients": func(a, b admin.Queue) int { return cmp.Compare(b.Recipients, a.Recipients) },
	"name":       func(a, b admin.Queue) int { return strings.Compare(a.Name, b.Name) },
	"sessions":   func(a, b admin.Queue) int { return cmp.Compare(b.Sessions, a.Sessions) },
	"in":         func(a, b admin.Queue) int { return cmp.Compare(b.InPerMinute, a.InPerMinute) },
	"out":        func(a, b admin.Queue) int { return cmp.Compare(b.OutPerMinute, a.OutPerMinute) },
}

// refresh is the time between two looks on a terminal.
const refresh = time.Second

func top(c *call) func(context.Context, []string) error {
	once := c.Bool("once", false, "show it once")
	by := c.String("sort", "recipients", "by `WHAT`: recipients, name, sessions, in or out")
	most := c.Int("max", 20, "at most this `NUMBER` of queues")
	mode := c.String("mode", "", "only queues in this `MODE`: normal or backoff")
	return func(ctx context.Context, args []string) error {
		pattern := "*"
		switch {
		case len(args) > 1:
			return service.Configf("%s: unexpected argument %q (quote patterns with *)", c.command, args[1])
		case len(args) == 1:
			pattern = orders.QueuePattern(args[0])
		}
		if sorts[*by] == nil {
			return service.Configf("%s: --sort %q, want recipients, name, sessions, in or out", c.command, *by)
		}
		if *mode != "" && *mode != orders.ModeNormal && *mode != orders.ModeBackoff {
			return service.Configf("%s: --mode %q, want normal or backoff", c.command, *mode)
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		look := func(w io.Writer) error {
			all, err := client.Queues(ctx)
			if err != nil {
				return err
			}
			matching := slices.DeleteFunc(all, func(q admin.Queue) bool {
				return !orders.Match(pattern, q.Name) || *mode != "" && q.Mode != *mode
			})
			slices.SortFunc(matching, func(a, b admin.Queue) int { return cmp.Or(sorts[*by](a, b), strings.Compare(a.Name, b.Name)) })
			shown := matching[:min(len(matching), max(*most, 0))]
			if c.asJSON {
				return c.show(shown, nil)
			}
			return queuesText(w, shown, len(matching))
		}
		if *once || c.asJSON || !isTerminal(c.out) {
			return look(c.out)
		}
		return repeat(ctx, c.out, look)
	}
}

// repeat shows what look writes again and again in the same place, until ctx is done.
func repeat(ctx context.Context, w io.Writer, look func(io.Writer) error) error {
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	for {
		var screen bytes.Buffer
		screen.WriteString("\x1b[H\x1b[2J") // to the corner, all gone (ECMA-48: CUP, ED)
		if err := look(&screen); err != nil && ctx.Err() == nil {
			return err
		}
		if _, err := screen.WriteTo(w); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func queuesText(w io.Writer, shown []admin.Queue, matching int) error {
	now := clock.Now()
	lines := make([][]string, len(shown))
	for i := range shown {
		q := &shown[i]
		lines[i] = []string{
			q.Name, strconv.Itoa(q.Recipients), strconv.Itoa(q.Sessions), q.Mode,
			strconv.Itoa(q.InPerMinute), strconv.Itoa(q.OutPerMinute), ago(q.OldestArrival, now), in(q.NextTry, now), waits(q),
		}
	}
	if err := rows(w, "QUEUE|RCPT|CONN|MODE|IN/MIN|OUT/MIN|OLDEST|NEXT TRY|WAITS FOR", lines); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d matching queues.\n", len(shown), matching)
	return err
}

// waits says in few words why a queue waits.
func waits(q *admin.Queue) string {
	switch {
	case q.Paused:
		return "paused, order " + strconv.FormatUint(q.PausedBy[0], 10)
	case len(q.PausedBy) > 0:
		return "partly paused, order " + strconv.FormatUint(q.PausedBy[0], 10)
	default:
		return q.Why
	}
}
