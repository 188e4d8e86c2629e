package smtpd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"carom/sender/config"
)

// handshakeTimeout bounds a TLS handshake.
const handshakeTimeout = time.Minute

// begin does what comes before the greeting: it waits for a slot where there was none, and puts TLS
// above the connection where it begins with that.
func (c *conn) begin() error {
	if !c.hasSlot {
		if c.hasSlot = c.server.slots.await(c.group, min(c.source.SMTPCommandTimeout, c.server.timeout), c.stopped); !c.hasSlot {
			return errNoSlot
		}
	}
	if !c.door.Settings.ImmediateTLS {
		return nil
	}
	return c.handshake()
}

func (c *conn) isTLS() bool { return c.stream != c.Conn }

// offersTLS reports whether STARTTLS is offered.
func (c *conn) offersTLS() bool { return c.source.AllowStartTLS && c.door.tls != nil && !c.isTLS() }

// startTLS is the STARTTLS command, RFC 3207. It returns what go-smtp is handed.
func (c *conn) startTLS(argument string) []byte {
	switch {
	case argument != "":
		c.reply("501 5.5.4 STARTTLS has no parameters")
		return nil
	case c.session == nil || c.session.hello == "":
		c.reply("503 5.5.1 say EHLO first")
		return nil
	case !c.offersTLS():
		c.reply("502 5.5.1 STARTTLS is not offered")
		return nil
	case c.taken < len(c.in):
		// Somebody on the way may have put it there, to be taken for what came under encryption
		// (RFC 3207 section 6; CVE-2011-0411 and its kin).
		c.reply("554 5.5.1 commands behind STARTTLS")
		c.hangUp()
		return nil
	}
	c.reply("220 2.0.0 ready to start TLS")
	err := c.flush()
	if err == nil {
		err = c.handshake()
	}
	if err != nil {
		c.hangUp()
		return nil
	}
	// Everything the feeder has said before is forgotten, RFC 3207 section 4.2.
	c.dropChunks()
	c.session.hello = ""
	c.muted = "250"
	return handedReset
}

// handshake puts TLS above the connection. What waits to be sent is sent above it.
func (c *conn) handshake() error {
	c.await(handshakeTimeout)
	c.sendBy = time.Now().Add(min(handshakeTimeout, c.server.timeout))
	_ = c.SetWriteDeadline(c.sendBy) // if the connection is broken the handshake tells
	encrypted := tls.Server(c.Conn, c.door.tls)
	if err := encrypted.HandshakeContext(context.Background()); err != nil {
		c.server.logger.Info("TLS handshake failed", "error", err, "client", c.client.String())
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.stream = encrypted
	c.login(c.certified())
	return nil
}

// certified returns the user whose certificate the client has shown, or nil.
func (c *conn) certified() *config.User {
	encrypted, ok := c.stream.(*tls.Conn)
	if !ok || !c.source.AllowAuth {
		return nil
	}
	shown := encrypted.ConnectionState().PeerCertificates
	if len(shown) == 0 {
		return nil
	}
	return c.server.accounts.Load().certified[sha256.Sum256(shown[0].Raw)] // the others are its issuers'
}

// serverTLS returns the TLS configuration of a listener, nil where there is no certificate.
func (s *Server) serverTLS(l config.Listener) *tls.Config {
	t := l.TLS
	if t.Certificate.Path == "" {
		return nil
	}
	var versions []uint16
	for version, allowed := range map[uint16]bool{tls.VersionTLS10: t.TLSv1, tls.VersionTLS11: t.TLSv11, tls.VersionTLS12: t.TLSv12, tls.VersionTLS13: t.TLSv13} {
		if allowed {
			versions = append(versions, version)
		}
	}
	c := &tls.Config{
		GetCertificate: s.certificate(t.Certificate).get,
		MinVersion:     slices.Min(versions), MaxVersion: slices.Max(versions),
		CipherSuites: t.Ciphers.IDs,
		VerifyConnection: func(state tls.ConnectionState) error {
			if !slices.Contains(versions, state.Version) {
				return fmt.Errorf("%s is not allowed", tls.VersionName(state.Version))
			}
			return nil
		},
	}
	switch {
	case t.CAFile.Pool != nil:
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, t.CAFile.Pool
	case len(s.accounts.Load().certified) > 0:
		c.ClientAuth = tls.RequestClientCert
	}
	return c
}

// certificate returns the certificate in a file. All listeners share it.
func (s *Server) certificate(file config.CertificateFile) *certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.certificates[file.Path]
	if c == nil {
		c = &certificate{file: file, logger: s.logger, current: file.First()}
		s.certificates[file.Path] = c
	}
	return c
}

// certificateInterval is how often a certificate's file is looked at, at most.
const certificateInterval = time.Second

// certificate is a certificate that follows its file: a file that has changed counts from the next
// handshake on, if it can be used.
type certificate struct {
	file   config.CertificateFile
	logger *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	version version
	current *tls.Certificate
}

// version tells one content of a file from the next.
type version struct {
	modified time.Time
	size     int64
}

var errNoCertificate = errors.New("no certificate")

// get is tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= certificateInterval {
		c.looked = now
		c.look()
	}
	if c.current == nil {
		return nil, errNoCertificate
	}
	return c.current, nil
}

// look reads the file if it has changed.
func (c *certificate) look() {
	info, err := os.Stat(c.file.Path)
	var seen version // the zero one for a file that is not there
	if err == nil {
		seen = version{info.ModTime(), info.Size()}
	}
	if seen == c.version && c.current != nil {
		return
	}
	before := c.version
	c.version = seen
	loaded, err := c.file.Load()
	if err != nil {
		c.logger.Error("certificate not loaded", "error", err, "kept", c.current != nil)
		return
	}
	if before != (version{}) {
		c.logger.Info("certificate reloaded", "file", c.file.Path)
	}
	c.current = loaded
}
