package correlate

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"carom/schemas/event"
)

var (
	message = uuid.MustParse("01936f3e-7c00-7abc-8def-0123456789ab")
	now     = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	expires = now.AddDate(0, 0, 30)
)

func key(id uint8) Key { return Key{ID: id, Secret: bytes.Repeat([]byte{id}, 32)} }

func newKeys(tb testing.TB, keys ...Key) *Keys {
	tb.Helper()
	k, err := NewKeys(keys...)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func sign(tb testing.TB, k *Keys, index uint32, recipient string) string {
	tb.Helper()
	token, err := k.Sign(message, index, recipient, expires)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

func TestNewKeysRefuses(t *testing.T) {
	for name, keys := range map[string][]Key{
		"none":         nil,
		"short secret": {{ID: 1, Secret: make([]byte, 15)}},
		"same id":      {key(1), key(1)},
	} {
		if _, err := NewKeys(keys...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTokenStands holds the form of a token: a change here orphans every report under way.
func TestTokenStands(t *testing.T) {
	const want = "b-aeazg3z6pqahvpen54asgrlhrgvqaaadkffugsvqvws6u44o4csvqxzihi7i2"
	got := sign(t, newKeys(t, key(1)), 3, "Ann@Mail.Example")
	if got != want {
		t.Errorf("token %s, want %s", got, want)
	}
	if len(got) > 64 {
		t.Errorf("%d octets do not fit a local part", len(got))
	}
}

func TestVerify(t *testing.T) {
	k := newKeys(t, key(1))
	token := sign(t, k, 3, "ann@mail.example")
	flipped := []byte(token)
	flipped[10] ^= 'a' ^ 'b'
	if flipped[10] < 'a' || flipped[10] > 'z' {
		t.Fatalf("the test's change makes no letter: %q", flipped)
	}
	other := newKeys(t, Key{ID: 1, Secret: bytes.Repeat([]byte{9}, 32)})
	for _, tc := range []struct {
		name, token string
		keys        *Keys
		now         time.Time
		want        error
	}{
		{"genuine", token, k, now, nil},
		{"upper case", strings.ToUpper(token), k, now, nil},
		{"key is not the first any more", token, newKeys(t, key(2), key(1)), now, nil},
		{"key is gone", token, newKeys(t, key(2)), now, ErrUnknownKey},
		{"other secret with the same id", token, other, now, ErrForged},
		{"one letter is changed", string(flipped), k, now, ErrForged},
		{"last second", token, k, time.Date(2026, 12, 23, 23, 59, 59, 0, time.UTC), nil},
		{"too old", token, k, time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), ErrExpired},
		{"empty", "", k, now, ErrMalformed},
		{"cut", token[:len(token)-1], k, now, ErrMalformed},
		{"longer", token + "a", k, now, ErrMalformed},
		{"no prefix", "xx" + token[2:], k, now, ErrMalformed},
		{"no base32", token[:20] + "1" + token[21:], k, now, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ref, err := tc.keys.Verify(tc.token, tc.now)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Fatalf("Verify = %v, want %v", err, tc.want)
			}
			if err == nil && (ref.MessageID != message || ref.Index != 3 || !ref.Matches("ann@mail.example")) {
				t.Errorf("Verify = %+v", ref)
			}
			if err != nil && !errors.Is(err, ErrExpired) && ref != (Ref{}) {
				t.Errorf("Verify = %+v with %v", ref, err)
			}
		})
	}
}

func TestUnusedBitsAreNoSecondToken(t *testing.T) {
	k := newKeys(t, key(1))
	token := sign(t, k, 3, "ann@mail.example")
	last := strings.IndexByte("abcdefghijklmnopqrstuvwxyz234567", token[len(token)-1])
	twin := token[:len(token)-1] + string("abcdefghijklmnopqrstuvwxyz234567"[last^1])
	if _, err := k.Verify(twin, now); !errors.Is(err, ErrMalformed) {
		t.Errorf("Verify = %v, want ErrMalformed", err)
	}
}

func TestSignRefuses(t *testing.T) {
	k := newKeys(t, key(1))
	if _, err := k.Sign(message, MaxIndex+1, "a@b.example", expires); err == nil {
		t.Error("an index that does not fit is signed")
	}
	if _, err := k.Sign(message, 0, "a@b.example", now.AddDate(200, 0, 0)); err == nil {
		t.Error("an expiry that does not fit is signed")
	}
}

func TestMatchesAddress(t *testing.T) {
	k := newKeys(t, key(1))
	ref, err := k.Verify(sign(t, k, 0, "Ann@Bücher.example"), now)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"ann@bücher.example": true, "<ANN@XN--BCHER-KVA.EXAMPLE.>": true, "bob@bücher.example": false, "": false, "ann": false,
	} {
		if got := ref.Matches(address); got != want {
			t.Errorf("Matches(%q) = %v, want %v", address, got, want)
		}
	}
	if (Ref{}).Matches("") || (Ref{}).Matches("ann@bücher.example") {
		t.Error("a Ref that was not verified matches")
	}
}

func TestFind(t *testing.T) {
	token := sign(t, newKeys(t, key(1)), 3, "ann@mail.example")
	for _, tc := range []struct {
		text string
		want bool
	}{
		{token, true},
		{" <" + strings.ToUpper(token) + "> ", true},
		{"customer-7;" + token, true},
		{"b-b-b-" + token, true},
		{"prvs=12345678ab=" + token, true},
		{"xb-" + token[2:], false},
		{token + "a", false},
		{token[:40], false},
		{"\xff\xfe" + token, true},
		{"", false},
	} {
		got, ok := Find(tc.text)
		if ok != tc.want || ok && got != token {
			t.Errorf("Find(%q) = %q, %v", tc.text, got, ok)
		}
	}
	if got, ok := FromReturnPath(token + "@bounce.shop.example"); !ok || got != token {
		t.Errorf("FromReturnPath = %q, %v", got, ok)
	}
	if _, ok := FromReturnPath("news@" + token + ".example"); ok {
		t.Error("FromReturnPath takes the domain")
	}
}

func TestMatch(t *testing.T) {
	k := newKeys(t, key(1))
	ann, bob := sign(t, k, 1, "ann@mail.example"), sign(t, k, 2, "bob@mail.example")
	forged := sign(t, newKeys(t, Key{ID: 1, Secret: bytes.Repeat([]byte{9}, 32)}), 1, "ann@mail.example")
	old, err := k.Sign(message, 1, "ann@mail.example", now.AddDate(0, 0, -2))
	if err != nil {
		t.Fatal(err)
	}
	path := func(token string) []string { return []string{token + "@bounce.shop.example"} }
	addresses := []string{"ann@mail.example"}
	for _, tc := range []struct {
		name       string
		e          Evidence
		method     Method
		confidence float32
		index      uint32
		address    string
		err        error
	}{
		{"return path and address", Evidence{ReturnPaths: path(ann), Addresses: addresses}, ReturnPath, 1, 1, "ann@mail.example", nil},
		{"header and address", Evidence{References: []string{ann}, Addresses: addresses}, ReferenceHeader, 1, 1, "ann@mail.example", nil},
		{"envid and address", Evidence{EnvelopeIDs: []string{ann}, Addresses: addresses}, EnvelopeID, 1, 1, "ann@mail.example", nil},
		{"redacted address", Evidence{ReturnPaths: path(ann)}, ReturnPath, 0.9, 1, "", nil},
		{"header of a redacted report", Evidence{References: []string{ann}, Addresses: []string{"redacted@mail.example"}}, ReferenceHeader, 0.7, 1, "", nil},
		{"second header is the one for the address", Evidence{References: []string{bob, ann}, Addresses: addresses}, ReferenceHeader, 1, 1, "ann@mail.example", nil},
		{"proven header before unproven return path", Evidence{ReturnPaths: path(bob), References: []string{ann}, Addresses: addresses}, ReferenceHeader, 1, 1, "ann@mail.example", nil},
		{"somebody else's token proves no address", Evidence{ReturnPaths: path(bob), Addresses: addresses}, ReturnPath, 0.9, 2, "", nil},
		{"forged", Evidence{ReturnPaths: path(forged), Addresses: addresses}, None, 0, 0, "", ErrForged},
		{"expired", Evidence{ReturnPaths: path(old), Addresses: addresses}, None, 0, 1, "", ErrExpired},
		{"expired tells more than forged", Evidence{ReturnPaths: path(forged), References: []string{old, forged}}, None, 0, 1, "", ErrExpired},
		{"forged beside a genuine one", Evidence{ReturnPaths: path(forged), References: []string{ann}, Addresses: addresses}, ReferenceHeader, 1, 1, "ann@mail.example", nil},
		{"no token", Evidence{ReturnPaths: []string{"news@shop.example"}, References: []string{"x"}, Addresses: addresses}, None, 0, 0, "", nil},
		{"nothing", Evidence{}, None, 0, 0, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := k.Match(tc.e, now)
			if m.Method != tc.method || m.Confidence != tc.confidence || m.Ref.Index != tc.index || m.Address != tc.address || !errors.Is(m.Err, tc.err) {
				t.Errorf("Match = %+v", m)
			}
		})
	}
}

