package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/emersion/go-smtp"
)

// goSMTP is go-smtp's server, which accepts and discards: no disk, no queue. It is how fast a
// server on that library can be at best. It runs in this process; of its CPU time the few calls
// that watch the run are part, and its memory is that of this process.
var goSMTP = server{
	name: "go-smtp, accept and discard", missing: nothing,
	start: func(ctx context.Context, _ *stage) (*running, error) {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return discard{}, nil }))
		s.Domain = "go-smtp.test"
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		pid := os.Getpid()
		return &running{
			addr:  l.Addr().String(),
			usage: func() (usage, error) { return processUsage(pid) },
			stop: func(context.Context) error {
				err := s.Close()
				if served := <-ended; !errors.Is(served, smtp.ErrServerClosed) {
					err = errors.Join(err, served)
				}
				return err
			},
		}, nil
	},
}

// discard is a session that takes everything and keeps nothing.
type discard struct{}

var _ smtp.Session = discard{}

// Mail is part of smtp.Session.
func (discard) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt is part of smtp.Session.
func (discard) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data is part of smtp.Session.
func (discard) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// Reset is part of smtp.Session.
func (discard) Reset() {}

// Logout is part of smtp.Session.
func (discard) Logout() error { return nil }
