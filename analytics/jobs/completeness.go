package jobs

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/warehouse"
)

const (
	completenessJob = "completeness"

	// landing is how long after its arrival a row may become visible: an insert takes the time at its
	// beginning, and an agent gives it two minutes.
	landing = 3 * time.Minute
	// arrivalPiece is how much of what arrived is looked at at once.
	arrivalPiece = time.Hour
	// closing is how long after its end an hour counts as closed for the comparison of roll-ups.
	closing = 10 * time.Minute
	// rollUpsLate is how far the job rollups may lag behind without completeness going on alone: three of
	// its periods.
	rollUpsLate = 15 * time.Minute
	// maxShown bounds the roll-ups' differences that a report names.
	maxShown = 1000
	// importPrefix begins the names of nodes whose numbers are lines of a file: those that were skipped
	// are missing, and the import has said which.
	importPrefix = "import/"
)

// streamTables are the tables that nodes fill, by the stream of their log.
var streamTables = []struct{ stream, table string }{
	{"event", "events"}, {"gauge", "gauges"}, {"queue_gauge", "queue_gauges"}, {"annotation", "annotations"},
}

// Completeness is the job that proves that nothing is missing and nothing is there twice: it counts the
// numbers of every stream of every node, and compares the roll-ups with the events. A roll-up that lost its
// part of a batch, which happens when ClickHouse dies between the token and the rows (warehouse.Repair), is
// computed again.
//
// It looks at what arrived since its last run, in whatever order, and keeps in completeness_ledger what it
// has seen of each stream: so its cost follows what arrives and not what is stored. An hour is compared
// when it has closed, and again when something arrives for it later.
type Completeness struct {
	Conn    driver.Conn
	Log     *slog.Logger
	Version string // of carom

	idle bool // nobody inserts: all that is stored is there at once; in tests
}

// CompletenessReport is what is known of completeness.
type CompletenessReport struct {
	ArrivedTo time.Time      `json:"arrived_to"` // what arrived later was not looked at
	Rows      uint64         `json:"rows"`       // that were looked at by this run
	Streams   []StreamReport `json:"streams"`
	// RebuiltHours are the hours of roll-ups that differed from the events and were computed again.
	RebuiltHours []time.Time `json:"rebuilt_hours"`
	// Differences are those that are left, at most 1000.
	Differences []warehouse.Difference `json:"differences"`
	Wrong       []string               `json:"wrong"` // each thing that is wrong, in words; none if all is well
}

// StreamReport is what is known of one stream of one life of a node's log.
type StreamReport struct {
	Node        string     `json:"node"`
	Incarnation uuid.UUID  `json:"incarnation"`
	Stream      string     `json:"stream"`
	First       uint64     `json:"first_seq"`
	Highest     uint64     `json:"highest_seq"`
	Rows        uint64     `json:"rows"`
	Gaps        uint64     `json:"gaps"`
	Missing     []seqRange `json:"missing"` // at most 100
	Duplicates  uint64     `json:"duplicates"`
	Twice       []seqRange `json:"twice"` // ranges with duplicates, at most 100
	// LagSeconds is the longest time from an event to its arrival among those that this run looked at
	// and that arrived in the last hour of them; 0 without any.
	LagSeconds  float64   `json:"lag_seconds"`
	LastArrived time.Time `json:"last_arrived"`
}

// ledgerKey names a stream.
type ledgerKey struct {
	node        string
	incarnation uuid.UUID
	stream      string
}

func (k ledgerKey) compare(o ledgerKey) int {
	return cmp.Or(cmp.Compare(k.node, o.node), slices.Compare(k.incarnation[:], o.incarnation[:]), cmp.Compare(k.stream, o.stream))
}

type ledgerEntry struct {
	streamLedger
	lag         time.Duration
	lastArrived time.Time
	changed     bool // since it was stored
}

// ledger is what the job knows of every stream, and how far it went.
type ledger struct {
	streams   map[ledgerKey]*ledgerEntry
	arrivedTo time.Time // zero before the first run
}

