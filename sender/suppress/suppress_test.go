package suppress

import (
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

func TestSnapshotTakesOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "own")
	s := open(t, path)
	for _, address := range []string{"ann@example.com", "bob@example.com", "cid@example.com"} {
		if err := s.Add(address); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, suppression.FileName)
	entries := []suppression.Entry{
		{Tenant: suppression.Global, Key: s.Key("ann@example.com")},
		{Tenant: "shop", Key: s.Key("cid@example.com")},
	}
	if err := suppression.Save(name, 1, time.Unix(1, 0), entries); err != nil {
		t.Fatal(err)
	}
	snapshot, err := suppression.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	s.Apply(snapshot)
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
