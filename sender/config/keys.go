package config

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// DomainKey is a key for DKIM signatures (RFC 6376, RFC 8463).
type DomainKey struct {
	Selector string
	Domain   string // "*" for any domain
	File     string
	Signer   crypto.Signer // *rsa.PrivateKey or ed25519.PrivateKey
}

// String returns the key as it is written.
func (k DomainKey) String() string { return k.Selector + "," + k.Domain + "," + k.File }

// Covers reports whether the key may sign for domain: its own domain, those below it, or any.
func (k DomainKey) Covers(domain string) bool {
	if k.Domain == "*" {
		return true
	}
	d, err := normalDomain(domain)
	return err == nil && (d == k.Domain || strings.HasSuffix(d, "."+k.Domain))
}

const wantDomainKey = "want SELECTOR,DOMAIN,FILE or SELECTOR,*,FILE"

// domainKey parses the value of domain-key and reads the key.
func domainKey(v *value) (DomainKey, error) {
	items, err := v.list(wantDomainKey)
	if err != nil {
		return DomainKey{}, err
	}
	if len(items) != 3 {
		return DomainKey{}, fmt.Errorf("bad value %q; %s", v.text, wantDomainKey)
	}
	k := DomainKey{Selector: strings.ToLower(items[0].text), Domain: items[1].text}
	if k.Domain != "*" {
		if k.Domain, err = checkHostName(k.Domain); err != nil {
			return DomainKey{}, items[1].errorf("%v", err)
		}
	}
	if items[2].text == "" {
		return DomainKey{}, items[2].errorf("empty file name; %s", wantDomainKey)
	}
	k.File = v.absolute(items[2].text)
	k.Signer, err = v.signer(k.File)
	return k, err
}

// minRSABits is what a DKIM signer must use at least (RFC 8301 3.2).
const minRSABits = 1024

// signer returns the private key in file. A file is read once, however many directives name it.
func (l *loader) signer(file string) (crypto.Signer, error) {
	if s, ok := l.signers[file]; ok {
		return s, nil
	}
	data, err := l.files.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	s, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	l.signers[file] = s
	return s, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file; want an RSA or Ed25519 private key in PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it holds a %q; want an RSA or Ed25519 private key in PEM", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("bad private key: %w", err)
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits; want %d or more", k.N.BitLen(), minRSABits)
		}
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("it holds a %T; want an RSA or Ed25519 private key", key)
}

// ReferenceKey is a key for the signed tokens by which reports find their message.
type ReferenceKey struct {
	ID  uint8
	Key Secret

	pos Pos
}

// minReferenceKey is the least length of a reference key in bytes; RFC 2104 3 advises no less
// than the hash's output, and 16 is what half of a SHA-256 key written by hand still has.
const minReferenceKey = 16

const wantReferenceKey = "want ID,FILE with an ID from 0 to 255, for example 1,/etc/carom/reference.key"

// referenceKey parses the value of reference-key and reads the key.
func referenceKey(v *value) (ReferenceKey, error) {
	items, err := v.list(wantReferenceKey)
	if err != nil {
		return ReferenceKey{}, err
	}
	if len(items) != 2 || items[1].text == "" {
		return ReferenceKey{}, fmt.Errorf("bad value %q; %s", v.text, wantReferenceKey)
	}
	id, err := parseNumber(items[0].text)
	if err != nil || id > 255 {
		return ReferenceKey{}, items[0].errorf("bad ID %q; %s", items[0].text, wantReferenceKey)
	}
	file := v.absolute(items[1].text)
	data, err := v.files.ReadFile(file)
	if err != nil {
		return ReferenceKey{}, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	key := strings.TrimSpace(string(data))
	if len(key) < minReferenceKey {
		return ReferenceKey{}, fmt.Errorf("%s: the key has %d bytes; want %d or more", file, len(key), minReferenceKey)
	}
	return ReferenceKey{uint8(id), NewSecret(key), v.pos}, nil
}
