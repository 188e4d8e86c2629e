// Package operate does what operators order: it puts orders (package orders) into the queues, keeps
// them there over restarts, and ends them when they are done.
//
// An order is durable before anything follows from it. Then mail that a pause or delete selects is
// held in its queue at once, a delete or reroute takes the waiting mail out, and the command is
// answered. What is in an attempt at that moment comes back to its queue and is taken then: the
// order goes on settling until no session is left that may bring some. At a restart all this is
// done again to what the spool gives back, before anything is sent: a delete whose events are not
// all written goes on, and a reroute is repeated.
//
// The events of deleted mail are written by Run in batches. The event log finishes a recipient in
// the spool, so after kill -9 each has its event once.
//
// An Operator is safe for concurrent use.
package operate

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/sender/admin"
	"carom/sender/orders"
	"carom/sender/queue"
	"carom/sender/spool"
)

// Mail reads envelopes of live messages; see package spool.
type Mail interface {
	Envelope(id event.ID) (*spool.Envelope, error)
}

// Recorder makes events durable; Record returns when they are.
type Recorder interface {
	Record(ctx context.Context, events ...*event.Event) error
}

// Options are what an Operator works with; all are needed.
type Options struct {
	Store    *orders.Store
	Queues   *queue.Manager
	Mail     Mail
	Recorder Recorder
	// Fill fills in what an envelope says about one recipient.
	Fill func(e *event.Event, envelope *spool.Envelope, index uint32)
	// VMTA returns the name of a configured virtual MTA as the configuration writes it.
	VMTA func(name string) (string, bool)
	// Sourceless reports whether a queue waits because every source of it is disabled.
	Sourceless func(s *queue.Status) bool
	// Annotate writes a note for whoever looks at the curves.
	Annotate func(ctx context.Context, name, text string) error
	Logger   *slog.Logger
}

// Operator carries out orders.
type Operator struct {
	Options

	wake chan struct{} // holds one when doomed has grown

	mu       sync.Mutex // held by whoever carries out an order, the writing of it too
	settling map[uint64]*settling
	doomed   []doomed
	left     map[uint64]int // recipients in doomed, by order
}

var _ admin.Operator = (*Operator)(nil)

// settling is a delete or reroute whose mail may still come into the queues that it names: from
// attempts, or after a start from other queues.
type settling struct {
	look     time.Time // when to look again
	restored bool      // found at start: it is repeated, and not told of again
}

// doomed is mail that a delete took out of the queues, until it is finished.
type doomed struct {
	order uint64
	mail  []queue.Taken
}

// New returns an operator with the orders of the last run in force: what they select is held when
// it gets into the queues. Recovered, then Run, do the rest.
func New(o Options) *Operator {
	op := &Operator{Options: o, wake: make(chan struct{}, 1), settling: map[uint64]*settling{}, left: map[uint64]int{}}
	for _, order := range o.Store.List() {
		if order.Kind == orders.Delete || order.Kind == orders.Reroute {
			op.settling[order.ID] = &settling{restored: true}
		}
	}
	op.hold()
	return op
}

// Recovered is called once when what the spool gave back is in the queues and nothing of it was
// tried: deletes and reroutes are done to it.
func (o *Operator) Recovered(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sweep(ctx, clock.Now())
}

// interval is how often Run looks whether orders expired, and new queues should be in backoff.
const interval = time.Second

// Run ends orders, takes mail that comes back, and writes the events of what was deleted, until ctx
// is done. It returns an error when orders or events cannot be written.
func (o *Operator) Run(ctx context.Context) error {
	finished := make(chan error, 1)
	go func() { finished <- o.finish(ctx) }()
	ticker := clock.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case err := <-finished:
			return err
		case <-ticker.C:
		}
		o.mu.Lock()
		err := o.sweep(context.WithoutCancel(ctx), clock.Now())
		o.mu.Unlock()
		if err != nil {
			// The disk may be full for a while: what is in force stays.
			o.Logger.Error("orders are not carried out", "error", err)
		}
	}
}

// hold makes the queues keep back what orders select. The caller holds o.mu, or is New.
func (o *Operator) hold() {
	var holds []queue.Hold
	for _, order := range o.Store.List() {
		if order.Kind == orders.Pause || order.Kind == orders.Delete {
			holds = append(holds, queue.Hold{ID: strconv.FormatUint(order.ID, 10), Filter: filter(order.Filter)})
		}
	}
	o.Queues.SetHolds(holds)
}

// filter returns f as the queues know it.
func filter(f orders.Filter) queue.Filter {
	return queue.Filter{
		Queue: f.Queue, Domain: f.Domain, VMTA: f.VMTA, Job: f.Job, Tenant: f.Tenant, ArrivedBefore: queue.At(f.ArrivedBefore),
	}
}