// Run looks at what arrived since the last run and reports all that is known.
func (c *Completeness) Run(ctx context.Context) (Result, error) {
	return inLongTurn(ctx, c.Conn, completenessJob, c.Version, c.work)
}

// RunRange compares the roll-ups of the hours from from to to with the events again, all of them and the
// coarser ones too, and counts again the numbers from the lowest to the highest that arrived in that time,
// whatever the ledger says. It reports on that range only.
func (c *Completeness) RunRange(ctx context.Context, from, to time.Time) (Result, error) {
	return inLongTurn(ctx, c.Conn, completenessJob+rangeSuffix, c.Version, func(ctx context.Context, r *run, result *Result) error {
		to := earlier(to, r.started.Add(-c.settle()))
		report := &CompletenessReport{ArrivedTo: to}
		l := &ledger{streams: map[ledgerKey]*ledgerEntry{}}
		for _, t := range streamTables {
			if err := c.countAgain(ctx, l, t.stream, t.table, from, to, report); err != nil {
				return fmt.Errorf("count %s: %w", t.table, err)
			}
		}
		if err := c.compare(ctx, from, to, comparison{}, report); err != nil {
			return err
		}
		c.finish(l, report, result)
		return nil
	})
}

func (c *Completeness) settle() time.Duration {
	if c.idle {
		return 0
	}
	return landing
}

func (c *Completeness) work(ctx context.Context, r *run, result *Result) error {
	l, err := c.load(ctx)
	if err != nil {
		return err
	}
	to := r.started.Add(-c.settle())
	to, how, err := c.follow(ctx, to)
	if err != nil {
		return err
	}
	report := &CompletenessReport{}
	began := l.arrivedTo
	compared := map[time.Time]bool{} // hours, by this run: it reads whatever is there
	for piece := 1; l.arrivedTo.Before(to); piece++ {
		from, err := c.nextArrival(ctx, l.arrivedTo, to)
		if err != nil {
			return err
		}
		end := earlier(from.Add(arrivalPiece), to)
		hours := map[time.Time]bool{}
		if from.Before(to) {
			if err := c.count(ctx, l, from, end, report); err != nil {
				return err
			}
			if err := c.touched(ctx, from, end, hours); err != nil {
				return err
			}
		}
		if !end.Before(to) {
			closedSince(hours, began, to)
			if err := c.confirmed(ctx, l, to); err != nil {
				return err
			}
		}
		maps.DeleteFunc(hours, func(h time.Time, _ bool) bool { return compared[h] })
		if err := c.compareHours(ctx, hours, to, how, report); err != nil {
			return err
		}
		maps.Copy(compared, hours)
		l.arrivedTo, r.piece = end, piece
		if err := c.store(ctx, r, l); err != nil {
			return err
		}
	}
	report.ArrivedTo = l.arrivedTo
	result.DataTo = l.arrivedTo
	c.finish(l, report, result)
	return nil
}

// comparison says how roll-ups are compared.
type comparison struct {
	except []string // roll-ups that are left out
	// rolledTo is what arrived last of what the job rollups has seen, zero for all: an hour for which more
	// came later is late, and not wrong, in what that job fills.
	rolledTo time.Time
}

// follow returns to which moment of arrival a run looks, and how it compares. It goes as far as the job
// rollups did, and compares what that filled from events too. If that job does not run, what it fills is
// left out: it is late, and not wrong. What is made of other roll-ups is compared over a range.
func (c *Completeness) follow(ctx context.Context, to time.Time) (time.Time, comparison, error) {
	w, err := loadWatermark(ctx, c.Conn, rollUpsJob)
	if err != nil {
		return to, comparison{}, err
	}
	if w.dataTo.Before(to.Add(-rollUpsLate)) {
		return to, comparison{except: warehouse.Coarser()}, nil
	}
	return earlier(to, w.dataTo), comparison{except: warehouse.FromRollUps(), rolledTo: w.dataTo}, nil
}

// closedSince adds the hours that have closed after the last run, which went to began, until to: they were
// open when their events were counted. Before the first run there were none.
func closedSince(hours map[time.Time]bool, began, to time.Time) {
	if began.IsZero() {
		return
	}
	for h := began.Add(-closing).Truncate(time.Hour); !h.Add(time.Hour + closing).After(to); h = h.Add(time.Hour) {
		hours[h] = true
	}
}

