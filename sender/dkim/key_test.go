package dkim

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

func TestAlgorithm(t *testing.T) {
	keys := newKeys(
		t,
		Key{"r", "example.com", private(rsaKey())},
		Key{"e", "example.com", private(edKey())},
	)
	for _, tc := range []struct {
		algorithm Algorithm
		selector  string
	}{{"", "r"}, {RSASHA256, "r"}, {Ed25519SHA256, "e"}} {
		s, err := NewSigner(keys, Options{Algorithm: tc.algorithm})
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Sign(NewMessage(wire(message)), Request{})
		if err != nil || tags(sig.Header)["s"] != tc.selector {
			t.Errorf("algorithm %q: %s, %v; want the key %s", tc.algorithm, sig.Header, err, tc.selector)
		}
	}
	s := newWithOptions(t, Options{Algorithm: RSASHA256}, Key{"e", "example.com", private(edKey())})
	if _, err := s.Sign(NewMessage(wire(message)), Request{}); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key of the kind: %v", err)
	}
}

// TestOrderOfManyKeys compares the index with a walk through the list.
func TestOrderOfManyKeys(t *testing.T) {
	key := private(edKey())
	domains := []string{"a.b.c", "b.c", "x.c", "*", "c", "b.c", "q.a.b.c", "xb.c"}
	list := make([]Key, 0, 4*len(domains))
	for i := range cap(list) {
		list = append(list, Key{fmt.Sprintf("s%d", i%5), domains[(i*7+i/3)%len(domains)], key})
	}
	for start := range list {
		keys := newKeys(t, list[start:]...)
		for _, domain := range append(domains, "z.a.b.c", "d", "s.x.c") {
			for _, selector := range []string{"", "s0", "S3", "none"} {
				for _, exact := range []bool{false, true} {
					var want *Key
					for i := range keys.list {
						k := &keys.list[i]
						fits := k.Domain == AnyDomain || k.Domain == domain || !exact && within(domain, k.Domain)
						if fits && (selector == "" || selector == "S3" && k.Selector == "s3" || k.Selector == selector) {
							want = k
							break
						}
					}
					if got, private := keys.pick(domain, exact, selector, ""); got != want || (private == nil) != (want == nil) {
						t.Fatalf("from key %d: pick(%s, %t, %q) = %v, want %v", start, domain, exact, selector, got, want)
					}
				}
			}
		}
	}
}

// exchanged is a Source whose key changes.
type exchanged struct{ current atomic.Pointer[PrivateKey] }

func (e *exchanged) Private() *PrivateKey { return e.current.Load() }

// TestKeyExchanged: each signature is whole with the old or the new key, even of another kind,
// while goroutines sign.
func TestKeyExchanged(t *testing.T) {
	var source exchanged
	source.current.Store(private(rsaKey()))
	s := newSigner(t, Key{"s", "example.com", &source})
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			for range 20 {
				sig, err := s.Sign(NewMessage(wire(message)), Request{})
				if err != nil {
					t.Error(err)
					return
				}
				signed := slices.Concat(sig.Header, wire(message))
				var bad error
				if tags(sig.Header)["a"] == string(RSASHA256) {
					_, bad = verify(t, signed, "s._domainkey.example.com", rsaKey())
				} else {
					_, bad = verify(t, signed, "s._domainkey.example.com", edKey())
				}
				if bad != nil {
					t.Error(bad)
				}
			}
		})
	}
	for range 50 {
		source.current.Store(private(edKey()))
		source.current.Store(private(rsaKey()))
	}
	done.Wait()
}
