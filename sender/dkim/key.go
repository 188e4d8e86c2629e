package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"sync"

	"carom/sender/dkim/libcrypto"
)

// Algorithm is the value of a=.
type Algorithm string

// The algorithms. The kind of the key decides which one a signature has.
const (
	RSASHA256     Algorithm = "rsa-sha256"
	Ed25519SHA256 Algorithm = "ed25519-sha256" // RFC 8463
)

// minRSABits is the least that verifiers accept: RFC 8301 section 3.2.
const minRSABits = 1024

// PrivateKey is a private key that signs.
type PrivateKey struct {
	native    crypto.Signer
	algorithm Algorithm
	hash      crypto.Hash // that the signer is told

	prepare sync.Once     // at the first signature: it costs as much as a few of them
	signer  crypto.Signer // native, or libcrypto's form of it
	refused error         // why libcrypto does not sign
}

// NewPrivateKey takes an RSA key of at least 1024 bits or an Ed25519 key.
//
// Keys of type *rsa.PrivateKey are handed to the system's libcrypto where there is one; see
// LibcryptoError and the package libcrypto, which says how to switch that off.
func NewPrivateKey(native crypto.Signer) (*PrivateKey, error) {
	if native == nil {
		return nil, errors.New("no private key")
	}
	p := &PrivateKey{native: native}
	switch public := native.Public().(type) {
	case *rsa.PublicKey:
		if n := public.N.BitLen(); n < minRSABits {
			return nil, fmt.Errorf("%d bits, receivers want at least %d", n, minRSABits)
		}
		p.algorithm, p.hash = RSASHA256, crypto.SHA256
	case ed25519.PublicKey:
		p.algorithm = Ed25519SHA256 // hash 0, RFC 8463 section 3: the digest itself is signed
	default:
		return nil, fmt.Errorf("neither RSA nor Ed25519 but %T", public)
	}
	return p, nil
}

// ready prepares the key if it is not yet.
func (p *PrivateKey) ready() {
	p.prepare.Do(func() {
		p.signer = p.native
		native, ok := p.native.(*rsa.PrivateKey)
		if !ok {
			return
		}
		if fast, err := libcrypto.NewKey(native); err == nil {
			p.signer = fast
		} else {
			p.refused = err
		}
	})
}

func (p *PrivateKey) sign(digest []byte) ([]byte, error) {
	p.ready()
	return p.signer.Sign(rand.Reader, digest, p.hash)
}

// LibcryptoError says why Go's crypto signs with an RSA key, and not libcrypto: the library is
// missing (libcrypto.ErrUnavailable) or switched off (libcrypto.ErrOff), it refuses the key, or has
// failed at a signature since. The signatures are the same, only slower. It returns nil if
// libcrypto signs, and for keys that are not RSA.
func (p *PrivateKey) LibcryptoError() error {
	p.ready()
	if fast, ok := p.signer.(*libcrypto.Key); ok {
		return fast.Failure()
	}
	return p.refused
}

// Private makes a PrivateKey a Source that never changes.
func (p *PrivateKey) Private() *PrivateKey { return p }

// Source gives the private key that signs now; it may change from one call to the next, as when a
// key file is replaced. Private is called for each signature, from many goroutines, and never
// returns nil.
type Source interface{ Private() *PrivateKey }

// AnyDomain as Key.Domain makes a key that fits every message; it signs for the domain of the
// message. List it last.
const AnyDomain = "*"

// Key is one signing key.
type Key struct {
	Selector string
	Domain   string // signs for it and everything below it, or AnyDomain
	Source   Source
}

// Keys is a list of keys in the operator's order, which many Signers may share.
type Keys struct {
	list     []Key
	byDomain map[string][]int // indices into list, ascending
}

// NewKeys returns the list of keys.
func NewKeys(keys []Key) (*Keys, error) {
	list := &Keys{list: make([]Key, len(keys)), byDomain: map[string][]int{}}
	for i, k := range keys {
		if !isSelector(k.Selector) {
			return nil, fmt.Errorf("key for %s: bad selector %q", k.Domain, k.Selector)
		}
		if k.Domain != AnyDomain {
			domain, ok := asciiDomain(k.Domain)
			if !ok {
				return nil, fmt.Errorf("key %s: bad domain %q", k.Selector, k.Domain)
			}
			k.Domain = domain
		}
		if k.Source == nil {
			return nil, fmt.Errorf("key %s for %s: no private key", k.Selector, k.Domain)
		}
		list.list[i] = k
		list.byDomain[k.Domain] = append(list.byDomain[k.Domain], i)
	}
	return list, nil
}

// isSelector reports whether s can stand in s=: labels of a domain name (RFC 6376 section 3.1).
func isSelector(s string) bool {
	_, ok := asciiDomain(s)
	return ok && s[len(s)-1] != '.'
}

// pick returns the first key of the list that covers the domain and has the selector and the
// algorithm, where they are not empty, and its private key; nil if there is none. An exact match
// leaves out keys of a parent.
func (k *Keys) pick(domain string, exact bool, selector string, a Algorithm) (*Key, *PrivateKey) {
	best := len(k.list)
	var private *PrivateKey
	try := func(name string) {
		for _, i := range k.byDomain[name] {
			if i >= best {
				return
			}
			if selector != "" && !strings.EqualFold(k.list[i].Selector, selector) {
				continue
			}
			if p := k.list[i].Source.Private(); a == "" || p.algorithm == a {
				best, private = i, p
				return
			}
		}
	}
	try(AnyDomain)
	for parent, more := domain, true; more; _, parent, more = strings.Cut(parent, ".") {
		try(parent)
		if exact {
			break
		}
	}
	if private == nil {
		return nil, nil
	}
	return &k.list[best], private
}
