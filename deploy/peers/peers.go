// Package peers runs mail servers of the system, Debian's Postfix and Exim, each with folders and
// a configuration of its own beside whatever the machine has: as what carom is measured against, and
// as receivers that were written by others.
//
// A server is a value with its settings. Write makes its folders and files, Process is how it is
// run, Stop ends what the process leaves. All of it needs root, because these servers do; Missing
// says what else a machine lacks.
package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"carom/deploy/up/supervise"
)

// Server is a mail server.
type Server interface {
	// Missing returns what the machine lacks to run it, "" if nothing.
	Missing() string
	// Write makes folders and configuration, once, before the process runs.
	Write() error
	// Process is how to run it. It answers at its address some time after the start.
	Process() supervise.Process
	// Stop ends what goes on when the process is told to stop, or when it has ended.
	Stop(ctx context.Context) error
	// Log returns what it has written down.
	Log() string
}

// Settings are what all servers have.
type Settings struct {
	Dir    string // an empty folder that every user may pass through
	Listen string // an IPv4 address with its port
	// Mailboxes maps addresses of the domain to.example to names of Maildirs in Dir/mail. Other
	// addresses are refused.
	Mailboxes map[string]string
	// Certificate is a key and a certificate in PEM; without it there is no STARTTLS.
	Certificate []byte
}

// Domain is the domain of all mailboxes.
const Domain = "to.example"

// Host is the name of every server.
const Host = "mx.example"

// Messages returns the messages in a mailbox, in no order.
func (s *Settings) Messages(mailbox string) ([][]byte, error) {
	names, err := filepath.Glob(filepath.Join(s.mail(), mailbox, "new", "*"))
	if err != nil {
		return nil, err
	}
	list := make([][]byte, len(names))
	for i, name := range names {
		if list[i], err = os.ReadFile(name); err != nil { //nolint:gosec // in the server's own folder
			return nil, err
		}
	}
	return list, nil
}

func (s *Settings) mail() string        { return filepath.Join(s.Dir, "mail") }
func (s *Settings) certificate() string { return filepath.Join(s.Dir, "config", "certificate.pem") }

// write makes folders, each with its owner, and files of the folder config.
func (s *Settings) write(folders, files map[string]string) error {
	if err := os.Mkdir(filepath.Join(s.Dir, "config"), 0o755); err != nil { //nolint:gosec // the server's other users read it
		return err
	}
	for name, owner := range folders {
		u, err := user.Lookup(owner)
		if err != nil {
			return err
		}
		id, err := strconv.Atoi(u.Uid)
		if err != nil {
			return err
		}
		folder := filepath.Join(s.Dir, name)
		if err := errors.Join(os.Mkdir(folder, 0o755), os.Chown(folder, id, -1)); err != nil { //nolint:gosec // as above
			return err
		}
	}
	if s.Certificate != nil {
		files["certificate.pem"] = string(s.Certificate)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.Dir, "config", name), []byte(text), 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}

// addresses returns the keys of Mailboxes in order.
func (s *Settings) addresses() []string {
	list := make([]string, 0, len(s.Mailboxes))
	for address := range s.Mailboxes {
		list = append(list, address)
	}
	slices.Sort(list)
	return list
}

// Find looks a program up in PATH and in /usr/sbin, which is not in everybody's PATH.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		return path, nil
	}
	return "", err
}

// SelfSigned makes a key and a certificate for a host name, in PEM: both, and the certificate alone
// for those who verify it.
func SelfSigned(name string) (both, certificate []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), certificate...), certificate, nil
}
