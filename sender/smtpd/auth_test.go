package smtpd

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carom/sender/config"
)

const users = `
<smtp-user ann>
    password "open sesame"
    source shop
</smtp-user>
<smtp-user bob>
    password hunter2
</smtp-user>
<source shop>
    hide-message-source yes
</source>
<source {auth}>
    always-allow-relaying yes
</source>
`

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// login logs in by PLAIN.
func (f *feeder) login(user, password, want string) {
	f.t.Helper()
	f.say("AUTH PLAIN "+encode("\x00"+user+"\x00"+password), want)
}

func TestAuth(t *testing.T) {
	const plain = "<source 127.0.0.1>\nallow-unencrypted-plain-auth yes\nrequire-auth yes\n</source>"
	for _, tc := range []struct{ name, conf, dialogue string }{
		{"PLAIN", plain, "AUTH PLAIN " + encode("\x00ann\x00open sesame") + "\nS: 235 2.7.0"},
		{"PLAIN in two steps", plain, "auth plain\nS: 334 \n" + encode("ann\x00Ann\x00open sesame") + "\nS: 535 5.7.8\nAUTH PLAIN\nS: 334\n" + encode("ann\x00ann\x00open sesame") + "\nS: 235"},
		{"LOGIN", plain, "AUTH LOGIN\nS: 334 VXNlcm5hbWU6\n" + encode("bob") + "\nS: 334 UGFzc3dvcmQ6\n" + encode("hunter2") + "\nS: 235"},
		{"LOGIN with the name at once", plain, "AUTH LOGIN " + encode("bob") + "\nS: 334 UGFzc3dvcmQ6\n" + encode("hunter2") + "\nS: 235"},
		{"wrong password", plain, "AUTH LOGIN " + encode("bob") + "\nS: 334\n" + encode("hunter3") + "\nS: 535 5.7.8"},
		{"no such user", plain, "AUTH PLAIN " + encode("\x00eve\x00") + "\nS: 535 5.7.8"},
		{"cancelled", plain, "AUTH LOGIN\nS: 334\n*\nS: 501 5.7.0\nNOOP\nS: 250"},
		{"no base64", plain, "AUTH LOGIN\nS: 334\n?\nS: 501 5.5.2\nAUTH PLAIN ?\nS: 501"},
		{"an empty response", plain, "AUTH PLAIN =\nS: 501 5.5.2"},
		{"commands in place of a response", plain, "AUTH LOGIN\nS: 334\nSTARTTLS\nS: 334\nDATA\nS: 535\nNOOP\nS: 250"},
		{"unknown mechanism", plain, "AUTH GSSAPI\nS: 504 5.5.4\nAUTH\nS: 504"},
		{"twice", plain, "AUTH PLAIN " + encode("\x00ann\x00open sesame") + "\nS: 235\nAUTH PLAIN " + encode("\x00ann\x00open sesame") + "\nS: 503 5.5.1"},
		{"inside a transaction", open + "<source 127.0.0.1>\nallow-unencrypted-plain-auth yes\n</source>", "MAIL FROM:<a@b.test>\nS: 250\nAUTH PLAIN\nS: 503 5.5.1"},
		{"not without encryption", open, "AUTH PLAIN " + encode("\x00ann\x00open sesame") + "\nS: 538 5.7.11\nAUTH LOGIN\nS: 538"},
		{"not before STARTTLS", "<source 127.0.0.1>\nrequire-starttls-before-auth yes\n</source>", "AUTH CRAM-MD5\nS: 530 5.7.0"},
		{"not allowed", "<source 127.0.0.1>\nallow-auth no\n</source>", "AUTH CRAM-MD5\nS: 502 5.5.1"},
		{"three failures", plain, strings.Repeat("AUTH PLAIN "+encode("\x00ann\x00x")+"\nS: 535\n", 2) + "AUTH PLAIN " + encode("\x00ann\x00x") + "\nS: 421 4.7.0\nS:"},
		{"require-auth", plain, "MAIL FROM:<a@b.test>\nS: 530 5.7.0\nAUTH PLAIN " + encode("\x00ann\x00open sesame") + "\nS: 235\nMAIL FROM:<a@b.test>\nS: 250"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start(t, users+tc.conf, &desk{}, nil).hello(t).converse(tc.dialogue)
		})
	}
}

func TestCRAMMD5(t *testing.T) {
	for password, want := range map[string]string{"hunter2": "235", "hunter3": "535"} {
		f := start(t, users, &desk{}, nil).hello(t)
		f.send("AUTH CRAM-MD5\r\n")
		line, err := f.in.ReadLine()
		if err != nil || !strings.HasPrefix(line, "334 ") {
			t.Fatalf("%q, %v", line, err)
		}
		challenge, err := base64.StdEncoding.DecodeString(line[4:])
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(md5.New, []byte(password))
		mac.Write(challenge)
		f.say(encode("bob "+hex.EncodeToString(mac.Sum(nil))), want)
	}
}