// nextArrival returns the moment before which nothing arrived after at, or to if nothing did until then.
func (c *Completeness) nextArrival(ctx context.Context, at, to time.Time) (time.Time, error) {
	next := to
	for _, t := range streamTables {
		var first time.Time
		var n uint64
		err := c.Conn.QueryRow(with(ctx, clickhouse.Parameters{"from": micros(orEpoch(at)), "to": micros(to)}),
			"SELECT min(arrived), count() FROM "+t.table+" WHERE "+arrivedBetween).Scan(&first, &n)
		if err != nil {
			return next, fmt.Errorf("look for arrivals in %s: %w", t.table, err)
		}
		if n > 0 {
			next = earlier(next, first.Add(-time.Microsecond))
		}
	}
	return next, nil
}

// arrivedBetween is the condition of what arrived after from and until to.
const arrivedBetween = "arrived > fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND arrived <= fromUnixTimestamp64Micro({to:Int64}, 'UTC')"

// arrival is what arrived at one moment of a stream: as a rule one insert.
type arrival struct {
	key        ledgerKey
	numbers    seqRange
	rows, uniq uint64
	at         time.Time
	lag        time.Duration
}

// count puts down what arrived after from and until to.
func (c *Completeness) count(ctx context.Context, l *ledger, from, to time.Time, report *CompletenessReport) error {
	for _, t := range streamTables {
		if err := c.countStream(ctx, l, t.stream, t.table, from, to, report); err != nil {
			return fmt.Errorf("count %s: %w", t.table, err)
		}
	}
	return nil
}

func (c *Completeness) countStream(ctx context.Context, l *ledger, stream, table string, from, to time.Time, report *CompletenessReport) error {
	span := clickhouse.Parameters{"from": micros(from), "to": micros(to)}
	// A bitmap of numbers that follow each other is small, whatever their number.
	rows, err := c.Conn.Query(with(ctx, span), `SELECT node, incarnation, arrived, min(seq), max(seq), count(), groupBitmap(seq),
    toInt64(max(toUnixTimestamp64Micro(arrived) - toUnixTimestamp64Micro(time)))
FROM `+table+` WHERE `+arrivedBetween+`
GROUP BY node, incarnation, arrived ORDER BY node, incarnation, min(seq)`)
	if err != nil {
		return err
	}
	var all []arrival
	a := arrival{key: ledgerKey{stream: stream}}
	var lag int64
	if err := each(rows, table, func() error {
		err := rows.Scan(&a.key.node, &a.key.incarnation, &a.at, &a.numbers.From, &a.numbers.To, &a.rows, &a.uniq, &lag)
		a.lag = time.Duration(lag) * time.Microsecond
		all = append(all, a)
		return err
	}); err != nil {
		return err
	}
	for _, a := range all {
		report.Rows += a.rows
		entry := l.streams[a.key]
		if entry == nil {
			entry = &ledgerEntry{}
			l.streams[a.key] = entry
		}
		entry.changed = true
		entry.begin(a.numbers.From)
		if a.at.After(entry.lastArrived) {
			entry.lastArrived = a.at
		}
		if a.at.After(to.Add(-time.Hour)) {
			entry.lag = max(entry.lag, a.lag)
		}
		if a.uniq == a.rows && a.rows == a.numbers.len() {
			if err := entry.add(a.numbers, a.rows); err != nil {
				return fmt.Errorf("node %s: %w", a.key.node, err)
			}
			continue
		}
		if err := c.countRuns(ctx, table, a.key, "arrived = fromUnixTimestamp64Micro({at:Int64}, 'UTC')", clickhouse.Parameters{"at": micros(a.at)}, entry); err != nil {
			return err
		}
	}
	return nil
}

