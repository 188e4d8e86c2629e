package throttle

import (
	"context"
	"errors"
	"time"

	"carom/schemas/clock"
	"carom/schemas/limits"
)

// ErrLater is the error of Acquire when the message would have to wait for longer than the caller
// has patience.
var ErrLater = errors.New("a rate is used up")

// line is where messages wait for a rate, in the order in which they came. Only the first looks at
// the clock; it wakes the next when it leaves.
type line struct {
	first, last *waiter
	ahead       int           // recipients of all that wait
	due         time.Duration // when the first may leave, as it worked out last
}

type waiter struct {
	n          int
	line       *line
	prev, next *waiter
	wake       chan struct{} // holds one wake-up
}

func (l *line) join(w *waiter) {
	w.line, w.prev, w.next = l, l.last, nil
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	l.ahead += w.n
}

// leave takes w out of its line, if it is in one.
func (w *waiter) leave() {
	l := w.line
	if l == nil {
		return
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	if w.prev == nil {
		l.first = w.next
		l.wakeFirst()
	} else {
		w.prev.next = w.next
	}
	l.ahead -= w.n
	w.line, w.prev, w.next = nil, nil, nil
}

func (l *line) wakeFirst() {
	if l.first == nil {
		return
	}
	select {
	case l.first.wake <- struct{}{}:
	default: // it is to wake already
	}
}

// hold is the limit that holds a message back, for how long, and where one waits for it.
type hold struct {
	bound
	line *line
	wait time.Duration
}

// leastWait is the least that who comes behind others is told to wait.
const leastWait = time.Millisecond

// keyRecheck is how often the first at a key looks whether the guard or a glide have moved.
const keyRecheck = time.Second

// Acquire waits until a message with the given number of recipients may be attempted on path, and
// takes it off every limit at once. A message of many recipients goes when there is room for one of
// them and none of the windows would hold too many, or single ones would overtake it for ever; those
// behind it wait for the rest.
//
// It waits for at most patience. If that is not enough it takes nothing and returns ErrLater at
// once, with what denies the message; the Denial's Wait says when to come back. Otherwise an error
// is that of ctx, also where nothing has to be waited for.
func (t *Throttle) Acquire(ctx context.Context, p Path, recipients int, patience time.Duration) (Permit, Denial, error) {
	if err := ctx.Err(); err != nil {
		return Permit{}, Denial{}, err
	}
	t.mu.Lock()
	now := t.now()
	r := t.route(now, &p)
	h, held := t.slowest(now, &r, recipients, nil)
	if !held {
		t.take(now, &r, recipients)
		t.mu.Unlock()
		return r.permit(), Denial{}, nil
	}
	r.key.keeps(&h.bound, h.wait)
	if h.wait > patience {
		t.mu.Unlock()
		return Permit{}, h.denial(h.wait), ErrLater
	}
	r.key.hold(now, +1)
	t.mu.Unlock()
	return t.await(ctx, p, h, recipients, now+min(patience, 1<<62-now))
}

// await is Acquire for a message that has to wait: h holds it back.
func (t *Throttle) await(ctx context.Context, p Path, h hold, recipients int, deadline time.Duration) (Permit, Denial, error) {
	w := &waiter{n: recipients, wake: make(chan struct{}, 1)}
	timer := clock.NewTimer(time.Hour)
	defer timer.Stop()
	var waited waits

	t.mu.Lock()
	defer func() {
		w.leave()
		t.key(p.Key).hold(t.now(), -1)
		t.mu.Unlock()
	}()
	for {
		now := t.now()
		if w.line != h.line {
			w.leave()
			h.line.join(w)
		}
		until := deadline - now
		if h.line.first == w {
			h.line.due = now + h.wait
			until = min(until, h.wait)
			if h.key {
				until = min(until, keyRecheck)
			}
		}
		timer.Reset(clock.Real(until))
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-timer.C:
		case <-w.wake:
		case <-changed:
		case <-ctx.Done():
		}
		err := ctx.Err()
		t.mu.Lock()
		if err != nil {
			return Permit{}, Denial{}, err
		}
		since := now
		now = t.now()
		waited.add(h.scope, now-since)
		r := t.route(now, &p)
		next, held := t.slowest(now, &r, recipients, w)
		if !held {
			t.take(now, &r, recipients)
			permit := r.permit()
			if permit.LimitingScope = waited.longest(); permit.LimitingScope == string(limits.ByLoop) {
				b := r.keyBound(false)
				permit.Cap = b.cap()
			}
			return permit, Denial{}, nil
		}
		h = next
		first := h.line.first == w || h.line != w.line
		if now >= deadline || first && now+h.wait > deadline {
			t.mu.Unlock()
			denial := h.denial(h.wait)
			t.mu.Lock()
			return Permit{}, denial, ErrLater
		}
	}
}

// hold counts the messages that wait for a rate at the key.
func (k *keyState) hold(now time.Duration, n int) {
	if k.waiting > 0 {
		k.bound += now - max(k.since, k.gauged)
	}
	k.waiting += n
	k.since = now
}

func (r *route) permit() Permit {
	e := &r.effective
	return Permit{Epoch: e.Epoch, Actor: e.Actor, ReasonID: e.ReasonID, Canary: e.Canary, Loop: r.loop}
}

