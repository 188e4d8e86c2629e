package config

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Users returns all accounts, in no order that means anything but always the same one.
func (c *Config) Users() []*User {
	users := make([]*User, 0, len(c.users))
	for _, name := range slices.Sorted(maps.Keys(c.users)) {
		users = append(users, c.users[name])
	}
	return users
}

// AuthMethod is how an account proves itself.
type AuthMethod string

// The values of authentication-method.
const (
	ByPassword    AuthMethod = "password"
	ByCertificate AuthMethod = "certificate" // that of the TLS client
)

var authMethod = scalar("want password or certificate", func(s string) (AuthMethod, error) {
	switch m := AuthMethod(strings.ToLower(s)); m {
	case ByPassword, ByCertificate:
		return m, nil
	case "system":
		return "", fmt.Errorf("system is not supported: carom asks no accounts of the machine; give the user a password here")
	}
	return "", fmt.Errorf("bad value %q; want password or certificate", s)
})

// PeerCertificate is the certificate that a peer has to show. The zero value means none.
type PeerCertificate struct {
	Path string
	Raw  []byte // DER
}

// String returns the path of the certificate's file.
func (p PeerCertificate) String() string { return p.Path }

func peerCertificate(v *value) (PeerCertificate, error) {
	file, err := filePath(v)
	if err != nil {
		return PeerCertificate{}, err
	}
	data, err := v.files.ReadFile(file)
	if err != nil {
		return PeerCertificate{}, fmt.Errorf("%s: %s", file, fileProblem(err))
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return PeerCertificate{}, fmt.Errorf("%s: %w", file, err)
		}
		return PeerCertificate{file, block.Bytes}, nil
	}
	return PeerCertificate{}, fmt.Errorf("%s: no PEM certificate in it", file)
}

// checkUser reports what an account lacks to be of any use.
func (b *builder) checkUser(n *node, u *User) {
	switch {
	case u.Method == ByPassword && !n.hasChild("password"):
		b.errorf(u.Pos, "<smtp-user %s> has no password", u.Name)
	case u.Method == ByCertificate && !n.hasChild("tls-certificate"):
		b.errorf(u.Pos, "<smtp-user %s> has no tls-certificate to be known by", u.Name)
	}
}