// countAgain counts the numbers of a stream from the lowest to the highest that arrived after from and until
// to, whenever the others arrived.
func (c *Completeness) countAgain(ctx context.Context, l *ledger, stream, table string, from, to time.Time, report *CompletenessReport) error {
	rows, err := c.Conn.Query(with(ctx, clickhouse.Parameters{"from": micros(from), "to": micros(to)}), `SELECT node, incarnation, max(arrived), min(seq), max(seq), count(),
    toInt64(max(toUnixTimestamp64Micro(arrived) - toUnixTimestamp64Micro(time)))
FROM `+table+` WHERE `+arrivedBetween+` GROUP BY node, incarnation`)
	if err != nil {
		return err
	}
	var all []arrival
	a := arrival{key: ledgerKey{stream: stream}}
	var lag int64
	if err := each(rows, table, func() error {
		err := rows.Scan(&a.key.node, &a.key.incarnation, &a.at, &a.numbers.From, &a.numbers.To, &a.rows, &lag)
		a.lag = time.Duration(lag) * time.Microsecond
		all = append(all, a)
		return err
	}); err != nil {
		return err
	}
	for _, a := range all {
		report.Rows += a.rows
		entry := &ledgerEntry{lag: a.lag, lastArrived: a.at}
		entry.begin(a.numbers.From)
		if err := c.countRuns(ctx, table, a.key, "seq BETWEEN {low:UInt64} AND {high:UInt64}", clickhouse.Parameters{
			"low": strconv.FormatUint(a.numbers.From, 10), "high": strconv.FormatUint(a.numbers.To, 10),
		}, entry); err != nil {
			return err
		}
		l.streams[a.key] = entry
	}
	return nil
}

// countRuns puts down the rows of a stream for which a condition holds, run of numbers by run.
func (c *Completeness) countRuns(ctx context.Context, table string, key ledgerKey, condition string, parameters clickhouse.Parameters, entry *ledgerEntry) error {
	parameters["node"], parameters["incarnation"] = key.node, key.incarnation.String()
	rows, err := c.Conn.Query(with(ctx, parameters), `SELECT min(seq), max(seq), sum(n) FROM
    (SELECT seq, count() AS n, seq - row_number() OVER (ORDER BY seq) AS run FROM `+table+`
     WHERE node = {node:String} AND incarnation = {incarnation:UUID} AND `+condition+` GROUP BY seq)
GROUP BY run ORDER BY min(seq)`)
	if err != nil {
		return err
	}
	err = each(rows, table, func() error {
		var r seqRange
		var n uint64
		if err := rows.Scan(&r.From, &r.To, &n); err != nil {
			return err
		}
		return entry.add(r, n)
	})
	if err != nil {
		return fmt.Errorf("node %s: %w", key.node, err)
	}
	return nil
}

// confirmed puts down what agents said before to that ClickHouse has: what is not here then is missing.
func (c *Completeness) confirmed(ctx context.Context, l *ledger, to time.Time) error {
	rows, err := c.Conn.Query(with(ctx, clickhouse.Parameters{"to": micros(to)}), `
SELECT node, incarnation, max(event_seq) FROM nodes WHERE seen_at <= fromUnixTimestamp64Micro({to:Int64}, 'UTC') GROUP BY node, incarnation`)
	if err != nil {
		return fmt.Errorf("read nodes: %w", err)
	}
	return each(rows, "read nodes", func() error {
		key := ledgerKey{stream: "event"}
		var last uint64
		if err := rows.Scan(&key.node, &key.incarnation, &last); err != nil {
			return err
		}
		if entry := l.streams[key]; entry != nil && last > entry.High {
			entry.reach(last)
			entry.changed = true
		}
		return nil
	})
}

// touched adds the hours of the events that arrived after from and until to.
func (c *Completeness) touched(ctx context.Context, from, to time.Time, hours map[time.Time]bool) error {
	rows, err := c.Conn.Query(with(ctx, clickhouse.Parameters{"from": micros(from), "to": micros(to)}),
		"SELECT DISTINCT toStartOfHour(toDateTime(time, 'UTC')) AS h FROM events WHERE "+arrivedBetween)
	if err != nil {
		return fmt.Errorf("look for hours of events: %w", err)
	}
	return each(rows, "look for hours of events", func() error {
		var h time.Time
		err := rows.Scan(&h)
		hours[h.UTC()] = true
		return err
	})
}

