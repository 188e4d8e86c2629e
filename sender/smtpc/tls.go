package smtpc

import (
	"crypto/tls"
	"errors"
	"net"
)

// Sessions keeps TLS sessions, so that another connection from the same source to the same server
// name needs no full handshake. It is bounded and safe for concurrent use.
//
// A session is only good for what it was made with: one whose certificate was not verified, or
// not by these authorities, is not resumed where it has to be. Where TLSConfig holds a client
// certificate or looks at the peer's by itself, sessions are neither kept nor resumed, because
// they would skip both; bring a ClientSessionCache for each such TLSConfig.
type Sessions struct{ lru tls.ClientSessionCache }

// NewSessions returns a store for up to n sessions, at least one; the least recently used makes
// room. A session takes some kilobytes, with the peer's certificates.
func NewSessions(n int) *Sessions {
	return &Sessions{lru: tls.NewLRUClientSessionCache(max(n, 1))}
}

// sessionsFrom are the sessions of one source address: a ticket shown from another would tell
// the peer that both are the same sender.
type sessionsFrom struct {
	tls.ClientSessionCache

	source string
}

// Get implements tls.ClientSessionCache.
func (s sessionsFrom) Get(name string) (*tls.ClientSessionState, bool) {
	return s.ClientSessionCache.Get(s.source + " " + name)
}

// Put implements tls.ClientSessionCache.
func (s sessionsFrom) Put(name string, session *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.source+" "+name, session)
}

// clientTLS returns the configuration of a handshake.
func clientTLS(cfg *Config) *tls.Config {
	var c *tls.Config
	if cfg.TLSConfig != nil {
		c = cfg.TLSConfig.Clone()
	} else {
		// Encryption to an unknown peer beats none (RFC 7435); TLSRequired verifies.
		c = &tls.Config{InsecureSkipVerify: cfg.TLS != TLSRequired} //nolint:gosec // see above
	}
	if c.ServerName == "" {
		c.ServerName = cfg.ServerName
	}
	if c.ServerName == "" {
		c.ServerName = cfg.RemoteAddr.Addr().String()
	}
	if cfg.Sessions != nil && c.ClientSessionCache == nil && len(c.Certificates) == 0 &&
		c.GetClientCertificate == nil && c.VerifyPeerCertificate == nil {
		c.ClientSessionCache = sessionsFrom{cfg.Sessions.lru, cfg.LocalIP.String()}
	}
	return c
}

// isTLSAlert reports whether err is an alert that the peer sent.
func isTLSAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" // crypto/tls has no other name for it
}
