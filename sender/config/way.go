package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ClientCertificate is what a connection shows to a server that asks for a certificate. Its zero
// value means none.
type ClientCertificate struct {
	Path        string
	Certificate *tls.Certificate
}

// String returns the file's path.
func (c ClientCertificate) String() string { return c.Path }

// Ciphers are the cipher suites of TLS up to 1.2. Its zero value means Go's choice.
type Ciphers struct {
	Text string // as written
	IDs  []uint16
}

// String returns the list as it is written.
func (c Ciphers) String() string { return c.Text }

// Way are the parts of Settings about the way to the receiver and the dialogue with it.
type Way struct {
	MaxErrorsPerConnection int // recipient-level errors before the connection is dropped; 0 means no limit

	QueueTo              string // the domain whose queue takes the mail; empty for its own
	DisableMXRollup      bool
	MXConnectionAttempts int // hosts tried in one round

	AuthUsername            string
	AuthPassword            Secret
	UseUnencryptedPlainAuth bool

	TLSv1, TLSv11, TLSv12, TLSv13 bool // the versions that are allowed
	SMTPTLSCiphers                Ciphers
	SMTPClientCertificate         ClientCertificate
	ReuseSSLSession               bool // of TLS up to 1.2; TLS 1.3 always resumes

	IgnoreDSN                       bool
	PIXBugWorkaround                bool
	AllowCancelDuringTransfer       bool
	SMTPMultipleLineResponseTimeout time.Duration

	DiscardAsBounce    bool
	RemoveHeader       []string // names of fields, in lower case
	DisableAcctRecords []RecordType
}

func defaultWay() Way {
	return Way{
		MXConnectionAttempts: 10,
		TLSv11:               true, TLSv12: true, TLSv13: true,
		PIXBugWorkaround: true, AllowCancelDuringTransfer: true,
		SMTPMultipleLineResponseTimeout: 5 * time.Minute,
	}
}

var wayRows = []directive[Settings]{
	orZero("unlimited", one("max-errors-per-connection", limit, func(s *Settings) *int { return &s.MaxErrorsPerConnection })),
	one("queue-to", clearable(hostName), func(s *Settings) *string { return &s.QueueTo }),
	one("disable-mx-rollup", boolean, func(s *Settings) *bool { return &s.DisableMXRollup }),
	one("mx-connection-attempts", number(1, 1000), func(s *Settings) *int { return &s.MXConnectionAttempts }),
	one("auth-username", freeText, func(s *Settings) *string { return &s.AuthUsername }),
	one("auth-password", clearable(secret), func(s *Settings) *Secret { return &s.AuthPassword }),
	one("use-unencrypted-plain-auth", boolean, func(s *Settings) *bool { return &s.UseUnencryptedPlainAuth }),
	one("smtp-tls-allow-tlsv1", boolean, func(s *Settings) *bool { return &s.TLSv1 }),
	one("smtp-tls-allow-tlsv1.1", boolean, func(s *Settings) *bool { return &s.TLSv11 }),
	one("smtp-tls-allow-tlsv1.2", boolean, func(s *Settings) *bool { return &s.TLSv12 }),
	one("smtp-tls-allow-tlsv1.3", boolean, func(s *Settings) *bool { return &s.TLSv13 }),
	one("smtp-tls-ciphers", clearable(ciphers), func(s *Settings) *Ciphers { return &s.SMTPTLSCiphers }),
	one("smtp-client-certificate", clearable(clientCertificate), func(s *Settings) *ClientCertificate { return &s.SMTPClientCertificate }),
	one("reuse-ssl-session", boolean, func(s *Settings) *bool { return &s.ReuseSSLSession }),
	one("ignore-dsn", boolean, func(s *Settings) *bool { return &s.IgnoreDSN }),
	one("pix-bug-workaround", boolean, func(s *Settings) *bool { return &s.PIXBugWorkaround }),
	one("allow-cancel-during-transfer", boolean, func(s *Settings) *bool { return &s.AllowCancelDuringTransfer }),
	one("smtp-multiple-line-response-timeout", positiveInterval, func(s *Settings) *time.Duration { return &s.SMTPMultipleLineResponseTimeout }),
	one("discard-as-bounce", boolean, func(s *Settings) *bool { return &s.DiscardAsBounce }),
	one("remove-header", headerNames, func(s *Settings) *[]string { return &s.RemoveHeader }),
	one("disable-acct-records", disabledRecords, func(s *Settings) *[]RecordType { return &s.DisableAcctRecords }),
}

