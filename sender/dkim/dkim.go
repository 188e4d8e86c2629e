// Package dkim signs messages (RFC 6376, RFC 8463 for Ed25519).
//
// Keys holds the keys in the operator's order. A Signer makes one signature of a message: it picks
// the key by who the message says it is from, the first whose domain is the domain of the Sender
// field, else of the From field, or a parent of it. It signs the header fields of a built-in list,
// relaxed/relaxed, SHA-256, and returns the header field to put in front; the message itself is not
// changed. Options change all of this but the hash: rsa-sha1 is not made, RFC 8301 forbids it. A
// Request changes it for one message. Two signatures are made by two Signers of one Message, which
// hashes its body once for both.
//
// A message without a usable From gives ErrNoFrom, one that no key fits ErrNoKey: both are for
// the caller to decide, who may send it unsigned. It does no DNS and verifies nothing. Keys and
// Signers are safe for concurrent use, a Message is not.
//
// Signing is what a sending node spends most of its time on, hence the own canonicalization,
// which takes about a tenth of go-msgauth's time, and RSA in the subpackage libcrypto.
package dkim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// The reasons why a message is not signed.
var (
	// ErrNoFrom: no From field, or none with an address (RFC 6376 section 5.4 demands that it is
	// signed).
	ErrNoFrom = errors.New("message has no From address")
	// ErrNoKey: no key fits the message.
	ErrNoKey = errors.New("no key for the domain")
)

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
	// Algorithm leaves out the keys of other kinds; "" takes every key.
	Algorithm Algorithm
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
	// BodyLimit adds l=, the length of the body. It lets others add to the end of the message,
	// and many verifiers refuse it (RFC 6376 section 8.2).
	BodyLimit bool
	// QueryMethod is the value of q=; "" leaves it out, which means dns/txt.
	QueryMethod string
}

// Signer makes one signature of each message. NewSigner makes one.
type Signer struct {
	keys     *Keys
	options  Options
	fields   *fieldSet
	how      string   // value of c=
	fixed    identity // of Options.Identity, if it is an address or domain
	fallback identity
}

// identity is on whose behalf to sign.
type identity struct {
	domain string
	tag    string // for i=, "" leaves it out
}

// NewSigner returns a Signer that picks from keys.
func NewSigner(keys *Keys, o Options) (s *Signer, err error) {
	s = &Signer{keys: keys, options: o, how: o.HeaderCanonicalization.String() + "/" + o.BodyCanonicalization.String()}
	switch o.Identity {
	case "", SenderOrFrom, StrictFrom:
	default:
		if s.fixed, err = parseIdentity(o.Identity); err != nil {
			return nil, err
		}
	}
	if o.IdentityFallback != "" {
		if s.fallback, err = parseIdentity(o.IdentityFallback); err != nil {
			return nil, err
		}
	}
	switch o.Algorithm {
	case "", RSASHA256, Ed25519SHA256:
	default:
		return nil, fmt.Errorf("unknown algorithm %q", o.Algorithm)
	}
	if o.ExpireAfter < 0 || o.ExpireAfter > 0 && o.ExpireAfter < time.Second {
		return nil, fmt.Errorf("signature that expires after %s", o.ExpireAfter)
	}
	if err := checkQueryMethod(o.QueryMethod); err != nil {
		return nil, err
	}
	if s.fields, err = newFieldSet(o.Headers, o.Closed); err != nil {
		return nil, err
	}
	return s, nil
}

func checkQueryMethod(s string) error {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == ';' || c == '=' {
			return fmt.Errorf("bad query method %q", s)
		}
	}
	return nil
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

// Sign signs a message as the Signer's Options and the Request say; the zero Request changes
// nothing.
func (s *Signer) Sign(m *Message, r Request) (Signature, error) {
	f, err := m.scan(s.fields)
	if err != nil {
		return Signature{}, err
	}
	c, err := s.pick(f, r)
	if err != nil {
		return Signature{}, err
	}
	field := s.field(f, c, r, m.hashBody(s.options.BodyCanonicalization))

	w := works.Get().(*work) //nolint:errcheck // the pool holds nothing else
	defer w.release()
	text := w.text[:0]
	for _, signed := range f.signed {
		text = append(appendField(text, s.options.HeaderCanonicalization, signed), "\r\n"...)
	}
	text = appendField(text, s.options.HeaderCanonicalization, field.text)
	w.text = text
	w.digest = sha256.Sum256(text)
	signature, err := c.private.sign(w.digest[:])
	if err != nil {
		return Signature{}, fmt.Errorf("sign for %s: %w", c.domain, err)
	}
	field.signature(signature)
	return Signature{Header: field.text, Domain: c.domain}, nil
}

// choice is how a message is signed.
type choice struct {
	key     *Key
	private *PrivateKey
	domain  string // d=
	tag     string // i=, "" leaves it out
}

// field returns the signature field up to and with "b=".
func (s *Signer) field(f *fields, c choice, r Request, body bodyHash) fieldBuilder {
	b := fieldBuilder{text: make([]byte, 0, 1024)}
	b.raw(fieldName + ":")
	b.tag("v", "1")
	b.tag("a", string(c.private.algorithm))
	b.tag("c", s.how)
	b.tag("d", c.domain)
	b.tag("s", c.key.Selector)
	if c.tag != "" {
		b.tag("i", c.tag)
	}
	if q := r.QueryMethod; q != "" {
		b.tag("q", q)
	} else if q = s.options.QueryMethod; q != "" {
		b.tag("q", q)
	}
	if s.options.BodyLimit {
		b.number("l", body.octets)
	}
	if s.options.Timestamp || s.options.ExpireAfter > 0 {
		now := time.Now()
		if s.options.Timestamp {
			b.number("t", now.Unix())
		}
		if s.options.ExpireAfter > 0 {
			b.number("x", now.Add(s.options.ExpireAfter).Unix())
		}
	}
	b.names(f.names)
	b.bodyHash(body.sum)
	b.fold()
	b.raw("b=")
	return b
}

// pick returns how to sign a message.
func (s *Signer) pick(f *fields, r Request) (choice, error) {
	who := s.fixed
	switch {
	case r.identity.domain != "":
		who = r.identity
	case who.domain != "":
	case s.options.Identity == StrictFrom || f.sender == "":
		who.domain = f.from
	default:
		who.domain = f.sender
	}
	if r.Domain != "" { // whoever the message is from
		key, private := s.keys.pick(r.Domain, true, r.Selector, s.options.Algorithm)
		if key == nil {
			return choice{}, fmt.Errorf("%w: %s", ErrNoKey, r.Domain)
		}
		if !within(who.domain, r.Domain) {
			who.tag = ""
		}
		return choice{key, private, r.Domain, who.tag}, nil
	}
	for _, id := range [...]identity{who, s.fallback} {
		if id.domain == "" {
			continue
		}
		if key, private := s.keys.pick(id.domain, false, r.Selector, s.options.Algorithm); key != nil {
			domain := key.Domain
			if domain == AnyDomain {
				domain = id.domain
			}
			return choice{key, private, domain, id.tag}, nil
		}
	}
	return choice{}, fmt.Errorf("%w: %s", ErrNoKey, who.domain)
}

// within reports whether domain is parent or lies below it, as i= must to d= (RFC 6376 section
// 3.5).
func within(domain, parent string) bool {
	rest, ok := strings.CutSuffix(domain, parent)
	return ok && (rest == "" || rest[len(rest)-1] == '.')
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
