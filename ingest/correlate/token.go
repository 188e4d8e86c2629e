// Package correlate joins a report (bounce, complaint) to the message and recipient it is about,
// by a signed reference token: nobody is asked and nothing is looked up.
//
// The token travels in the return path (VERP), in the field X-Carom-Ref or as ENVID. It proves
// that a node with the key wrote it, for which message and recipient, and until when; and it
// holds a keyed hash of the recipient's address, so that a report proves its address too. It does
// not prove that the report is honest: whoever saw the message may quote its token, but for
// that message's recipient only.
//
// Errors of a token are ErrMalformed, ErrUnknownKey, ErrForged and ErrExpired. Comparisons of
// secrets take constant time. Nothing here keeps state or touches network, disk or clock;
// everything is safe for concurrent use.
package correlate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
	"time"

	"carom/schemas/event"
	"carom/schemas/suppression"
)

// Field is the header field that carries the token.
const Field = "X-Carom-Ref"

// The errors of Verify.
var (
	ErrMalformed  = errors.New("malformed reference token")
	ErrUnknownKey = errors.New("reference token with an unknown key")
	ErrForged     = errors.New("reference token with a wrong signature")
	ErrExpired    = errors.New("expired reference token")
)

// A token is Prefix and the base32 (RFC 4648 section 6, lower-case, no padding) of: key id (1
// byte), message id (16), recipient index (3), expiry in days since 1970 (2), recipient tag (8)
// and MAC (8). 63 octets fit a local part (RFC 5321 section 4.5.3.1.1: 64), and letters and
// digits survive mailers that change case.
const (
	Prefix = "b-"

	indexAt  = 17
	expiryAt = indexAt + 3
	tagAt    = expiryAt + 2
	macAt    = tagAt + tagSize
	rawSize  = macAt + macSize

	tagSize = 8
	macSize = 8 // 64 bits: one guess costs a report sent to us, and none can be checked elsewhere

	textSize = (rawSize*8 + 4) / 5

	// MaxIndex is the largest recipient index that a token holds.
	MaxIndex = 1<<24 - 1
)

const day = 24 * time.Hour

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// minSecret is the least length of a key's secret, in bytes: half of SHA-256's output, as RFC 2104
// section 3 advises at least for its strength.
const minSecret = 16

// Key is a secret that signs tokens. ID tells keys apart and is part of each token.
type Key struct {
	ID     uint8
	Secret []byte // 16 bytes or more
}

// Keys is a set of keys: the first signs, all verify. It keeps no reference to the secrets it was
// made of.
type Keys struct {
	signer uint8
	byID   map[uint8]*derived
}

// derived holds the keys for the two uses of one secret, so that a tag never serves as a MAC.
type derived struct{ mac, tag macs }

// macs computes HMAC-SHA256 with one key. It keeps the state behind the key for reuse: a sender signs
// a token for every message.
type macs struct{ states *sync.Pool }

func newMACs(secret []byte) macs {
	return macs{&sync.Pool{New: func() any { return &state{mac: hmac.New(sha256.New, secret)} }}}
}

type state struct {
	mac  hash.Hash
	text []byte
	sum  []byte
}

// put puts the first len(to) bytes of the MAC of text into to, at most all 32.
func put[T string | []byte](to []byte, m macs, text T) {
	s := m.states.Get().(*state) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	s.mac.Reset()
	s.text = append(s.text[:0], text...)
	_, _ = s.mac.Write(s.text) // a hash takes everything
	s.sum = s.mac.Sum(s.sum[:0])
	copy(to, s.sum)
	m.states.Put(s)
}

// NewKeys returns the set of keys. It refuses no keys at all, secrets of less than 16 bytes and
// two keys with the same id.
func NewKeys(keys ...Key) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New("no reference key")
	}
	k := &Keys{signer: keys[0].ID, byID: make(map[uint8]*derived, len(keys))}
	for _, key := range keys {
		if len(key.Secret) < minSecret {
			return nil, fmt.Errorf("reference key %d has %d bytes, want %d or more", key.ID, len(key.Secret), minSecret)
		}
		if _, ok := k.byID[key.ID]; ok {
			return nil, fmt.Errorf("two reference keys with the id %d", key.ID)
		}
		k.byID[key.ID] = &derived{
			mac: newMACs(sum(key.Secret, "carom reference token mac")),
			tag: newMACs(sum(key.Secret, "carom reference token recipient")),
		}
	}
	return k, nil
}

