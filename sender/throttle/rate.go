package throttle

import (
	"fmt"
	"math"
	"time"

	"carom/schemas/clock"
)

// Rate is a number of messages, connections or bytes in a time: no window of length Per sees more
// than Count. The zero Rate is unlimited.
type Rate struct {
	Count int64
	Per   time.Duration
}

// Unlimited reports whether the rate is no limit.
func (r Rate) Unlimited() bool { return r.Count <= 0 || r.Per <= 0 }

// PerSecond returns the rate per second, 0 if it is unlimited.
func (r Rate) PerSecond() float64 {
	if r.Unlimited() {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}

// String returns the rate as the configuration writes it: "100/m", "1/6m", "unlimited".
func (r Rate) String() string {
	if r.Unlimited() {
		return "unlimited"
	}
	for _, u := range []struct {
		name   string
		length time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		switch n := r.Per / u.length; {
		case r.Per%u.length != 0:
		case n == 1:
			return fmt.Sprintf("%d/%s", r.Count, u.name)
		default:
			return fmt.Sprintf("%d/%d%s", r.Count, n, u.name)
		}
	}
	return fmt.Sprintf("%d/%s", r.Count, r.Per)
}

// parts is into how many parts a window is divided to count what left in it. The current part is
// counted whole beside those before it, which makes a window longer by one part: a rate costs that
// much, 2.5 %.
const parts = 40

// never is a time before all others.
const never = time.Duration(math.MinInt64 / 2)

// lateness is how much a burst makes up for timers that fire late, in the machine's time.
const lateness = 100 * time.Millisecond

// pace keeps a rate. It spaces what passes evenly, but for a burst of lateness or 2 % of the
// window, whichever is less, that makes up for timers that fire late. For single units this
// alone keeps every window within the rate: the space is (window + burst) / count, and 2.5 % more
// against what moves the packets after they left. Where several units pass at once, which they may
// as soon as one could, a window counts them too.
//
// A pace that gets a rate lets one unit through and holds no burst, so neither a restart nor a
// change of modes gives anything away. The zero pace is unlimited.
type pace struct {
	rate     Rate
	interval float64       // nanoseconds between two units
	burst    time.Duration // how much before its time a unit may pass
	next     time.Duration // when the next unit is due
	born     time.Duration // when the rate came into force
	last     time.Duration // when something passed last
	before   time.Duration // and the time before that
	window   *window       // nil as long as units have passed one by one
}

// longestRefund is how long after it passed a unit may be given back: after this no connection is
// still being opened for it.
const longestRefund = 30 * time.Minute

// set puts a rate in force. What is owed stays owed, in units, up to one window.
func (p *pace) set(now time.Duration, rate Rate) {
	if rate == p.rate {
		return
	}
	if rate.Unlimited() {
		*p = pace{}
		return
	}
	fresh := pace{rate: rate, born: now, last: never, before: never}
	most := min(rate.PerSecond()*clock.Scaled(lateness).Seconds(), float64(rate.Count)/50)
	extra := math.Floor(most)
	fresh.interval = float64(rate.Per) * (1 + 1.0/parts) / (float64(rate.Count) - extra)
	fresh.burst = time.Duration(extra * fresh.interval)
	fresh.next = now
	if !p.rate.Unlimited() {
		fresh.last = p.last
		owed := min(float64(p.next-now)/p.interval, float64(rate.Count))
		fresh.next = max(now, p.last+fresh.cost(1), now+fresh.cost(owed))
	}
	fresh.next += fresh.burst
	*p = fresh
}

// cost returns the time that n units take.
func (p *pace) cost(n float64) time.Duration { return time.Duration(math.Ceil(n * p.interval)) }

// delay returns how long n units have to wait that are to pass at once; 0 means now.
func (p *pace) delay(now time.Duration, n int) time.Duration {
	if p.rate.Unlimited() {
		return 0
	}
	wait := max(0, p.next-p.burst-now)
	if n > 1 && p.window == nil {
		p.window = p.remember(now)
	}
	if p.window != nil {
		wait = max(wait, p.window.delay(now, int64(n), p.rate.Count))
	}
	return wait
}

// behind returns how long a unit has to wait after so many others.
func (p *pace) behind(now time.Duration, others int) time.Duration {
	if others == 0 {
		return 0
	}
	return p.next + p.cost(float64(others)) - p.burst - now
}

// remember makes a window that holds at least what may have passed one by one.
func (p *pace) remember(now time.Duration) *window {
	w := newWindow(p.rate.Per, now)
	if p.last == never {
		return w
	}
	share := func(k int64) int64 { return p.rate.Count * k / (parts + 1) }
	first := w.newest - parts
	for i := first; i <= w.newest; i++ {
		if i >= w.part(p.born) && i <= w.part(p.last) {
			w.add(i, share(i-first+1)-share(i-first))
		}
	}
	if at := w.part(p.last); at >= first {
		w.add(at, 1+int64(float64(p.burst)/p.interval))
	}
	return w
}

// take lets n units pass now. More than the rate's count are paid off afterwards.
func (p *pace) take(now time.Duration, n int) {
	if p.rate.Unlimited() {
		return
	}
	p.next = max(p.next, now) + p.cost(float64(n))
	p.before, p.last = p.last, now
	if p.window == nil {
		return
	}
	p.window.advance(now)
	if n == 1 && p.window.sum == 0 {
		p.window = nil // one by one again
		return
	}
	p.window.add(p.window.newest, int64(n))
}

// charge makes the rate owe n units that passed already.
func (p *pace) charge(now time.Duration, n int64) {
	if p.rate.Unlimited() {
		return
	}
	p.next = max(p.next, now) + p.cost(float64(n))
	p.last = now
}

// refund gives n units back that were taken and did not pass. Which of several that were taken it
// was is not known, so at a slow rate the next one waits for its space after the last one all the
// same, unless that was alone.
func (p *pace) refund(now time.Duration, n int) {
	if p.rate.Unlimited() {
		return
	}
	next := p.next - p.cost(float64(n))
	switch {
	case p.before < now-longestRefund:
		p.last, p.before = p.before, never
	case p.burst == 0:
		next = max(next, min(p.next, p.last+p.cost(1)))
	}
	p.next = next
	if p.window != nil {
		p.window.advance(now)
		p.window.remove(int64(n))
	}
}

// settled reports whether nothing is lost when the pace is forgotten.
func (p *pace) settled(now time.Duration) bool {
	if p.rate.Unlimited() {
		return true
	}
	if p.window != nil {
		p.window.advance(now)
		if p.window.sum > 0 {
			return false
		}
	}
	return p.next <= now
}

// window counts what passed in the parts of a window and in the current part.
type window struct {
	width  time.Duration // of a part
	newest int64         // number of the current part since the start
	counts [parts + 1]uint32
	sum    int64
}

func newWindow(per, now time.Duration) *window {
	w := &window{width: max(1, (per+parts-1)/parts)}
	w.newest = w.part(now)
	return w
}

// part returns the number of the part that a time is in; before the start it is negative.
func (w *window) part(t time.Duration) int64 {
	n := int64(t / w.width)
	if t < 0 {
		n--
	}
	return n
}

func (w *window) slot(part int64) *uint32 {
	return &w.counts[((part%(parts+1))+parts+1)%(parts+1)]
}

func (w *window) advance(now time.Duration) {
	to := w.part(now)
	if to-w.newest > parts {
		w.counts, w.sum, w.newest = [parts + 1]uint32{}, 0, to
	}
	for w.newest < to {
		w.newest++
		s := w.slot(w.newest)
		w.sum -= int64(*s)
		*s = 0
	}
}

func (w *window) add(part, n int64) {
	s := w.slot(part)
	n = min(n, math.MaxUint32-int64(*s))
	*s += uint32(n) //nolint:gosec // fits, see above
	w.sum += n
}

// remove takes n out of the oldest parts: what is counted leaves the window late rather than early.
func (w *window) remove(n int64) {
	for part := w.newest - parts; part <= w.newest && n > 0; part++ {
		s := w.slot(part)
		less := min(n, int64(*s))
		*s -= uint32(less) //nolint:gosec // not more than *s
		w.sum -= less
		n -= less
	}
}

// delay returns how long until n more fit under count; a number above count waits until the window
// is empty.
func (w *window) delay(now time.Duration, n, count int64) time.Duration {
	w.advance(now)
	left := w.sum
	for part := w.newest - parts; part <= w.newest; part++ {
		if left == 0 || left+n <= count {
			return max(0, time.Duration(part+parts)*w.width-now)
		}
		left -= int64(*w.slot(part))
	}
	return max(0, time.Duration(w.newest+parts+1)*w.width-now)
}
