package smtpc

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// Credentials is a name and a password for a peer. It prints and encodes without the password.
type Credentials struct {
	Username string
	Password string `json:"-"`
}

// String returns the name alone.
func (c Credentials) String() string { return fmt.Sprintf("{%s ***}", c.Username) }

// GoString returns the name alone.
func (c Credentials) GoString() string { return c.String() }

// mechanism is a way to log in (RFC 4422). respond answers the server's challenge number step,
// from 0; ok is false where there is nothing more to say.
type mechanism struct {
	name    string
	readers bool // who reads the dialogue has the password
	initial bool // the first answer needs no challenge
	respond func(c Credentials, step int, challenge []byte) (answer string, ok bool)
}

var (
	plainAuth = mechanism{"PLAIN", true, true, func(c Credentials, step int, _ []byte) (string, bool) {
		return "\x00" + c.Username + "\x00" + c.Password, step == 0 // RFC 4616 section 2
	}}
	// LOGIN was never standardised: two questions, whose wording differs and whose order does not.
	loginAuth = mechanism{"LOGIN", true, false, func(c Credentials, step int, _ []byte) (string, bool) {
		if step == 0 {
			return c.Username, true
		}
		return c.Password, step == 1
	}}
	cramMD5Auth = mechanism{"CRAM-MD5", false, false, func(c Credentials, step int, challenge []byte) (string, bool) {
		mac := hmac.New(md5.New, []byte(c.Password))
		mac.Write(challenge)
		return c.Username + " " + hex.EncodeToString(mac.Sum(nil)), step == 0 // RFC 2195 section 2
	}}
)

// mechanisms returns what the connection may use, the best first: under TLS the one of a single
// round trip, else the one that does not show the password.
func (c *Conn) mechanisms(cfg *Config) []mechanism {
	all := []mechanism{cramMD5Auth, plainAuth, loginAuth}
	if c.tls != nil {
		all = []mechanism{plainAuth, loginAuth, cramMD5Auth}
	}
	return slices.DeleteFunc(all, func(m mechanism) bool {
		return !slices.Contains(c.ext.Auth, m.name) || m.readers && c.tls == nil && !cfg.AllowPlaintextAuth
	})
}

// authenticate logs in with the first mechanism that the peer does.
func (c *Conn) authenticate(ctx context.Context, cfg *Config) *Error {
	failed := &Error{Phase: event.PhaseAuth, Err: ErrNoAuth}
	for _, m := range c.mechanisms(cfg) {
		reply, err := c.logIn(ctx, m, cfg.Credentials)
		switch {
		case err != nil:
			return &Error{Phase: event.PhaseAuth, Err: err}
		case reply.Code == 235:
			return nil
		case reply.Code == 421:
			return refusal(event.PhaseAuth, reply)
		case reply.Positive():
			return &Error{Phase: event.PhaseAuth, Reply: reply, Err: ErrProtocol}
		}
		failed = &Error{Phase: event.PhaseAuth, Reply: reply, Err: ErrAuth}
		if reply.Code != 504 && reply.Code != 534 { // RFC 4954 sections 4 and 6: not with this mechanism
			break
		}
	}
	return failed
}

// maxCommand is the longest command line with its CRLF (RFC 5321 section 4.5.3.1.4). An answer
// that does not fit behind AUTH waits for the server's empty challenge (RFC 4954 section 4).
const maxCommand = 512

// logIn holds the dialogue of one mechanism and returns its last reply. What it returns has no
// secret in it, even if the peer repeats what it was sent.
func (c *Conn) logIn(ctx context.Context, m mechanism, cred Credentials) (smtpstatus.Reply, error) {
	secrets := []string{cred.Password}
	line, step := "AUTH "+m.name, 0
	if m.initial {
		answer, _ := m.respond(cred, 0, nil)
		if encoded := base64.StdEncoding.EncodeToString([]byte(answer)); len(line)+1+len(encoded)+len(crlf) <= maxCommand {
			line, step = line+" "+encoded, 1
			secrets = append(secrets, encoded)
		}
	}
	for {
		reply, err := c.exchange(ctx, line)
		if errors.Is(err, ErrProtocol) {
			err = ErrProtocol // its text quotes the peer
		}
		if err != nil || reply.Code != 334 {
			return redact(reply, secrets), err
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(reply.Lines[0]))
		answer, ok := m.respond(cred, step, challenge)
		if !ok || err != nil && !m.readers { // the others do not look at the challenge
			return smtpstatus.Reply{}, fmt.Errorf("%w: challenge that does not belong to %s", ErrProtocol, m.name)
		}
		line = base64.StdEncoding.EncodeToString([]byte(answer))
		secrets = append(secrets, line)
		step++
	}
}

// redact returns reply without the secrets in its text.
func redact(reply smtpstatus.Reply, secrets []string) smtpstatus.Reply {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		for i, line := range reply.Lines {
			reply.Lines[i] = strings.ReplaceAll(line, secret, "***")
		}
	}
	return reply
}
