package loop

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	only := os.Getenv("ONLY")
	methods := Methods()
	if m := os.Getenv("METHODS"); m != "" {
		methods = methods[:1]
	}
	for _, c := range Public() {
		if only != "" && !strings.Contains(","+only+",", ","+c.Name+",") {
			continue
		}
		var b strings.Builder
		for i := range methods {
			start := time.Now()
			r := simulate(&c, &methods[i], 1)
			fmt.Fprintf(&b, " | %s %.1f df %.1f b %.0f", methods[i].Name[:4], r.Goodput, r.Deferrals, r.Blocked)
			if i == 0 {
				fmt.Fprintf(&b, " R %.0f ch %d/%dh X %.0f S %.3f br %.1f p95 %.0f (%.1fs)", r.Recovery, r.Changes, r.PerHour, r.Explained, r.LeaseSum, r.BlockedRate, r.Delay95, time.Since(start).Seconds())
				if os.Getenv("LOG") != "" {
					for _, k := range r.worlds[0].keys {
						for _, ch := range k.own.(*loopKey).changes {
							fmt.Printf("%8s %-12s e%d %-9s %.3f -> %.3f c %d->%d m %d->%d  %s\n", ch.At, ch.Reason.Rule, ch.Reason.Epoch, ch.Reason.ModeTo, ch.Reason.Old.RatePerSecond, ch.Reason.New.RatePerSecond, ch.Reason.Old.Connections, ch.Reason.New.Connections, ch.Reason.Old.MessagesPerConnection, ch.Reason.New.MessagesPerConnection, ch.Reason.Text)
						}
					}
				}
			}
		}
		fmt.Printf("%-5s%s\n", c.Name, b.String())
	}
}
