package deliver

import (
	"sync"
	"time"
)

// The pause of a queue after connections over which nothing was delivered before a 421 ended them. A
// receiver that answers every transaction so would be called again and again as fast as it hangs up.
const (
	firstPause   = time.Second
	longestPause = 5 * time.Minute
)

// hangups are the connections of a queue that a 421 ended, one after another.
type hangups struct {
	mu    sync.Mutex
	n     int
	until time.Time
}

// hungUp notes such a connection and returns when the queue opens the next: each pause has twice the
// length of the one before. What ends while a pause is on belongs to the same refusal.
func (h *hangups) hungUp(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Before(h.until) {
		return h.until
	}
	pause := longestPause
	if h.n < 16 {
		pause = min(firstPause<<h.n, longestPause)
	}
	h.n++
	h.until = now.Add(pause)
	return h.until
}

// delivered notes that a message got through: the next pause is the first again.
func (h *hangups) delivered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n, h.until = 0, time.Time{}
}
