package smtpd

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carom/sender/config"
)

// writeCertificate writes a new certificate for mx.test with its key to a PEM file.
func writeCertificate(t *testing.T, file, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"mx.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// encrypted is a configuration with STARTTLS, and the certificate that it shows.
func encrypted(t *testing.T, source string) (conf string, shown *x509.Certificate) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mx.pem")
	shown = writeCertificate(t, file, "mx.test")
	return open + "smtp-server-tls-certificate " + file + "\n<source 127.0.0.1>\nallow-starttls yes\n" + source + "\n</source>\n", shown
}

// startTLS puts TLS above the feeder's connection.
func (f *feeder) startTLS(c *tls.Config) *tls.ConnectionState {
	f.t.Helper()
	f.say("STARTTLS", "220 2.0.0")
	return f.encrypt(c)
}

func (f *feeder) encrypt(c *tls.Config) *tls.ConnectionState {
	f.t.Helper()
	c.InsecureSkipVerify = true //nolint:gosec // a test compares the certificate
	conn := tls.Client(f.conn, c)
	if err := conn.Handshake(); err != nil {
		f.t.Fatal(err)
	}
	f.conn, f.in = conn, textproto.NewReader(bufio.NewReader(conn))
	state := conn.ConnectionState()
	return &state
}

// offers returns what the answer to EHLO offers.
func (f *feeder) offers() string {
	f.t.Helper()
	f.send("EHLO feeder.test\r\n")
	_, text, err := f.in.ReadResponse(250)
	if err != nil {
		f.t.Fatal(err)
	}
	return "\n" + text + "\n"
}

func TestOffers(t *testing.T) {
	conf, _ := encrypted(t, "max-rcpt-per-message 7\nmax-message-size 2k")
	f := start(t, conf, &desk{}, nil).dial(t)
	f.expect("220")
	if got := f.offers(); got != "\nmx.test greets feeder.test\nPIPELINING\n8BITMIME\nENHANCEDSTATUSCODES\nCHUNKING\nSTARTTLS\nSMTPUTF8\nDSN\nVERP\nLIMITS RCPTMAX=7\nSIZE 2048\n" {
		t.Errorf("offered %s", got)
	}
	for _, without := range []string{"allow-starttls no", "allow-chunking no\nallow-smtputf8 no"} {
		conf, _ := encrypted(t, without)
		f := start(t, conf, &desk{}, nil).dial(t)
		f.expect("220")
		got := f.offers()
		if strings.HasPrefix(without, "allow-starttls") == strings.Contains(got, "STARTTLS") || strings.HasPrefix(without, "allow-chunking") == strings.Contains(got, "CHUNKING") || strings.HasPrefix(without, "allow-chunking") == strings.Contains(got, "SMTPUTF8") {
			t.Errorf("%s: offered %s", without, got)
		}
		if strings.HasPrefix(without, "allow-starttls") {
			f.say("STARTTLS", "502 5.5.1")
		}
	}
}

func TestSTARTTLS(t *testing.T) {
	d := &desk{}
	conf, shown := encrypted(t, "")
	f := start(t, conf, d, nil).dial(t)
	f.expect("220")
	f.say("STARTTLS", "503 5.5.1 say EHLO first")
	f.say("EHLO liar.test", "250")
	f.say("MAIL FROM:<before@feeder.test>", "250")
	f.say("RCPT TO:<before@away.test>", "250")
	f.say("STARTTLS now", "501")
	state := f.startTLS(&tls.Config{})
	if state.Version != tls.VersionTLS13 || !state.PeerCertificates[0].Equal(shown) {
		t.Errorf("%s with %s", tls.VersionName(state.Version), state.PeerCertificates[0].Subject)
	}
	f.say("DATA", "502")
	f.say("RCPT TO:<before@away.test>", "502")
	f.say("MAIL FROM:<a@feeder.test>", "503 5.5.1 say EHLO first")
	if got := f.offers(); strings.Contains(got, "STARTTLS") {
		t.Errorf("offered again: %s", got)
	}
	f.say("STARTTLS", "502 5.5.1")
	f.mail("A: b\r\n\r\n"+strings.Repeat("..\r\nlong text\r\n", 20_000), "250")
	m := d.messages()[0]
	if m.ClientName != "feeder.test" || m.From != "from@feeder.test" || !strings.Contains(string(m.Content), " with ESMTPS id ") {
		t.Errorf("from %s by %s: %.200s", m.From, m.ClientName, m.Content)
	}
	f.say("QUIT", "221")
	f.expect("")
}

// What stands behind STARTTLS in the clear is not from whom TLS authenticates (CVE-2011-0411).
func TestInjectionBehindSTARTTLS(t *testing.T) {
	d := &desk{}
	conf, _ := encrypted(t, "")
	f := start(t, conf, d, nil).hello(t)
	f.send("STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@feeder.test>\r\n")
	f.expect("554 5.5.1")
	f.expect("")

	f = start(t, conf, d, nil).hello(t)
	f.say("STARTTLS", "220")
	f.send("EHLO evil.test\r\n") // in place of a handshake
	f.expect("")
}

func TestImmediateTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mx.pem")
	shown := writeCertificate(t, file, "mx.test")
	d := &desk{}
	s := start(t, open+"<smtp-listener 127.0.0.1:465>\nimmediate-tls yes\ntls-certificate "+file+"\ntls-allow-tlsv1.3 no\n</smtp-listener>\n", d, nil)
	f := s.dial(t)
	if state := f.encrypt(&tls.Config{}); state.Version != tls.VersionTLS12 || !state.PeerCertificates[0].Equal(shown) {
		t.Errorf("%s with %s", tls.VersionName(state.Version), state.PeerCertificates[0].Subject)
	}
	f.expect("220")
	f.say("EHLO feeder.test", "250")
	f.mail("A: b\r\n\r\n", "250")

	f = s.dial(t)
	f.send("EHLO feeder.test\r\n")
	for { // an alert of TLS, which is no reply, or nothing
		line, err := f.in.ReadLine()
		if err != nil {
			break
		}
		if strings.Contains(line, "220") {
			t.Errorf("%q in the clear", line)
		}
	}
	if len(d.messages()) != 1 {
		t.Error("the message was not accepted")
	}
}

func TestVersionsAndCiphers(t *testing.T) {
	for _, tc := range []struct {
		name, directives string
		client           *tls.Config
		ok               bool
	}{
		{"1.2", "", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.1 is not allowed", "", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"1.1 is allowed", "smtp-server-tls-allow-tlsv1.1 yes", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, true},
		{"1.2 is not, between two that are", "smtp-server-tls-allow-tlsv1.1 yes\nsmtp-server-tls-allow-tlsv1.2 no", &tls.Config{MaxVersion: tls.VersionTLS12}, false},
		{"a suite that is listed", "smtp-server-tls-ciphers ECDHE-ECDSA-AES256-GCM-SHA384", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, true},
		{"a suite that is not listed", "smtp-server-tls-ciphers ECDHE-ECDSA-AES256-GCM-SHA384", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf, _ := encrypted(t, "")
			f := start(t, conf+tc.directives+"\n", &desk{}, nil).hello(t)
			f.say("STARTTLS", "220")
			tc.client.InsecureSkipVerify = true
			if err := tls.Client(f.conn, tc.client).Handshake(); (err == nil) != tc.ok {
				// TLS 1.3 clients hear of a refusal when they read.
				t.Errorf("handshake: %v", err)
			}
		})
	}
}

// counter counts log lines.
type counter struct {
	mu    sync.Mutex
	lines []string
}

func (c *counter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, string(b))
	return len(b), nil
}

func TestCertificateFollowsItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mx.pem")
	first := writeCertificate(t, file, "first")
	c, _, err := config.Parse("test.conf", []byte("smtp-server-tls-certificate "+file))
	if err != nil {
		t.Fatal(err)
	}
	shown := func(held *certificate) string {
		t.Helper()
		got, err := held.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.Subject.CommonName
	}
	synctest.Test(t, func(t *testing.T) {
		var log counter
		held := &certificate{file: c.ServerTLS.Certificate, logger: slog.New(slog.NewTextHandler(&log, nil))}
		if got := shown(held); got != first.Subject.CommonName {
			t.Errorf("got %s", got)
		}
		touch := func(minute int) {
			at := time.Date(2020, 1, 1, 0, minute, 0, 0, time.UTC)
			if err := os.Chtimes(file, at, at); err != nil {
				t.Fatal(err)
			}
		}
		writeCertificate(t, file, "second")
		touch(1)
		if got := shown(held); got != "first" {
			t.Errorf("got %s at once: the file is looked at for each handshake", got)
		}
		time.Sleep(certificateInterval)
		if got := shown(held); got != "second" {
			t.Errorf("got %s after the file has changed", got)
		}
		if err := os.WriteFile(file, []byte("half a certif"), 0o600); err != nil {
			t.Fatal(err)
		}
		touch(2)
		for range 3 {
			time.Sleep(certificateInterval)
			if got := shown(held); got != "second" {
				t.Errorf("got %s after the file has become bad", got)
			}
		}
		writeCertificate(t, file, "third")
		touch(3)
		time.Sleep(certificateInterval)
		if got := shown(held); got != "third" {
			t.Errorf("got %s after the file has become good", got)
		}
		if len(log.lines) != 3 || !strings.Contains(log.lines[1], "certificate not loaded") {
			t.Errorf("log: %q", log.lines)
		}
	})
}

// A node that has given up root may not be able to read the file again.
func TestCertificateThatCannotBeReadAgain(t *testing.T) {
	conf, shown := encrypted(t, "")
	f := start(t, conf, &desk{}, func(s *Server) {
		if err := os.Remove(s.config.Load().ServerTLS.Certificate.Path); err != nil {
			t.Fatal(err)
		}
	}).hello(t)
	if state := f.startTLS(&tls.Config{}); !state.PeerCertificates[0].Equal(shown) {
		t.Errorf("shown: %s", state.PeerCertificates[0].Subject)
	}
}

func TestHandshakeHasItsTime(t *testing.T) {
	conf, _ := encrypted(t, "")
	f := start(t, conf, &desk{}, func(s *Server) { s.timeout = 100 * time.Millisecond }).hello(t)
	f.say("STARTTLS", "220")
	f.expect("") // without a handshake
}
