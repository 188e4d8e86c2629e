// Package suppress knows whom this node must not mail: the snapshot that came from the warehouse,
// and what the node itself has learnt since from reports that prove themselves.
//
// The node's own entries are kept in a file, one line each, synced before Add returns, until a
// snapshot holds them. Look-ups take a lock for a moment and touch no disk. A Store is safe for
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
	"strings"
	"sync"
	"sync/atomic"

	"carom/schemas/atomicfile"
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
	own      map[entry]bool
	file     *os.File // open for appending
	behind   bool     // the file lacks own entries, or has half a line: the next Add rewrites it
}

type entry struct{ tenant, key string }

// Open reads the node's own entries from the file at path, which it makes if there is none.
func Open(path string, secret []byte, logger *slog.Logger) (*Store, error) {
	s := &Store{hasher: suppression.NewHasher(secret), seed: maphash.MakeSeed(), path: path, logger: logger, own: map[entry]bool{}}
	data, err := os.ReadFile(path) //nolint:gosec // the node's own file
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("suppressions: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if key, tenant, ok := strings.Cut(lines.Text(), "\t"); ok { // a line that a crash cut was never promised
			s.own[entry{tenant, key}] = true
		}
	}
	if err := s.rewrite(); err != nil {
		return nil, err
	}
	return s, nil
}

// rewrite makes the file hold the own entries and nothing else. The caller holds s.mu or is alone.
func (s *Store) rewrite() error {
	err := atomicfile.Write(s.path, func(w io.Writer) error {
		for e := range s.own {
			if _, err := fmt.Fprintf(w, "%s\t%s\n", e.key, e.tenant); err != nil {
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
	nobody := len(s.own) == 0 && s.snapshot == nil
	s.mu.RUnlock()
	if nobody {
		return false
	}
	key := s.Key(address)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.own[entry{suppression.Global, key}] || s.own[entry{tenant, key}] ||
		s.snapshot != nil && s.snapshot.Contains(tenant, key)
}

// Add suppresses the address for every tenant. When it returns nil the entry is on disk.
func (s *Store) Add(address string) error {
	e := entry{suppression.Global, s.Key(address)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own[e] && !s.behind {
		return nil
	}
	s.own[e] = true // in force even if the disk refuses
	if s.behind {
		return s.rewrite()
	}
	_, err := fmt.Fprintf(s.file, "%s\t%s\n", e.key, e.tenant)
	if err = errors.Join(err, s.file.Sync()); err != nil {
		s.behind = true
		return fmt.Errorf("suppressions: %w", err)
	}
	return nil
}

// Apply puts a snapshot in force and drops the node's own entries that it knows: the warehouse may
// have found that an entry, which is for every tenant here, concerns one alone.
func (s *Store) Apply(snapshot *suppression.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = snapshot
	before := len(s.own)
	for e := range s.own {
		if snapshot.Known(e.key) {
			delete(s.own, e)
		}
	}
	if len(s.own) == before {
		return
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
