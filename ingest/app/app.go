// Package app is the node agent: the process beside a sender that ships its event log to ClickHouse
// and brings limits and suppressions back as files.
//
// It keeps no state but those files and the cursors beside the log, and may be killed at any
// moment. While ClickHouse does not answer, the log waits on disk and the files stay as they are;
// the sender lets leases end by their TTL. Neither side needs the other process to run.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"carom/ingest/ship"
	"carom/schemas/clock"
	"carom/schemas/seglog"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

// How often the agent looks, and shows that it lives.
const (
	limitsPeriod       = time.Second
	suppressionsPeriod = time.Second
	alivePeriod        = 10 * time.Second
	callTimeout        = 30 * time.Second // of one look
	listTimeout        = 30 * time.Minute // of one look at the suppression list, which may read 10^8 entries
	repeatWarning      = time.Minute      // of an error that lasts
)

// Options of an agent.
type Options struct {
	EventLog  string // folder of the sender's event log
	Feed      string // folder for limits and suppressions; made if there is none
	Node      string // name of the node
	URL       string // of ClickHouse, see warehouse.Dial
	Warehouse warehouse.Options
	Version   string        // of carom, to be shown in the table nodes
	BatchRows int           // events in a batch at most; 0 for ship.DefaultBatchRows
	BatchAge  time.Duration // how long an event may wait for others; 0 for ship.DefaultBatchAge
	Once      bool          // ship what is there, look once, and return
}

func (o Options) validate() error {
	var missing []string
	for _, field := range []struct{ flag, value string }{
		{"--event-log", o.EventLog}, {"--feed", o.Feed}, {"--node", o.Node}, {"--url", o.URL},
	} {
		if field.value == "" {
			missing = append(missing, field.flag)
		}
	}
	switch {
	case len(missing) > 0:
		return service.Configf("carom ingest agent: missing: %s (see carom ingest agent --help)", strings.Join(missing, ", "))
	case o.BatchRows < 0:
		return service.Configf("carom ingest agent: --batch-rows %d is negative", o.BatchRows)
	case o.BatchAge < 0:
		return service.Configf("carom ingest agent: --batch-age %v is negative", o.BatchAge)
	}
	return nil
}

// Run is the agent of one node until ctx ends; it then returns nil. ClickHouse need not answer. It
// returns a service.ConfigError for options that can't be, an error that wraps seglog.ErrLocked if
// another agent ships this log, and otherwise only what waiting does not cure (see ship.Run).
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	if err := o.validate(); err != nil {
		return err
	}
	log = log.With("component", "agent", "node", o.Node)
	if err := os.MkdirAll(o.Feed, 0o750); err != nil {
		return service.Configf("feed folder: %w", err)
	}
	conn, err := warehouse.Dial(o.URL, o.Warehouse)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // what was not confirmed is sent again
	c := &contact{conn: conn, options: o, log: log}
	shipper, err := ship.New(ship.Options{
		Dir: o.EventLog, Node: o.Node, Conn: conn, Log: log, BatchRows: o.BatchRows, BatchAge: o.BatchAge, Once: o.Once, Reachable: c.reachable,
	})
	if errors.Is(err, seglog.ErrLocked) {
		return fmt.Errorf("another agent is at work here: %w", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = shipper.Close() }() // the lock ends with the process at the latest

	f := newFeed(o, conn, log)
	alive := &registration{
		conn: conn, node: o.Node, version: o.Version, started: clock.Now().UTC(),
		shipped: shipper.Status, generation: f.generation.Load,
	}
	tasks := []struct {
		what            string
		period, timeout time.Duration
		run             func(context.Context) error
	}{
		{"limits", limitsPeriod, callTimeout, f.limits},
		{"suppression list", suppressionsPeriod, listTimeout, f.snapshot},
		{"suppressions", suppressionsPeriod, callTimeout, f.suppressions},
		{"sign of life", alivePeriod, callTimeout, alive.write},
	}
	if o.Once {
		if err := shipper.Run(ctx); err != nil {
			return err
		}
		for _, t := range tasks {
			if err := t.run(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	log.Info("agent started", "event_log", o.EventLog, "feed", o.Feed)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return shipper.Run(gctx) })
	for _, t := range tasks {
		g.Go(func() error {
			every(gctx, t.period, t.timeout, c, log.With("task", t.what), t.run)
			return nil
		})
	}
	err = g.Wait()
	log.Info("agent stopped")
	return err
}

// quickest is how often a task runs at most where time passes faster than the machine works.
const quickest = 200 * time.Millisecond

// every calls task now and then each period until ctx ends, for at most timeout a call. It logs an error that lasts once a
// minute, and its end; that ClickHouse does not answer is said by c.
func every(ctx context.Context, period, timeout time.Duration, c *contact, log *slog.Logger, task func(context.Context) error) {
	var warned time.Time
	if clock.Scale() > 1 {
		period = max(clock.Real(period), quickest)
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		call, cancel := context.WithTimeout(ctx, timeout)
		err := task(call)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !warned.IsZero():
			log.Info("works again")
			warned = time.Time{}
		case err != nil && time.Since(warned) >= repeatWarning && c.reachable(ctx):
			log.Warn("does not work, trying again", "error", err)
			warned = time.Now()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
