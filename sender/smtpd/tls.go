package smtpd

import "crypto/tls"

// begin does what comes before the greeting.
func (c *conn) begin() error { return nil }

// offersTLS reports whether STARTTLS is offered.
func (c *conn) offersTLS() bool { return false }

func (c *conn) isTLS() bool {
	_, ok := c.stream.(*tls.Conn)
	return ok
}

func (c *conn) startTLS(string) []byte { c.reply("502 5.5.1 no TLS"); return nil }

func (c *conn) mechanisms() []string { return nil }

func (c *conn) authenticate(string) { c.reply("503 5.5.1 no AUTH") }
