package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/analytics/jobs"
	"carom/schemas/limits"
)

// machine is the way of one process to the warehouse: it has the time that the test gives it, and dies
// where the test says so. What it asks or writes after that fails, as if it had never been sent.
type machine struct {
	driver.Conn
	now time.Time
	// before is told of each table that rows are about to be written to. The process dies if it returns true.
	before func(table string) bool
	// reads is told of each query that is about to be asked; nil for nobody.
	reads func(query string)

	mu   sync.Mutex
	dead bool
}

var (
	errDead = errors.New("the process was killed")
	nowCall = regexp.MustCompile(`now64\([^)]*\)|now\(\)`)
	target  = regexp.MustCompile(`^INSERT INTO (\w+)`)
)

// inItsTime returns a statement that reads the machine's time instead of the warehouse's.
func (m *machine) inItsTime(query string) string {
	return nowCall.ReplaceAllStringFunc(query, func(call string) string {
		if call == "now()" {
			return fmt.Sprintf("toDateTime(%d, 'UTC')", m.now.Unix())
		}
		return fmt.Sprintf("fromUnixTimestamp64Micro(%d, 'UTC')", m.now.UnixMicro())
	})
}

func (m *machine) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	return nil
}

func (m *machine) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	if m.reads != nil {
		m.reads(query)
	}
	return m.Conn.Query(ctx, m.inItsTime(query), args...)
}

func (m *machine) QueryRow(ctx context.Context, query string, args ...any) driver.Row {
	if err := m.alive(); err != nil {
		return deadRow{}
	}
	return m.Conn.QueryRow(ctx, m.inItsTime(query), args...)
}

func (m *machine) Exec(ctx context.Context, query string, args ...any) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Conn.Exec(ctx, m.inItsTime(query), args...)
}

func (m *machine) PrepareBatch(ctx context.Context, query string, options ...driver.PrepareBatchOption) (driver.Batch, error) {
	if into := target.FindStringSubmatch(query); into != nil && m.before != nil && m.before(into[1]) {
		m.mu.Lock()
		m.dead = true
		m.mu.Unlock()
	}
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.Conn.PrepareBatch(ctx, query, options...)
}

// deadRow is the answer to who asks after death.
type deadRow struct{}

func (deadRow) Err() error           { return errDead }
func (deadRow) Scan(...any) error    { return errDead }
func (deadRow) ScanStruct(any) error { return errDead }

// dyingAt returns what makes a process die before it writes to a table for the nth time, from 1.
func dyingAt(table string, nth int) func(string) bool {
	return func(into string) bool {
		if into == table {
			nth--
		}
		return nth == 0
	}
}

// scheduler says what becomes of the runs that an outside scheduler starts, which are counted from 1.
type scheduler struct {
	doubled map[int]bool
	killed  map[int]func() func(table string) bool
}

// hidden is a receiver: how many messages it accepts in a second, and the column of k10s that the rest goes to.
type hidden struct {
	key     limits.Key
	limit   func(minute int) float64
	refusal string
}

// pass lets minutes pass: each minute a node sends what its leases allow to receivers with hidden
// limits, and then throttle runs. In the minute after a run that isCut names, the node hears of no limits.
func (w *world) pass(t *testing.T, start time.Time, n int, s scheduler, receivers []hidden, isCut func(run int) bool) {
	t.Helper()
	const configured = 5.0
	leases, rest := map[limits.Key]limits.Lease{}, map[limits.Key]float64{}
	for run := 1; run <= n; run++ {
		began := start.Add(time.Duration(run-1) * time.Minute)
		w.now = began.Add(time.Minute + 5*time.Second)
		for _, r := range receivers {
			rate, epoch := configured, uint64(0)
			if l, ok := leases[r.key]; ok {
				rate, epoch = min(rate, l.RatePerSecond), l.Epoch
			}
			rows := make([]string, 0, 6)
			for step := range 6 {
				ts := began.Add(time.Duration(step) * 10 * time.Second)
				rest[r.key] += 10 * rate
				sent := int(rest[r.key])
				rest[r.key] -= float64(sent)
				taken := min(sent, int(10*r.limit(run)))
				rows = append(rows, fmt.Sprintf("(%d, '%s', '%s', %d, %d, %d, 4, 4294967295, '421 slow down', %d)",
					ts.Unix(), r.key.Provider, r.key.Source, epoch, taken, sent-taken, ts.Add(11*time.Second).Unix()))
			}
			w.exec(t, "INSERT INTO k10s (ts, provider, source, epoch, ok, "+r.refusal+", max_open, min_msgc_idx, sample_reply, last_arrived) VALUES "+strings.Join(rows, ", "))
			w.gauge(t, r.key, configured, 1000)
		}
		times := 1
		if s.doubled[run] {
			times = 2
		}
		var all sync.WaitGroup
		for range times {
			m := &machine{Conn: w.conn, now: w.now}
			if s.killed[run] != nil {
				m.before = s.killed[run]()
			}
			all.Go(func() {
				job := w.throttle(t, limits.Active)
				job.Conn, job.Period = m, time.Minute
				result, err := job.Run(context.WithoutCancel(t.Context()))
				switch {
				case m.before != nil && !errors.Is(err, errDead):
					t.Errorf("run %d was to be killed: %+v, %v", run, result, err)
				case m.before == nil && err != nil:
					t.Errorf("run %d: %v", run, err)
				case m.before == nil && times == 1 && result.Skipped:
					t.Errorf("run %d had no turn", run)
				}
			})
		}
		all.Wait()
		if !isCut(run) {
			leases = w.leases(t)
		}
	}
}

