package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/deploy/up/supervise"
	"carom/schemas/limits"
)

// loopScenario has a receiver that takes a third of what the node may send and is sent.
const loopScenario = `{
  "version": 1, "seed": 7, "duration": "120s",
  "providers": [{
    "name": "tight", "domains": ["tight.test"], "mx": ["mx.tight.test"], "latency_ms": [5, 15], "refuse_at": "mail",
    "rate": [{"at": "0s", "per_s": 20}], "burst_s": 2,
    "texts": {"RATE": "421 4.7.0 [TSS04] Messages from {ip} temporarily deferred due to unexpected volume or user complaints"}
  }],
  "load": [{"tenant": "shop", "domains": {"tight.test": 1}, "per_s": [{"at": "0s", "v": 60}]}]
}`

const (
	loopKey        = "tight.test/127.0.0.2"
	loopStaticRate = 60 // messages a second, what the configuration allows
	loopHiddenRate = 20
)

// TestLoop closes the loop with the real processes: refusals become a change in limit_log, that a
// lease in the node's feed, and that attempts under its epoch that the receiver takes.
func TestLoop(t *testing.T) {
	y := startSystem(t, loopScenario, loopStaticRate)
	ctx, stop := context.WithCancel(t.Context())
	loaded := make(chan error, 1)
	go func() {
		loaded <- y.supervisor.Do(ctx, supervise.Process{
			Name: "load", Path: carom,
			Args: []string{"load", "mail", "--to", y.smtp, "--scenario", filepath.Join(y.dir, "scenario.json"), "--size", "1000", "--job", job},
		})
	}()
	defer func() {
		stop()
		<-loaded // it was told to stop in the middle
	}()

	var c change
	await(t, 80*time.Second, "a change in limit_log", func(ctx context.Context) error {
		return y.conn.QueryRow(ctx, `SELECT epoch, epoch_from, rate_old, rate_new, reason_text, n_by_class, window_from, window_to FROM limit_log
WHERE kind = 'change' AND provider = 'tight.test' AND source = '127.0.0.2' ORDER BY ts LIMIT 1`).Scan(
			&c.epoch, &c.epochFrom, &c.rateOld, &c.rateNew, &c.reason, &c.evidence, &c.from, &c.to)
	})
	t.Logf("%.3g/s -> %.3g/s: %s", c.rateOld, c.rateNew, c.reason)
	if c.epoch == 0 || c.rateNew <= 0 || c.rateNew >= loopStaticRate || c.reason == "" {
		t.Errorf("the change is %+v; want an epoch, a reason, and a rate below %d/s", c, loopStaticRate)
	}
	await(t, 10*time.Second, "its lease in the node's feed", func(context.Context) error {
		d, err := limits.Load(filepath.Join(y.dir, "feed", limits.FileName))
		if err != nil {
			return err
		}
		for _, l := range d.Leases {
			if l.Provider == "tight.test" && l.Epoch >= c.epoch {
				return nil
			}
		}
		return fmt.Errorf("leases: %+v", d.Leases)
	})
	await(t, 10*time.Second, "attempts under its epoch", func(ctx context.Context) error {
		var n uint64
		err := y.conn.QueryRow(ctx, "SELECT count() FROM events WHERE kind IN ('delivered', 'deferred') AND limit_epoch >= ?", c.epoch).Scan(&n)
		if err == nil && n < loopHiddenRate {
			err = errors.New("not yet")
		}
		return err
	})

	// The same from outside, and the evidence counted again.
	out, _, status := run(t, y.dir, "limits", "explain", loopKey, "--url", "http://"+y.http+"/carom")
	if status != 0 || !strings.Contains(out, c.reason) {
		t.Errorf("carom limits explain %s: exit status %d and\n%s\nwant 0 and %q", loopKey, status, out, c.reason)
	}
	out, _, status = run(t, y.dir, "limits", "list", "--json", "--url", "http://"+y.http+"/carom")
	if !json.Valid([]byte(out)) || status != 0 || !strings.Contains(out, loopKey) {
		t.Errorf("carom limits list --json: exit status %d and\n%s\nwant 0 and JSON with %s", status, out, loopKey)
	}
	refused := y.count(t, `SELECT sum(rate) FROM k10s WHERE provider = 'tight.test' AND source = '127.0.0.2' AND epoch = ?
    AND ts >= fromUnixTimestamp64Micro(?) AND ts < fromUnixTimestamp64Micro(?)`, c.epochFrom, c.from.UnixMicro(), c.to.UnixMicro())
	if refused == 0 || refused != c.evidence["rate"] {
		t.Errorf("the change stands on %v; k10s holds %d refusals for the rate in the same time", c.evidence, refused)
	}
}

// change is a row of limit_log.
type change struct {
	epoch, epochFrom uint64
	rateOld, rateNew float64
	reason           string
	evidence         map[string]uint64 // attempts by column of k10s
	from, to         time.Time
}
