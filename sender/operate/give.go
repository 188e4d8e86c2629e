package operate

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"carom/schemas/clock"
	"carom/sender/admin"
	"carom/sender/orders"
	"carom/sender/queue"
)

func invalidf(format string, args ...any) error {
	return &orders.InvalidError{Text: fmt.Sprintf(format, args...)}
}

// Orders is part of admin.Operator.
func (o *Operator) Orders() []admin.Order {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]admin.Order, 0, len(o.Store.List()))
	for _, order := range o.Store.List() {
		list = append(list, admin.Order{Order: order, Left: o.left[order.ID]})
	}
	return list
}

// Give is part of admin.Operator.
func (o *Operator) Give(ctx context.Context, i admin.Instruction, actor string) (*admin.Result, error) {
	ctx = context.WithoutCancel(ctx) // what was begun is finished, whether or not somebody waits for the answer
	o.mu.Lock()
	defer o.mu.Unlock()
	order, err := o.order(i, actor, clock.Now())
	if err != nil {
		return nil, err
	}
	switch i.Kind {
	case admin.Resume:
		return o.endAll(ctx, i, actor, func(other *orders.Order) bool {
			return other.Kind == orders.Pause && i.Filter.Covers(other.Filter)
		})
	case admin.EnableSource:
		return o.endAll(ctx, i, actor, func(other *orders.Order) bool {
			return other.Kind == orders.DisableSource && other.IP == order.IP && orders.Covers(i.Filter.Queue, other.Filter.Queue)
		})
	case orders.SetMode:
		return o.setMode(ctx, order, i.DryRun)
	default: // something to put in force
	}
	if i.DryRun {
		if err := order.Validate(); err != nil {
			return nil, err
		}
		return o.met(order), nil
	}
	return o.begin(ctx, order)
}

// order returns the order that an instruction asks for at now.
func (o *Operator) order(i admin.Instruction, actor string, now time.Time) (*orders.Order, error) {
	order := &orders.Order{
		Kind: i.Kind, Filter: i.Filter, To: i.To, Mode: i.Mode, Reason: i.Reason, Actor: actor, Made: now, Expires: i.Expires,
	}
	if i.IP != "" {
		ip, err := netip.ParseAddr(i.IP)
		if err != nil {
			return nil, invalidf("%q is no IP address", i.IP)
		}
		order.IP = ip.Unmap().WithZone("")
	}
	switch i.Kind {
	case orders.Delete, orders.Reroute:
		if order.Filter.ArrivedBefore.IsZero() || order.Filter.ArrivedBefore.After(now) {
			order.Filter.ArrivedBefore = now
		}
		if !i.Expires.IsZero() {
			return nil, invalidf("a %s ends when it is done, and not at a time", i.Kind)
		}
		if i.To == "" {
			break // Validate says whether it is missing
		}
		name, ok := o.VMTA(i.To)
		if !ok {
			return nil, invalidf("virtual MTA %q does not exist", i.To)
		}
		order.To = name
	case admin.Resume, admin.EnableSource:
		if i.Filter.IsZero() {
			return nil, invalidf("%s what?", i.Kind)
		}
		if i.Kind == admin.EnableSource && (!order.IP.IsValid() || i.Filter.Queue == "") {
			return nil, invalidf("%s needs an address and queues", i.Kind)
		}
	default:
	}
	return order, nil
}

// met returns what an order would meet now.
func (o *Operator) met(order *orders.Order) *admin.Result {
	r := &admin.Result{DryRun: true}
	selected := filter(order.Filter)
	if order.Kind == orders.SetMode || order.Kind == orders.DisableSource || selected.WholeQueues() {
		r.Queues = o.matching(order.Filter)
	}
	if order.Kind == orders.Pause || order.Kind == orders.Delete || order.Kind == orders.Reroute {
		r.Messages, r.Recipients = o.Queues.Count(selected)
	}
	return r
}

// matching returns how many queues a filter matches.
func (o *Operator) matching(f orders.Filter) (n int) {
	for _, s := range o.Queues.Statuses() {
		if f.MatchesQueue(s.Name.Domain, s.Name.VMTA) {
			n++
		}
	}
	return n
}

// begin puts an order in force. The caller holds o.mu.
func (o *Operator) begin(ctx context.Context, order *orders.Order) (*admin.Result, error) {
	added, err := o.Store.Add(*order)
	if err != nil {
		return nil, err
	}
	order = &added
	var r *admin.Result
	switch order.Kind {
	case orders.Delete, orders.Reroute:
		if order.Kind == orders.Reroute {
			err = o.settleBefore(ctx, order)
		}
		o.settling[order.ID] = &settling{look: order.Made.Add(interval)}
		found, takeErr := o.take(ctx, order, true)
		r = &found
		if err == nil {
			err = takeErr
		}
		if order.Kind == orders.Delete {
			o.hold() // what comes back; afterwards, because to hold millions takes longer than to take them
		}
	case orders.Pause:
		o.hold()
		r = o.met(order)
	default:
		o.holdModes()
		r = o.met(order)
	}
	r.Order, r.DryRun = order, false
	o.note(ctx, string(order.Kind), signed(order))
	if err != nil {
		return nil, fmt.Errorf("order %d is in force, but: %w", order.ID, err)
	}
	return r, nil
}

