package smtpc

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"carom/schemas/event"
)

// tim are the credentials of RFC 2195's example.
var tim = Credentials{Username: "tim", Password: "tanstaaftanstaaf"}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAuth(t *testing.T) {
	hello := func(mechanisms string) string {
		return "S: 220 mx\nC: EHLO me.example\nS: 250-mx\nS: 250 AUTH " + mechanisms + "\n"
	}
	// Challenge and answer of RFC 2195 section 2.
	const cramMD5 = `
C: AUTH CRAM-MD5
S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw
`
	plain := "C: AUTH PLAIN " + b64("\x00tim\x00"+tim.Password) + "\n"
	for _, tc := range []struct {
		name      string
		script    string
		cred      Credentials
		plaintext bool
		want      string
	}{
		{"CRAM-MD5", hello("LOGIN PLAIN CRAM-MD5") + cramMD5 + "S: 235 2.7.0 welcome\ngone", tim, true, ""},
		{"CRAM-MD5 is all that is allowed", hello("LOGIN PLAIN CRAM-MD5") + cramMD5 + "S: 235 welcome\ngone", tim, false, ""},
		{"PLAIN", hello("LOGIN PLAIN") + plain + "S: 235 welcome\ngone", tim, true, ""},
		{"LOGIN", hello("LOGIN XOAUTH2") + `
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: ` + b64("tim") + `
S: 334 this is no base64
C: ` + b64(tim.Password) + `
S: 235 welcome
gone`, tim, true, ""},
		{"PLAIN too long for one line", hello("PLAIN") + `
C: AUTH PLAIN
S: 334
C: ` + b64("\x00tim\x00"+strings.Repeat("p", 400)) + `
S: 235 welcome
gone`, Credentials{"tim", strings.Repeat("p", 400)}, true, ""},
		{"no PLAIN or LOGIN in the clear", hello("LOGIN PLAIN") + "C: QUIT\ngone", tim, false, "auth: " + ErrNoAuth.Error()},
		{"no mechanism known", hello("GSSAPI") + "C: QUIT\ngone", tim, true, "auth: " + ErrNoAuth.Error()},
		{"no AUTH", plainHello + "C: QUIT\ngone", tim, true, "auth: " + ErrNoAuth.Error()},
		{"no credentials, no AUTH", hello("PLAIN") + "gone", Credentials{}, true, ""},
		{"refused", hello("PLAIN LOGIN") + plain + "S: 535 5.7.8 no\nC: QUIT\ngone", tim, true, "auth: " + ErrAuth.Error() + " 535 5.7.8 no"},
		{"refused for now", hello("PLAIN") + plain + "S: 454 4.7.0 later\nC: QUIT\ngone", tim, true, "auth: " + ErrAuth.Error() + " 454 4.7.0 later"},
		{"421", hello("PLAIN") + plain + "S: 421 4.7.0 bye\nC: QUIT\ngone", tim, true, "auth: peer answered 421 4.7.0 bye"},
		{"closed", hello("PLAIN") + plain + "close", tim, true, "auth: " + ErrPeerClosed.Error()},
		{"250 is no answer", hello("PLAIN") + plain + "S: 250 ok\ngone", tim, true, "auth: " + ErrProtocol.Error() + " 250 ok"},
		{"the next mechanism", hello("PLAIN CRAM-MD5") + "C: AUTH CRAM-MD5\nS: 504 5.5.4 not that\n" + plain + "S: 235 welcome\ngone", tim, true, ""},
		{
			"no mechanism after all", hello("CRAM-MD5") + "C: AUTH CRAM-MD5\nS: 534 5.7.9 too weak\nC: QUIT\ngone", tim, true,
			"auth: " + ErrAuth.Error() + " 534 5.7.9 too weak",
		},
		{"a challenge too many", hello("PLAIN") + plain + "S: 334 YW5kPw==\ngone", tim, true, "auth: " + ErrProtocol.Error()},
		{"a challenge that is none", hello("CRAM-MD5") + "C: AUTH CRAM-MD5\nS: 334 ~\ngone", tim, true, "auth: " + ErrProtocol.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := dial(t, play(t, tc.script), func(cfg *Config) {
				cfg.Credentials, cfg.AllowPlaintextAuth = tc.cred, tc.plaintext
			})
			if got := dialError(err); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if e, ok := errors.AsType[*Error](err); ok && !e.Temporary() {
				t.Errorf("%v: permanent, but it says nothing about any message", err)
			}
			if err == nil {
				if (c.Timing().Auth > 0) != (tc.cred != Credentials{}) {
					t.Errorf("timing %+v", c.Timing())
				}
				c.Close()
			}
		})
	}
}