// sweep brings the queues in line with the orders at now. The caller holds o.mu.
func (o *Operator) sweep(ctx context.Context, now time.Time) error {
	if len(o.Store.List()) == 0 {
		return nil
	}
	expired, err := o.Store.Expire(now)
	if err != nil {
		return err
	}
	for i := range expired {
		o.ended(ctx, &expired[i], "expired")
	}
	o.holdModes()
	for _, order := range o.Store.List() {
		s := o.settling[order.ID]
		if s == nil || s.look.After(now) {
			continue
		}
		if err := o.settle(ctx, &order, s, now); err != nil {
			return err
		}
	}
	return nil
}

// settle takes what has come back to the queues, and notes when nothing can any more. The caller
// holds o.mu.
func (o *Operator) settle(ctx context.Context, order *orders.Order, s *settling, now time.Time) error {
	quiet := o.quiet(order)
	found, err := o.take(ctx, order, !s.restored)
	if err != nil {
		return err
	}
	settled := quiet && found.Messages == 0 && o.quiet(order)
	if s.restored {
		settled = !order.Filter.NamesQueues() || o.superseded(order) || !o.older(order, now)
	}
	if !settled {
		// What comes late is rare, and held or due later when it comes.
		s.look = now.Add(max(interval, now.Sub(order.Made)/10))
		return nil
	}
	delete(o.settling, order.ID)
	return o.endIfDone(ctx, order)
}

// longestAttempt is more than a session needs for what it has in hand.
const longestAttempt = time.Hour

// older reports whether there may be mail of any queue that arrived before order. After a start
// mail is in the queue of its domain, and gets to that of a rollup only when a session has looked for the
// way. The caller holds o.mu.
func (o *Operator) older(order *orders.Order, now time.Time) bool {
	items, _ := o.Queues.Count(queue.Filter{ArrivedBefore: queue.At(order.Filter.ArrivedBefore)})
	busy := slices.ContainsFunc(o.Queues.Statuses(), func(s queue.Status) bool { return s.Sessions > 0 })
	return items > 0 || busy && now.Sub(order.Made) < longestAttempt
}

// superseded reports whether a later reroute brings mail that order would take.
func (o *Operator) superseded(order *orders.Order) bool {
	return slices.ContainsFunc(o.Store.List(), func(later orders.Order) bool {
		return later.ID > order.ID && later.Kind == orders.Reroute && order.Filter.MayGoTo(later.To)
	})
}

// leastLife is how long a delete or reroute lives at least: mail that arrived before it may be on
// its way from the disk to the queues.
const leastLife = 10 * time.Second

// quiet reports whether no session is under way that may bring mail back which order selects. Queues
// that are always at work are never without one, so after longestAttempt those that there are have
// come later. The caller holds o.mu.
func (o *Operator) quiet(order *orders.Order) bool {
	switch age := clock.Since(order.Made); {
	case age < leastLife:
		return false
	case age >= longestAttempt:
		return true
	}
	return !slices.ContainsFunc(o.Queues.Statuses(), func(s queue.Status) bool {
		return s.Sessions > 0 && order.Filter.MatchesQueue(s.Name.Domain, s.Name.VMTA)
	})
}

// endIfDone ends a delete of which nothing is left, and a reroute that found nothing to move. The
// caller holds o.mu.
func (o *Operator) endIfDone(ctx context.Context, order *orders.Order) error {
	if o.settling[order.ID] != nil || o.left[order.ID] > 0 || order.Kind == orders.Reroute && !order.Expires.IsZero() {
		return nil
	}
	if err := o.Store.End(order.ID); err != nil {
		return err
	}
	delete(o.left, order.ID)
	o.ended(ctx, order, "done")
	return nil
}

// ended does what the end of an order asks for; how says why it ended. The caller holds o.mu.
func (o *Operator) ended(ctx context.Context, order *orders.Order, how string) {
	delete(o.settling, order.ID)
	switch order.Kind {
	case orders.Pause, orders.Delete:
		o.hold()
	case orders.SetMode:
		if order.Mode == orders.ModeBackoff {
			o.Queues.SetMode(o.only(order), queue.Normal, fmt.Sprintf("order %d %s", order.ID, how))
		}
	case orders.DisableSource:
		o.enabled(order)
	default:
	}
	o.note(ctx, string(order.Kind)+"-end", fmt.Sprintf("order %d %s: %s", order.ID, how, order))
}

// enabled lets the queues be tried that waited for the source of an order.
func (o *Operator) enabled(order *orders.Order) {
	waiting := map[queue.Name]bool{}
	for _, s := range o.Queues.Statuses() {
		if order.Filter.MatchesQueue(s.Name.Domain, s.Name.VMTA) && o.Sourceless(&s) {
			waiting[s.Name] = true
		}
	}
	if len(waiting) > 0 {
		o.Queues.Schedule(func(n queue.Name) bool { return waiting[n] }, false)
	}
}

