// Package suppression is the contract between the warehouse, which knows whom not to mail, and a
// node, which refuses them: the key that stands for an address, and the snapshot file in a node's
// feed folder.
//
// A key is a keyed hash, so neither the warehouse nor the file holds an address. The file is
// replaced as a whole; a reader of any moment has the old snapshot or the new one, and a file that
// is cut, changed or of another format is an error that wraps ErrMalformed. A Snapshot does not
// change and is safe for concurrent use.
package suppression

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"golang.org/x/net/idna"
)

// keySize is the number of bytes of the hash that make a key: 128 bits, so that a list of 10^9
// addresses meets an address that is not on it by chance once in 10^29 look-ups.
const keySize = 16

// FileName is the name of the snapshot in a node's feed folder.
const FileName = "suppressions.snapshot"

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
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		domain = ascii
	}
	return strings.ToLower(local) + "@" + strings.ToLower(domain)
}

// Key returns the key of an address: the first 16 bytes of HMAC-SHA256(secret, normalised
// address) in lower-case hexadecimal, 32 characters. It stands in every event as recipient_key.
func Key(secret []byte, address string) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(Normalize(address))) // a hash never fails
	return hex.EncodeToString(mac.Sum(nil)[:keySize])
}
