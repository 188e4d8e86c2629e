// Package dkim signs messages (RFC 6376, RFC 8463 for Ed25519).
//
// A Signer holds the keys in the operator's order and picks one per message by who the message
// says it is from: the first key whose domain is the domain of the Sender field, else of the
// From field, or a parent of it. It signs the header fields of a built-in list, relaxed/relaxed,
// SHA-256, and returns the header field to put in front; the message itself is not changed.
// Options change all of this but the hash: rsa-sha1 is not made, RFC 8301 forbids it, and l= is
// not either, for it lets anybody add to the body and verifiers refuse it.
//
// A message without a usable From gives ErrNoFrom, one that no key fits ErrNoKey: both are for
// the caller to decide, who may send it unsigned. It does no DNS and verifies nothing. A Signer
// is safe for concurrent use.
//
// Signing is what a sending node spends most of its time on, hence the own canonicalization,
// which takes about a fifth of go-msgauth's time, and RSA in the subpackage libcrypto.
package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"carom/sender/dkim/libcrypto"
)

// The reasons why a message is not signed.
var (
	// ErrNoFrom: no From field, or none with an address (RFC 6376 section 5.4 demands that it is
	// signed).
	ErrNoFrom = errors.New("message has no From address")
	// ErrNoKey: no key's domain fits the message.
	ErrNoKey = errors.New("no key for the domain")
)

// minRSABits is the least that verifiers accept: RFC 8301 section 3.2.
const minRSABits = 1024

// AnyDomain as Key.Domain makes a key that fits every message; it signs for the domain of the
// message. List it last.
const AnyDomain = "*"

// Key is one signing key.
type Key struct {
	Selector string
	Domain   string        // signs for it and everything below it, or AnyDomain
	Signer   crypto.Signer // RSA of at least 1024 bits, or Ed25519
}

// Signature is the result of signing.
type Signature struct {
	// Header is the whole DKIM-Signature field with its final CRLF, to be put in front of the
	// message.
	Header []byte
	// Domain is the d= of the signature.
	Domain string
}

// The words that Options.Identity knows; it may also be an address, or a domain behind an @.
const (
	// SenderOrFrom is the address of the Sender field, else of the From field. It is the default.
	SenderOrFrom = "sender-or-from"
	// StrictFrom is the address of the From field.
	StrictFrom = "strict-from"
)

// Options say what a signature looks like. The zero value is PowerMTA's default.
type Options struct {
	// Identity is on whose behalf the message is signed, which decides about the key:
	// SenderOrFrom, StrictFrom, or a fixed address or @domain, which then stands in i= too.
	Identity string
	// IdentityFallback is an @domain that takes the place of an identity that no key fits; "" is
	// none.
	IdentityFallback string
	// HeaderCanonicalization and BodyCanonicalization are written to c=.
	HeaderCanonicalization, BodyCanonicalization Canonicalization
	// Headers are names of fields to sign beside the built-in ones, and /patterns/ of such names
	// (regular expressions, matched anywhere in the name whatever its case).
	Headers []string
	// Closed are names of fields to which none may be added on the way, whether present or not.
	Closed []string
	// ExpireAfter is the time from signing to x=; 0 is never. Fractions of a second are cut.
	ExpireAfter time.Duration
	// Timestamp adds t=, the time of signing.
	Timestamp bool
	// QueryMethod is the value of q=; "" leaves it out, which means dns/txt.
	QueryMethod string
}

// Signer makes one signature of each message. New and NewWithOptions make one.
type Signer struct {
	keys     []Key
	options  Options
	fields   *fieldSet
	fixed    identity // of Options.Identity, if it is an address or domain
	fallback identity
	refused  error // why a key is not in libcrypto; the first
}

// identity is on whose behalf to sign.
type identity struct {
	domain string
	tag    string // for i=, "" leaves it out
}

// New returns a Signer that picks from keys in the given order, with the default Options.
func New(keys []Key) (*Signer, error) { return NewWithOptions(keys, Options{}) }