// TestAuthSecrets: a password is in no error, even where the peer repeats what it was sent.
func TestAuthSecrets(t *testing.T) {
	encoded := b64("\x00tim\x00" + tim.Password)
	for _, reply := range []string{
		"S: 535 5.7.8 wrong password tanstaaftanstaaf\nC: QUIT\ngone",
		"S: 500-unknown command\nS: 500 AUTH PLAIN " + encoded + "\nC: QUIT\ngone",
		"S: 421 AUTH PLAIN " + encoded + "\nC: QUIT\ngone",
		"S: AUTH PLAIN " + encoded + "\ngone",
		"S: 250 " + encoded + "\ngone",
	} {
		_, err := dial(t, play(t, "S: 220 mx\nC: EHLO me.example\nS: 250-mx\nS: 250 AUTH PLAIN\nC: AUTH PLAIN "+encoded+"\n"+reply),
			func(cfg *Config) { cfg.Credentials, cfg.AllowPlaintextAuth = tim, true })
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Phase != event.PhaseAuth {
			t.Fatalf("reply %q: got %v, want an error of the auth phase", reply, err)
		}
		said := err.Error() + fmt.Sprintf("%+v %q", *e, e.Reply.Lines)
		if strings.Contains(said, tim.Password) || strings.Contains(said, encoded) {
			t.Errorf("reply %q: the error tells the password: %s", reply, said)
		}
	}
	asJSON, err := json.Marshal(Config{Credentials: tim}.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	said := string(asJSON) + fmt.Sprintf("%v %+v %#v %s", tim, Config{Credentials: tim}, Config{Credentials: tim}, &tim)
	if strings.Contains(said, tim.Password) || !strings.Contains(said, tim.Username) {
		t.Errorf("credentials print as %s", said)
	}
}

// guarded is a mailbox that only tim may use, with PLAIN or LOGIN.
type guarded struct {
	mailbox

	mechanism string
}

type guardedSession struct {
	smtp.Session

	box    *guarded
	authed bool
}

func (g *guarded) NewSession(c *smtp.Conn) (smtp.Session, error) {
	s, err := g.mailbox.NewSession(c)
	return &guardedSession{Session: s, box: g}, err
}

func (s *guardedSession) AuthMechanisms() []string { return []string{s.box.mechanism} }

func (s *guardedSession) Auth(string) (sasl.Server, error) {
	check := func(username, password string) error {
		if s.authed = username == tim.Username && password == tim.Password; !s.authed {
			return smtp.ErrAuthFailed
		}
		return nil
	}
	if s.box.mechanism == sasl.Login {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, username, password string) error { return check(username, password) }), nil
}

func (s *guardedSession) Mail(from string, opts *smtp.MailOptions) error {
	if !s.authed {
		return smtp.ErrAuthRequired
	}
	return s.Session.Mail(from, opts)
}

// loginServer is the server's side of LOGIN, which go-sasl does not have.
type loginServer struct {
	said  []string
	check func(username, password string) error
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if response != nil {
		l.said = append(l.said, string(response))
	}
	switch len(l.said) {
	case 0:
		return []byte("Username:"), false, nil
	case 1:
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.said[0], l.said[1])
}

// TestAuthAgainstGoSMTP logs in under TLS and sends.
func TestAuthAgainstGoSMTP(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	for _, mechanism := range []string{sasl.Plain, sasl.Login} {
		t.Run(mechanism, func(t *testing.T) {
			addr := serve(t, &guarded{mechanism: mechanism}, &cert)
			secure := func(cfg *Config) {
				cfg.TLS, cfg.TLSConfig, cfg.ServerName, cfg.Credentials = TLSRequired, &tls.Config{RootCAs: pool}, "mx.example", tim
			}
			c := mustDial(t, addr, secure)
			r := c.Send(t.Context(), Transaction{
				From: "a@from.example", Recipients: rcpts("x@to.example"), Size: 6, Body: text("body\n"),
			})
			if !r.Recipients[0].Delivered() {
				t.Error(verdict(r.Recipients[0]))
			}
			d := c.Timing()
			if d.Connect <= 0 || d.Greeting <= 0 || d.Hello <= 0 || d.TLS <= 0 || d.Auth <= 0 {
				t.Errorf("a phase without its time: %+v", d)
			}
			if s := r.Timing; s.Mail <= 0 || s.Rcpt <= 0 || s.Data != 0 || s.Body <= 0 || s.FinalDot <= 0 {
				t.Errorf("a phase without its time, or DATA with one: %+v", s)
			}
			c.Quit(t.Context())

			_, err := dial(t, addr, func(cfg *Config) {
				secure(cfg)
				cfg.Credentials.Password = "guess"
			})
			if !errors.Is(err, ErrAuth) {
				t.Errorf("wrong password: got %v, want %v", err, ErrAuth)
			}
			_, err = dial(t, addr, func(cfg *Config) { cfg.Credentials = tim })
			if !errors.Is(err, ErrNoAuth) {
				t.Errorf("without TLS: got %v, want %v", err, ErrNoAuth)
			}
		})
	}
}
