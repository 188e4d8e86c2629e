// Package app is the sender node: it opens the logs, puts the parts together, and runs them until
// it is told to stop.
//
// Order is what it is about. At start the listeners are opened, and root is given up (process-user).
// Then the event log tells the spool what the last run finished,
// the spool hands out what is live, limits and suppressions are read, and only then do the doors
// open. At the end they close first, sessions finish the message they are in, and the last thing
// to stop is accounting. A node that cannot account stops with an error: what it has accepted
// stays in the spool.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"carom/ingest/correlate"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/service"
	"carom/sender/account"
	"carom/sender/admin"
	"carom/sender/cold"
	"carom/sender/config"
	"carom/sender/deliver"
	"carom/sender/dkim/libcrypto"
	"carom/sender/feed"
	"carom/sender/operate"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/reports"
	"carom/sender/resolve"
	"carom/sender/route"
	"carom/sender/scoped"
	"carom/sender/smtpd"
	"carom/sender/spool"
	"carom/sender/suppress"
	"carom/sender/throttle"
)

// node is a running sender.
type node struct {
	config  atomic.Pointer[config.Config] // in force
	started *config.Config                // what the node started with, where no reload reaches
	file    string                        // that the configuration is read from again; "" for none
	version string                        // of carom; "" if that does not matter
	logger  *slog.Logger

	reloading sync.Mutex // held while a configuration is put in force

	events, gauges, queueGauges, notes *seglog.Log

	spool     *spool.Set
	suppress  *suppress.Store
	throttle  *throttle.Throttle
	keeper    *scoped.Keeper
	recorder  *account.Recorder
	queues    *queue.Manager
	agent     *deliver.Agent
	followers []*account.Follower
	rejects   []*account.RejectLog
	reports   *reports.Processor
	turns     route.Turns // of the members of pools, for mail that comes in
	watcher   *feed.Watcher
	orders    *orders.Store
	operator  *operate.Operator
	server    *smtpd.Server
	traffic   *operate.Traffic
	cold      *cold.Store // nil where no virtual MTA has a cold one

	accepted atomic.Int64 // recipients since the start
	full     fullDisk
	budget   budget // of the event log
	closers  []func() error
}

func newNode(c *config.Config, logger *slog.Logger) *node {
	n := &node{logger: logger, started: c}
	n.config.Store(c)
	return n
}

// Run runs a sender with the configuration until ctx is done. When it listens it calls ready with
// the addresses. Errors of the configuration are *service.ConfigError.
func Run(ctx context.Context, c *config.Config, logger *slog.Logger, ready func(addresses []string)) error {
	return newNode(c, logger).start(ctx, ready)
}

// start is Run.
func (n *node) start(ctx context.Context, ready func(addresses []string)) (err error) {
	c := n.started
	listeners, addresses, err := n.listen(ctx) // while the node may be root; nobody is greeted yet
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // again, if the server has closed it already
		}
	}()
	if err := becomeUser(c, n.logger); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.open(ctx); err != nil {
		return err
	}
	return n.run(ctx, listeners, addresses, ready)
}

// opened remembers how to close something; close does so in reverse order.
func (n *node) opened(close func() error) { n.closers = append(n.closers, close) }

