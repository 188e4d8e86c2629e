package loop

import (
	"time"

	"carom/analytics/control"
	"carom/deploy/receivers/provider"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
)

// Special is what a receiver answers to one tenant's mail beside what it answers to all: it limits
// a domain or refuses content, which the model of deploy/receivers does not know.
type Special struct {
	Reply     string
	PerSecond float64 // of the tenant's mail that is not answered so; 0 for none
}

// special is the state of a stream with a Special.
type special struct {
	Special
	tokens  float64
	at      time.Duration
	buckets []control.Bucket // of the scoped key: the answers to this tenant's mail
	state   control.State
	limit   float64 // in force, over all nodes
	send    float64 // tokens of it
	sentAt  time.Duration
}

// scopedHold is how long a message waits on its node where a scoped limit is used up.
const scopedHold = 10 * time.Second

// refuses returns the special answer to a message of the stream, if it gets one.
func (s *special) refuses(now time.Duration) (provider.Verdict, bool) {
	if s.PerSecond > 0 {
		s.tokens = min(max(1, 10*s.PerSecond), s.tokens+s.PerSecond*(now-s.at).Seconds())
		s.at = now
		if s.tokens >= 1 {
			s.tokens--
			return provider.Verdict{}, false
		}
	}
	return provider.Verdict{Class: provider.Class("special " + s.Reply[:3]), Reply: s.Reply}, true
}

// may reports whether the scoped limit lets a message go now, and takes it.
func (s *special) may(now time.Duration) bool {
	if s.state.Epoch == 0 {
		return true
	}
	s.send = min(max(1, depthTime*s.limit), s.send+s.limit*(now-s.sentAt).Seconds())
	s.sentAt = now
	if s.send < 1 {
		return false
	}
	s.send--
	return true
}

// count adds an answer to the scoped key.
func (s *special) count(now time.Duration, d taxonomy.Dimension) {
	start := now.Truncate(bucketStep)
	last := len(s.buckets) - 1
	if last < 0 || s.buckets[last].Start != start || s.buckets[last].Epoch != s.state.Epoch {
		s.buckets = append(s.buckets, control.Bucket{Start: start, Epoch: s.state.Epoch, MinMessages: control.NoMessages})
		last++
	}
	count(&s.buckets[last].Counts, d)
}

// decideScoped runs the loop for the scoped keys of a world.
func (l *loopSender) decideScoped(w *world) {
	for i := range w.special {
		s := w.special[i]
		if s == nil {
			continue
		}
		to := max(0, w.now-w.setup.Delay+w.setup.Period+pickup).Truncate(bucketStep)
		windows := control.Windows{Static: limits.None(), To: to, Delay: w.setup.Delay, Nodes: len(w.nodes), Waiting: 1}
		for _, b := range s.buckets {
			if b.Start+bucketStep <= to {
				windows.Buckets = append(windows.Buckets, b)
				windows.Newest = b.Start + bucketStep
			}
		}
		state, want, _ := control.Decide(&l.policy, s.state, w.now, &windows)
		s.state, s.limit = state, want.RatePerSecond
	}
}