// Who logs in gets the settings of {auth} and of the user's source, and is the tenant.
func TestSourcesOfUsers(t *testing.T) {
	d := &desk{}
	s := start(t, users+"<source 127.0.0.1>\nallow-unencrypted-plain-auth yes\n</source>", d, nil)
	f := s.hello(t)
	f.say("MAIL FROM:<a@b.test>", "250")
	f.say("RCPT TO:<a@away.test>", "550 5.7.1 relaying denied")
	f.say("RSET", "250")
	f.login("ANN", "open sesame", "235")
	f.mail("A: b\r\n\r\n", "250")
	g := s.hello(t)
	g.login("bob", "hunter2", "235")
	g.mail("A: b\r\n\r\n", "250")
	if got := d.messages(); got[0].Tenant != "ann" || got[1].Tenant != "bob" || strings.Contains(string(got[0].Content), "feeder.test (") ||
		!strings.Contains(string(got[1].Content), "feeder.test ([127.0.0.1])\r\n\tby mx.test with ESMTPA id ") {
		t.Errorf("tenants %s, %s; %s\n%s", got[0].Tenant, got[1].Tenant, got[0].Content, got[1].Content)
	}
}

// TLS forgets who has logged in before it.
func TestSTARTTLSForgetsTheUser(t *testing.T) {
	conf, _ := encrypted(t, "allow-unencrypted-plain-auth yes\nrequire-auth yes")
	f := start(t, users+conf, &desk{}, nil).hello(t)
	f.login("ann", "open sesame", "235")
	f.startTLS(&tls.Config{})
	if got := f.offers(); !strings.Contains(got, "\nAUTH PLAIN LOGIN CRAM-MD5\n") {
		t.Errorf("offered %s", got)
	}
	f.say("MAIL FROM:<a@b.test>", "530 5.7.0")
	f.login("ann", "open sesame", "235")
	f.say("MAIL FROM:<a@b.test>", "250")
}

func TestUserByCertificate(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "carl.pem"), "carl")
	writeCertificate(t, filepath.Join(dir, "eve.pem"), "eve")
	conf, _ := encrypted(t, "require-auth yes")
	conf += "<smtp-user carl>\nauthentication-method certificate\ntls-certificate " + dir + "/carl.pem\n</smtp-user>\n"
	for name, want := range map[string]string{"carl": "250", "eve": "530 5.7.0"} {
		shown, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		f := start(t, conf, &desk{}, nil).hello(t)
		f.startTLS(&tls.Config{Certificates: []tls.Certificate{shown}})
		f.say("EHLO feeder.test", "250")
		f.say("MAIL FROM:<a@b.test>", want)
	}
}

func TestLockout(t *testing.T) {
	d := &desk{}
	s := start(t, users+"<source 127.0.0.1>\nallow-unencrypted-plain-auth yes\nrequire-auth yes\nsmtp-max-auth-failure-rate 2/1h\n</source>", d, nil)
	s.hello(t).login("ann", "x", "535")
	s.hello(t).login("bob", "x", "535")
	s.hello(t).login("ann", "open sesame", "454 4.7.0")
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.connections) != 1 || !strings.HasPrefix(d.connections[0], "454 4.7.0") {
		t.Errorf("told of %q", d.connections)
	}
}

func TestLockoutCountsFromTheFirstFailure(t *testing.T) {
	var l lockout
	begin := time.Unix(1_000_000, 0)
	rate := config.Rate{Count: 3, Per: 5 * time.Minute}
	client, neighbour, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:0:1::1")
	for i := range 3 {
		if l.isLocked(client, rate, begin) {
			t.Fatalf("locked after %d failures", i)
		}
		l.fail(client, rate, begin.Add(time.Duration(i)*time.Minute))
	}
	for _, tc := range []struct {
		client netip.Addr
		after  time.Duration
		locked bool
	}{
		{client, 2 * time.Minute, true}, {neighbour, 4 * time.Minute, true}, {other, 2 * time.Minute, false}, {client, 5 * time.Minute, false},
	} {
		if got := l.isLocked(tc.client, rate, begin.Add(tc.after)); got != tc.locked {
			t.Errorf("%s after %s: locked %t", tc.client, tc.after, got)
		}
	}
	l.fail(client, rate, begin.Add(6*time.Minute))
	if l.isLocked(client, rate, begin.Add(6*time.Minute)) {
		t.Error("a failure long after counts with those before")
	}
	for i := range 2 * maxLockouts {
		l.fail(netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), rate, begin)
	}
	if len(l.failures) > maxLockouts {
		t.Errorf("%d clients are remembered", len(l.failures))
	}
}