// leases returns the leases of the node's last generation.
func (w *world) leases(t *testing.T) map[limits.Key]limits.Lease {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), "SELECT provider, source, epoch, rate FROM leases WHERE provider != '' AND generation = (SELECT max(generation) FROM leases WHERE node = 'n1')")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[limits.Key]limits.Lease{}
	for rows.Next() {
		var l limits.Lease
		if err := rows.Scan(&l.Provider, &l.Source, &l.Epoch, &l.RatePerSecond); err != nil {
			t.Fatal(err)
		}
		all[l.Key()] = l
	}
	return all
}

// ledger returns all that was decided and where every key stands, but for what names the run.
func (w *world) ledger(t *testing.T) (log, states []string) {
	t.Helper()
	w.scan(t, `SELECT groupArray(line) FROM (
		SELECT concat(toString(ts), ' ', id, ' from ', toString(epoch_from), ' ', toString(kind), ' ', rule_id, ' ', mode_from, ' ', mode_to, ' ', toString(rate_old), ' ', toString(rate_new), ' ',
			toString(window_from), ' ', toString(window_to), ' ', reason_text, ' ', state_before, ' ', evidence) AS line
		FROM limit_log ORDER BY ts, provider, rule_id)`, &log)
	w.scan(t, "SELECT groupArray(line) FROM (SELECT concat(provider, ' ', toString(epoch), ' ', state) AS line FROM limit_state FINAL ORDER BY provider)", &states)
	return log, states
}

// An outside scheduler starts a run each minute, each tenth twice at once, and kills some, each at another
// moment. What was decided, and where the loop stands, is what the same runs make of it
// when nobody disturbs them.
func TestOutsideScheduler(t *testing.T) {
	w := newWorld(t)
	start := w.now.Add(-2 * time.Hour).Truncate(time.Minute)
	from := func(minute int, before, after float64) func(int) float64 {
		return func(m int) float64 {
			if m < minute {
				return before
			}
			return after
		}
	}
	receivers := []hidden{
		{key: google, refusal: "rate", limit: from(3, 100, 2)},
		{key: limits.Key{Provider: "yahoo", Source: "192.0.2.2"}, refusal: "block", limit: from(9, 100, 0)},
	}
	killed := map[int]func() func(string) bool{
		3:  func() func(string) bool { return dyingAt("limit_state", 1) }, // with a decision in limit_log
		9:  func() func(string) bool { return dyingAt("leases", 1) },      // with a state that nobody was handed
		13: func() func(string) bool { return dyingAt("job_runs", 2) },    // with everything done
	}
	isCut := func(run int) bool { return killed[run] != nil }
	const runs = 15
	w.pass(t, start, runs, scheduler{doubled: map[int]bool{5: true, 15: true}, killed: killed}, receivers, isCut)
	log, states := w.ledger(t)
	var twice uint64
	w.scan(t, "SELECT count() FROM (SELECT provider, source, epoch_from FROM limit_log GROUP BY ALL HAVING uniqExact(generation) > 1)", &twice)
	if twice > 0 {
		t.Errorf("%d epochs' answers were decided about twice", twice)
	}
	var grows bool
	w.scan(t, "SELECT min(epochs = arraySort(arrayDistinct(epochs))) FROM (SELECT groupArray(epoch) AS epochs FROM (SELECT * FROM limit_log ORDER BY generation) GROUP BY provider, source)", &grows)
	if !grows {
		t.Error("epochs do not grow")
	}

	w.empty(t)
	w.pass(t, start, runs, scheduler{}, receivers, isCut)
	wantLog, wantStates := w.ledger(t)
	if len(wantLog) < 8 {
		t.Errorf("only %d changes were made", len(wantLog))
	}
	if diff := cmp.Diff(wantLog, log); diff != "" {
		t.Errorf("limit_log (-undisturbed +disturbed):\n%s", diff)
	}
	if diff := cmp.Diff(wantStates, states); diff != "" {
		t.Errorf("limit_state (-undisturbed +disturbed):\n%s", diff)
	}
}

// A process that stood still after it had read where the keys stand, for so long that another had the turn, writes
// no decision: the other one has made it.
func TestOvertakenRunWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.overload(t, google)
	stopped, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := &machine{Conn: w.conn, now: w.now, reads: func(query string) {
		if strings.Contains(query, "FROM gauges") { // it has read the states
			once.Do(func() {
				close(stopped)
				<-goOn
			})
		}
	}}
	first := make(chan error, 1)
	go func() {
		job := w.throttle(t, limits.Active)
		job.Conn = slow
		_, err := job.Run(context.WithoutCancel(t.Context()))
		first <- err
	}()
	<-stopped
	job := w.throttle(t, limits.Active)
	job.Conn = &machine{Conn: w.conn, now: w.now.Add(20 * time.Second)}
	if second := mustRun(t, job.Run); second.Changes != 1 {
		t.Errorf("the second run: %+v, want the decision", second)
	}
	close(goOn)
	if err := <-first; !errors.Is(err, jobs.ErrOvertaken) {
		t.Errorf("the first run ended with %v", err)
	}
	var rows, epoch, generations uint64
	w.scan(t, "SELECT count() FROM limit_log", &rows)
	w.scan(t, "SELECT epoch FROM limit_state FINAL", &epoch)
	w.scan(t, "SELECT uniqExact(generation) FROM leases", &generations)
	if rows != 1 || epoch != 1 || generations != 1 {
		t.Errorf("%d rows in limit_log, epoch %d, %d hand-outs; want one of each", rows, epoch, generations)
	}
}