// NewWithOptions returns a Signer that picks from keys in the given order. A second signature of
// a message is made by a second Signer.
//
// RSA keys of type *rsa.PrivateKey are handed to the system's libcrypto where there is one; see
// LibcryptoError and the package libcrypto, which says how to switch that off.
func NewWithOptions(keys []Key, o Options) (*Signer, error) {
	s := &Signer{keys: make([]Key, len(keys)), options: o}
	if err := s.setOptions(o); err != nil {
		return nil, err
	}
	for i, k := range keys {
		if k.Selector == "" || strings.ContainsAny(k.Selector, " ;=\t\r\n") {
			return nil, fmt.Errorf("key for %s: bad selector %q", k.Domain, k.Selector)
		}
		if k.Domain != AnyDomain {
			domain, ok := asciiDomain(k.Domain)
			if !ok {
				return nil, fmt.Errorf("key %s: bad domain %q", k.Selector, k.Domain)
			}
			k.Domain = domain
		}
		if k.Signer == nil {
			return nil, fmt.Errorf("key %s for %s: no private key", k.Selector, k.Domain)
		}
		switch public := k.Signer.Public().(type) {
		case *rsa.PublicKey:
			if n := public.N.BitLen(); n < minRSABits {
				return nil, fmt.Errorf("key %s for %s: %d bits, receivers want at least %d", k.Selector, k.Domain, n, minRSABits)
			}
		case ed25519.PublicKey:
		default:
			return nil, fmt.Errorf("key %s for %s: neither RSA nor Ed25519 but %T", k.Selector, k.Domain, public)
		}
		if native, ok := k.Signer.(*rsa.PrivateKey); ok {
			fast, err := libcrypto.NewKey(native)
			switch {
			case err == nil:
				k.Signer = fast
			case s.refused == nil:
				s.refused = fmt.Errorf("key %s for %s: %w", k.Selector, k.Domain, err)
			}
		}
		s.keys[i] = k
	}
	return s, nil
}

func (s *Signer) setOptions(o Options) (err error) {
	switch o.Identity {
	case "", SenderOrFrom, StrictFrom:
	default:
		if s.fixed, err = parseIdentity(o.Identity); err != nil {
			return err
		}
	}
	if o.IdentityFallback != "" {
		if s.fallback, err = parseIdentity(o.IdentityFallback); err != nil {
			return err
		}
	}
	if o.ExpireAfter < 0 || o.ExpireAfter > 0 && o.ExpireAfter < time.Second {
		return fmt.Errorf("signature that expires after %s", o.ExpireAfter)
	}
	for _, c := range []byte(o.QueryMethod) {
		if c <= ' ' || c > '~' || c == ';' || c == '=' {
			return fmt.Errorf("bad query method %q", o.QueryMethod)
		}
	}
	s.fields, err = newFieldSet(o.Headers, o.Closed)
	return err
}

func parseIdentity(address string) (identity, error) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return identity{}, fmt.Errorf("identity %q is neither an address nor @domain", address)
	}
	domain, ok := asciiDomain(address[at+1:])
	if !ok {
		return identity{}, fmt.Errorf("identity %q has a bad domain", address)
	}
	return identity{domain, quoted(address[:at]) + "@" + domain}, nil
}

// LibcryptoError says why Go's crypto signs for an RSA key of this Signer, and not libcrypto: the
// library is missing (libcrypto.ErrUnavailable) or switched off (libcrypto.ErrOff), it refuses a
// key, or has failed at a signature since. The signatures are the same, only slower. It returns
// nil if libcrypto signs for all RSA keys. It is meant to be logged once.
func (s *Signer) LibcryptoError() error {
	if s.refused != nil {
		return s.refused
	}
	for _, k := range s.keys {
		if fast, ok := k.Signer.(*libcrypto.Key); ok {
			if err := fast.Failure(); err != nil {
				return fmt.Errorf("key %s for %s: %w", k.Selector, k.Domain, err)
			}
		}
	}
	return nil
}

// Sign signs a whole message, lines ended by CRLF.
func (s *Signer) Sign(message []byte) (Signature, error) {
	end := headerEnd(message)
	return s.sign(message[:end], func(h *bodyHasher) error {
		_, _ = h.Write(message[end:]) // never fails
		return nil
	})
}