// slowest returns the limit for which a message of n recipients has to wait longest, and false if
// it may leave now. w is the message's place in a line, nil if it has none yet. The caller holds
// t.mu.
func (t *Throttle) slowest(now time.Duration, r *route, n int, w *waiter) (h hold, held bool) {
	worse := func(l *line, wait time.Duration) bool {
		if l.first != nil && l.first != w {
			wait = max(wait, l.due-now, leastWait) // the others first
		}
		if wait <= h.wait {
			return false
		}
		h.line, h.wait, held = l, wait, true
		return true
	}
	message := func(m *meter) bool {
		return m != nil && !m.rate.Unlimited() && worse(&m.line, max(m.delay(now, n), m.behind(now, m.line.before(w))))
	}
	data := func(m *meter) bool {
		return m != nil && !m.rate.Unlimited() && worse(&m.line, m.delay(now, 1))
	}
	if message(r.queue.messages) {
		h.bound = r.queueRate()
	}
	if data(r.queue.data) {
		h.bound = r.queueDataRate()
	}
	if s := r.source; s != nil {
		if message(s.messages) {
			h.bound = r.sourceBound("source-ip-max-msg-rate", r.sourceIP.Rate)
		}
		if data(s.data) {
			h.bound = r.sourceBound("source-ip-max-data-volume-rate", r.sourceIP.DataRate)
		}
	}
	if message(&r.vmta.messages) {
		h.bound = r.vmtaBound("max-smtp-msg-rate", r.VMTALimits.Rate)
	}
	if data(&r.vmta.data) {
		h.bound = r.vmtaBound("max-smtp-data-volume-rate", r.VMTALimits.DataRate)
	}
	for _, p := range r.VMTALimits.Pools {
		g := group(t.pools, p.Name)
		if message(&g.messages) {
			h.bound = poolBound(p, "max-smtp-msg-rate", p.Rate)
		}
		if data(&g.data) {
			h.bound = poolBound(p, "max-smtp-data-volume-rate", p.DataRate)
		}
	}
	if k := r.key; k.rate > 0 && worse(&k.line, k.delay(k.line.before(w))) {
		h.bound = r.keyBound(false)
	}
	return h, held
}

// before returns how many recipients are in the line before w, or at all if w is not in it. Behind
// the first it is an estimate that is too large.
func (l *line) before(w *waiter) int {
	switch {
	case l.first == w:
		return 0
	case w != nil && w.line == l:
		return l.ahead - w.n
	}
	return l.ahead
}

// take takes n recipients off all that limits the route.
func (t *Throttle) take(now time.Duration, r *route, n int) {
	t.each(r, func(m *meter) { m.take(now, n) })
	r.key.take(float64(n))
	r.key.passed = true
}

// each calls f with what counts recipients.
func (t *Throttle) each(r *route, f func(*meter)) {
	if r.queue.messages != nil {
		f(r.queue.messages)
	}
	if r.source != nil && r.source.messages != nil {
		f(r.source.messages)
	}
	f(&r.vmta.messages)
	for _, p := range r.VMTALimits.Pools {
		f(&group(t.pools, p.Name).messages)
	}
}

// eachData calls f with what counts bytes.
func (t *Throttle) eachData(r *route, f func(*meter)) {
	if r.queue.data != nil {
		f(r.queue.data)
	}
	if r.source != nil && r.source.data != nil {
		f(r.source.data)
	}
	f(&r.vmta.data)
	for _, p := range r.VMTALimits.Pools {
		f(&group(t.pools, p.Name).data)
	}
}

// Refund gives back what Acquire took for recipients that were not attempted.
func (t *Throttle) Refund(p Path, recipients int) {
	if recipients <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	r := t.route(now, &p)
	t.each(&r, func(m *meter) {
		m.refund(now, recipients)
		m.wakeFirst()
	})
	r.key.give(float64(recipients))
	r.key.wakeFirst()
}

// Sent counts the bytes of a message that the receiver took.
func (t *Throttle) Sent(p Path, bytes int64) {
	if !p.countsData() || bytes <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	r := t.route(now, &p)
	t.eachData(&r, func(m *meter) { m.charge(now, bytes) })
}

// countsData reports whether any limit of the path is one of bytes.
func (p *Path) countsData() bool {
	if !p.Queued.DataRate.Unlimited() || !p.VMTALimits.DataRate.Unlimited() || len(p.Queued.SourceIP) > 0 {
		return true
	}
	for _, pool := range p.VMTALimits.Pools {
		if !pool.DataRate.Unlimited() {
			return true
		}
	}
	return false
}

// waits adds up how long a message waited for each limit.
type waits struct {
	scopes [8]string
	times  [8]time.Duration
}

func (w *waits) add(scope string, d time.Duration) {
	for i := range w.scopes {
		if w.scopes[i] == scope || w.scopes[i] == "" {
			w.scopes[i] = scope
			w.times[i] += d
			return
		}
	}
}

func (w *waits) longest() string {
	most := 0
	for i, d := range w.times {
		if d > w.times[most] {
			most = i
		}
	}
	return w.scopes[most]
}