func TestMatchIsBounded(t *testing.T) {
	k := newKeys(t, key(1))
	ann := sign(t, k, 1, "ann@mail.example")
	e := Evidence{Addresses: make([]string, 100_000), EnvelopeIDs: []string{strings.Repeat("b-", 1<<20)}}
	for range 100_000 {
		e.References = append(e.References, ann)
	}
	start := time.Now()
	if m := k.Match(e, now); m.Method != ReferenceHeader {
		t.Errorf("Match = %+v", m)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestVerifyReadsWhatSignWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, err := NewKeys(key(rapid.Uint8().Draw(t, "key")))
		if err != nil {
			t.Fatal(err)
		}
		id := event.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		index := rapid.Uint32Range(0, MaxIndex).Draw(t, "index")
		address := rapid.StringMatching(`[a-z]{1,9}@[a-z]{1,9}\.example`).Draw(t, "address")
		until := now.Add(time.Duration(rapid.Int64Range(0, int64(1000*day)).Draw(t, "until")))
		token, err := k.Sign(id, index, address, until)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := k.Verify(token, now)
		if err != nil || ref.MessageID != id || ref.Index != index || !ref.Matches(address) || ref.Expires.Before(until) || ref.Expires.After(until.Add(day)) {
			t.Fatalf("Verify(Sign) = %+v, %v", ref, err)
		}
		if found, ok := Find(token); !ok || found != token {
			t.Fatalf("Find(%q) = %q, %v", token, found, ok)
		}
	})
}

func FuzzVerify(f *testing.F) {
	k := newKeys(f, key(1))
	genuine := sign(f, k, 1, "ann@mail.example")
	f.Add(genuine)
	f.Add(strings.ToUpper(genuine))
	f.Add("x=" + genuine + "=y")
	f.Add("b-\xff" + genuine)
	f.Add("b-" + strings.Repeat("7", textSize))
	f.Fuzz(func(t *testing.T, text string) {
		if ref, err := k.Verify(text, now); err == nil && !strings.EqualFold(text, genuine) {
			t.Fatalf("Verify(%q) = %+v", text, ref)
		}
		if token, ok := Find(text); ok {
			if _, err := k.Verify(token, now); err == nil && token != genuine {
				t.Fatalf("Find(%q) = %q", text, token)
			}
		}
	})
}
