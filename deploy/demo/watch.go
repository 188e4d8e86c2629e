package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"carom/schemas/limits"
	"carom/sender/admin"
)

const (
	livePeriod  = time.Second     // between updates of the line on a terminal
	plainPeriod = 5 * time.Second // between lines elsewhere
)

// watch shows progress until the function that it returns is called.
func (d *demo) watch(ctx context.Context) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		columns, live := terminal(d.out)
		period := plainPeriod
		if live {
			period = livePeriod
		}
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				if live {
					d.say("")
				}
				return
			case <-ticker.C:
			}
			line := d.progressLine(ctx)
			switch {
			case line == "": // something is being restarted
			case live:
				_, _ = fmt.Fprintf(d.out, "\r%.*s\x1b[K", columns, line)
			default:
				d.say("%s", line)
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
	}
}

// terminal returns how many columns of a line w shows, and false if it is no terminal.
func terminal(w io.Writer) (columns int, ok bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	if size.Col == 0 { // it does not know
		return 80, true
	}
	return int(size.Col) - 1, true
}

// progressLine says how things stand, or nothing while a part does not answer.
func (d *demo) progressLine(ctx context.Context) string {
	p, err := d.warehouse.progress(ctx)
	if err != nil {
		return ""
	}
	status, err := d.node.status(ctx)
	if err != nil {
		return ""
	}
	stats, err := d.receivers.stats(ctx)
	if err != nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0f s  accepted %d  delivered %d  queued %d  deferred %.0f %% ",
		stats.Now, p.handedOver, p.delivered, status.LiveRecipients, 100*float64(p.lastDeferrals)/float64(max(1, p.lastAttempts)))
	for _, limit := range d.limitsNow() {
		fmt.Fprintf(&b, " %s", limit)
	}
	return b.String()
}

// limitsNow returns the limit of each provider in force: its lease, else what is configured.
func (d *demo) limitsNow() []string {
	document, err := limits.Load(filepath.Join(d.system.Config.Feed.Dir, limits.FileName))
	if err != nil {
		document = &limits.Document{}
	}
	list := make([]string, 0, len(d.plan.scenario.Providers))
	for i := range d.plan.scenario.Providers {
		p := &d.plan.scenario.Providers[i]
		rate := float64(staticRate(p))
		for _, l := range document.Leases {
			if l.Provider == p.Name {
				rate = min(rate, l.RatePerSecond)
			}
		}
		list = append(list, fmt.Sprintf("%s %.3g/s", p.Name, rate))
	}
	return list
}

// rest is the state in which everything has come to rest, or in which the waiting ended.
type rest struct {
	node      admin.Status
	receivers receiverStats
	streams   []Stream
	missing   uint64 // suppressions that the job has still to make
	settled   bool
}

const (
	// restTimeout is how long after the load all mail, reports and events may take.
	restTimeout = 90 * time.Second
	restPoll    = 500 * time.Millisecond
)

// awaitRest waits until nothing is queued, no report is under way, every event is in ClickHouse and
// every address that must not be mailed again is suppressed.
// After restTimeout it takes things as they are: what is still queued is counted as that.
func (d *demo) awaitRest(ctx context.Context) (*rest, error) {
	d.say("All is handed over. Waiting for queues, reports and the agent.")
	done := d.watch(ctx)
	defer done()
	deadline := time.Now().Add(restTimeout)
	var last *rest
	var err error
	for {
		var now *rest
		if now, err = d.look(ctx); err == nil {
			quiet := last != nil && last.node.EventSeq == now.node.EventSeq && last.node.LiveRecipients == now.node.LiveRecipients
			late := time.Now().After(deadline)
			now.settled = now.node.LiveRecipients == 0 && now.receivers.Reports.Pending == 0 && now.missing == 0
			if shipped(now) && quiet && (now.settled || late) {
				return now, nil
			}
			last = now
		}
		if time.Now().After(deadline.Add(restTimeout)) {
			break
		}
		select {
		case <-time.After(restPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("wait for everything to come to rest: %w", err)
	}
	return last, nil // the checks say what is missing
}

func (d *demo) look(ctx context.Context) (*rest, error) {
	var r rest
	var err error
	if r.node, err = d.node.status(ctx); err != nil {
		return nil, err
	}
	if r.receivers, err = d.receivers.stats(ctx); err != nil {
		return nil, err
	}
	if r.streams, err = d.warehouse.streams(ctx); err != nil {
		return nil, err
	}
	if r.missing, err = d.warehouse.unsuppressed(ctx); err != nil {
		return nil, err
	}
	return &r, nil
}

// shipped reports whether ClickHouse has every record that the node had.
func shipped(r *rest) bool {
	for name, seq := range r.written() {
		last := uint64(0)
		for _, s := range r.streams {
			if s.Name == name {
				last = max(last, s.LastSeq)
			}
		}
		if last < seq {
			return false
		}
	}
	return true
}

// written returns the last number of each stream on the node.
func (r *rest) written() map[string]uint64 {
	return map[string]uint64{"event": r.node.EventSeq, "gauge": r.node.GaugeSeq, "queue_gauge": r.node.QueueGaugeSeq, "annotation": r.node.AnnotationSeq}
}
