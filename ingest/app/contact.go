package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// pingTimeout bounds the question whether ClickHouse answers.
const pingTimeout = 5 * time.Second

// contact tells a ClickHouse that does not answer, or has no tables yet, from every other failure,
// and says so once for all tasks of the agent. It is safe for concurrent use.
type contact struct {
	conn    driver.Conn
	options Options
	log     *slog.Logger

	mu     sync.Mutex
	warned time.Time // of the present outage
}

// reachable reports whether ClickHouse answers and has the tables. If it does not, the log has one line a minute.
func (c *contact) reachable(ctx context.Context) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := c.conn.Ping(call)
	if err != nil {
		err = warehouse.Explain(c.options.URL, c.options.Warehouse, err)
	} else if err = warehouse.Check(call, c.conn); !errors.Is(err, warehouse.ErrSchemaBehind) {
		c.warned = time.Time{}
		return true
	}
	if ctx.Err() == nil && time.Since(c.warned) >= repeatWarning {
		c.warned = time.Now()
		c.log.Warn("the event log waits", "error", err)
	}
	return false
}