// Ref is what a token says.
type Ref struct {
	MessageID event.ID
	Index     uint32    // of the recipient in the message
	Expires   time.Time // midnight, UTC

	key *derived // of a verified Ref; a pointer, so that printing a Ref shows no secret
	tag [tagSize]byte
}

// Sign returns the token for a recipient of a message, valid until the day after expires. The
// index must not exceed MaxIndex.
func (k *Keys) Sign(message event.ID, index uint32, recipient string, expires time.Time) (string, error) {
	if index > MaxIndex {
		return "", fmt.Errorf("recipient index %d does not fit a reference token", index)
	}
	days := expires.Unix()/int64(day/time.Second) + 1
	if days < 0 || days > 0xffff { // 65535 days reach into the year 2149
		return "", fmt.Errorf("expiry %s does not fit a reference token", expires.UTC().Format(time.DateOnly))
	}
	key := k.byID[k.signer]
	var raw [rawSize]byte
	raw[0] = k.signer
	copy(raw[1:], message[:])
	raw[indexAt], raw[indexAt+1], raw[indexAt+2] = byte(index>>16), byte(index>>8), byte(index)
	binary.BigEndian.PutUint16(raw[expiryAt:], uint16(days)) //nolint:gosec // bounded above
	put(raw[tagAt:macAt], key.tag, suppression.Normalize(recipient))
	put(raw[macAt:], key.mac, raw[:macAt])
	return Prefix + encoding.EncodeToString(raw[:]), nil
}

// Verify returns what token says. It ignores case. The Ref is also there with ErrExpired, which
// says that token is genuine but older than its expiry at now.
func (k *Keys) Verify(token string, now time.Time) (Ref, error) {
	raw, err := decode(token)
	if err != nil {
		return Ref{}, err
	}
	key, ok := k.byID[raw[0]]
	if !ok {
		return Ref{}, ErrUnknownKey
	}
	var mac [macSize]byte
	if put(mac[:], key.mac, raw[:macAt]); !hmac.Equal(raw[macAt:], mac[:]) {
		return Ref{}, ErrForged
	}
	ref := Ref{
		MessageID: event.ID(raw[1:indexAt]),
		Index:     uint32(raw[indexAt])<<16 | uint32(raw[indexAt+1])<<8 | uint32(raw[indexAt+2]),
		Expires:   time.Unix(0, 0).UTC().AddDate(0, 0, int(binary.BigEndian.Uint16(raw[expiryAt:]))),
		key:       key,
		tag:       [tagSize]byte(raw[tagAt:]),
	}
	if !now.Before(ref.Expires) {
		return ref, ErrExpired
	}
	return ref, nil
}

// Matches reports whether address is the recipient that the token was signed for, both in the form
// of suppression.Normalize. A Ref that does not come from Verify matches nothing.
func (r Ref) Matches(address string) bool {
	if r.key == nil || address == "" {
		return false
	}
	var tag [tagSize]byte
	put(tag[:], r.key.tag, suppression.Normalize(address))
	return hmac.Equal(r.tag[:], tag[:])
}

func decode(token string) ([]byte, error) {
	if len(token) != len(Prefix)+textSize || !strings.EqualFold(token[:len(Prefix)], Prefix) {
		return nil, ErrMalformed
	}
	text := strings.ToLower(token[len(Prefix):])
	raw, err := encoding.DecodeString(text)
	if err != nil || encoding.EncodeToString(raw) != text { // unused bits: one token has one text
		return nil, ErrMalformed
	}
	return raw, nil
}

// Find returns the first word in s that has the form of a token, in lower case. Mailers and
// customers put things around it: BATV and SRS tags before a return path, names before an ENVID.
func Find(s string) (token string, ok bool) {
	const size = len(Prefix) + textSize
	lower := strings.ToLower(s)
	for at := 0; ; {
		i := strings.Index(lower[at:], Prefix)
		if i < 0 || at+i+size > len(lower) {
			return "", false
		}
		at += i
		candidate := lower[at : at+size]
		if (at == 0 || !isTokenByte(lower[at-1])) && (at+size == len(lower) || !isTokenByte(lower[at+size])) && isToken(candidate) {
			return candidate, true
		}
		at += len(Prefix)
	}
}

// FromReturnPath returns the token in a return path: in the local part of address, or in all of
// it if it has no "@".
func FromReturnPath(address string) (token string, ok bool) {
	local := address
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		local = address[:at]
	}
	return Find(local)
}

func isToken(s string) bool {
	for i := len(Prefix); i < len(s); i++ {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return true
}

func isTokenByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '2' && c <= '7' }

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
