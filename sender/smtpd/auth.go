package smtpd

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // what CRAM-MD5 is made of
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"carom/sender/config"
)

// maxLoginFailures is how many logins may fail on one connection.
const maxLoginFailures = 3

// login makes user, nil for nobody, the one who speaks: the sources of users apply.
func (c *conn) login(user *config.User) {
	c.user = user
	if user == nil {
		c.source = c.server.config.Load().Source(c.client, c.door.source())
	} else {
		c.source = c.server.config.Load().Source(c.client, c.door.source(), "{auth}", user.Source)
	}
}

// mechanisms returns what AUTH (RFC 4954) is offered with.
func (c *conn) mechanisms() []string {
	switch {
	case !c.source.AllowAuth || !c.server.accounts.Load().hasPasswords || c.user != nil, c.source.RequireStartTLSBeforeAuth && !c.isTLS():
		return nil
	case c.isTLS() || c.source.AllowUnencryptedPlainAuth:
		return []string{"PLAIN", "LOGIN", "CRAM-MD5"}
	}
	return []string{"CRAM-MD5"}
}

// authenticate is the AUTH command.
func (c *conn) authenticate(argument string) {
	mechanism, initial, hasInitial := strings.Cut(argument, " ")
	mechanism = strings.ToUpper(mechanism)
	if reply := c.refuseAuth(mechanism); reply != "" {
		c.reply(reply)
		return
	}
	var user *config.User
	var err error
	dialogue := &exchange{c, initial, hasInitial}
	switch mechanism {
	case "PLAIN":
		user, err = dialogue.plain()
	case "LOGIN":
		user, err = dialogue.login()
	default:
		user, err = dialogue.cramMD5()
	}
	var answer *RefusalError
	switch {
	case errors.As(err, &answer):
		c.reply(answer.Error())
	case err != nil: // of reading
		c.hangUp()
	case user == nil:
		c.loginFailed()
	default:
		c.login(user)
		c.reply("235 2.7.0 authentication succeeded")
	}
}

// refuseAuth returns why AUTH is not taken now, or "".
func (c *conn) refuseAuth(mechanism string) string {
	offered := c.mechanisms()
	switch {
	case c.session == nil || c.session.hello == "":
		return "503 5.5.1 say EHLO first"
	case c.user != nil:
		return "503 5.5.1 already authenticated"
	case c.session.message != nil:
		return "503 5.5.1 no AUTH inside a transaction"
	case c.source.RequireStartTLSBeforeAuth && !c.isTLS():
		return "530 5.7.0 say STARTTLS first" // RFC 3207 section 4
	case len(offered) == 0:
		return "502 5.5.1 AUTH is not offered"
	case len(offered) == 1 && (mechanism == "PLAIN" || mechanism == "LOGIN"):
		return "538 5.7.11 encryption is needed for this mechanism"
	case mechanism != "PLAIN" && mechanism != "LOGIN" && mechanism != "CRAM-MD5":
		return "504 5.5.4 unknown mechanism"
	case c.server.lockout.isLocked(c.client, c.source.SMTPMaxAuthFailureRate, time.Now()):
		c.refusedConnection(errLocked)
		return errLocked.Error()
	}
	return ""
}

var (
	errLocked = &RefusalError{454, [3]int{4, 7, 0}, "too many logins have failed, try again later"}
	errLogins = &RefusalError{421, [3]int{4, 7, 0}, "too many logins have failed"}
)

// loginFailed answers a login that failed.
func (c *conn) loginFailed() {
	c.server.lockout.fail(c.client, c.source.SMTPMaxAuthFailureRate, time.Now())
	c.server.logger.Info("login failed", "client", c.client.String())
	if c.loginFailures++; c.loginFailures >= maxLoginFailures {
		c.refusedConnection(errLogins)
		c.reply(errLogins.Error())
		c.hangUp()
		return
	}
	c.reply("535 5.7.8 authentication failed")
}

// exchange is what follows AUTH. Its methods return nil for who has not proved to be a user;
// their errors are *RefusalError or of reading.
type exchange struct {
	c          *conn
	initial    string
	hasInitial bool
}

