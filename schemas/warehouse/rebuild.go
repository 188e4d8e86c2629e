package warehouse

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/service"
)

// viewLag is longer than an insert takes from its clock reading (arrived) to the last of its
// roll-ups.
const viewLag = time.Minute

// rebuildTries bounds how often Rebuild begins again because events of the range came in.
const rebuildTries = 3

// leftover is the age at which a staging table is taken for one of a run that was killed.
const leftover = 24 * time.Hour

// aggregation lets a day of very much mail group on disk rather than fail. In bytes.
const aggregation = 2_000_000_000

// ErrBusy is returned by Rebuild if events of the range kept arriving. The roll-ups may then be
// wrong for that range: run it again when they have stopped.
var ErrBusy = errors.New("events of this range are still arriving: run it again later, or for a range that ends earlier")

// RollUp fills a roll-up that no view fills, up to the last step that is over: one by the hour
// (rollup_1h, jobs_1h and so on) from events, for the hours that [from, to) touches, and one by the day from
// that by the hour, for the months that it touches. A step of which events, or the finer roll-up,
// have lost rows by retention is kept as it is.
//
// It puts a partition together in a table of its own and then replaces it in one step. So a run
// that is repeated, doubled or killed changes nothing, events that came late are in the next run,
// and nobody sees half of a result. (A ReplacingMergeTree would need FINAL in every query, and a
// deduplication token would leave out what came late.)
func RollUp(ctx context.Context, conn driver.Conn, table string, from, to time.Time) error {
	for _, r := range rollUps {
		if r.Table == table && r.From != "" {
			if err := dropLeftovers(ctx, conn); err != nil {
				return err
			}
			if r.From == eventsTable {
				return r.refill(ctx, conn, from, to, true)
			}
			return r.fill(ctx, conn, from, to, r.keepThinned)
		}
	}
	return fmt.Errorf("roll up %s: want one of %s", table, strings.Join(Coarser(), ", "))
}

// Coarser returns the roll-ups that RollUp fills, in the order in which to fill them.
func Coarser() []string {
	return append(FromEvents(), FromRollUps()...)
}

// FromEvents returns those that RollUp fills from events, for the hours that it is asked for.
func FromEvents() []string { return namesOf(func(r rollUp) bool { return r.From == eventsTable }) }

// FromRollUps returns those that RollUp fills from finer ones, by whole days or months.
func FromRollUps() []string {
	return namesOf(func(r rollUp) bool { return r.From != "" && r.From != eventsTable })
}

// RollUps returns the names of all roll-ups.
func RollUps() []string { return namesOf(func(rollUp) bool { return true }) }

func namesOf(which func(rollUp) bool) []string {
	var names []string
	for _, r := range rollUps {
		if which(r) {
			names = append(names, r.Table)
		}
	}
	return names
}

// RebuildOptions say how to rebuild.
type RebuildOptions struct {
	// Idle says that nobody inserts events: what is newest is then rebuilt too, and nothing is
	// checked afterwards.
	Idle bool
	// Report is told after each table; nil for nobody.
	Report func(Rebuilt)
}

// Rebuilt tells that one roll-up was rebuilt.
type Rebuilt struct {
	Table string    `json:"table"`
	From  time.Time `json:"from"` // of the range in the steps of the table
	To    time.Time `json:"to"`   // not after From if all of it is past retention
	Done  int       `json:"done"` // of the roll-ups
	Total int       `json:"total"`
}