// headerNames parses a list of names of header fields; "" is none.
func headerNames(v *value) ([]string, error) {
	items, err := v.list("want names of headers separated by commas")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, item := range items {
		name, err := headerName(&value{text: item.text, pos: item.pos})
		if err != nil {
			return nil, item.errorf("%v", err)
		}
		names = append(names, strings.ToLower(name))
	}
	return names, nil
}

// disabledRecords parses the kinds of records that a queue can leave out of the accounting files.
func disabledRecords(v *value) ([]RecordType, error) {
	all, err := records(v)
	for _, r := range all {
		if !slices.Contains([]RecordType{Delivered, Bounced, Transient, TransientQueue}, r) {
			return nil, fmt.Errorf("records of type %s are not a queue's; want d, b, t or tq", r)
		}
	}
	return all, err
}

// DisablesRecords reports whether any domain has disable-acct-records.
func (c *Config) DisablesRecords() bool { return c.disablesRecords }

// clientCertificate parses FILE [PASSWORD]: certificate and key in one PEM file.
func clientCertificate(v *value) (ClientCertificate, error) {
	const want = "want FILE or FILE PASSWORD"
	words, err := v.words()
	if err != nil || len(words) == 0 || len(words) > 2 || words[0].text == "" {
		return ClientCertificate{}, errors.New("bad value; " + want) // it may hold the password
	}
	c := ClientCertificate{Path: v.absolute(words[0].text)}
	data, err := v.files.ReadFile(c.Path)
	if err != nil {
		return c, fmt.Errorf("%s: %s", c.Path, fileProblem(err))
	}
	password := ""
	if len(words) == 2 {
		password = words[1].text
	}
	if c.Certificate, err = keyPair(data, password); err != nil {
		return c, fmt.Errorf("%s: %w", c.Path, err)
	}
	return c, nil
}

// keyPair returns the certificate and the private key in data, which may be encrypted with password.
func keyPair(data []byte, password string) (*tls.Certificate, error) {
	data, err := decryptPEM(data, password)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	switch {
	case err != nil && password != "": // a wrong one may decrypt to something: one of 256 does
		return nil, errors.New("the password does not open the private key, or it does not fit the certificate")
	case err != nil:
		return nil, fmt.Errorf("no certificate with its private key: %w", err)
	}
	return &pair, nil
}

// decryptPEM returns data with encrypted private keys (RFC 1423) in the clear.
func decryptPEM(data []byte, password string) ([]byte, error) {
	var out []byte
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("an encrypted PKCS #8 key is not supported: write it as an unencrypted or a traditional PEM key")
		case x509.IsEncryptedPEMBlock(block): //nolint:staticcheck // weak, and what PowerMTA's files have
			der, err := x509.DecryptPEMBlock(block, []byte(password)) //nolint:staticcheck // as above
			if err != nil {
				return nil, errors.New("the password does not open the private key")
			}
			block = &pem.Block{Type: block.Type, Bytes: der}
		}
		out = append(out, pem.EncodeToMemory(block)...)
	}
}

// openSSLNames maps OpenSSL's names of cipher suites to Go's IDs.
var openSSLNames = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA256":     tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	"ECDHE-RSA-AES128-SHA256":       tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"AES128-GCM-SHA256":             tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES256-GCM-SHA384":             tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES128-SHA256":                 tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
	"AES128-SHA":                    tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-SHA":                    tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// cipherWords are groups and commands of OpenSSL's language that Go's own choice satisfies.
var cipherWords = []string{"ALL", "DEFAULT", "COMPLEMENTOFDEFAULT", "HIGH", "MEDIUM", "@STRENGTH", "ECDHE", "EECDH", "AESGCM", "AES", "CHACHA20"}

// ciphers parses OpenSSL's cipher list as far as Go knows it: names of suites are the list; where
// there are only groups Go chooses. A name that Go does not know is left out with a warning;
// exclusions ("!ADH") take nothing from what Go offers.
func ciphers(v *value) (Ciphers, error) {
	text, err := v.single("want an OpenSSL cipher list")
	if err != nil {
		return Ciphers{}, err
	}
	c := Ciphers{Text: text}
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ':' || r == ',' || r == ' ' }) {
		id, known := openSSLNames[strings.ToUpper(name)]
		switch {
		case known && !slices.Contains(c.IDs, id):
			c.IDs = append(c.IDs, id)
		case known, name[0] == '!', name[0] == '-', name[0] == '+', slices.Contains(cipherWords, strings.ToUpper(name)):
		default:
			v.warnings = append(v.warnings, Warning{v.pos, fmt.Sprintf("%s is a cipher suite that is not known to carom and left out", name)})
		}
	}
	return c, nil
}
