// Package cold counts how much mail goes to cold virtual MTAs, the addresses that are being warmed
// up (PowerMTA's cold-virtual-mta and max-cold-virtual-mta-msg).
//
// The first messages of each local day for a warm virtual MTA and a queue's domain go to its cold
// ones in turn, until each has had its quota of the day. Day 1 is the day on which a cold virtual MTA
// got the first message for the domain; days count whether there is mail or not.
//
// The counters are in one file, to which a block of messages is reserved before the first of them
// is given away. After a crash, of the process or of the machine, the whole block counts as used: a
// quota may be missed by a block, which is a tenth of it, and is never exceeded. After Close nothing
// is missed. If the file cannot be written, mail stays on the warm virtual MTA; if it was damaged,
// it does until midnight.
//
// A Store is safe for concurrent use.
package cold

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"carom/schemas/clock"
)

// maxCounters bounds what is counted; mail beyond that stays warm. One takes about 200 bytes.
const maxCounters = 1_000_000

// key names a counter.
type key struct{ warm, cold, domain string }

// counter is one cold virtual MTA at one domain.
type counter struct {
	first    int // the day of the first message, as dayOf counts
	day      int // the day that the rest is about
	used     int
	reserved int // what the file says is used; known to be there
	asked    int // the same, when all that is being written is there
}

// Store holds the counters.
type Store struct {
	path   string
	logger *slog.Logger

	mu       sync.Mutex
	counters map[key]*counter
	turns    map[[2]string]int // by warm virtual MTA and domain
	today    int               // never goes back
	closed   int               // a day on which nothing is given away
	pending  []key             // to be written
	writing  bool
	written  *sync.Cond // after every write
	failed   time.Time  // when writing failed last
	file     *os.File   // nil after a failure
	lines    int        // in the file
}

// retryWrite is how long mail stays warm after the file could not be written.
const retryWrite = time.Minute

// Open reads the counters in the file at path, which need not exist yet.
func Open(path string, logger *slog.Logger) (*Store, error) {
	s := &Store{path: path, logger: logger, closed: -1, counters: map[key]*counter{}, turns: map[[2]string]int{}}
	s.written = sync.NewCond(&s.mu)
	s.today = dayOf(clock.Now())
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("cold quotas: %w", err)
	}
	if err := s.rewrite(); err != nil {
		return nil, fmt.Errorf("cold quotas: %w", err)
	}
	return s, nil
}

// dayOf returns the number of the local day since 1970.
func dayOf(t time.Time) int {
	y, m, d := t.Date()
	return int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / (24 * 60 * 60))
}

// Choose returns the virtual MTA for a message that was meant for warm: one of the cold ones if it
// has not had its quota of the day yet, else warm. The quota is asked for the days of a cold virtual
// MTA from 1 on, and must not call the Store; 0 for day 1 is for none at all. Choose may wait for the
// disk.
func (s *Store) Choose(warm, domain string, colds []string, quota func(cold string, day int) int) string {
	if len(colds) == 0 || strings.ContainsAny(domain, "\t\r\n") { // what the file cannot hold
		return warm
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.today = max(s.today, dayOf(clock.Now()))
	if s.today == s.closed {
		return warm
	}
	turn := [2]string{warm, domain}
	start := s.turns[turn]
	for i := range colds {
		at := (start + i) % len(colds)
		if s.use(key{warm, colds[at], domain}, quota) {
			s.turns[turn] = at + 1
			return colds[at]
		}
	}
	return warm
}

// use takes one message of a counter's quota. The caller holds s.mu, which is released while the
// disk is at work.
func (s *Store) use(k key, quota func(cold string, day int) int) bool {
	c := s.counters[k]
	if c == nil {
		if quota(k.cold, 1) <= 0 || len(s.counters) >= maxCounters {
			return false
		}
		c = &counter{first: s.today, day: s.today}
		s.counters[k] = c
	}
	if c.day != s.today {
		c.day, c.used, c.reserved, c.asked = s.today, 0, 0, 0
	}
	most := quota(k.cold, c.day-c.first+1)
	if c.used >= most {
		return false
	}
	c.used++ // before the lock is released
	day := c.day
	for c.day == day && c.used > c.reserved {
		if c.used > c.asked {
			c.asked = min(most, c.used+most/10)
			s.pending = append(s.pending, k)
		}
		if !s.commit() {
			break
		}
	}
	if c.day == day && c.used > c.reserved {
		c.used-- // the file cannot be written
		return false
	}
	return true
}

// Close writes down what was really used. Choose must not be called any more.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing {
		s.written.Wait()
	}
	for _, c := range s.counters {
		c.reserved, c.asked = c.used, c.used
	}
	if err := s.rewrite(); err != nil {
		return fmt.Errorf("cold quotas: %w", err)
	}
	return s.file.Close()
}
