package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
)

// ServerTLS is how a listener speaks TLS. What a <smtp-listener> does not say the global
// smtp-server-tls-* directives do.
type ServerTLS struct {
	Certificate                   CertificateFile // none: no TLS
	CAFile                        CAFile          // what certificates of clients are verified against
	TLSv1, TLSv11, TLSv12, TLSv13 bool            // the versions that are allowed
	Ciphers                       Ciphers
}

func defaultServerTLS() ServerTLS { return ServerTLS{TLSv12: true, TLSv13: true} }

// CertificateFile is a PEM file with a certificate, its chain and its private key. The zero value
// means none.
type CertificateFile struct {
	Path     string
	password Secret
	first    *tls.Certificate
}

// String returns the file's path.
func (f CertificateFile) String() string { return f.Path }

// First returns the certificate as it was when the configuration was read, perhaps by a user who may
// read more.
func (f CertificateFile) First() *tls.Certificate { return f.first }

// Load reads the file, which may have changed since the configuration was read.
func (f CertificateFile) Load() (*tls.Certificate, error) { return f.load(os.ReadFile) }

func (f CertificateFile) load(read func(string) ([]byte, error)) (*tls.Certificate, error) {
	data, err := read(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", f.Path, fileProblem(err))
	}
	pair, err := keyPair(data, f.password.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return pair, nil
}

func certificateFile(v *value) (CertificateFile, error) {
	const want = "want FILE or FILE PASSWORD"
	words, err := v.words()
	if err != nil || len(words) == 0 || len(words) > 2 || words[0].text == "" {
		return CertificateFile{}, errors.New("bad value; " + want) // it may hold the password
	}
	f := CertificateFile{Path: v.absolute(words[0].text)}
	if len(words) == 2 {
		f.password = NewSecret(words[1].text)
	}
	f.first, err = f.load(v.files.ReadFile)
	return f, err
}

// serverTLSRows are the directives of ServerTLS under names with the prefix; change applies one of
// them.
func serverTLSRows[T any](prefix string, change func(*T, func(*ServerTLS))) []directive[T] {
	allow := func(version string, field func(*ServerTLS) *bool) directive[T] {
		return within(change, one(prefix+"tls-allow-"+version, boolean, field))
	}
	return []directive[T]{
		within(change, one(prefix+"tls-certificate", certificateFile, func(s *ServerTLS) *CertificateFile { return &s.Certificate })),
		within(change, one(prefix+"tls-ca-file", caFile, func(s *ServerTLS) *CAFile { return &s.CAFile })),
		allow("tlsv1", func(s *ServerTLS) *bool { return &s.TLSv1 }),
		allow("tlsv1.1", func(s *ServerTLS) *bool { return &s.TLSv11 }),
		allow("tlsv1.2", func(s *ServerTLS) *bool { return &s.TLSv12 }),
		allow("tlsv1.3", func(s *ServerTLS) *bool { return &s.TLSv13 }),
		within(change, one(prefix+"tls-ciphers", ciphers, func(s *ServerTLS) *Ciphers { return &s.Ciphers })),
	}
}

// within makes a directive of a part one of the whole.
func within[T, P any](change func(*T, func(*P)), row directive[P]) directive[T] {
	return directive[T]{
		Directive: row.Directive,
		compile: func(v *value) (func(*T), error) {
			apply, err := row.compile(v)
			return func(t *T) { change(t, apply) }, err
		},
		show: func(t *T) (text string) {
			change(t, func(p *P) { text = row.show(p) })
			return text
		},
	}
}

// finishListeners completes what listeners leave to the global directives.
func (b *builder) finishListeners() {
	for i := range b.config.Listeners {
		l := &b.config.Listeners[i]
		l.AwaitSlot = b.config.SMTPAwaitSlot
		if said := len(l.await); said > 0 {
			l.AwaitSlot = l.await[said-1]
		}
		l.TLS = b.config.ServerTLS
		for _, change := range l.tls {
			change(&l.TLS)
		}
		t := l.TLS
		switch {
		case l.ImmediateTLS && t.Certificate.Path == "":
			b.errorf(l.Pos, "immediate-tls needs a tls-certificate")
		case t.Certificate.Path != "" && !t.TLSv1 && !t.TLSv11 && !t.TLSv12 && !t.TLSv13:
			b.errorf(l.Pos, "no version of TLS is allowed for the listener")
		}
	}
}