// ask sends a challenge, if there is no initial response that makes it unnecessary, and returns the
// response.
func (e *exchange) ask(challenge string) ([]byte, error) {
	encoded := e.initial
	if e.hasInitial {
		e.hasInitial = false
		if encoded == "=" {
			return nil, nil // an empty one, RFC 4954 section 4
		}
	} else {
		e.c.reply("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)))
		line, err := e.c.line(maxResponse)
		if err != nil {
			return nil, err
		}
		encoded = string(bytes.TrimRight(line, "\r\n"))
	}
	if encoded == "*" {
		return nil, &RefusalError{501, [3]int{5, 7, 0}, "authentication is cancelled"}
	}
	response, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, &RefusalError{501, [3]int{5, 5, 2}, "response is not in base64"}
	}
	return response, nil
}

// plain is RFC 4616.
func (e *exchange) plain() (*config.User, error) {
	response, err := e.ask("")
	if err != nil {
		return nil, err
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, &RefusalError{501, [3]int{5, 5, 2}, "malformed response"}
	}
	if authorize := parts[0]; len(authorize) > 0 && !bytes.Equal(authorize, parts[1]) {
		return nil, nil // on behalf of somebody else
	}
	return e.c.server.byPassword(string(parts[1]), parts[2]), nil
}

// login is the mechanism of draft-murchison-sasl-login.
func (e *exchange) login() (*config.User, error) {
	name, err := e.ask("Username:")
	if err != nil {
		return nil, err
	}
	password, err := e.ask("Password:")
	if err != nil {
		return nil, err
	}
	return e.c.server.byPassword(string(name), password), nil
}

// cramMD5 is RFC 2195.
func (e *exchange) cramMD5() (*config.User, error) {
	if e.hasInitial {
		return nil, &RefusalError{501, [3]int{5, 5, 2}, "CRAM-MD5 has no initial response"}
	}
	challenge := fmt.Sprintf("<%s.%d@%s>", rand.Text(), time.Now().Unix(), e.c.server.host)
	response, err := e.ask(challenge)
	if err != nil {
		return nil, err
	}
	name, digest, _ := cutLast(string(response), " ")
	user, secret := e.c.server.userWithPassword(name)
	mac := hmac.New(md5.New, []byte(secret))
	mac.Write([]byte(challenge))
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(digest)) != 1 {
		return nil, nil
	}
	return user, nil
}

// byPassword returns the user whose password it is, or nil. It takes as long for a user that there
// is not.
func (s *Server) byPassword(name string, password []byte) *config.User {
	user, secret := s.userWithPassword(name)
	given, want := sha256.Sum256(password), sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
		return nil
	}
	return user
}

// userWithPassword returns the user and the password, or nil and one that nobody knows.
func (s *Server) userWithPassword(name string) (*config.User, string) {
	if user, ok := s.config.Load().User(name); ok && user.Method == config.ByPassword {
		return user, user.Password.Reveal()
	}
	return nil, s.nobody
}

// lockout counts logins that fail, by client: smtp-max-auth-failure-rate. An IPv6 client counts
// with its /64. The zero lockout is ready to use.
type lockout struct {
	mu       sync.Mutex
	failures map[netip.Prefix]failures
}

type failures struct {
	since time.Time // of the first
	count int
}

// maxLockouts bounds the clients that are remembered.
const maxLockouts = 10_000

func network(client netip.Addr) netip.Prefix {
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	p, _ := client.WithZone("").Prefix(bits) // only fails for too many bits
	return p
}

// isLocked reports whether the client has to wait until the time of the rate is over since its
// first failure.
func (l *lockout) isLocked(client netip.Addr, rate config.Rate, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.failures[network(client)]
	return !rate.Unlimited() && f.count >= rate.Count && now.Sub(f.since) < rate.Per
}

func (l *lockout) fail(client netip.Addr, rate config.Rate, now time.Time) {
	if rate.Unlimited() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := network(client)
	f, known := l.failures[key]
	if !known || now.Sub(f.since) >= rate.Per {
		f = failures{since: now}
	}
	if !known && len(l.failures) >= maxLockouts {
		l.forget(now)
	}
	f.count++
	if l.failures == nil {
		l.failures = map[netip.Prefix]failures{}
	}
	l.failures[key] = f
}

// forget makes room: it forgets the oldest of some.
func (l *lockout) forget(now time.Time) {
	oldest, at, seen := netip.Prefix{}, now, 0
	for key, f := range l.failures {
		if !f.since.After(at) {
			oldest, at = key, f.since
		}
		if seen++; seen == 16 {
			break
		}
	}
	delete(l.failures, oldest)
}