// settleBefore ends the settling of orders that would take the mail which a new reroute brings: they
// were not about it. The caller holds o.mu.
func (o *Operator) settleBefore(ctx context.Context, reroute *orders.Order) error {
	for _, earlier := range o.Store.List() {
		if o.settling[earlier.ID] == nil || !earlier.Filter.MayGoTo(reroute.To) {
			continue
		}
		delete(o.settling, earlier.ID)
		if err := o.endIfDone(ctx, &earlier); err != nil {
			return err
		}
	}
	return nil
}

// signed returns an order with who gave it and why.
func signed(order *orders.Order) string {
	text := fmt.Sprintf("order %d of %s: %s", order.ID, order.Actor, order)
	if order.Reason != "" {
		text += " (" + order.Reason + ")"
	}
	return text
}

// endAll ends the orders that match says. The caller holds o.mu.
func (o *Operator) endAll(ctx context.Context, i admin.Instruction, actor string, match func(*orders.Order) bool) (*admin.Result, error) {
	r := &admin.Result{DryRun: i.DryRun}
	var ids []uint64
	for _, other := range o.Store.List() {
		if match(&other) {
			r.Ended = append(r.Ended, other)
			ids = append(ids, other.ID)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("nothing to %s by these words: %w (see carom queue holds)", i.Kind, orders.ErrUnknown)
	}
	r.Queues = o.matching(i.Filter)
	if i.DryRun {
		return r, nil
	}
	if err := o.Store.End(ids...); err != nil {
		return nil, err
	}
	for n := range r.Ended {
		o.ended(ctx, &r.Ended[n], by(actor, i.Reason))
	}
	return r, nil
}

func by(actor, reason string) string {
	how := "ended by " + actor
	if reason != "" {
		how += " (" + reason + ")"
	}
	return how
}

// setMode puts queues into a mode. An order for normal stays only where it has to stand up against
// one for backoff about more queues. The caller holds o.mu.
func (o *Operator) setMode(ctx context.Context, order *orders.Order, dryRun bool) (*admin.Result, error) {
	if err := order.Validate(); err != nil {
		return nil, err
	}
	if dryRun {
		return o.met(order), nil
	}
	if order.Mode == orders.ModeBackoff {
		return o.begin(ctx, order)
	}
	r := o.met(order)
	r.DryRun = false
	var ids []uint64
	for _, other := range o.Store.List() {
		if other.Kind == orders.SetMode && order.Filter.Covers(other.Filter) {
			r.Ended = append(r.Ended, other)
			ids = append(ids, other.ID)
		}
	}
	if slices.ContainsFunc(o.Store.List(), func(other orders.Order) bool {
		return other.Kind == orders.SetMode && other.Mode == orders.ModeBackoff && !slices.Contains(ids, other.ID)
	}) {
		added, err := o.Store.Add(*order)
		if err != nil {
			return nil, err
		}
		r.Order = &added
		o.note(ctx, string(order.Kind), signed(&added))
	}
	if err := o.Store.End(ids...); err != nil {
		return nil, err
	}
	for n := range r.Ended {
		o.ended(ctx, &r.Ended[n], by(order.Actor, order.Reason))
	}
	if r.Order == nil && len(ids) == 0 {
		o.note(ctx, string(order.Kind), order.Actor+": "+order.String())
	}
	o.Queues.SetMode(func(n queue.Name) bool { return order.Filter.MatchesQueue(n.Domain, n.VMTA) }, queue.Normal, modeReason(order))
	return r, nil
}

// End is part of admin.Operator.
func (o *Operator) End(ctx context.Context, id uint64, actor string) (*orders.Order, error) {
	ctx = context.WithoutCancel(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	order := o.find(id)
	switch {
	case order == nil:
		return nil, fmt.Errorf("order %d: %w", id, orders.ErrUnknown)
	case order.Kind == orders.Delete:
		return nil, invalidf("order %d is a delete: it cannot be taken back, and ends when it is done", id)
	}
	if err := o.Store.End(id); err != nil {
		return nil, err
	}
	o.ended(ctx, order, by(actor, ""))
	return order, nil
}

// find returns the order with the number, nil if it is not in force.
func (o *Operator) find(id uint64) *orders.Order {
	list := o.Store.List()
	i := slices.IndexFunc(list, func(order orders.Order) bool { return order.ID == id })
	if i < 0 {
		return nil
	}
	order := list[i]
	return &order
}

// Schedule is part of admin.Operator.
func (o *Operator) Schedule(ctx context.Context, pattern, actor string) (int, error) {
	f := orders.Filter{Queue: pattern}
	if err := (&orders.Order{Kind: orders.Pause, Filter: f, Actor: actor}).Validate(); err != nil {
		return 0, err
	}
	n := o.Queues.Schedule(func(name queue.Name) bool { return f.MatchesQueue(name.Domain, name.VMTA) }, true)
	o.note(ctx, "schedule", fmt.Sprintf("%s: schedule queue %s", actor, pattern))
	return n, nil
}
