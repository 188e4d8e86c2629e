// Package suppress knows whom this node must not mail: the snapshot that came from the warehouse, the
// changes since, and what the node itself has learnt from reports that prove themselves.
//
// The node's own entries are kept in a file, one line each, synced before Add returns, until the
// warehouse has spoken of the address: it may suppress it for one tenant alone, or find that the
// provider had an accident and let it go. Look-ups take a lock for a moment and touch no disk. A Store is safe for
// concurrent use.
package suppress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carom/schemas/atomicfile"
	"carom/schemas/clock"
	"carom/schemas/suppression"
)

// Store answers whether an address is suppressed.
type Store struct {
	hasher *suppression.Hasher
	recent [recentKeys]atomic.Pointer[recent]
	seed   maphash.Seed
	path   string
	logger *slog.Logger

	mu       sync.RWMutex
	snapshot *suppression.Snapshot // nil before the first
	changed  map[entry]bool        // since the snapshot: whether it is suppressed now
	own      map[entry]time.Time   // when it was added
	file     *os.File              // open for appending
	behind   bool                  // the file lacks own entries, or has half a line: the next Add rewrites it
}

type entry struct{ tenant, key string }

// Open reads the node's own entries from the file at path, which it makes if there is none.
func Open(path string, secret []byte, logger *slog.Logger) (*Store, error) {
	s := &Store{hasher: suppression.NewHasher(secret), seed: maphash.MakeSeed(), path: path, logger: logger, own: map[entry]time.Time{}}
	data, err := os.ReadFile(path) //nolint:gosec // the node's own file
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("suppressions: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 2 {
			continue // a line that a crash cut was never promised
		}
		at := time.Unix(0, 0) // of a line that an older carom wrote
		if len(fields) > 2 {
			if n, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
				at = time.UnixMicro(n)
			}
		}
		s.own[entry{fields[1], fields[0]}] = at
	}
	if err := s.rewrite(); err != nil {
		return nil, err
	}
	return s, nil
}

// rewrite makes the file hold the own entries and nothing else. The caller holds s.mu or is alone.
func (s *Store) rewrite() error {
	err := atomicfile.Write(s.path, func(w io.Writer) error {
		for e, at := range s.own {
			if _, err := fmt.Fprint(w, line(e, at)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("suppressions: %w", err)
	}
	file, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("suppressions: %w", err)
	}
	old := s.file
	s.file, s.behind = file, false
	if old != nil {
		return old.Close()
	}
	return nil
}

// line is an own entry in the file.
func line(e entry, at time.Time) string {
	return fmt.Sprintf("%s\t%s\t%d\n", e.key, e.tenant, at.UnixMicro())
}

// recentKeys is how many keys are remembered: an address is asked for several times on the way of one
// message, and a key costs two SHA-256.
const recentKeys = 4096

type recent struct{ address, key string }

// Key returns the key of an address, which events carry as recipient_key.
func (s *Store) Key(address string) string {
	place := &s.recent[maphash.String(s.seed, address)%recentKeys]
	if r := place.Load(); r != nil && r.address == address {
		return r.key
	}
	key := s.hasher.Key(address)
	place.Store(&recent{address, key})
	return key
}

// Suppressed reports whether the address must not be mailed on behalf of the tenant.
func (s *Store) Suppressed(tenant, address string) bool {
	s.mu.RLock()
	nobody := len(s.own) == 0 && len(s.changed) == 0 && s.snapshot.Len() == 0
	s.mu.RUnlock()
	if nobody {
		return false
	}
	key := s.Key(address)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.holds(suppression.Global, key) || tenant != suppression.Global && s.holds(tenant, key)
}

// holds reports whether the key is suppressed for the tenant itself. The caller holds s.mu.
func (s *Store) holds(tenant, key string) bool {
	e := entry{tenant, key}
	if _, ok := s.own[e]; ok {
		return true
	}
	if suppressed, ok := s.changed[e]; ok {
		return suppressed
	}
	return s.snapshot.Holds(tenant, key)
}

// Add suppresses the address for every tenant. When it returns nil the entry is on disk.
func (s *Store) Add(address string) error {
	e, now := entry{suppression.Global, s.Key(address)}, clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.own[e]; ok && !s.behind {
		return nil
	}
	s.own[e] = now // in force even if the disk refuses
	if s.behind {
		return s.rewrite()
	}
	_, err := fmt.Fprint(s.file, line(e, now))
	if err = errors.Join(err, s.file.Sync()); err != nil {
		s.behind = true
		return fmt.Errorf("suppressions: %w", err)
	}
	return nil
}

// clockSlack is how much older than an own entry what the warehouse says of it may be: it has the
// time of the report, which is a little before Add, and clocks differ.
const clockSlack = time.Minute

// Apply puts a snapshot in force and drops the node's own entries that it knows: the warehouse may
// have found that an entry, which is for every tenant here, concerns one alone, or nobody yet.
func (s *Store) Apply(snapshot *suppression.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot, s.changed = snapshot, nil
	var known []entry
	for e, at := range s.own {
		released, ok := snapshot.Released(e.key)
		if ok && !released.Add(clockSlack).Before(at) || snapshot.Known(e.key) {
			known = append(known, e)
		}
	}
	s.drop(known)
}

// Change puts changes since the snapshot in force, in their order, and drops the node's own entries
// that they speak of.
func (s *Store) Change(changes []suppression.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(map[entry]bool, len(changes))
	}
	var known []entry
	for _, c := range changes {
		s.changed[entry{c.Tenant, c.Key}] = c.Suppressed
		own := entry{suppression.Global, c.Key}
		if at, ok := s.own[own]; ok && !c.At.Add(clockSlack).Before(at) {
			known = append(known, own)
		}
	}
	s.drop(known)
}

// drop removes own entries. The caller holds s.mu.
func (s *Store) drop(entries []entry) {
	if len(entries) == 0 {
		return
	}
	for _, e := range entries {
		delete(s.own, e)
	}
	if err := s.rewrite(); err != nil {
		s.behind = true                                                // the open file may not be the one at path any more
		s.logger.Error("own suppressions not rewritten", "error", err) // the old file holds more, which is safe
	}
}

// Close closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}
