// Package dkim signs messages (RFC 6376, RFC 8463 for Ed25519) with go-msgauth.
//
// A Signer holds the keys in the operator's order and picks one per message by who the message
// says it is from: the first key whose domain is the domain of the Sender field, else of the
// From field, or a parent of it. It signs the header fields of a built-in list, relaxed/relaxed,
// SHA-256, and returns the header field to put in front; the message itself is not changed.
//
// A message without a usable From gives ErrNoFrom, one that no key fits ErrNoKey: both are for
// the caller to decide, who may send it unsigned. It does no DNS and verifies nothing. A Signer
// is safe for concurrent use.
package dkim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
	"golang.org/x/net/idna"
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

// Signer signs messages. New makes one.
type Signer struct {
	keys []Key
}

// New returns a Signer that picks from keys in the given order.
func New(keys []Key) (*Signer, error) {
	s := &Signer{keys: make([]Key, len(keys))}
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
		s.keys[i] = k
	}
	return s, nil
}

// Sign signs a whole message, lines ended by CRLF.
func (s *Signer) Sign(message []byte) (Signature, error) {
	end := headerEnd(message)
	return s.SignStream(message[:end], bytes.NewReader(message[end:]))
}

// SignStream signs a message in two parts: its header, with or without the empty line that ends
// it, and its body, which is read to its end unless there is an error.
func (s *Signer) SignStream(header []byte, body io.Reader) (Signature, error) {
	f, err := scan(header)
	if err != nil {
		return Signature{}, err
	}
	key, domain, err := s.pick(f.identity)
	if err != nil {
		return Signature{}, err
	}
	signer, err := dkim.NewSigner(&dkim.SignOptions{
		Domain:                 domain,
		Selector:               key.Selector,
		Signer:                 key.Signer,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed,
		BodyCanonicalization:   dkim.CanonicalizationRelaxed,
		HeaderKeys:             f.signed,
	})
	if err != nil {
		return Signature{}, fmt.Errorf("sign for %s: %w", domain, err)
	}
	err = feed(signer, header, body)
	if cerr := signer.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Signature{}, fmt.Errorf("sign for %s: %w", domain, err)
	}
	return Signature{Header: []byte(signer.Signature()), Domain: domain}, nil
}

func feed(w io.Writer, header []byte, body io.Reader) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	if !bytes.HasSuffix(header, []byte("\r\n\r\n")) && !bytes.Equal(header, []byte("\r\n")) {
		end := "\r\n"
		if !bytes.HasSuffix(header, []byte(end)) {
			end += end
		}
		if _, err := io.WriteString(w, end); err != nil {
			return err
		}
	}
	_, err := io.Copy(w, body)
	return err
}

// pick returns the key for a message from domain and the d= to sign with.
func (s *Signer) pick(domain string) (*Key, string, error) {
	for i := range s.keys {
		switch k := &s.keys[i]; {
		case k.Domain == AnyDomain:
			return k, domain, nil
		case k.Domain == domain, strings.HasSuffix(domain, "."+k.Domain):
			return k, k.Domain, nil
		}
	}
	return nil, "", fmt.Errorf("%w: %s", ErrNoKey, domain)
}

// asciiDomain returns a domain as it stands in d=: ASCII, lower case, no final dot.
func asciiDomain(s string) (string, bool) {
	s = strings.TrimSuffix(s, ".")
	for _, c := range s {
		if c > '~' {
			ascii, err := idna.Lookup.ToASCII(s)
			return ascii, err == nil
		}
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return "", false
		}
	}
	return strings.ToLower(s), s != ""
}