func (n *node) close() error {
	var errs []error
	for _, closer := range slices.Backward(n.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

func (n *node) open(ctx context.Context) error {
	c := n.config.Load()
	for stream, log := range map[string]**seglog.Log{
		event.StreamEvent: &n.events, event.StreamGauge: &n.gauges, event.StreamQueueGauge: &n.queueGauges, event.StreamAnnotation: &n.notes,
	} {
		opened, err := seglog.Open(filepath.Join(c.EventLog.Dir, stream), seglog.Options{SegmentBytes: int64(c.EventLog.SegmentSize)})
		if err != nil {
			return fmt.Errorf("event log: %w", err)
		}
		n.opened(opened.Close)
		for _, damage := range opened.Damage() {
			n.logger.Error("event log is damaged", "error", damage)
		}
		*log = opened
	}
	dir := c.Spools[0].Dir
	var err error
	if n.spool, err = n.openSpool(ctx); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	n.opened(n.spool.Close)
	if err := n.replay(); err != nil {
		return err
	}

	suppressionKey, err := suppressionKey(c, dir)
	if err != nil {
		return err
	}
	if n.suppress, err = suppress.Open(filepath.Join(dir, "suppressed"), suppressionKey, n.logger); err != nil {
		return err
	}
	n.opened(n.suppress.Close)
	n.throttle = throttle.New(c.TotalMaxSMTPOut)
	n.throttle.LimitPeers(deliver.PeerLimits(c))
	if err := n.openCold(dir); err != nil {
		return err
	}
	n.keeper = scoped.New()
	n.watcher = feed.New(c.Feed.Dir, c.Feed.PollInterval, n.applyLimits, n.suppress.Apply, n.suppress.Change, n.logger)
	n.watcher.Poll()
	if n.orders, err = orders.Open(filepath.Join(dir, orders.FileName)); err != nil {
		return err
	}
	return n.assemble(dir)
}

// assemble makes the parts that need no disk.
func (n *node) assemble(dir string) error {
	c := n.config.Load()
	keys, err := referenceKeys(c, dir)
	if err != nil {
		return err
	}
	var sinks []account.Sink
	if c.LogBounces {
		sinks = append(sinks, bounceLog{n.logger})
	}
	if err := n.openAccounting(sinks); err != nil {
		return err
	}
	resolver, err := resolve.New(resolve.Config{Servers: c.NameServers})
	if err != nil {
		return fmt.Errorf("name servers: %w", err)
	}
	n.reports = reports.New(keys, n.suppress.Key, resolver.TXT)
	n.reports.KeepHeaders(reportHeaders(c))
	agent, err := deliver.New(deliver.Options{
		Config: c, Mail: n.spool, Resolver: resolver, Recorder: n.counted(), Throttle: n.throttle, Keeper: n.keeper,
		Suppressions: n.suppress, Keys: keys, Logger: n.logger,
		Requeue: func(name queue.Name, item *queue.Item) { n.queues.Add(name, item) },
		Note:    n.noteDelivery, SourceDisabled: n.orders.Disabled,
	})
	if err != nil {
		return &service.ConfigError{Err: err}
	}
	n.agent = agent
	n.queues = queue.NewManager(agent, queue.Options{MaxSessions: n.config.Load().TotalMaxSMTPOut})
	n.operator = n.newOperator()
	n.server = smtpd.New(c, c.HostName(), n, n.logger)
	n.logSigning()
	return nil
}

// logSigning says with what mail is signed, where there is a key.
func (n *node) logSigning() {
	if len(n.config.Load().KeyFiles()) == 0 {
		return
	}
	if version, err := libcrypto.Version(); err != nil {
		n.logger.Info("DKIM signs with Go's crypto", "reason", err)
	} else {
		n.logger.Info("DKIM signs RSA with libcrypto", "version", version)
	}
}

// replay tells the spool what the event log says of recipients after the last event that the spool
// is sure of.
func (n *node) replay() error {
	reader, err := n.openEvents(n.spool.DurableEvent() + 1)
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	defer func() { _ = reader.Close() }()
	var e event.Event
	for {
		entry, ok, err := reader.TryNext()
		if corrupt, isCorrupt := errors.AsType[*seglog.CorruptError](err); isCorrupt {
			n.logger.Error("event log is damaged", "error", corrupt)
			continue
		}
		if err != nil {
			return fmt.Errorf("event log: %w", err)
		}
		if !ok {
			return n.spool.Mark(n.events.Last())
		}
		if err := event.Decode(entry.Data, &e); err != nil {
			n.logger.Error("event not readable", "seq", entry.Seq, "error", err)
			continue
		}
		if err := account.Tell(n.spool, &e, entry.Seq); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
}

// openEvents opens the event stream at from. Where a damaged spool asks for events that are gone,
// it is told what is left: mail may be sent again, none is lost.
func (n *node) openEvents(from uint64) (*seglog.Reader, error) {
	dir := filepath.Join(n.config.Load().EventLog.Dir, event.StreamEvent)
	reader, err := seglog.OpenReader(dir, from, seglog.Options{})
	if removed, ok := errors.AsType[*seglog.RemovedError](err); ok {
		n.logger.Error("events that the spool asks for are gone", "error", removed)
		return seglog.OpenReader(dir, removed.First, seglog.Options{})
	}
	return reader, err
}

// run serves the listeners and waits for ctx.
func (n *node) run(ctx context.Context, listeners []smtpd.Listener, addresses []string, ready func([]string)) error {
	// Accounting goes on until everybody who writes has stopped, and its failure stops them.
	accounting, stopAccounting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAccounting()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	recorded := make(chan error, 1)
	go func() {
		err := n.recorder.Run(accounting)
		if err != nil {
			stop(err)
		}
		recorded <- err
	}()

	err := n.serve(ctx, listeners, addresses, ready)
	stopAccounting()
	return errors.Join(err, <-recorded)
}

// serve recovers what is live and runs the parts until ctx is done or one of them fails.
func (n *node) serve(ctx context.Context, listeners []smtpd.Listener, addresses []string, ready func([]string)) error {
	live, err := n.recover(ctx)
	select {
	case <-ctx.Done():
		return nil // told to stop; what is live is in the spool
	default:
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if err := n.operator.Recovered(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	socket, err := admin.Open(ctx, n.config.Load().Admin.Path)
	if err != nil {
		return err
	}
	if err := n.annotateStart(context.WithoutCancel(ctx), live); err != nil {
		return err
	}
	received, giveBack := hangups()
	defer giveBack()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return tuneGC(ctx) })
	group.Go(func() error { return n.queues.Run(ctx) })
	group.Go(func() error { return n.operator.Run(ctx) })
	group.Go(func() error { return n.server.Run(ctx, listeners) })
	group.Go(func() error { return n.watcher.Run(ctx) })
	for _, f := range n.followers {
		group.Go(func() error { return f.Run(ctx) })
	}
	group.Go(func() error { return n.onHangup(ctx, received) })
	group.Go(func() error { return n.gauge(ctx) })
	group.Go(func() error { return n.prune(ctx) })
	group.Go(func() error { return n.watchBudget(ctx) })
	group.Go(func() error { return n.watchHeld(ctx) })
	group.Go(func() error { return socket.Serve(ctx, n, n.operator, n.logger) })
	n.logger.Info("sender runs", "node", n.config.Load().HostName(), "listeners", addresses, "recovered_recipients", live)
	ready(addresses)
	err = group.Wait()
	return errors.Join(err, n.annotateStop(context.WithoutCancel(ctx), err))
}

// listen opens the listeners; all problems are reported at once.
func (n *node) listen(ctx context.Context) (listeners []smtpd.Listener, addresses []string, err error) {
	var errs []error
	var lc net.ListenConfig
	for _, l := range n.config.Load().Listeners {
		address, ok := l.Address()
		if !ok {
			errs = append(errs, service.Configf("%s: smtp-listener needs one address, not a range", l.Pos))
			continue
		}
		listener, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			errs = append(errs, service.Configf("%s: smtp-listener %s: %w", l.Pos, address, err))
			continue
		}
		listeners = append(listeners, smtpd.Listener{Listener: listener, Settings: l})
		addresses = append(addresses, listener.Addr().String())
	}
	if err := errors.Join(errs...); err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		return nil, nil, err
	}
	return listeners, addresses, nil
}

// referenceKeys returns the keys of reference tokens: those of the configuration, else one of the
// node's own, which it makes at its first start.
func referenceKeys(c *config.Config, dir string) (*correlate.Keys, error) {
	keys := make([]correlate.Key, 0, len(c.ReferenceKeys))
	for _, k := range c.ReferenceKeys {
		keys = append(keys, correlate.Key{ID: k.ID, Secret: []byte(k.Key.Reveal())})
	}
	if len(keys) == 0 {
		secret, err := ownSecret(filepath.Join(dir, "reference.key"))
		if err != nil {
			return nil, err
		}
		keys = []correlate.Key{{ID: 0, Secret: secret}}
	}
	set, err := correlate.NewKeys(keys...)
	if err != nil {
		return nil, &service.ConfigError{Err: err}
	}
	return set, nil
}

// suppressionKey returns the key of the suppression hash: the feed's, which all nodes share, else
// one of the node's own.
func suppressionKey(c *config.Config, dir string) ([]byte, error) {
	if c.Feed.SuppressionKey.Reveal() != "" {
		return []byte(c.Feed.SuppressionKey.Reveal()), nil
	}
	return ownSecret(filepath.Join(dir, "suppression.key"))
}

// ownSecret reads a secret of the node, or makes it.
func ownSecret(path string) ([]byte, error) {
	secret, err := os.ReadFile(path) //nolint:gosec // the node's own file
	if err == nil && len(secret) >= 32 {
		return secret, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return makeSecret(path)
}
