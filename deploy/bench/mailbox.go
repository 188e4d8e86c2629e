package bench

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/textproto"

	"github.com/emersion/go-smtp"
)

// mailbox is a receiver in this process, where what arrives has to be looked at. It is go-smtp's
// server, which offers PIPELINING and CHUNKING.
type mailbox struct {
	addr   string
	server *smtp.Server
	ended  chan error
}

// arrival is called for each message when all of it has arrived, before it is answered; from
// several goroutines at once.
type arrival func(recipient string, header textproto.MIMEHeader)

// openMailbox listens at addr.
func openMailbox(ctx context.Context, addr string, took arrival) (*mailbox, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &delivery{took: took}, nil }))
	s.Domain = "mailbox.test"
	s.ErrorLog = log.New(io.Discard, "", 0) // it tells of every connection that is cut at the end
	b := &mailbox{addr: l.Addr().String(), server: s, ended: make(chan error, 1)}
	go func() { b.ended <- s.Serve(l) }()
	return b, nil
}

// close cuts all connections.
func (b *mailbox) close() error {
	err := b.server.Close()
	if served := <-b.ended; !errors.Is(served, smtp.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// delivery is one session.
type delivery struct {
	discard

	took      arrival
	recipient string // the last
}

var _ smtp.Session = &delivery{}

// Rcpt is part of smtp.Session.
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.recipient = to
	return nil
}

// Data is part of smtp.Session.
func (d *delivery) Data(r io.Reader) error {
	br := bufio.NewReader(r)
	header, err := textproto.NewReader(br).ReadMIMEHeader()
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return err
	}
	d.took(d.recipient, header)
	return nil
}
