package smtpc

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/deploy/peers"
	"carom/deploy/peers/peertest"
	"carom/deploy/rig"
)

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
	both, public, err := peers.SelfSigned(peers.Host)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	postfix := &peers.Postfix{Settings: peers.Settings{
		Dir: peertest.Dir(t), Listen: rig.FreeAddress(t), Certificate: both,
		Mailboxes: map[string]string{"x@to.example": "x", "ü@to.example": "ue"},
	}}
	peertest.Start(t, postfix, postfix.Listen)
	addr := netip.MustParseAddrPort(postfix.Listen)
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
		var messages [][]byte
		poll(t, "two messages in the mailbox "+box, func() bool {
			var err error
			messages, err = postfix.Messages(box)
			return err == nil && len(messages) == 2
		})
		for _, data := range messages {
			_, body, _ := strings.Cut(string(data), "\n\n")
			bodies = append(bodies, body)
		}
	}
	const body = ".\n..dots\n\nno end of line\n"
	if diff := cmp.Diff([]string{body, body, body, body}, bodies); diff != "" {
		t.Errorf("arrived (-want +got):\n%s", diff)
	}
}
