package suppress

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"carom/schemas/suppression"
)

var secret = []byte("0123456789abcdef")

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestOwnEntriesSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own")
	s := open(t, path)
	if err := s.Add("Ann@Example.com"); err != nil {
		t.Fatal(err)
	}
	if file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := file.WriteString("a line that a crash cut"); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if !again.Suppressed("any", "ann@example.COM") {
		t.Error("the address is not suppressed after a restart")
	}
	if again.Suppressed("any", "bob@example.com") {
		t.Error("another address is suppressed")
	}
}

// snapshotOf returns a snapshot of what fill puts into it.
func snapshotOf(t *testing.T, fill func(*suppression.List) error) *suppression.Snapshot {
	t.Helper()
	name, list := filepath.Join(t.TempDir(), suppression.FileName), &suppression.List{}
	if err := errors.Join(fill(list), suppression.Save(name, 1, time.Unix(1, 0), list)); err != nil {
		t.Fatal(err)
	}
	snapshot, err := suppression.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestSnapshotTakesOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "own")
	s := open(t, path)
	for _, address := range []string{"ann@example.com", "bob@example.com", "cid@example.com"} {
		if err := s.Add(address); err != nil {
			t.Fatal(err)
		}
	}
	s.Apply(snapshotOf(t, func(l *suppression.List) error {
		return errors.Join(l.Suppress(suppression.Global, s.Key("ann@example.com")), l.Suppress("shop", s.Key("cid@example.com")))
	}))
	for _, tc := range []struct {
		tenant, address string
		want            bool
	}{
		{"shop", "ann@example.com", true},
		{"shop", "bob@example.com", true},
		{"shop", "cid@example.com", true},
		{"other", "cid@example.com", false},
	} {
		if got := s.Suppressed(tc.tenant, tc.address); got != tc.want {
			t.Errorf("Suppressed(%s, %s) = %v, want %v", tc.tenant, tc.address, got, tc.want)
		}
	}
	if len(s.own) != 1 {
		t.Errorf("%d own entries after the snapshot took one over, want 1", len(s.own))
	}
	if again := open(t, path); again.Suppressed("shop", "ann@example.com") || !again.Suppressed("shop", "bob@example.com") {
		t.Error("the file does not hold what the snapshot lacks")
	}
}

// TestChangesSinceTheSnapshot: what the warehouse said last holds, for the tenant it speaks of.
func TestChangesSinceTheSnapshot(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "own"))
	ann, bob := s.Key("ann@example.com"), s.Key("bob@example.com")
	want := func(when, want string) {
		t.Helper()
		got := ""
		for _, address := range []string{"ann@example.com", "bob@example.com"} {
			for _, tenant := range []string{"shop", "press"} {
				if s.Suppressed(tenant, address) {
					got += address[:3] + "/" + tenant + " "
				}
			}
		}
		if got != want {
			t.Errorf("%s: suppressed are %q, want %q", when, got, want)
		}
	}
	s.Change([]suppression.Change{{Key: bob, Tenant: "shop", Suppressed: true}})
	want("a change alone", "bob/shop ")
	s.Apply(snapshotOf(t, func(l *suppression.List) error { return l.Suppress(suppression.Global, ann) }))
	want("the snapshot takes the place of changes before", "ann/shop ann/press ")
	s.Change([]suppression.Change{{Key: ann}, {Key: ann, Tenant: "press", Suppressed: true}, {Key: bob, Suppressed: true}})
	want("changes", "ann/press bob/shop bob/press ")
	s.Change([]suppression.Change{{Key: bob}, {Key: ann, Tenant: "press"}})
	want("taken back", "")
}

// TestOwnEntriesFollowTheWarehouse: an own entry is for every tenant and at once; it ends when the
// warehouse has spoken of that report or of a later one, whatever it said, and not before.
func TestOwnEntriesFollowTheWarehouse(t *testing.T) {
	for _, tc := range []struct {
		name    string
		age     time.Duration // of the statement
		change  func(key string, at time.Time) suppression.Change
		release bool // in a snapshot
		want    bool
	}{
		{"suppressed by the warehouse", 0, func(k string, at time.Time) suppression.Change {
			return suppression.Change{Key: k, Suppressed: true, At: at}
		}, false, true},
		{"for one tenant", 0, func(k string, at time.Time) suppression.Change {
			return suppression.Change{Key: k, Tenant: "other", Suppressed: true, At: at}
		}, false, false},
		{"pending, or taken back", time.Second, func(k string, at time.Time) suppression.Change { return suppression.Change{Key: k, At: at} }, false, false},
		{"taken back before the report", time.Hour, func(k string, at time.Time) suppression.Change { return suppression.Change{Key: k, At: at} }, false, true},
		{"released in a snapshot", time.Second, nil, true, false},
		{"released before the report", time.Hour, nil, true, true},
		{"another address", 0, func(_ string, at time.Time) suppression.Change {
			return suppression.Change{Key: "00000000000000000000000000000001", At: at}
		}, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "own")
			s := open(t, path)
			if err := s.Add("ann@example.com"); err != nil {
				t.Fatal(err)
			}
			s = open(t, path) // the time survives a restart
			key, at := s.Key("ann@example.com"), time.Now().Add(-tc.age)
			if tc.release {
				s.Apply(snapshotOf(t, func(l *suppression.List) error { return l.Release(key, at) }))
			} else {
				s.Change([]suppression.Change{tc.change(key, at)})
			}
			if got := s.Suppressed("shop", "ann@example.com"); got != tc.want {
				t.Errorf("suppressed: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestWhatTheDiskRefusedIsNotPromised: an entry whose write failed is in force, and the next Add
// of it writes it instead of taking it for known.
func TestWhatTheDiskRefusedIsNotPromised(t *testing.T) {
	path := filepath.Join(t.TempDir(), "suppressed")
	s := open(t, path)
	if err := s.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("ann@example.com"); err == nil || !s.Suppressed("shop", "ann@example.com") {
		t.Errorf("a write to a closed file: %v; in force: %v", err, s.Suppressed("shop", "ann@example.com"))
	}
	s.file = nil // it is closed
	if err := s.Add("ann@example.com"); err != nil {
		t.Fatal(err)
	}
	if again := open(t, path); !again.Suppressed("shop", "ann@example.com") {
		t.Error("an entry that Add promised is not in the file")
	}
}
