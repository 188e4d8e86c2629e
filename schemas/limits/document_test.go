package limits_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/limits"
)

func document(generation, epoch uint64) *limits.Document {
	return &limits.Document{
		Format: limits.Format, Generation: generation,
		IssuedAt: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), TTLSeconds: 600,
		Leases: []limits.Lease{
			{Provider: "google", Source: "192.0.2.1", Epoch: epoch, RatePerSecond: 2.5, Connections: 5, MessagesPerConnection: 20, ReasonID: "r1"},
			{Provider: "google", Source: "2001:db8::/64", Epoch: epoch, Canary: true, ReasonID: "r2", NotAfter: time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC)},
		},
		Scoped: []limits.ScopedLimit{{Provider: "google", Scope: "domain", Value: "shop.example", Epoch: 3, RatePerSecond: 1, ReasonID: "r3"}},
		Holds:  []limits.Hold{{Provider: "yahoo", Tenant: "a", Trickle: 0.02, ReasonID: "r4"}},
		Modes:  []limits.ProviderMode{{Provider: "google", Mode: limits.Active}},

		Canaries: []limits.CanaryTenant{{Provider: "google", Source: "2001:db8::/64", Tenant: "shop"}},
	}
}

func TestSaveLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), limits.FileName)
	if _, err := limits.Load(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load of no file gives %v, want ErrNotExist", err)
	}
	want := document(7, 5)
	if err := limits.Save(name, want); err != nil {
		t.Fatal(err)
	}
	got, err := limits.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document changed on the way (-want +got):\n%s", diff)
	}
}

func TestSaveKeepsTheOldDocument(t *testing.T) {
	name := filepath.Join(t.TempDir(), limits.FileName)
	if err := limits.Save(name, document(7, 5)); err != nil {
		t.Fatal(err)
	}
	bad := document(8, 6)
	bad.Leases[0].RatePerSecond = -1
	if err := limits.Save(name, bad); err == nil {
		t.Fatal("Save of a negative rate succeeded")
	}
	if got, err := limits.Load(name); err != nil || got.Generation != 7 {
		t.Errorf("after a bad document the file holds %v (%v), want generation 7", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := json.Marshal(document(7, 5))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, from, to, want string }{
		{"another format", `"format":1`, `"format":2`, "format is 2"},
		{"an unknown field", `"generation":7`, `"generation":7,"colour":"red"`, `"colour"`},
		{"no ttl", `"ttl_seconds":600`, `"ttl_seconds":0`, "ttl_seconds"},
		{"a ttl of a year", `"ttl_seconds":600`, `"ttl_seconds":31536000`, "ttl_seconds"},
		{"a key twice", `2001:db8::/64`, `192.0.2.1`, "has a lease already"},
		{"epoch of the configuration", `"epoch":5`, `"epoch":0`, "epoch 0"},
		{"a lease for nobody", `"provider":"google","source":"192.0.2.1"`, `"provider":"","source":"192.0.2.1"`, "no provider"},
		{"an unknown mode", `"active"`, `"brave"`, "brave"},
		{"a hold for everybody", `"provider":"yahoo","tenant":"a",`, ``, "all mail"},
		{"a canary of nobody", `"tenant":"shop"`, `"tenant":""`, "canary 0"},
		{"a hold that lets all through", `"trickle":0.02`, `"trickle":1`, "trickle is 1"},
		{"a rate that is a word", `"rate":2.5`, `"rate":"fast"`, "rate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(string(good), tc.from, tc.to, 1)
			if text == string(good) {
				t.Fatalf("%q is not in %s", tc.from, good)
			}
			if _, err := limits.Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Decode gives %v, want an error with %q", err, tc.want)
			}
		})
	}
	for _, text := range []string{"", "{}", "null", string(good) + "{}", string(good[:len(good)/2])} {
		if _, err := limits.Decode([]byte(text)); err == nil {
			t.Errorf("Decode(%.40q) succeeded", text)
		}
	}
}

func TestAdvanceNeverGoesBack(t *testing.T) {
	current := document(7, 5)
	if got, err := limits.Advance(nil, current); err != nil || got != current {
		t.Fatalf("Advance from nothing gives %v, %v", got, err)
	}
	for _, generation := range []uint64{6, 7} {
		if _, err := limits.Advance(current, document(generation, 9)); !errors.Is(err, limits.ErrStale) {
			t.Errorf("generation %d after 7 gives %v, want ErrStale", generation, err)
		}
	}
	next := document(8, 9)
	if got, err := limits.Advance(current, next); err != nil || got != next {
		t.Errorf("generation 8 after 7 gives %v, %v", got, err)
	}
}

func TestIsOff(t *testing.T) {
	for _, tc := range []struct {
		name  string
		modes []limits.ProviderMode
		want  bool // at google
	}{
		{"no modes", nil, false},
		{"another provider", []limits.ProviderMode{{Provider: "yahoo", Mode: limits.Off}}, false},
		{"the provider", []limits.ProviderMode{{Provider: "google", Mode: limits.Off}}, true},
		{"the kill switch", []limits.ProviderMode{{Provider: limits.EveryProvider, Mode: limits.Off}}, true},
		{"the provider knows better", []limits.ProviderMode{{Provider: "google", Mode: limits.Active}, {Provider: limits.EveryProvider, Mode: limits.Off}}, false},
		{"advice is not off", []limits.ProviderMode{{Provider: limits.EveryProvider, Mode: limits.Advise}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := limits.Document{Modes: tc.modes}
			if got := d.IsOff("google"); got != tc.want {
				t.Errorf("IsOff = %t, want %t", got, tc.want)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	for _, text := range []string{"google/192.0.2.1", "gm.test/2001:db8::/64"} {
		key, err := limits.ParseKey(text)
		if err != nil || key.String() != text {
			t.Errorf("ParseKey(%q) = %v, %v", text, key, err)
		}
	}
	for _, text := range []string{"", "google", "/192.0.2.1", "google/"} {
		if key, err := limits.ParseKey(text); err == nil {
			t.Errorf("ParseKey(%q) = %v, want an error", text, key)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := json.Marshal(document(7, 5))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := limits.Decode(data)
		if err != nil {
			return
		}
		name := filepath.Join(t.TempDir(), limits.FileName)
		if err := limits.Save(name, d); err != nil {
			t.Fatalf("a document that was read cannot be written: %v", err)
		}
		again, err := limits.Load(name)
		if err != nil {
			text, _ := os.ReadFile(name)
			t.Fatalf("a document that was written cannot be read: %v\n%s", err, text)
		}
		if diff := cmp.Diff(d, again); diff != "" {
			t.Fatalf("document changed on the way:\n%s", diff)
		}
	})
}