// SignStream signs a message in two parts: its header, with or without the empty line that ends
// it, and its body, which is read to its end unless there is an error.
func (s *Signer) SignStream(header []byte, body io.Reader) (Signature, error) {
	return s.sign(header, func(h *bodyHasher) error {
		_, err := io.Copy(h, body)
		return err
	})
}

// sign signs a message with the body that write writes.
func (s *Signer) sign(header []byte, write func(*bodyHasher) error) (Signature, error) {
	f, err := s.fields.scan(header)
	if err != nil {
		return Signature{}, err
	}
	key, domain, tag, err := s.pick(f)
	if err != nil {
		return Signature{}, err
	}
	h := hashers.Get().(*bodyHasher) //nolint:errcheck // the pool holds nothing else
	defer h.release()
	h.reset(s.options.BodyCanonicalization)
	if err := write(h); err != nil {
		return Signature{}, fmt.Errorf("sign for %s: %w", domain, err)
	}
	field := s.field(f, key, domain, tag, h.sum())

	text := h.out[:0]
	for _, signed := range f.signed {
		text = append(appendField(text, s.options.HeaderCanonicalization, signed), "\r\n"...)
	}
	text = appendField(text, s.options.HeaderCanonicalization, field.text)
	h.out = text
	digest := sha256.Sum256(text)

	hash := crypto.SHA256
	if _, ok := key.Signer.Public().(ed25519.PublicKey); ok {
		hash = 0 // RFC 8463 section 3: what Ed25519 signs is the digest itself
	}
	signature, err := key.Signer.Sign(rand.Reader, digest[:], hash)
	if err != nil {
		return Signature{}, fmt.Errorf("sign for %s: %w", domain, err)
	}
	field.signature(signature)
	return Signature{Header: field.text, Domain: domain}, nil
}

// field returns the signature field up to and with "b=".
func (s *Signer) field(f fields, key *Key, domain, tag string, bodyHash []byte) *fieldBuilder {
	b := &fieldBuilder{text: make([]byte, 0, 1024)}
	algorithm := "rsa-sha256"
	if _, ok := key.Signer.Public().(ed25519.PublicKey); ok {
		algorithm = "ed25519-sha256"
	}
	b.raw(fieldName + ":")
	b.tag("v", "1")
	b.tag("a", algorithm)
	b.tag("c", s.options.HeaderCanonicalization.String()+"/"+s.options.BodyCanonicalization.String())
	b.tag("d", domain)
	b.tag("s", key.Selector)
	if tag != "" {
		b.tag("i", tag)
	}
	if s.options.QueryMethod != "" {
		b.tag("q", s.options.QueryMethod)
	}
	now := time.Now()
	if s.options.Timestamp {
		b.time("t", now)
	}
	if s.options.ExpireAfter > 0 {
		b.time("x", now.Add(s.options.ExpireAfter))
	}
	b.names(f.names)
	b.tag("bh", base64.StdEncoding.EncodeToString(bodyHash))
	b.fold()
	b.raw("b=")
	return b
}

// pick returns the key for a message, the d= to sign with, and the i= if there is to be one.
func (s *Signer) pick(f fields) (key *Key, domain, tag string, err error) {
	who := s.fixed
	switch {
	case who.domain != "":
	case s.options.Identity == StrictFrom || f.sender == "":
		who.domain = f.from
	default:
		who.domain = f.sender
	}
	for _, id := range [...]identity{who, s.fallback} {
		for i := range s.keys {
			switch k := &s.keys[i]; {
			case id.domain == "":
			case k.Domain == AnyDomain:
				return k, id.domain, id.tag, nil
			case k.Domain == id.domain, strings.HasSuffix(id.domain, "."+k.Domain):
				return k, k.Domain, id.tag, nil
			}
		}
	}
	return nil, "", "", fmt.Errorf("%w: %s", ErrNoKey, who.domain)
}

// asciiDomain returns a domain as it stands in d=: ASCII, lower case, no final dot.
func asciiDomain(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	if strings.ContainsFunc(s, func(c rune) bool { return c > '~' }) {
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", false
		}
		s = ascii // in which blanks have survived
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return "", false
		}
	}
	return strings.ToLower(s), s != ""
}
