package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/jobs"
	"carom/analytics/policy"
	"carom/schemas/warehouse"
)

// jobKeys is how many keys (provider, source) have mail in every ten seconds; jobEvents is how many
// events each then has at the smaller volume.
const (
	jobKeys   = 600
	jobEvents = 2
)

// recentMail is half an hour of attempts, and what a node says of its keys.
var recentMail = []string{`
INSERT INTO events (node, incarnation, seq, time, kind, recipients, provider, source, tenant, attempt, dimension, message_id)
SELECT 'bench', toUUID('00000000-0000-7000-8000-000000000001'), number + 1,
    now64(6, 'UTC') - toIntervalMillisecond(intDiv(number * 1800000, {keys:UInt64} * {events:UInt64} * 180)), if(number % 20 = 7, 'deferred', 'delivered'), 1,
    concat('provider-', toString(number % {keys:UInt64} % 60)), concat('192.0.2.', toString(10 + intDiv(number % {keys:UInt64}, 60))), 'tenant', 1,
    if(number % 20 = 7, 'rate', 'ok'), generateUUIDv4()
FROM numbers({keys:UInt64} * {events:UInt64} * 180)`, `
INSERT INTO gauges (node, incarnation, seq, time, provider, source, backlog, local_factor, static_rate, static_connections, throttle_bound)
SELECT 'bench', toUUID('00000000-0000-7000-8000-000000000001'), number + 1, now64(6, 'UTC') - toIntervalSecond(10 * intDiv(number, {keys:UInt64})),
    concat('provider-', toString(number % {keys:UInt64} % 60)), concat('192.0.2.', toString(10 + intDiv(number % {keys:UInt64}, 60))), 100, 1, 10, 10, 0.9
FROM numbers({keys:UInt64} * 9)`}

// jobRows measures how many rows the control job reads at one and at ten times the mail of the same
// keys: it reads roll-ups, so that ought to be the same.
func jobRows(ctx context.Context, l *lab) error {
	var read [2]float64
	for i, factor := range []int{1, 10} {
		err := l.scratch(ctx, "jobs", func(e *engine, _ string) error {
			rows, err := rowsRead(ctx, e, factor)
			read[i] = float64(rows)
			return err
		})
		if err != nil {
			return err
		}
	}
	if read[0] == 0 {
		return fmt.Errorf("the engine did not say how many rows were read")
	}
	change := 100 * (read[1]/read[0] - 1)
	note := fmt.Sprintf("%.0f and %.0f rows, %+.1f %%", read[0], read[1], change)
	l.add(Row{Name: "rows of the control job at 10 times the mail", Unit: "% more or fewer", Got: max(change, -change), AtMost: 20, Note: note}, false)
	return nil
}

// rowsRead fills e with mail and returns how many rows one run of the control job reads.
func rowsRead(ctx context.Context, e *engine, factor int) (n uint64, err error) {
	parameters := clickhouse.WithParameters(clickhouse.Parameters{"keys": strconv.Itoa(jobKeys), "events": strconv.Itoa(jobEvents * factor)})
	for _, statement := range recentMail {
		if err := e.conn.Exec(clickhouse.Context(ctx, parameters), statement); err != nil {
			return 0, fmt.Errorf("make mail: %w", err)
		}
	}
	// Ten volumes are many blocks of rows of the same buckets; merging them is what the engine does in
	// the meantime between two runs.
	for _, table := range []string{"k10s", "k1m"} {
		if err := e.conn.Exec(ctx, "OPTIMIZE TABLE "+table+" FINAL"); err != nil {
			return 0, fmt.Errorf("merge %s: %w", table, err)
		}
	}
	counter, err := newCounter(ctx, e.url)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, counter.close()) }()
	conn, err := warehouse.Open(ctx, counter.url, warehouse.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	p, err := policy.Load("")
	if err != nil {
		return 0, err
	}
	job := jobs.Throttle{Conn: conn, Policy: p, Log: slog.New(slog.DiscardHandler), Version: "bench"}
	before := counter.rows.Load()
	result, err := job.Run(ctx)
	if err != nil {
		return 0, err
	}
	if result.Keys != jobKeys {
		return 0, fmt.Errorf("the job saw %d of %d keys", result.Keys, jobKeys)
	}
	return counter.rows.Load() - before, nil
}

// counter stands between a client and the engine and adds up the rows that answers say were read.
type counter struct {
	server *http.Server
	url    string
	rows   atomic.Uint64
	ended  chan error
}

func newCounter(ctx context.Context, engineURL string) (*counter, error) {
	target, err := url.Parse(engineURL)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{ended: make(chan error, 1), url: "http://" + listener.Addr().String() + target.Path}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host}) },
		ModifyResponse: c.count,
	}
	c.server = &http.Server{Handler: proxy, ReadHeaderTimeout: startTimeout}
	go func() { c.ended <- c.server.Serve(listener) }()
	return c, nil
}

func (c *counter) count(r *http.Response) error {
	text := r.Header.Get("X-ClickHouse-Summary")
	if text == "" {
		return nil
	}
	var summary struct {
		ReadRows uint64 `json:"read_rows,string"`
	}
	if err := json.Unmarshal([]byte(text), &summary); err != nil {
		return fmt.Errorf("summary %q: %w", text, err)
	}
	c.rows.Add(summary.ReadRows)
	return nil
}

func (c *counter) close() error {
	err := c.server.Close()
	if served := <-c.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
