package smtpc

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// postfixMain is main.cf of a Postfix of our own: %[1]s is its folder, %[2]s where the system has
// its daemons. It delivers to Maildirs of x@to.example and ü@to.example.
const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = %[2]s
maillog_file = /dev/stdout
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example
mydestination =
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = to.example
virtual_mailbox_maps = inline:{ {x@to.example = x/}, {ü@to.example = ue/} }
virtual_mailbox_base = %[1]s/mail
virtual_minimum_uid = 1
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_relay_restrictions = reject_unauth_destination
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_cert_file = %[1]s/cert.pem
smtpd_tls_key_file = %[1]s/cert.pem
smtpd_tls_session_cache_database =
`

const postfixMaster = `%s inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
`

// startPostfix runs a Postfix of our own in dir.
func startPostfix(t *testing.T, dir string, cert *tls.Certificate) netip.AddrPort {
	t.Helper()
	daemons := "/usr/lib/postfix/sbin" // Debian's
	postfix, err := exec.LookPath("postfix")
	if err != nil || !isFile(daemons+"/smtpd") {
		t.Skip("Postfix is not installed (Debian package postfix)")
	}
	if os.Getuid() != 0 {
		t.Skip("only root can start Postfix")
	}
	openFolder(t, dir)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, content := range map[string][]byte{
		"main.cf":   fmt.Appendf(nil, postfixMain, dir, daemons),
		"master.cf": fmt.Appendf(nil, postfixMaster, addr),
		"cert.pem":  both,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, owner := range map[string]string{"queue": "root", "data": "postfix", "mail": "nobody"} {
		u, err := user.Lookup(owner)
		if err != nil {
			t.Fatal(err)
		}
		id, err := strconv.Atoi(u.Uid)
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(folder, id, -1); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	cmd := exec.Command(postfix, "-c", dir, "start-fg")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out, err := exec.Command(postfix, "-c", dir, "abort").CombinedOutput()
		if err != nil {
			t.Errorf("postfix abort: %v\n%s", err, out)
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Postfix says:\n%s", log.Bytes())
		}
	})
	poll(t, "Postfix answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return netip.MustParseAddrPort(addr)
}

// openFolder lets every user of the machine into a test's folder.
func openFolder(t *testing.T, dir string) {
	t.Helper()
	for ; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// poll waits until done.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestPostfixChunking sends to a real Postfix over TLS: one round trip a message, and what
// arrives is the same with BDAT and with DATA.
func TestPostfixChunking(t *testing.T) {
	cert, pool := certificate(t, "mx.example")
	dir := t.TempDir()
	addr := startPostfix(t, dir, &cert)
	sessions := NewSessions(1)
	const content = "Subject: s\r\n\r\n.\r\n..dots\r\n\r\nno end of line"
	for i, tc := range []struct {
		name           string
		ignoreChunking bool
		trips          int
	}{{"BDAT", false, 1}, {"DATA", true, 2}} {
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		counter := &turns{Conn: nc}
		cfg := Config{
			RemoteAddr: addr, EHLO: "me.example", ServerName: "mx.example", Timeouts: testTimeouts,
			TLS: TLSRequired, TLSConfig: &tls.Config{RootCAs: pool}, Sessions: sessions, IgnoreChunking: tc.ignoreChunking,
		}
		c, err := open(t.Context(), &cfg, counter, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if ext := c.Extensions(); !ext.Pipelining || ext.Chunking == tc.ignoreChunking {
			t.Errorf("%s: extensions %+v", tc.name, ext)
		}
		if got, want := c.TLS().DidResume, i > 0; got != want {
			t.Errorf("%s: TLS session resumed %v, want %v", tc.name, got, want)
		}
		for _, to := range []struct {
			recipients []Rcpt
			want       []string
		}{
			{rcpts("x@to.example", "nobody@to.example"), []string{"final-dot 250", "rcpt 550"}},
			{rcpts("nobody@to.example"), []string{"rcpt 550"}},
			{rcpts("x@elsewhere.example"), []string{"rcpt 554"}},
			{rcpts("ü@to.example"), []string{"final-dot 250"}},
		} {
			before := counter.count
			r := c.Send(t.Context(), Transaction{
				From: "a@from.example", Recipients: to.recipients, Size: int64(len(content)), Body: strings.NewReader(content),
				NeedsUTF8: strings.Contains(to.recipients[0].Address, "ü"),
			})
			if trips := counter.count - before; trips > tc.trips || !r.Usable {
				t.Errorf("%s to %s: %d round trips, want at most %d; usable %v", tc.name, to.recipients[0].Address, trips, tc.trips, r.Usable)
			}
			for k, want := range to.want {
				if got := verdict(r.Recipients[k]); !strings.HasPrefix(got, want) {
					t.Errorf("%s to %s: got %q, want %q", tc.name, to.recipients[k].Address, got, want)
				}
			}
		}
		c.Quit(t.Context())
	}
	var bodies []string
	for _, box := range []string{"x", "ue"} {
		var files []string
		poll(t, "two messages in the mailbox "+box, func() bool {
			var err error
			files, err = filepath.Glob(filepath.Join(dir, "mail", box, "new", "*"))
			return err == nil && len(files) == 2
		})
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			_, body, _ := strings.Cut(string(data), "\n\n")
			bodies = append(bodies, body)
		}
	}
	const body = ".\n..dots\n\nno end of line\n"
	if diff := cmp.Diff([]string{body, body, body, body}, bodies); diff != "" {
		t.Errorf("arrived (-want +got):\n%s", diff)
	}
}
