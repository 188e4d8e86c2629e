package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ServerTLS is how a listener speaks TLS. What a <smtp-listener> does not say the global
// smtp-server-tls-* directives do.
type ServerTLS struct {
	Certificate                   CertificateFile // none: no TLS
	CAFile                        CAFile          // what certificates of clients are verified against
	TLSv1, TLSv11, TLSv12, TLSv13 bool            // the versions that are allowed
	Ciphers                       ServerCiphers
}

func defaultServerTLS() ServerTLS { return ServerTLS{TLSv12: true, TLSv13: true} }

// CertificateFile is a PEM file with a certificate, its chain and its private key. The zero value
// means none.
type CertificateFile struct {
	Path     string
	password Secret
}

// String returns the file's path.
func (f CertificateFile) String() string { return f.Path }

// Load reads the file, which may have changed since the configuration was read.
func (f CertificateFile) Load() (*tls.Certificate, error) { return f.load(os.ReadFile) }

func (f CertificateFile) load(read func(string) ([]byte, error)) (*tls.Certificate, error) {
	data, err := read(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", f.Path, fileProblem(err))
	}
	data, err = openKey(data, f.password.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: no certificate with its private key: %w", f.Path, err)
	}
	return &pair, nil
}

// openKey returns PEM data with the private key decrypted, if it is in OpenSSL's old form
// (RFC 1421): that is what PowerMTA's PASSWORD is for.
func openKey(data []byte, password string) ([]byte, error) {
	var out []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" {
			return nil, errors.New("the private key is encrypted by PKCS #8; write it with openssl rsa -traditional, or without a password")
		}
		if x509.IsEncryptedPEMBlock(block) { //nolint:staticcheck // insecure, and in use: whoever can read the file can read the configuration
			der, err := x509.DecryptPEMBlock(block, []byte(password)) //nolint:staticcheck // as above
			if err != nil {
				return nil, errors.New("the private key cannot be decrypted with the password")
			}
			block = &pem.Block{Type: block.Type, Bytes: der}
		}
		out = append(out, pem.EncodeToMemory(block)...)
	}
	return out, nil
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
	_, err = f.load(v.files.ReadFile)
	return f, err
}

// ServerCiphers are the cipher suites of TLS 1.2 and below; none means Go's choice.
type ServerCiphers struct {
	Text string // as written
	IDs  []uint16
}

// String returns the list as it is written.
func (c ServerCiphers) String() string { return c.Text }

// serverCiphers takes from OpenSSL's cipher list the suites that it names and Go knows. Words for
// groups of suites ("HIGH", "!ADH") and their order are Go's to decide. A list whose suites are
// all unknown is a mistake: it would allow what it means to forbid.
func serverCiphers(v *value) (ServerCiphers, error) {
	text, err := v.single("want an OpenSSL cipher list")
	if err != nil {
		return ServerCiphers{}, err
	}
	c := ServerCiphers{Text: text}
	unknown := ""
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(":, ", r) }) {
		id, known := cipherByName(name)
		switch {
		case known && !slices.Contains(c.IDs, id):
			c.IDs = append(c.IDs, id)
		case !known && strings.Contains(name, "-") && strings.IndexByte("!-+@", name[0]) < 0:
			unknown = name
			v.warnOnce(v.pos, "cipher "+name, "is not known to Go and is never used")
		}
	}
	if unknown != "" && len(c.IDs) == 0 {
		return c, fmt.Errorf("of the suites named none is known, for example %s", unknown)
	}
	return c, nil
}

// cipherByName returns the suite that OpenSSL calls name: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
// is its ECDHE-RSA-AES128-GCM-SHA256, TLS_RSA_WITH_AES_128_CBC_SHA its AES128-SHA.
func cipherByName(name string) (uint16, bool) {
	shorten := strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_", "", "_WITH", "", "AES_", "AES", "_CBC", "", "_POLY1305_SHA256", "-POLY1305", "3DES_EDE", "DES-CBC3", "_", "-")
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		before := s.SupportedVersions[0] < tls.VersionTLS13 // those of TLS 1.3 have names of their own
		if before && (strings.EqualFold(name, s.Name) || strings.EqualFold(name, shorten.Replace(s.Name))) {
			return s.ID, true
		}
	}
	return 0, false
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
		within(change, one(prefix+"tls-ciphers", serverCiphers, func(s *ServerTLS) *ServerCiphers { return &s.Ciphers })),
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
