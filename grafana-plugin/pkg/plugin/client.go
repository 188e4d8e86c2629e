package plugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/grafana/grafana-plugin-sdk-go/data"

	"carom/grafana-plugin/pkg/frames"
)

// client runs statements that read. It is safe for concurrent use.
type client struct {
	settings Settings
	conn     driver.Conn
	slots    chan struct{} // one for each statement that runs

	mu     sync.Mutex
	access *access // what the user may set; nil until it is known
}

// access is what ClickHouse lets the user do.
type access struct {
	readonly uint64              // of the user; 0: may write, too; 1: may not change settings; 2: may
	settings clickhouse.Settings // of each statement
}

func newClient(s Settings) (*client, error) {
	o, err := s.options()
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(o)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse at %s: %w", s.Address, redacted(err, s.password))
	}
	return &client{settings: s, conn: conn, slots: make(chan struct{}, maxParallel)}, nil
}

func (c *client) close() { _ = c.conn.Close() } // only answers are lost that nobody waits for

// result is the answer to a statement.
type result struct {
	fields data.Fields
	more   bool // there were more rows than the limit
}

// rows returns how many rows there are. Over HTTP an answer without rows has no columns either.
func (r result) rows() int {
	if len(r.fields) == 0 {
		return 0
	}
	return r.fields[0].Len()
}

// patient returns ctx without its deadline, of which clickhouse-go makes the setting max_execution_time:
// ours would be overridden by it, and a user that cannot set it would be refused everything. The context
// ends when ctx does, all the same.
func patient(ctx context.Context) context.Context { return noDeadline{ctx} }

type noDeadline struct{ context.Context }

// Deadline implements context.Context.
func (noDeadline) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// run runs a statement and reads at most limit rows of its answer. The end of ctx cancels it on the
// server. Errors are explained.
func (c *client) run(ctx context.Context, sql string, params map[string]string, limit int, comment string) (result, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return result{}, c.explain(ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, c.settings.timeout()+readSlack)
	defer cancel()
	a, err := c.rights(ctx)
	if err != nil {
		return result{}, c.explain(err)
	}
	options := []clickhouse.QueryOption{clickhouse.WithParameters(escaped(params))}
	if len(a.settings) > 0 {
		settings := maps.Clone(a.settings)
		if _, bounded := settings["max_result_rows"]; bounded {
			// One more than is shown tells that there are more.
			settings["max_result_rows"] = min(limit+1, mostRows)
			settings["log_comment"] = comment
		}
		options = append(options, clickhouse.WithSettings(settings))
	}
	rows, err := c.conn.Query(clickhouse.Context(patient(ctx), options...), sql)
	if err != nil {
		return result{}, c.explain(err)
	}
	fields, more, err := frames.Read(rows, limit)
	if more {
		cancel() // the rest is of no use; this also keeps Close from reading it
	}
	if closed := rows.Close(); err == nil && !more {
		err = closed
	}
	if err != nil {
		return result{}, c.explain(err)
	}
	return result{fields, more}, nil
}

// tsv escapes the value of a parameter, which ClickHouse reads as a field of its TSV format.
var tsv = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

func escaped(params map[string]string) clickhouse.Parameters {
	out := make(clickhouse.Parameters, len(params))
	for name, value := range params {
		out[name] = tsv.Replace(value)
	}
	return out
}

// rights finds out, once, which settings the user may set. Nothing may write, whoever the user is: the
// statements of one that may are run with readonly = 1, under which they can neither write nor change
// settings nor reach files and other hosts (table functions make a temporary table). One whose own
// setting is 1 cannot be given bounds, and one of 2 keeps it: it has what its administrator granted. The
// first of the sets that ClickHouse takes is used.
func (c *client) rights(ctx context.Context) (access, error) {
	c.mu.Lock()
	known := c.access
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	ctx = patient(ctx)
	var a access
	if err := c.conn.QueryRow(ctx, "SELECT toUInt64(getSetting('readonly'))").Scan(&a.readonly); err != nil {
		return a, err
	}
	if a.readonly != 1 {
		readonly := max(1, a.readonly)
		bounds := clickhouse.Settings{
			"readonly": readonly, "max_execution_time": c.settings.TimeoutSeconds, "max_result_rows": c.settings.MaxRows, "result_overflow_mode": "break", "log_comment": "grafana",
		}
		sets := []clickhouse.Settings{bounds, {"readonly": readonly}}
		if c.settings.Protocol == protocolHTTP {
			cancels := maps.Clone(bounds)
			cancels["cancel_http_readonly_queries_on_client_close"] = 1
			sets = append([]clickhouse.Settings{cancels}, sets...)
		}
		var err error
		for _, set := range sets {
			if err = c.conn.Exec(clickhouse.Context(ctx, clickhouse.WithSettings(set)), "SELECT 1"); err == nil {
				a.settings = set
				break
			}
			if e, ok := errors.AsType[*clickhouse.Exception](err); !ok || e.Code != codeReadonly && e.Code != codeConstraint && e.Code != codeUnknownSetting {
				break
			}
		}
		if err != nil {
			return a, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.access = &a
	return a, nil
}
