package config

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
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
	k := DomainKey{Domain: items[1].text}
	if k.Selector, err = checkHostName(items[0].text); err != nil {
		return DomainKey{}, items[0].errorf("bad selector %q; %s", items[0].text, wantDomainKey)
	}
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

// keyList is a <domain-key-list>.
type keyList struct {
	name string
	keys []DomainKey
}

var keyListScope = newScope("domain-key-list",
	many("domain-key", domainKey, func(l *keyList) *[]DomainKey { return &l.keys }),
)

// keyList builds a <domain-key-list>. Sections of one name make one list.
func (b *builder) keyList(n *node) {
	build(b, n, keyListScope, func(v *value) (keyList, error) {
		name, err := identifier(v)
		return keyList{name: name}, err
	}, func(l keyList) {
		key := strings.ToLower(l.name)
		if first := b.config.keyLists[key]; first != nil {
			l.keys = append(first.keys, l.keys...)
		}
		b.config.keyLists[key] = &l
	})
}

// DomainKeyList returns the keys of the <domain-key-list> of that name.
func (c *Config) DomainKeyList(name string) ([]DomainKey, bool) {
	l, ok := c.keyLists[strings.ToLower(name)]
	if !ok {
		return nil, false
	}
	return l.keys, true
}

// KeyFiles returns every DKIM key file that the configuration names with the key that was in it.
// The map belongs to c.
func (c *Config) KeyFiles() map[string]crypto.Signer { return c.keyFiles }

// completeKeys adds the pools' keys and the global ones. A vmta without keys of its own shares
// the global list.
func (m *VMTA) completeKeys(c *Config) {
	for _, name := range m.Pools {
		if p, ok := c.Pool(name); ok {
			m.DomainKeys = slices.Concat(m.DomainKeys, p.domainKeys)
		}
	}
	if len(m.DomainKeys) == 0 {
		m.DomainKeys = c.domainKeys
	} else {
		m.DomainKeys = slices.Concat(m.DomainKeys, c.domainKeys)
	}
}

// minRSABits is what a DKIM signer must use at least (RFC 8301 3.2).
const minRSABits = 1024

// signer returns the private key in file. A file is read once, however many directives name it.
func (l *loader) signer(file string) (crypto.Signer, error) {
	if s, ok := l.signers[file]; ok {
		return s, nil
	}
	s, err := readKey(l.files, file)
	if err != nil {
		return nil, err
	}
	l.signers[file] = s
	return s, nil
}

// ReadKey reads the private key in a key file, as the directive domain-key does. The errors name
// the file and never show what is in it.
func ReadKey(file string) (crypto.Signer, error) { return readKey(osFiles{}, file) }

func readKey(f files, file string) (crypto.Signer, error) {
	data, err := f.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	s, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// parseKey finds the key in the text of a file: PKCS #1 or PKCS #8 in PEM.
func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file; want an RSA or Ed25519 private key in PEM")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the key is encrypted; want it without a passphrase: openssl pkey -in FILE -out NEWFILE")
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
	if err != nil || len(items) != 2 || items[1].text == "" {
		return ReferenceKey{}, errors.New("bad value; " + wantReferenceKey) // it may be the key itself
	}
	id, err := parseNumber(items[0].text)
	if err != nil || id > 255 {
		return ReferenceKey{}, items[0].errorf("bad ID; %s", wantReferenceKey)
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
