package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/emersion/go-smtp"
)

// client is go-smtp's client on a connection that ends with its context.
type client struct {
	*smtp.Client

	conn net.Conn
	stop func() bool
}

// dial connects to addr and reads the greeting.
func dial(ctx context.Context, addr string) (*client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &client{Client: smtp.NewClient(conn), conn: conn}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := c.Hello("bench.test"); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() {
	c.stop()
	_ = c.conn.Close() // nothing is left to be said
}

// hand hands one message over.
func (c *client) hand(recipient, message string) error {
	if err := c.Mail("sender@source.test", nil); err != nil {
		return err
	}
	if err := c.Rcpt(recipient, nil); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, message); err != nil {
		return err
	}
	return w.Close()
}

// letter returns a message of so many bytes, about, with a further header field.
func letter(bytes int, field string) string {
	const line = 78
	var b strings.Builder
	fmt.Fprintf(&b, "From: sender@source.test\r\nTo: recipient@sink.test\r\nSubject: bench\r\n%s\r\n\r\n", field)
	for b.Len()+line+2 <= bytes {
		b.WriteString(strings.Repeat("X", line) + "\r\n")
	}
	return b.String()
}
