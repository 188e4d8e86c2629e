package suppression_test

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"carom/schemas/suppression"
)

var secret = []byte("0123456789abcdef")

func TestNormalize(t *testing.T) {
	for _, tc := range []struct{ name, address, want string }{
		{"as it is", "ann@example.com", "ann@example.com"},
		{"case", "Ann.Lee@EXAMPLE.Com", "ann.lee@example.com"},
		{"brackets and blanks", " <ann@example.com>\r\n", "ann@example.com"},
		{"trailing dot", "ann@example.com.", "ann@example.com"},
		{"internationalised domain", "ann@BÜCHER.example", "ann@xn--bcher-kva.example"},
		{"the same domain as A-label", "ann@XN--bcher-kva.example", "ann@xn--bcher-kva.example"},
		{"quoted at sign", `"a@b"@example.com`, `"a@b"@example.com`},
		{"underscore in the domain", "ann@a_b.example.COM", "ann@a_b.example.com"},
		{"no address", "Postmaster", "postmaster"},
		{"nothing", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := suppression.Normalize(tc.address)
			if got != tc.want {
				t.Errorf("Normalize(%q) = %q, want %q", tc.address, got, tc.want)
			}
			if again := suppression.Normalize(got); again != got {
				t.Errorf("Normalize(%q) = %q: not stable", got, again)
			}
		})
	}
}

// The key is fixed for ever: stored suppressions would be lost if it changed.
func TestKeyIsStable(t *testing.T) {
	const want = "9f70eb4f1d9f0194d58bc08c41ce2b3b"
	if got := suppression.Key(secret, "Ann@Example.COM"); got != want {
		t.Errorf("Key = %s, want %s", got, want)
	}
	if suppression.Key([]byte("another secret"), "ann@example.com") == want {
		t.Error("another secret gives the same key")
	}
}

func TestSnapshot(t *testing.T) {
	name := filepath.Join(t.TempDir(), suppression.FileName)
	if _, err := suppression.Load(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load of no file gives %v, want ErrNotExist", err)
	}
	written := time.Date(2026, 11, 23, 12, 0, 0, 1000, time.UTC)
	ann, bob, eve := suppression.Key(secret, "ann@x.test"), suppression.Key(secret, "bob@x.test"), suppression.Key(secret, "eve@x.test")
	list := listOf(t, "shop", bob, suppression.Global, ann, suppression.Global, ann)
	gone := suppression.Key(secret, "gone@x.test")
	for _, at := range []time.Time{written.Add(-time.Hour), written.Add(-time.Minute), written.Add(-2 * time.Hour)} {
		if err := list.Release(gone, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := suppression.Save(name, 4, written, list); err != nil {
		t.Fatal(err)
	}
	s, err := suppression.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if s.Generation() != 4 || !s.Written().Equal(written) || s.Len() != 2 {
		t.Errorf("generation %d, written %v, %d entries; want 4, %v, 2", s.Generation(), s.Written(), s.Len(), written)
	}
	for _, tc := range []struct {
		tenant, key string
		want        bool
	}{
		{"shop", ann, true},
		{"press", ann, true},
		{suppression.Global, ann, true},
		{"shop", bob, true},
		{"press", bob, false},
		{suppression.Global, bob, false},
		{"shop", eve, false},
		{"shop", "", false},
		{"shop", "no key", false},
	} {
		if got := s.Contains(tc.tenant, tc.key); got != tc.want {
			t.Errorf("Contains(%q, %q) = %v, want %v", tc.tenant, tc.key, got, tc.want)
		}
	}
	if at, ok := s.Released(gone); !ok || !at.Equal(written.Add(-time.Minute)) {
		t.Errorf("Released = %v, %v; want the last time", at, ok)
	}
	if _, ok := s.Released(ann); ok || s.Known(gone) || !s.Known(bob) {
		t.Error("a suppressed key is released, or a released one known as suppressed")
	}
	var none *suppression.Snapshot
	if _, ok := none.Released(gone); ok || none.Contains("shop", ann) {
		t.Error("no snapshot contains something")
	}
	if list.Suppress("", "ann@x.test") == nil || list.Release("ann@x.test", written) == nil {
		t.Error("an address was taken for a key")
	}
	if list.Suppress(strings.Repeat("x", 5000), ann) == nil {
		t.Error("a tenant of 5000 bytes was taken")
	}
}

// listOf returns a list of pairs of tenant and key.
func listOf(t *testing.T, pairs ...string) *suppression.List {
	t.Helper()
	list := &suppression.List{}
	for i := 0; i < len(pairs); i += 2 {
		if err := list.Suppress(pairs[i], pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func TestSnapshotHoldsWhatWasSaved(t *testing.T) {
	name := filepath.Join(t.TempDir(), suppression.FileName)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.Custom(func(t *rapid.T) string {
			return hex.EncodeToString([]byte{rapid.Byte().Draw(t, "byte"), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
		})
		tenant := rapid.SampledFrom([]string{suppression.Global, "a", "b", "ç"})
		type pair struct{ tenant, key string }
		entry := rapid.Custom(func(t *rapid.T) pair { return pair{tenant.Draw(t, "tenant"), key.Draw(t, "key")} })
		entries := rapid.SliceOf(entry).Draw(t, "entries")
		list := &suppression.List{}
		for _, e := range entries {
			if err := list.Suppress(e.tenant, e.key); err != nil {
				t.Fatal(err)
			}
		}
		if err := suppression.Save(name, 1, time.Unix(0, 0), list); err != nil {
			t.Fatal(err)
		}
		s, err := suppression.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		want := map[pair]bool{}
		for _, e := range entries {
			want[e] = true
		}
		if s.Len() != len(want) {
			t.Fatalf("%d entries, want %d", s.Len(), len(want))
		}
		probe := entry.Draw(t, "probe")
		if got := s.Contains(probe.tenant, probe.key); got != (want[probe] || want[pair{suppression.Global, probe.key}]) {
			t.Fatalf("Contains(%q, %q) = %v", probe.tenant, probe.key, got)
		}
		if got := s.Holds(probe.tenant, probe.key); got != want[probe] {
			t.Fatalf("Holds(%q, %q) = %v", probe.tenant, probe.key, got)
		}
	})
}

// Any change of the file is noticed.
func TestLoadRefusesDamage(t *testing.T) {
	name := filepath.Join(t.TempDir(), suppression.FileName)
	list := listOf(t, "shop", suppression.Key(secret, "a@x.test"), "", suppression.Key(secret, "b@x.test"))
	if err := list.Release(suppression.Key(secret, "c@x.test"), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := suppression.Save(name, 1, time.Unix(0, 0), list); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := suppression.Load(name); !errors.Is(err, suppression.ErrMalformed) {
			t.Errorf("%s: Load gives %v, want ErrMalformed", what, err)
		}
	}
	for n := range good {
		try("cut", good[:n])
		bad := append([]byte(nil), good...)
		bad[n] ^= 0x10
		try("changed", bad)
	}
	try("longer", append(append([]byte(nil), good...), 0))
}