// note writes an annotation. That it cannot be written keeps no order from being carried out.
func (o *Operator) note(ctx context.Context, name, text string) {
	o.Logger.Info("order", "what", name, "text", text)
	if err := o.Annotate(ctx, name, text); err != nil {
		o.Logger.Error("annotation not written", "error", err)
	}
}

// take takes the waiting mail that a delete or reroute selects. The caller holds o.mu.
func (o *Operator) take(ctx context.Context, order *orders.Order, record bool) (found admin.Result, err error) {
	if order.Kind == orders.Reroute {
		return o.reroute(ctx, order, record)
	}
	taken := o.Queues.Take(filter(order.Filter), math.MaxInt)
	for i := range taken {
		found.Recipients += len(taken[i].Item.Recipients)
		if i == 0 || taken[i].Queue != taken[i-1].Queue { // queue by queue
			found.Queues++
		}
	}
	found.Messages = len(taken)
	if len(taken) > 0 {
		o.doomed = append(o.doomed, doomed{order.ID, taken})
		o.left[order.ID] += found.Recipients
		select {
		case o.wake <- struct{}{}:
		default: // it is awake
		}
	}
	return found, nil
}

// reroute moves waiting mail, queue by queue: what is where it should be already stays in its place.
// The order then lives as long as the mail may. The caller holds o.mu.
func (o *Operator) reroute(ctx context.Context, order *orders.Order, record bool) (found admin.Result, err error) {
	var events []*event.Event
	var last queue.Moment
	if _, ok := o.VMTA(order.To); !ok {
		o.Logger.Error("rerouted mail goes its own way", "order", order.ID, "error", "virtual MTA "+order.To+" does not exist any more")
		return found, nil
	}
	for _, s := range o.Queues.Statuses() {
		if s.Name.VMTA == order.To || !order.Filter.MatchesQueue(s.Name.Domain, s.Name.VMTA) {
			continue
		}
		selected := filter(order.Filter)
		selected.Queue = s.Name.String()
		taken := o.Queues.Take(selected, math.MaxInt)
		recipients := 0
		for _, t := range taken {
			recipients += len(t.Item.Recipients)
			last = max(last, t.Item.Expires)
			o.Queues.Add(queue.Name{Domain: t.Queue.Domain, VMTA: order.To}, t.Item)
		}
		if len(taken) == 0 {
			continue
		}
		found.Queues++
		found.Messages += len(taken)
		found.Recipients += recipients
		text := fmt.Sprintf("rerouted to %s by order %d of %s", order.To, order.ID, order.Actor)
		events = append(events, &event.Event{
			Kind: event.Rerouted, Queue: s.Name.String(), VMTA: s.Name.VMTA, RecipientDomain: s.Name.Domain,
			Recipients: uint32(min(recipients, 1<<31)), //nolint:gosec // bounded
			Reply:      text, ReplyTemplate: event.ReplyTemplate(text),
		})
	}
	if last > 0 {
		if err := o.Store.Extend(order.ID, last.Time()); err != nil {
			return found, err
		}
		order.Expires = last.Time()
	}
	if record && len(events) > 0 {
		return found, o.Recorder.Record(ctx, events...)
	}
	return found, nil
}

// modeOf returns the order that decides about the mode of a queue, nil if there is none: the last.
func (o *Operator) modeOf(n queue.Name) *orders.Order {
	list := o.Store.List()
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Kind == orders.SetMode && list[i].Filter.MatchesQueue(n.Domain, n.VMTA) {
			return &list[i]
		}
	}
	return nil
}

// only returns what matches the queues of an order about modes that is not in force, and about which
// no order in force has a say.
func (o *Operator) only(order *orders.Order) func(queue.Name) bool {
	return func(n queue.Name) bool { return order.Filter.MatchesQueue(n.Domain, n.VMTA) && o.modeOf(n) == nil }
}

// holdModes puts the queues into backoff that orders hold there, new ones among them.
func (o *Operator) holdModes() {
	for _, order := range o.Store.List() {
		if order.Kind != orders.SetMode || order.Mode != orders.ModeBackoff {
			continue
		}
		o.Queues.SetMode(func(n queue.Name) bool {
			decides := o.modeOf(n)
			return decides != nil && decides.ID == order.ID
		}, queue.Backoff, modeReason(&order))
	}
}

func modeReason(order *orders.Order) string {
	why := fmt.Sprintf("order %d of %s", order.ID, order.Actor)
	if order.Reason != "" {
		why += ": " + order.Reason
	}
	return why
}
