// Package suppression is the contract between the warehouse, which knows whom not to mail, and a
// node, which refuses them: the key that stands for an address, and the snapshot file in a node's
// feed folder.
//
// A key is a keyed hash, so neither the warehouse nor the file holds an address. The snapshot is
// replaced as a whole; a reader of any moment has the old one or the new one. Beside it lies the
// delta, to which the changes since are appended, so that a list of 10^8 entries need not be written
// for each of them. A file that is changed or of another format is an error that wraps ErrMalformed.
// A Snapshot does not change and is safe for concurrent use.
package suppression

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// keySize is the number of bytes of the hash that make a key: 128 bits, so that a list of 10^9
// addresses meets an address that is not on it by chance once in 10^29 look-ups.
const keySize = 16

// FileName is the name of the snapshot in a node's feed folder.
const FileName = "suppressions.snapshot"

// DeltaName is the name of the file with the changes since the snapshot.
const DeltaName = "suppressions.delta"

// Global is the tenant of an entry that holds for every tenant.
const Global = ""

// Normalize returns the form of an address that its key is made of: the domain as IDNA A-labels
// in lower case (RFC 5891), the local part in lower case, no angle brackets and no blanks around
// it. RFC 5321 section 2.4 lets a host tell local parts apart by case; none that matters does, and
// suppressing one address too many is the smaller harm. What is no address is lower-cased as it
// is.
func Normalize(address string) string {
	address = strings.TrimSpace(address)
	address = strings.TrimSuffix(strings.TrimPrefix(address, "<"), ">")
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return strings.ToLower(address)
	}
	local, domain := address[:at], strings.TrimSuffix(address[at+1:], ".")
	if isASCII(domain) { // IDNA changes nothing but the case
		return strings.ToLower(local) + "@" + strings.ToLower(domain)
	}
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		domain = ascii
	}
	return strings.ToLower(local) + "@" + strings.ToLower(domain)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Key returns the key of an address: the first 16 bytes of HMAC-SHA256(secret, normalised
// address) in lower-case hexadecimal, 32 characters. It stands in every event as recipient_key.
func Key(secret []byte, address string) string { return NewHasher(secret).Key(address) }

// Hasher makes the keys of many addresses. It is safe for concurrent use.
type Hasher struct{ macs sync.Pool }

// NewHasher returns a hasher for the secret, which must not be changed.
func NewHasher(secret []byte) *Hasher {
	return &Hasher{macs: sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}
}

// Key returns what the function Key does.
func (h *Hasher) Key(address string) string {
	mac := h.macs.Get().(hash.Hash) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer h.macs.Put(mac)
	mac.Reset()
	_, _ = io.WriteString(mac, Normalize(address)) // a hash never fails
	var sum [sha256.Size]byte
	return hex.EncodeToString(mac.Sum(sum[:0])[:keySize])
}