// Rebuild computes every roll-up anew for [from, to), widened to whole hours and to the steps of
// each table: all from events but those by the day, which are summed from those by the hour, or from
// events where these are past their retention. What is past a table's own retention is left alone.
//
// Of a table that a view fills it computes the range in a table of its own, deletes the range and
// attaches the new parts. What agents insert meanwhile stays: a deletion sees only the parts that
// were there before it. An event that arrives in those moments may be counted twice or not at all;
// therefore Rebuild then looks whether any came, and begins again if so, up to three times.
// A step that is not over while agents insert is left alone. A rebuild that was killed between the
// deletion and the attachment leaves a hole that the next one fills.
//
// On a cluster it rebuilds what views fill on the shard that answers, so that it is to be run at one
// server of each shard; the coarser ones are whole after the last.
//
// The error wraps ErrBusy if events of the range kept coming.
func Rebuild(ctx context.Context, conn driver.Conn, from, to time.Time, o RebuildOptions) error {
	if !from.Before(to) {
		return service.Configf("rebuild: the range from %s to %s is empty", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	if err := dropLeftovers(ctx, conn); err != nil {
		return err
	}
	// On a cluster the rows are in the local tables of each shard.
	suffix := ""
	if is, err := onCluster(ctx, conn); err != nil {
		return fmt.Errorf("look for the layout: %w", err)
	} else if is != nil && *is {
		suffix = localSuffix
	}
	kept, err := keptSince(ctx, conn)
	if err != nil {
		return err
	}
	from, to = from.UTC().Truncate(time.Hour), ceil(to.UTC(), time.Hour)
	for i, r := range rollUps {
		done := Rebuilt{Table: r.Table, From: from, To: to, Done: i + 1, Total: len(rollUps)}
		switch r.From {
		case "":
			done.From, done.To, err = r.recount(ctx, conn, later(from, kept[r.Table]), to, o.Idle, suffix)
		case eventsTable:
			done.From, done.To = later(from, kept[r.Table]), to
			err = r.refill(ctx, conn, done.From, done.To, done.From.Before(kept[eventsTable]))
		default:
			done.From, done.To = later(from, kept[r.Table]).Truncate(r.step()), ceil(to, r.step())
			err = r.fill(ctx, conn, done.From, done.To, r.rebuildOld(done.From, done.To, kept[r.From]))
		}
		if err != nil {
			return fmt.Errorf("rebuild %s: %w", r.Table, err)
		}
		if o.Report != nil {
			o.Report(done)
		}
	}
	return nil
}

func ceil(t time.Time, d time.Duration) time.Time {
	if floor := t.Truncate(d); !floor.Equal(t) {
		return floor.Add(d)
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// keptSince returns the full hour from which on each roll-up, and events, keep their rows, by the
// retention that is in force. Events that came late are kept longer.
func keptSince(ctx context.Context, conn driver.Conn) (map[string]time.Time, error) {
	now, err := Now(ctx, conn)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()")
	if err != nil {
		return nil, fmt.Errorf("read retention: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	days := map[string]int{}
	for rows.Next() {
		var name, engine string
		if err := rows.Scan(&name, &engine); err != nil {
			return nil, fmt.Errorf("read retention: %w", err)
		}
		if ttl := storedTTL.FindStringSubmatch(engine); ttl != nil {
			if days[strings.TrimSuffix(name, localSuffix)], err = strconv.Atoi(ttl[2]); err != nil {
				return nil, fmt.Errorf("read the retention of %s: %w", name, err)
			}
		}
	}
	since := map[string]time.Time{eventsTable: ceil(now.AddDate(0, 0, -days[eventsTable]), time.Hour)}
	for _, r := range rollUps {
		since[r.Table] = ceil(now.AddDate(0, 0, -cmp.Or(days[r.Table], r.Days)), time.Hour)
	}
	return since, rows.Err()
}

// step returns the length of the roll-up's steps.
func (r rollUp) step() time.Duration {
	switch r.bucket {
	case tenSeconds:
		return 10 * time.Second
	case minute:
		return time.Minute
	case hour:
		return time.Hour
	default:
		return 24 * time.Hour
	}
}

// within binds a range of time, in seconds since 1970, for inRange.
func within(ctx context.Context, from, to time.Time, settings clickhouse.Settings) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(settings), clickhouse.WithParameters(clickhouse.Parameters{
		"from": strconv.FormatInt(from.Unix(), 10), "to": strconv.FormatInt(to.Unix(), 10),
	}))
}

// inRange is the condition that column is in the range of within.
func inRange(column string) string { return between(column, "from", "to") }

// between is the condition that column is between two parameters, in seconds since 1970.
func between(column, from, to string) string {
	return fmt.Sprintf("%s >= toDateTime({%s:UInt32}, 'UTC') AND %s < toDateTime({%s:UInt32}, 'UTC')", column, from, column, to)
}

// recount rebuilds a roll-up that a view fills, and returns the range that it rebuilt.
func (r rollUp) recount(ctx context.Context, conn driver.Conn, from, to time.Time, idle bool, suffix string) (start, end time.Time, err error) {
	start = from.Truncate(r.step())
	for try := 1; ; try++ {
		end = ceil(to, r.step())
		now, err := Now(ctx, conn)
		if err != nil {
			return start, end, err
		}
		if !idle && end.After(now) {
			end = now.Truncate(r.step())
		}
		if !start.Before(end) {
			return start, start, nil
		}
		if err := r.recountOnce(ctx, conn, start, end, suffix); err != nil {
			return start, end, err
		}
		if idle {
			return start, end, nil
		}
		var late uint64
		since := clickhouse.WithParameters(clickhouse.Parameters{
			"from": strconv.FormatInt(start.Unix(), 10), "to": strconv.FormatInt(end.Unix(), 10),
			"since": strconv.FormatInt(now.Add(-viewLag).UnixMicro(), 10),
		})
		if err := conn.QueryRow(clickhouse.Context(ctx, since), "SELECT count() FROM events"+suffix+" WHERE arrived > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND "+
			inRange("time")).Scan(&late); err != nil {
			return start, end, fmt.Errorf("look for late events: %w", err)
		}
		if late == 0 {
			return start, end, nil
		}
		if try == rebuildTries {
			return start, end, fmt.Errorf("%d events came in: %w", late, ErrBusy)
		}
		select {
		case <-ctx.Done():
			return start, end, ctx.Err()
		case <-time.After(viewLag):
		}
	}
}

// recountOnce takes the events of, and changes, the table whose name ends with suffix.
func (r rollUp) recountOnce(ctx context.Context, conn driver.Conn, start, end time.Time, suffix string) error {
	return r.staged(ctx, conn, func(stage string) error {
		if err := r.count(ctx, conn, stage, "events"+suffix, start, end, ""); err != nil {
			return err
		}
		partitions, err := partitionsOf(ctx, conn, stage)
		if err != nil {
			return err
		}
		// 2: wait for the replicas too.
		if err := conn.Exec(within(ctx, start, end, clickhouse.Settings{"mutations_sync": 2}), "ALTER TABLE "+r.Table+suffix+" DELETE WHERE "+inRange("ts")); err != nil {
			return fmt.Errorf("delete the range: %w", err)
		}
		for _, p := range partitions {
			if err := conn.Exec(ctx, "ALTER TABLE "+r.Table+suffix+" ATTACH PARTITION ID '"+p+"' FROM "+stage); err != nil {
				return fmt.Errorf("attach partition %s: %w", p, err)
			}
		}
		return nil
	})
}

// errMoved says that somebody else filled the same partition meanwhile.
var errMoved = errors.New("another run filled the same partition")

// refill computes the steps of [from, to) from events and keeps the others of their partitions. careful
// says to keep also those of which fewer events are left than are counted already.
func (r rollUp) refill(ctx context.Context, conn driver.Conn, from, to time.Time, careful bool) error {
	now, err := Now(ctx, conn)
	if err != nil {
		return err
	}
	from, to = from.UTC().Truncate(r.step()), ceil(to.UTC(), r.step())
	if over := now.Truncate(r.step()); over.Before(to) { // the step that now is in is not over
		to = over
	}
	for start := r.partitionStart(from); start.Before(to); start = r.partitionEnd(start) {
		p := refilled{start: start, end: r.partitionEnd(start), from: later(start, from), to: to}
		if p.end.Before(to) {
			p.to = p.end
		}
		for try := 1; ; try++ {
			err = r.staged(ctx, conn, func(stage string) error { return r.refillPartition(ctx, conn, stage, p, careful) })
			if !errors.Is(err, errMoved) || try == rebuildTries {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("roll up %s of %s: %w", r.Table, start.Format(time.DateOnly), err)
		}
	}
	return nil
}

// refilled is a partition from start to end, of which the steps from from to to are computed.
type refilled struct{ start, end, from, to time.Time }

func (p refilled) parameters() clickhouse.Parameters {
	seconds := func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
	return clickhouse.Parameters{"start": seconds(p.start), "end": seconds(p.end), "from": seconds(p.from), "to": seconds(p.to)}
}

func (r rollUp) refillPartition(ctx context.Context, conn driver.Conn, stage string, p refilled, careful bool) error {
	bound := clickhouse.Context(ctx, clickhouse.WithParameters(p.parameters()))
	thinned := "[]"
	if careful {
		var err error
		if thinned, err = r.thinned(bound, conn, r.countsOf("events")); err != nil {
			return err
		}
	}
	// What is kept is copied first and looked at again at the end: another run, of other hours of
	// the day, must not be undone.
	kept := between("ts", "start", "end") + " AND (NOT (" + inRange("ts") + ") OR has(" + thinned + ", toUnixTimestamp(ts)))"
	if err := conn.Exec(bound, r.insertInto(stage)+"SELECT ts, "+r.columnNames()+" FROM "+r.Table+" WHERE "+kept); err != nil {
		return fmt.Errorf("keep rows: %w", err)
	}
	counted := fmt.Sprintf("NOT has(%s, toUnixTimestamp(%s))", thinned, fmt.Sprintf(r.bucket, "toDateTime(time, 'UTC')"))
	if err := r.count(ctx, conn, stage, "events", p.from, p.to, counted); err != nil {
		return err
	}
	var moved uint64
	if err := conn.QueryRow(bound, fmt.Sprintf(`SELECT count() FROM (SELECT ts FROM
    (SELECT ts, toInt64(%[1]s) AS n FROM %[2]s WHERE %[4]s UNION ALL SELECT ts, -toInt64(%[1]s) AS n FROM %[3]s WHERE %[4]s)
GROUP BY ts HAVING sum(n) != 0)`, r.values[0].name, r.Table, stage, kept)).Scan(&moved); err != nil {
		return fmt.Errorf("look at what is kept: %w", err)
	}
	if moved > 0 {
		return errMoved
	}
	// ClickHouse cannot replace on a condition: a run of other hours that replaces the partition between the look and
	// this is undone. It takes a run on schedule and one over a range, or a rebuild, that end within the same
	// milliseconds; Differences shows it, and the next Rebuild of the range mends it.
	return r.replacePartition(ctx, conn, p.start, stage)
}

// countsOf returns a query of how many events of each step a table of events has.
func (r rollUp) countsOf(events string) string {
	where := inRange("time")
	if r.where != "" {
		where += " AND " + r.where
	}
	return fmt.Sprintf("SELECT %s AS ts, %s AS there FROM %s%s WHERE %s GROUP BY ts", fmt.Sprintf(r.bucket, "toDateTime(time, 'UTC')"), r.values[0].expr, events, r.join, where)
}

// thinned returns the steps of the range of within in which the roll-up has more events than a query
// of ts and there gives, as a list of seconds since 1970.
func (r rollUp) thinned(ctx context.Context, conn driver.Conn, counts string) (string, error) {
	var steps []uint32
	if err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT groupArray(toUnixTimestamp(ts))
FROM (SELECT ts, sum(%[1]s) AS here FROM %[2]s WHERE %[3]s GROUP BY ts) AS t
LEFT JOIN (%[4]s) AS s ON t.ts = s.ts
WHERE here > there`, r.values[0].name, r.Table, inRange("ts"), counts)).Scan(&steps); err != nil {
		return "", fmt.Errorf("compare with %s: %w", r.From, err)
	}
	list := make([]string, len(steps))
	for i, ts := range steps {
		list[i] = strconv.FormatUint(uint64(ts), 10)
	}
	return "[" + strings.Join(list, ", ") + "]", nil
}

// replacePartition puts the rows of a staging table in the place of the partition that begins at start.
func (r rollUp) replacePartition(ctx context.Context, conn driver.Conn, start time.Time, stage string) error {
	id := start.Format("20060102")
	if r.partition == byMonth {
		id = start.Format("200601")
	}
	if err := conn.Exec(ctx, "ALTER TABLE "+r.Table+" REPLACE PARTITION ID '"+id+"' FROM "+stage); err != nil {
		return fmt.Errorf("replace partition: %w", err)
	}
	return nil
}

// fill computes the partitions of [from, to) from the finer roll-up, but for what before puts into
// the staging table: it returns which steps that were, as a list of seconds since 1970, and the
// time before which the finer one is not to be used.
func (r rollUp) fill(ctx context.Context, conn driver.Conn, from, to time.Time, before filler) error {
	now, err := Now(ctx, conn)
	if err != nil {
		return err
	}
	over := now.Truncate(r.step()) // the step that now is in is not over
	last := over
	if to.Before(last) {
		last = to
	}
	for start := r.partitionStart(from.UTC()); start.Before(last); start = r.partitionEnd(start) {
		end := r.partitionEnd(start)
		if end.After(over) {
			end = over
		}
		if err := r.staged(ctx, conn, func(stage string) error { return r.fillPartition(ctx, conn, stage, start, end, before) }); err != nil {
			return fmt.Errorf("roll up %s of %s: %w", r.Table, start.Format(time.DateOnly), err)
		}
	}
	return nil
}

func (r rollUp) partitionStart(t time.Time) time.Time {
	if r.partition == byMonth {
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return t.Truncate(24 * time.Hour)
}

func (r rollUp) partitionEnd(start time.Time) time.Time {
	if r.partition == byMonth {
		return start.AddDate(0, 1, 0)
	}
	return start.AddDate(0, 0, 1)
}

// A filler puts rows of the partition from start to end into a staging table.
type filler func(ctx context.Context, conn driver.Conn, stage string, start, end time.Time) (done string, rest time.Time, err error)

func (r rollUp) fillPartition(ctx context.Context, conn driver.Conn, stage string, start, end time.Time, before filler) error {
	done, rest, err := before(ctx, conn, stage, start, end)
	if err != nil {
		return err
	}
	if rest = later(start, rest); rest.Before(end) {
		ctx := within(ctx, rest, end, clickhouse.Settings{"max_bytes_before_external_group_by": aggregation})
		if err := conn.Exec(ctx, r.insertInto(stage)+r.fromFiner(fmt.Sprintf("%s AND NOT has(%s, toUnixTimestamp(%s))", inRange("f.ts"), done, fmt.Sprintf(r.bucket, "f.ts")))); err != nil {
			return fmt.Errorf("sum %s: %w", r.From, err)
		}
	}
	return r.replacePartition(ctx, conn, start, stage)
}

// keepThinned is the filler that keeps the steps of which the finer roll-up has fewer events than
// are already here.
func (r rollUp) keepThinned(ctx context.Context, conn driver.Conn, stage string, start, end time.Time) (done string, rest time.Time, err error) {
	ctx = within(ctx, start, end, nil)
	done, err = r.thinned(ctx, conn, fmt.Sprintf("SELECT %s AS ts, sum(%s) AS there FROM %s AS f WHERE %s GROUP BY ts", fmt.Sprintf(r.bucket, "f.ts"), r.values[0].name, r.From, inRange("f.ts")))
	if err != nil {
		return "", start, err
	}
	if done != "[]" {
		if err := conn.Exec(ctx, r.insertInto(stage)+"SELECT ts, "+r.columnNames()+" FROM "+r.Table+" WHERE has("+done+", toUnixTimestamp(ts)) AND "+inRange("ts")); err != nil {
			return "", start, fmt.Errorf("keep rows: %w", err)
		}
	}
	return done, start, nil
}

// rebuildOld returns the filler that, of the steps before the finer roll-up's retention, computes
// those in [from, to) from events and keeps the others.
func (r rollUp) rebuildOld(from, to, retention time.Time) filler {
	return func(ctx context.Context, conn driver.Conn, stage string, start, end time.Time) (done string, rest time.Time, err error) {
		old := ceil(retention, r.step())
		if end.Before(old) {
			old = end
		}
		first, last := later(start, from), to
		if old.Before(last) {
			last = old
		}
		if last.Before(first) {
			last = first
		}
		for _, kept := range [][2]time.Time{{start, first}, {last, old}} {
			if !kept[0].Before(kept[1]) || !kept[0].Before(old) {
				continue
			}
			if old.Before(kept[1]) {
				kept[1] = old
			}
			if err := conn.Exec(within(ctx, kept[0], kept[1], nil), r.insertInto(stage)+"SELECT ts, "+r.columnNames()+" FROM "+r.Table+" WHERE "+inRange("ts")); err != nil {
				return "", start, fmt.Errorf("keep rows: %w", err)
			}
		}
		return "[]", old, r.count(ctx, conn, stage, "events", first, last, "")
	}
}

// count sums the events of [start, end) in a table for which a condition holds into a staging table, a
// day at a time, since they are stored by day.
func (r rollUp) count(ctx context.Context, conn driver.Conn, stage, events string, start, end time.Time, condition string) error {
	where := inRange("time")
	if condition != "" {
		where += " AND " + condition
	}
	for start.Before(end) {
		next := start.Truncate(24 * time.Hour).Add(24 * time.Hour)
		if next.After(end) {
			next = end
		}
		ctx := within(ctx, start, next, clickhouse.Settings{"max_bytes_before_external_group_by": aggregation})
		if err := conn.Exec(ctx, r.insertInto(stage)+r.fromEvents(events, where)); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
		start = next
	}
	return nil
}

func (r rollUp) insertInto(stage string) string {
	return "INSERT INTO " + stage + " (ts, " + r.columnNames() + ") "
}

// columnNames returns the columns after ts.
func (r rollUp) columnNames() string {
	names := r.keyNames()
	for _, c := range r.values {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

// stageMark is in the name of each staging table.
const stageMark = "_stage_"

// staged makes an empty table like r for fn and drops it afterwards. Each run has its own, so that
// two do not mix.
func (r rollUp) staged(ctx context.Context, conn driver.Conn, fn func(stage string) error) error {
	stage := r.Table + stageMark + strings.ToLower(rand.Text())
	if err := conn.Exec(ctx, fmt.Sprintf(`CREATE TABLE %s AS %s
ENGINE = AggregatingMergeTree PARTITION BY %s ORDER BY (%s)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Part of %s while it is computed'`, stage, r.Table, r.Partition(), r.order, r.Table)); err != nil {
		return fmt.Errorf("create a staging table: %w", err)
	}
	err := fn(stage)
	// It is dropped even if the run is cancelled; what a killed run leaves goes a day later.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(err, conn.Exec(ctx, "DROP TABLE IF EXISTS "+stage))
}

// dropLeftovers drops the staging tables of runs that were killed.
func dropLeftovers(ctx context.Context, conn driver.Conn) error {
	var names []string
	old := clickhouse.WithParameters(clickhouse.Parameters{"mark": stageMark, "age": strconv.Itoa(int(leftover.Seconds()))})
	if err := conn.QueryRow(clickhouse.Context(ctx, old), `SELECT groupArray(name) FROM system.tables
WHERE database = currentDatabase() AND position(name, {mark:String}) > 0 AND metadata_modification_time < now() - toIntervalSecond({age:UInt32})`).Scan(&names); err != nil {
		return fmt.Errorf("look for staging tables: %w", err)
	}
	for _, name := range names {
		if err := conn.Exec(ctx, "DROP TABLE IF EXISTS `"+name+"`"); err != nil {
			return fmt.Errorf("drop staging table %s: %w", name, err)
		}
	}
	return nil
}

func partitionsOf(ctx context.Context, conn driver.Conn, table string) ([]string, error) {
	var ids []string
	parameter := clickhouse.WithParameters(clickhouse.Parameters{"table": table})
	if err := conn.QueryRow(clickhouse.Context(ctx, parameter), `SELECT groupUniqArray(partition_id) FROM system.parts
WHERE database = currentDatabase() AND table = {table:String} AND active`).Scan(&ids); err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	slices.Sort(ids)
	return ids, nil
}

// Difference is a sum of a roll-up that is not that of the events.
type Difference struct {
	Table    string    `json:"table"`
	From     time.Time `json:"from"` // hour or day
	Column   string    `json:"column"`
	Events   uint64    `json:"events"`    // what the events give; of a coarser roll-up, what the finer one gives
	RolledUp uint64    `json:"rolled_up"` // what the roll-up has
}

// Differences compares every sum of every roll-up with the events, and those of the coarser ones
// with the finer ones, by the hour (by the day where steps are days). It looks at the hours or days
// that lie wholly in [from, to), for as long as the tables keep their rows. The order is
// that of RollUps, then time. Events that arrive meanwhile show as differences: end the range a
// few minutes ago.
func Differences(ctx context.Context, conn driver.Conn, from, to time.Time) ([]Difference, error) {
	kept, err := keptSince(ctx, conn)
	if err != nil {
		return nil, err
	}
	var all []Difference
	for _, r := range rollUps {
		grain := max(r.step(), time.Hour)
		first := ceil(later(later(from.UTC(), kept[r.Table]), kept[cmp.Or(r.From, eventsTable)]), grain)
		last := to.UTC().Truncate(grain)
		if !first.Before(last) {
			continue
		}
		found, err := r.differences(within(ctx, first, last, nil), conn)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", r.Table, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func (r rollUp) differences(ctx context.Context, conn driver.Conn) ([]Difference, error) {
	grain := hour
	if r.step() > time.Hour {
		grain = day
	}
	var names, over, sums []string
	for _, c := range r.values {
		if c.summed() {
			names = append(names, c.name)
			over = append(over, "toUInt64("+c.expr+")")
			sums = append(sums, "sum(f."+c.name+")")
		}
	}
	has, err := sumsBy(ctx, conn, fmt.Sprintf("SELECT %s AS at, [%s] FROM %s AS f WHERE %s GROUP BY at", fmt.Sprintf(grain, "f.ts"), strings.Join(sums, ", "), r.Table, inRange("f.ts")))
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("SELECT %s AS at, [%s] FROM %s AS f WHERE %s GROUP BY at", fmt.Sprintf(grain, "f.ts"), strings.Join(sums, ", "), r.From, inRange("f.ts"))
	if r.From == "" || r.From == eventsTable {
		where := inRange("time")
		if r.where != "" {
			where += " AND " + r.where
		}
		source = fmt.Sprintf("SELECT %s AS at, [%s] FROM events%s WHERE %s GROUP BY at", fmt.Sprintf(grain, "toDateTime(time, 'UTC')"), strings.Join(over, ", "), r.join, where)
	}
	wants, err := sumsBy(ctx, conn, source)
	if err != nil {
		return nil, err
	}
	zero := make([]uint64, len(names))
	var found []Difference
	for _, at := range slices.Sorted(maps.Keys(union(has, wants))) {
		h, w := has[at], wants[at]
		if h == nil {
			h = zero
		}
		if w == nil {
			w = zero
		}
		for i, name := range names {
			if h[i] != w[i] {
				found = append(found, Difference{Table: r.Table, From: time.Unix(at, 0).UTC(), Column: name, Events: w[i], RolledUp: h[i]})
			}
		}
	}
	return found, nil
}

func union[K cmp.Ordered, V any](a, b map[K]V) map[K]V {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

// sumsBy reads rows of a time and sums.
func sumsBy(ctx context.Context, conn driver.Conn, query string) (map[int64][]uint64, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	all := map[int64][]uint64{}
	for rows.Next() {
		var at time.Time
		var sums []uint64
		if err := rows.Scan(&at, &sums); err != nil {
			return nil, err
		}
		all[at.Unix()] = sums
	}
	return all, rows.Err()
}
