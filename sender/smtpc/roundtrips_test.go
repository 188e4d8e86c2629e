package smtpc

import (
	"net"
	"strings"
	"testing"
	"time"
)

// turns counts round trips: how often a side that has written waits for an answer.
type turns struct {
	net.Conn

	wrote bool
	count int
}

func (c *turns) Write(p []byte) (int, error) {
	c.wrote = true
	return c.Conn.Write(p)
}

func (c *turns) Read(p []byte) (int, error) {
	if c.wrote {
		c.wrote = false
		c.count++
	}
	return c.Conn.Read(p)
}

// TestRoundTrips counts what a message costs on a warm connection to go-smtp's server.
func TestRoundTrips(t *testing.T) {
	big := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 2000)
	for _, tc := range []struct {
		name     string
		cfg      Config
		size     int // of the message
		accepted int // how many of the recipients exist
		want     int
	}{
		{"neither", Config{IgnorePipelining: true, IgnoreChunking: true}, 4096, 2, 5},
		{"CHUNKING alone", Config{IgnorePipelining: true}, 4096, 2, 4},
		{"PIPELINING", Config{IgnoreChunking: true}, 4096, 2, 2},
		{"PIPELINING, a big message", Config{IgnoreChunking: true}, len(big), 2, 2},
		{"both", Config{}, 4096, 2, 1},
		{"both, a big message", Config{}, len(big), 2, 1},
		{"both, one recipient refused", Config{}, 4096, 1, 1},
		{"both, all refused", Config{}, 4096, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			box := new(mailbox)
			nc, err := net.Dial("tcp", serve(t, box, nil).String())
			if err != nil {
				t.Fatal(err)
			}
			counter := &turns{Conn: nc}
			cfg := tc.cfg
			cfg.EHLO, cfg.Timeouts = "me.example", testTimeouts
			c, err := open(t.Context(), &cfg, counter, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			tx := Transaction{From: "a@from.example", Recipients: rcpts("nobody@to.example", "nobody@to.example"), Size: int64(tc.size)}
			for i := range tc.accepted {
				tx.Recipients[i].Address = "x@to.example"
			}
			const messages = 5
			for i := range messages {
				before := counter.count
				tx.Body = strings.NewReader(big[len(big)-tc.size:])
				r := c.Send(t.Context(), tx)
				if got := counter.count - before; got != tc.want || !r.Usable {
					t.Errorf("message %d: %d round trips, want %d; usable %v", i+1, got, tc.want, r.Usable)
				}
				for k, rcpt := range r.Recipients {
					if rcpt.Delivered() != (k < tc.accepted) {
						t.Errorf("message %d, recipient %d: %s", i+1, k, verdict(rcpt))
					}
				}
			}
			c.Quit(t.Context())
			box.mu.Lock()
			defer box.mu.Unlock()
			if tc.accepted > 0 && len(box.messages) != messages || tc.accepted == 0 && len(box.messages) != 0 {
				t.Errorf("%d messages arrived", len(box.messages))
			}
			for _, m := range box.messages {
				if !strings.HasSuffix(m, big[len(big)-tc.size:]) {
					t.Errorf("arrived changed: %.200q", m)
				}
			}
		})
	}
}
