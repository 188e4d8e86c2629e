package verify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// batchSent is how much an insert of a trial has written when its rows are on their way: login,
// settings and the names of the columns are less, the rows of a batch are more.
const batchSent = 16 << 10 // bytes

var errAnswerLost = errors.New("the connection was cut before the answer, on purpose")

// deafConn returns a connection to the scratch database. After arm, the first answer that comes when
// a batch was written is thrown away and the connection is closed: the server has the rows, or
// begins to store them, and the client does not learn it.
func (t *trial) deafConn() (conn driver.Conn, arm func(), err error) {
	opt, err := warehouse.ClientOptions(t.url, t.Warehouse)
	if err != nil {
		return nil, nil, err
	}
	var armed atomic.Bool
	config := opt.TLS
	opt.DialContext = func(ctx context.Context, address string) (net.Conn, error) {
		plain, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		deaf := &deafConn{Conn: plain, armed: &armed}
		if config == nil || opt.Protocol == clickhouse.HTTP { // net/http adds TLS itself
			return deaf, nil
		}
		secure := config.Clone()
		if secure.ServerName == "" {
			if secure.ServerName, _, err = net.SplitHostPort(address); err != nil {
				return nil, errors.Join(err, plain.Close())
			}
		}
		over := tls.Client(deaf, secure)
		if err := over.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, plain.Close())
		}
		return over, nil
	}
	if conn, err = clickhouse.Open(opt); err != nil {
		return nil, nil, fmt.Errorf("open a connection: %w", err)
	}
	return conn, func() { armed.Store(true) }, nil
}

// deafConn is a net.Conn that loses answers.
type deafConn struct {
	net.Conn

	armed   *atomic.Bool
	written atomic.Int64 // since armed
}

func (c *deafConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.armed.Load() {
		c.written.Add(int64(n))
	}
	return n, err
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.written.Load() > batchSent {
		return 0, errors.Join(errAnswerLost, c.Close())
	}
	return n, err
}