// compareHours compares the roll-ups of those hours that are closed at at.
func (c *Completeness) compareHours(ctx context.Context, hours map[time.Time]bool, at time.Time, how comparison, report *CompletenessReport) error {
	var closed []time.Time
	for h := range hours {
		if !h.Add(time.Hour + closing).After(at) {
			closed = append(closed, h)
		}
	}
	slices.SortFunc(closed, time.Time.Compare)
	for i := 0; i < len(closed); {
		j := i + 1
		for j < len(closed) && closed[j].Equal(closed[j-1].Add(time.Hour)) && j-i < 24 {
			j++
		}
		if err := c.compare(ctx, closed[i], closed[j-1].Add(time.Hour), how, report); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// compare compares the roll-ups from from to to with the events, and rebuilds the hours that differ.
func (c *Completeness) compare(ctx context.Context, from, to time.Time, how comparison, report *CompletenessReport) error {
	differences := func(from, to time.Time) ([]warehouse.Difference, error) {
		all, err := warehouse.Differences(ctx, c.Conn, from, to)
		all = slices.DeleteFunc(all, func(d warehouse.Difference) bool { return slices.Contains(how.except, d.Table) })
		if err != nil || len(all) == 0 || how.rolledTo.IsZero() {
			return all, err
		}
		late, err := c.hoursSince(ctx, how.rolledTo, from, to)
		return slices.DeleteFunc(all, func(d warehouse.Difference) bool {
			return slices.Contains(warehouse.FromEvents(), d.Table) && slices.ContainsFunc(late, d.From.Equal)
		}), err
	}
	found, err := differences(from, to)
	if err != nil || len(found) == 0 {
		return err
	}
	hours := map[time.Time]bool{}
	for _, d := range found {
		hours[d.From.Truncate(time.Hour)] = true
		c.Log.Warn("roll-up differs from the events, computing it again", "table", d.Table, "from", d.From, "column", d.Column, "events", d.Events, "rolled_up", d.RolledUp)
	}
	for h := range hours {
		if err := warehouse.Rebuild(ctx, c.Conn, h, h.Add(time.Hour), warehouse.RebuildOptions{Idle: c.idle}); err != nil {
			return fmt.Errorf("compute the roll-ups of %s again: %w", h.Format(time.RFC3339), err)
		}
		report.RebuiltHours = append(report.RebuiltHours, h)
	}
	slices.SortFunc(report.RebuiltHours, time.Time.Compare)
	left, err := differences(from, to)
	report.Differences = append(report.Differences, left[:min(len(left), maxShown-len(report.Differences))]...)
	return err
}

// hoursSince returns the hours from from to to of events that arrived after at.
func (c *Completeness) hoursSince(ctx context.Context, at, from, to time.Time) ([]time.Time, error) {
	var hours []time.Time
	err := c.Conn.QueryRow(with(ctx, clickhouse.Parameters{"at": micros(at), "from": micros(from), "to": micros(to)}), `
SELECT groupUniqArray(toStartOfHour(toDateTime(time, 'UTC'))) FROM events
WHERE time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    AND arrived > fromUnixTimestamp64Micro({at:Int64}, 'UTC')`).Scan(&hours)
	if err != nil {
		return nil, fmt.Errorf("look for the hours of events that came late: %w", err)
	}
	return hours, nil
}

// finish makes the report of the ledger.
func (c *Completeness) finish(l *ledger, report *CompletenessReport, result *Result) {
	keys := make([]ledgerKey, 0, len(l.streams))
	for k := range l.streams {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, ledgerKey.compare)
	for _, k := range keys {
		e := l.streams[k]
		s := StreamReport{
			Node: k.node, Incarnation: k.incarnation, Stream: k.stream, First: e.First, Highest: e.High, Rows: e.Rows, Gaps: e.gaps(),
			Missing: e.Missing[:min(len(e.Missing), maxDuplicates)], Duplicates: e.Duplicates, Twice: e.Twice,
			LagSeconds: e.lag.Seconds(), LastArrived: e.lastArrived,
		}
		report.Streams = append(report.Streams, s)
		if s.Gaps > 0 && !strings.HasPrefix(k.node, importPrefix) {
			report.Wrong = append(report.Wrong, fmt.Sprintf("%s %s of %s: %d numbers are missing, the first is %d", k.node, k.stream, k.incarnation, s.Gaps, s.Missing[0].From))
		}
		if s.Duplicates > 0 {
			report.Wrong = append(report.Wrong, fmt.Sprintf("%s %s of %s: %d rows are there twice", k.node, k.stream, k.incarnation, s.Duplicates))
		}
	}
	for _, d := range report.Differences {
		report.Wrong = append(report.Wrong, fmt.Sprintf("%s from %s: %s is %d, by the events %d", d.Table, d.From.Format(time.RFC3339), d.Column, d.RolledUp, d.Events))
	}
	result.Keys, result.Changes = len(keys), len(report.RebuiltHours)
	result.Completeness = report
}

// load reads the ledger.
func (c *Completeness) load(ctx context.Context) (*ledger, error) {
	l := &ledger{streams: map[ledgerKey]*ledgerEntry{}}
	rows, err := c.Conn.Query(ctx, `
SELECT node, incarnation, stream, arrived_to, first_seq, high_seq, row_count, missing_from, missing_to, duplicates, twice_from, twice_to, last_arrived
FROM completeness_ledger FINAL`)
	if err != nil {
		return nil, fmt.Errorf("read completeness_ledger: %w", err)
	}
	return l, each(rows, "read completeness_ledger", func() error {
		var k ledgerKey
		var to time.Time
		var missingFrom, missingTo, twiceFrom, twiceTo []uint64
		e := &ledgerEntry{}
		if err := rows.Scan(&k.node, &k.incarnation, &k.stream, &to, &e.First, &e.High, &e.Rows, &missingFrom, &missingTo,
			&e.Duplicates, &twiceFrom, &twiceTo, &e.lastArrived); err != nil {
			return err
		}
		if k == (ledgerKey{}) {
			l.arrivedTo = to.UTC()
			return nil
		}
		e.Missing, e.Twice = zip(missingFrom, missingTo), zip(twiceFrom, twiceTo)
		l.streams[k] = e
		return nil
	})
}

// store writes what has changed, and how far the ledger goes, in one block.
func (c *Completeness) store(ctx context.Context, r *run, l *ledger) error {
	now := r.now()
	none := []uint64{}
	rows := [][]any{{"", uuid.UUID{}, "", r.generation, now, l.arrivedTo, uint64(0), uint64(0), uint64(0), none, none, uint64(0), none, none, orEpoch(time.Time{})}}
	for k, e := range l.streams {
		if !e.changed {
			continue
		}
		e.changed = false
		missingFrom, missingTo := unzip(e.Missing)
		twiceFrom, twiceTo := unzip(e.Twice)
		rows = append(rows, []any{
			k.node, k.incarnation, k.stream, r.generation, now, l.arrivedTo, e.First, e.High, e.Rows, missingFrom, missingTo,
			e.Duplicates, twiceFrom, twiceTo, orEpoch(e.lastArrived),
		})
	}
	return insert(ctx, c.Conn, r.token("completeness_ledger/"+strconv.Itoa(len(rows))), "completeness_ledger", []string{
		"node", "incarnation", "stream", "generation", "updated_at", "arrived_to", "first_seq", "high_seq", "row_count", "missing_from", "missing_to",
		"duplicates", "twice_from", "twice_to", "last_arrived",
	}, rows)
}

func zip(from, to []uint64) []seqRange {
	all := make([]seqRange, min(len(from), len(to)))
	for i := range all {
		all[i] = seqRange{from[i], to[i]}
	}
	return all
}

func unzip(all []seqRange) (from, to []uint64) {
	from, to = make([]uint64, len(all)), make([]uint64, len(all))
	for i, r := range all {
		from[i], to[i] = r.From, r.To
	}
	return from, to
}
