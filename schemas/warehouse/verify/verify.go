// Package verify tries a ClickHouse server or cluster of an operator's own: whether carom's schema,
// its exactly-once inserts, its roles and its queries work there as they do in carom's tests, which
// run against the embedded engine.
//
// It works in a scratch database that it creates and drops, with roles and users of its own where it
// may make some, and touches nothing else. What it could not look at it says, with the reason; that
// is no failure. Nothing here is safe for concurrent use, but any number of runs may go side by side.
package verify

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/warehouse"
)

// Result is how a check ended.
type Result string

// The results.
const (
	Pass       Result = "pass"
	Fail       Result = "fail"
	NotChecked Result = "not checked"
)

// Check is one line of the report.
type Check struct {
	Name    string  `json:"name"`
	Result  Result  `json:"result"`
	Detail  string  `json:"detail"` // what was seen, what is wrong, or why it was not checked
	Seconds float64 `json:"seconds"`
}

// Report is the outcome of a run.
type Report struct {
	At       time.Time `json:"at"`
	Servers  string    `json:"servers"`
	Cluster  string    `json:"cluster,omitempty"`
	Database string    `json:"database"` // the scratch database, gone by now
	Passed   bool      `json:"passed"`   // no check failed
	Checks   []Check   `json:"checks"`

	QuerySeconds map[string]float64 `json:"query_seconds"` // of each tested query, by its name in deploy/docs/sql.md
}

// Options of a run.
type Options struct {
	URL       string // of the server; its database is not touched
	Warehouse warehouse.Options
	Layout    warehouse.Layout
	Version   string      // of carom
	Progress  func(Check) // called after each check; may be nil
}

// Limits of a run.
const (
	checkTimeout = 5 * time.Minute // of one check
	dropTimeout  = time.Minute
	settleTime   = 30 * time.Second // for replicas to fetch what was inserted
	settlePoll   = 200 * time.Millisecond
)

// notCheckedError ends a check that can't be done here.
type notCheckedError struct{ reason string }

func (e notCheckedError) Error() string { return e.reason }

func notChecked(format string, args ...any) error {
	return notCheckedError{fmt.Sprintf(format, args...)}
}

// trial is a run.
type trial struct {
	Options

	database string
	url      string // of the scratch database
	conn     driver.Conn
	batches  []batch
	asked    map[string]float64 // seconds of each query
	digests  map[string]string  // of the tables behind materialized views, after the first inserts
}

type step struct {
	name  string
	check func(context.Context) (detail string, err error)
	basis bool // without it nothing else can be checked
}

// Run tries the server. The error is of a run that could not begin, or that could not clean up
// behind itself; what the checks found is in the report.
func Run(ctx context.Context, o Options) (report Report, err error) {
	t := &trial{Options: o, asked: map[string]float64{}}
	id := make([]byte, 6)
	if _, err := rand.Read(id); err != nil {
		return report, fmt.Errorf("name the scratch database: %w", err)
	}
	t.database = "carom_verify_" + hex.EncodeToString(id)
	t.Layout.RolePrefix = t.database + "_"
	if t.url, err = warehouse.InDatabase(o.URL, t.database); err != nil {
		return report, err
	}
	opt, err := warehouse.ClientOptions(o.URL, o.Warehouse)
	if err != nil {
		return report, err
	}
	report = Report{At: time.Now().UTC(), Servers: strings.Join(opt.Addr, ", "), Cluster: o.Layout.Cluster, Database: t.database, Passed: true, QuerySeconds: t.asked}
	if t.conn, err = warehouse.Dial(t.url, o.Warehouse); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, t.cleanUp(ctx)) }()
	nodes := nodesOfAServer
	if o.Layout.Cluster != "" {
		nodes = nodesOfACluster
	}
	t.batches = batches(report.At, nodes)
	for _, s := range t.steps() {
		start := time.Now()
		c := Check{Name: s.name, Result: Pass}
		c.Detail, err = t.run(ctx, s)
		c.Seconds = time.Since(start).Seconds()
		if skipped, ok := errors.AsType[notCheckedError](err); ok {
			c.Result, c.Detail = NotChecked, skipped.reason
		} else if err != nil {
			c.Result, c.Detail = Fail, strings.ReplaceAll(err.Error(), "\n", "; ")
			report.Passed = false
		}
		report.Checks = append(report.Checks, c)
		if o.Progress != nil {
			o.Progress(c)
		}
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		if s.basis && c.Result == Fail {
			break
		}
	}
	return report, nil
}

func (t *trial) run(ctx context.Context, s step) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return s.check(ctx)
}

func (t *trial) steps() []step {
	return []step{
		{"server answers", t.server, true},
		{"cluster: shards, replicas, Keeper", t.topology, true},
		{"schema applies, twice", t.schema, true},
		{"schema is on every server", t.everywhere, true},
		{"tables remember tokens", t.windows, false},
		{"an answer is lost: the retry stores once", t.lostAnswer, true},
		{"rows of a node are on one shard", t.oneShard, false},
		{"every replica has every row", t.replicas, false},
		{"every batch again, by every address: stored once", t.repeats, false},
		{"materialized views: a repeated batch counts once", t.views, false},
		{"completeness: no gaps, no duplicates", t.complete, false},
		{"fail-over to the next address", t.failOver, false},
		{"roles: each may do its part and no more", t.grants, false},
		{"the tested queries", t.questions, false},
	}
}

// cleanUp drops what the run made; ClickHouse frees the space minutes later. It goes on after ctx has
// ended.
func (t *trial) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	_ = t.conn.Close() // its database goes
	conn, err := t.dialDefault()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if err := conn.Exec(ctx, "DROP DATABASE IF EXISTS `"+t.database+"`"+t.onCluster()); err != nil {
		return fmt.Errorf("drop the scratch database %s, which is left to you: %w", t.database, err)
	}
	return nil
}

// dialDefault connects to the database that always exists.
func (t *trial) dialDefault() (driver.Conn, error) {
	u, err := warehouse.InDatabase(t.URL, "default")
	if err != nil {
		return nil, err
	}
	return warehouse.Dial(u, t.Warehouse)
}

func (t *trial) onCluster() string {
	if t.Layout.Cluster == "" {
		return ""
	}
	return " ON CLUSTER `" + t.Layout.Cluster + "`"
}

// strings reads a query of one string a row.
func (t *trial) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	return readStrings(ctx, t.conn, query, args...)
}

func readStrings(ctx context.Context, conn driver.Conn, query string, args ...any) (all []string, err error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

// settle tries again what fails on a cluster, because a replica that answers may be behind. The last
// error counts.
func (t *trial) settle(ctx context.Context, try func(context.Context) error) error {
	if t.Layout.Cluster == "" {
		return try(ctx)
	}
	deadline := time.NewTimer(settleTime)
	defer deadline.Stop()
	poll := time.NewTicker(settlePoll)
	defer poll.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-deadline.C:
			return fmt.Errorf("still after %v: %w", settleTime, err)
		case <-poll.C:
		}
	}
}

// number reads a query of one number.
func (t *trial) number(ctx context.Context, query string, args ...any) (n uint64, err error) {
	err = t.conn.QueryRow(ctx, query, args...).Scan(&n)
	return n, err
}
