// Package events makes an event history inside ClickHouse: `carom load events`. It is for benchmarks,
// tests and demos that need millions of events which look as a fleet's do.
//
// Nothing is sent but SQL. Each message has a number, and everything about it follows from hashes of
// that number and the seed: the same options make the same rows on any machine. A day is made in two
// steps: the lives of the messages that the day receives, one narrow row for each step of a life
// (steps.sql), and then the day's events (rows.sql). The rows are written into a twin of the table
// events and moved to it at the end, so that no materialized view runs; the roll-ups are filled by
// range afterwards, and from the events what nodes and jobs write beside them.
//
// What the history has and what not is in deploy/docs/history.md. A run that is cut off before its
// rows are moved leaves nothing; its scratch tables are dropped by the next run.
package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"carom/schemas/service"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

// Bounds of Options.
const (
	MaxRows  = 2_000_000_000
	MaxDays  = 180 // the retention of events
	MaxNodes = Sources
)

// Options say which history to make.
type Options struct {
	Rows  uint64 // about as many events; the real number follows from the lives
	Days  int
	Nodes int
	Seed  uint64
	Until time.Time // end of the last day, a midnight or any other time of day (UTC)
	// Append allows a table that has rows already. A history of the same options is refused all the same.
	Append bool
	// Progress is called now and then.
	Progress  func(Progress)
	NoRollUps bool // leave the roll-ups empty
}

// Progress is how far a run is.
type Progress struct {
	Rows uint64 // stored
	Of   uint64 // about
	Day  int    // of Days that are done
	Days int
	// RollUps and OfRollUps are how many of the roll-ups are filled, when the events are there.
	RollUps, OfRollUps int
	Elapsed            time.Duration
}

// Result is what a run made.
type Result struct {
	Rows          uint64            `json:"rows"`
	Messages      uint64            `json:"messages"`
	From          time.Time         `json:"from"`
	To            time.Time         `json:"to"`
	Seed          uint64            `json:"seed"`
	Incarnation   string            `json:"incarnation"`
	LastSeq       map[string]uint64 `json:"last_seq"` // by node
	EventSeconds  float64           `json:"event_seconds"`
	RowsPerSecond float64           `json:"rows_per_second"` // of EventSeconds
	IndexSeconds  float64           `json:"index_seconds"`   // for the skip indexes and projections of the events
	RollupSeconds float64           `json:"rollup_seconds"`
	Kinds         map[string]uint64 `json:"kinds"`
	Incidents     int               `json:"incidents"`
}

// eventsPerMessage is what the fates amount to, measured over a million messages.
const eventsPerMessage = 2.085

// run is a history in the making.
type run struct {
	Options

	conn        driver.Conn
	from        time.Time
	messages    uint64
	incarnation uuid.UUID
	lastSeq     []uint64 // by node
	started     time.Time
	threads     int    // how many statements of write run at once
	begun       uint32 // last date that a statement of write has begun with, as yyyymmdd

	mu        sync.Mutex
	rows      uint64
	datesDone int
}

// The scratch tables.
const (
	wordsTable = "load_words"
	stepsTable = "load_steps"
	twinTable  = "load_events"
)

// statementTimeout is how long a statement may take: a busy machine makes a few thousand events a second.
const statementTimeout = 2 * time.Hour

// Open connects to the ClickHouse at rawURL as warehouse.Open does, but waits for the answer to a
// statement for as long as Run's statements may take.
func Open(ctx context.Context, rawURL string, o warehouse.Options) (driver.Conn, error) {
	opt, err := warehouse.ClientOptions(rawURL, o)
	if err != nil {
		return nil, err
	}
	opt.ReadTimeout = statementTimeout
	conn, err := clickhouse.Open(opt)
	if err != nil {
		return nil, service.Configf("ClickHouse at %s: %w", opt.Addr[0], err)
	}
	if err := conn.Ping(ctx); err != nil {
		return nil, errors.Join(warehouse.Explain(rawURL, o, err), conn.Close())
	}
	return conn, nil
}

// Run makes the history in the database of conn, whose schema must be there. A mistake in o is a
// *service.ConfigError, and so is a table that is not empty.
func Run(ctx context.Context, conn driver.Conn, o Options) (result Result, err error) {
	r, err := newRun(conn, o)
	if err != nil {
		return Result{}, err
	}
	if err := r.refuse(ctx); err != nil {
		return Result{}, err
	}
	defer func() {
		// What is left of a run that was not finished goes, whatever happened.
		if dropped := r.drop(context.WithoutCancel(ctx)); err == nil {
			err = dropped
		}
	}()
	structure, err := r.prepare(ctx)
	if err != nil {
		return Result{}, err
	}
	planned := incidents(o.Seed, r.from, o.Days)
	if err := r.make(ctx, planned); err != nil {
		return Result{}, err
	}
	eventsDone := time.Since(r.started)
	if err := r.finish(ctx, structure); err != nil {
		return Result{}, err
	}
	indexed := time.Since(r.started)
	if err := r.beside(ctx); err != nil {
		return Result{}, err
	}
	if !o.NoRollUps {
		if err := r.rollUps(ctx); err != nil {
			return Result{}, err
		}
	}
	result = Result{
		Rows: r.rows, Messages: r.messages, From: r.from, To: r.Until, Seed: o.Seed, Incarnation: r.incarnation.String(),
		LastSeq: map[string]uint64{}, EventSeconds: eventsDone.Seconds(), RowsPerSecond: float64(r.rows) / eventsDone.Seconds(),
		IndexSeconds: (indexed - eventsDone).Seconds(), RollupSeconds: (time.Since(r.started) - indexed).Seconds(), Incidents: len(planned),
	}
	for node, last := range r.lastSeq {
		result.LastSeq[nodeName(node)] = last
	}
	result.Kinds, err = r.kinds(ctx)
	return result, err
}

func newRun(conn driver.Conn, o Options) (*run, error) {
	switch {
	case o.Rows < 1000 || o.Rows > MaxRows:
		return nil, service.Configf("a history has 1000 to %d rows, not %d", MaxRows, o.Rows)
	case o.Days < 1 || o.Days > MaxDays:
		return nil, service.Configf("a history has 1 to %d days, not %d", MaxDays, o.Days)
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return nil, service.Configf("a history has 1 to %d nodes, not %d", MaxNodes, o.Nodes)
	}
	o.Until = o.Until.UTC().Truncate(time.Second)
	r := &run{
		Options: o, conn: conn, from: o.Until.AddDate(0, 0, -o.Days), messages: uint64(float64(o.Rows) / eventsPerMessage),
		lastSeq: make([]uint64, o.Nodes), started: time.Now(),
	}
	// The place of an event is (node, incarnation, seq): another history must not have the same.
	r.incarnation = uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "carom load events %d %d %d %d %s", o.Seed, o.Rows, o.Days, o.Nodes, o.Until.Format(time.RFC3339)))
	return r, nil
}

// refuse returns an error if the history may not be added to what the table has.
func (r *run) refuse(ctx context.Context) error {
	var rows uint64
	if err := r.conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&rows); err != nil {
		return fmt.Errorf("count events: %w", err)
	}
	if rows == 0 {
		return nil
	}
	if !r.Append {
		return service.Configf("the table events has %d rows already: use an empty database, or --append to add to them", rows)
	}
	parameters := clickhouse.WithParameters(clickhouse.Parameters{"incarnation": r.incarnation.String()})
	if err := r.conn.QueryRow(clickhouse.Context(ctx, parameters), "SELECT count() FROM events WHERE incarnation = {incarnation:UUID}").Scan(&rows); err != nil {
		return fmt.Errorf("look for this history: %w", err)
	}
	if rows > 0 {
		return service.Configf("this very history is there already (%d rows): use another --seed", rows)
	}
	return nil
}

// perDay returns how many messages each day receives: fewer on weekends, more towards the end.
func (r *run) perDay() []uint64 {
	weights := make([]float64, r.Days)
	for day := range weights {
		weights[day] = weekday[r.from.AddDate(0, 0, day).Weekday()] * (1 + 0.2*float64(day)/float64(r.Days))
	}
	return shares(r.messages, weights)
}

func nodeName(node int) string { return fmt.Sprintf("load-%d", node+1) }

// prepare makes the scratch tables and fills the one of words. It returns what the twin of events
// lacks.
func (r *run) prepare(ctx context.Context) (structure, error) {
	if err := r.drop(ctx); err != nil {
		return structure{}, err
	}
	var threads uint64
	if err := r.conn.QueryRow(ctx, "SELECT toUInt64(getSetting('max_threads'))").Scan(&threads); err != nil {
		return structure{}, fmt.Errorf("ask for the number of threads: %w", err)
	}
	r.threads = int(min(max(threads, 1), maxStatements)) //nolint:gosec // at most maxStatements
	for _, statement := range []string{
		"CREATE TABLE " + wordsTable + " (list String, place UInt32, word String) ENGINE = MergeTree ORDER BY (list, place)",
		"CREATE TABLE " + stepsTable + ` (
    message UInt64, salt UInt64, received DateTime64(6, 'UTC'), time DateTime64(6, 'UTC'), step UInt8, attempt UInt8, kind UInt8, node UInt8,
    source UInt8, provider UInt8, domain UInt32, recipient UInt32, job UInt16, tenant UInt8, pool UInt8, reply UInt16
) ENGINE = MergeTree PARTITION BY toYYYYMMDD(time) ORDER BY (node, time, message, step)`,
		"CREATE TABLE " + twinTable + " AS events",
		// The rows are not the only copy of anything, and parts are merged where they end up.
		"ALTER TABLE " + twinTable + " MODIFY SETTING fsync_after_insert = 0, fsync_part_directory = 0",
		"SYSTEM STOP MERGES " + twinTable,
		"SYSTEM STOP MERGES " + stepsTable,
	} {
		if err := r.conn.Exec(ctx, statement); err != nil {
			return structure{}, fmt.Errorf("make a scratch table: %w", err)
		}
	}
	if err := r.fillWords(ctx); err != nil {
		return structure{}, err
	}
	return r.strip(ctx)
}

func (r *run) fillWords(ctx context.Context) error {
	lists := words()
	if err := addReplies(lists); err != nil {
		return err
	}
	for _, number := range chances() {
		lists["chance"] = append(lists["chance"], strconv.Itoa(number))
	}
	batch, err := r.conn.PrepareBatch(ctx, "INSERT INTO "+wordsTable+" (list, place, word)")
	if err != nil {
		return fmt.Errorf("write words: %w", err)
	}
	for list, all := range lists {
		for i, word := range all {
			if err := batch.Append(list, uint32(i), word); err != nil { //nolint:gosec // a few thousand
				_ = batch.Abort() // the first error is the one to tell
				return fmt.Errorf("write words: %w", err)
			}
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("write words: %w", err)
	}
	return nil
}

// addReplies adds the lists of what follows from a reply.
func addReplies(lists map[string][]string) error {
	all, err := allReplies()
	if err != nil {
		return err
	}
	classes := []taxonomy.Class{"", taxonomy.Hard, taxonomy.Soft, taxonomy.Undetermined, taxonomy.None}
	for _, p := range all {
		for list, word := range map[string]string{
			"head": p.head, "middle": p.middle, "tail": p.tail, "template": p.template, "enhanced": p.enhanced,
			"category": string(p.verdict.Category), "scope": string(p.verdict.Scope), "pmta": pmtaWord(p.verdict.Category),
			"code": strconv.Itoa(int(p.code)), "phase": strconv.Itoa(int(p.phase)),
			"class":      strconv.Itoa(max(0, slices.Index(classes, p.verdict.Class))),
			"dimension":  strconv.Itoa(1 + slices.Index(taxonomy.Dimensions, p.verdict.Dimension)),
			"variable-1": strconv.Itoa(int(p.vars[0])), "variable-2": strconv.Itoa(int(p.vars[1])),
		} {
			lists["reply-"+list] = append(lists["reply-"+list], word)
		}
	}
	return nil
}

func pmtaWord(c taxonomy.Category) string {
	if c == "" {
		return ""
	}
	return c.PowerMTA()
}

// drop drops the scratch tables. They are emptied first, because ClickHouse keeps the files of a table
// for minutes after it was dropped, and dropping with SYNC waits for that.
func (r *run) drop(ctx context.Context) error {
	for _, table := range []string{wordsTable, stepsTable, twinTable} {
		for _, statement := range []string{"TRUNCATE TABLE IF EXISTS ", "DROP TABLE IF EXISTS "} {
			if err := r.conn.Exec(ctx, statement+table); err != nil {
				return fmt.Errorf("drop a scratch table: %w", err)
			}
		}
	}
	return nil
}

// settings of the statements that make rows. A statement is one big insert of a few blocks, and its
// numbers in LowCardinality columns are the trick that makes it fast.
func settings() clickhouse.Settings {
	return clickhouse.Settings{
		"allow_suspicious_low_cardinality_types":   1,
		"max_query_size":                           4 << 20,
		"async_insert":                             0,
		"max_insert_threads":                       2,
		"min_insert_block_size_rows":               1 << 18, // larger ones only miss the caches
		"min_insert_block_size_bytes":              1 << 30,
		"max_partitions_per_insert_block":          0,
		"throw_on_max_partitions_per_insert_block": 0,
		"insert_deduplicate":                       0,
		"max_execution_time":                       0,
		"compile_expressions":                      0, // it takes longer than it saves
	}
}

// inOrder are the settings of a statement whose rows are stored as they come.
func inOrder() clickhouse.Settings {
	s := settings()
	s["max_threads"], s["max_insert_threads"] = 1, 1
	return s
}

// maxStatements bounds how many days are made at once: each takes a gigabyte or two of memory.
const maxStatements = 4

// A span is some days that are made together.
type span struct {
	first   int      // day, from 0
	message uint64   // number of the first message
	counts  []uint64 // messages of each day
}

// statementMessages is how many messages a statement makes, about. Planning a statement takes a few
// seconds whatever it makes, and a steps table of this size fits on any disk.
const statementMessages = 5_000_000

// plan returns the days in spans.
func (r *run) plan() []span {
	var all []span
	message, inLast := uint64(0), uint64(0)
	for day, count := range r.perDay() {
		if len(all) == 0 || inLast+count > statementMessages {
			all, inLast = append(all, span{first: day, message: message}), 0
		}
		last := &all[len(all)-1]
		last.counts = append(last.counts, count)
		message, inLast = message+count, inLast+count
	}
	return all
}

// lives writes the steps of the messages that days receive.
func (r *run) lives(ctx context.Context, days span, planned []incident) error {
	firsts, nexts := make([]uint64, len(days.counts)), make([]uint64, len(days.counts))
	next := days.message
	for i, count := range days.counts {
		firsts[i], nexts[i] = next, next+count
		next += count
	}
	sql, err := r.render("steps.sql", map[string]any{
		"IncidentExpression": incidentExpression(planned), "IncidentFates": incidentFates(planned), "IncidentEnds": incidentEnds(planned),
		"Firsts": firsts, "Nexts": nexts, "Counts": days.counts,
	})
	if err != nil {
		return err
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings()), clickhouse.WithParameters(clickhouse.Parameters{
		"first": strconv.FormatUint(days.message, 10), "count": strconv.FormatUint(next-days.message, 10), "seed": strconv.FormatUint(r.Seed, 10),
		"days_before": strconv.Itoa(days.first), "days": strconv.Itoa(r.Days),
		"from_us": strconv.FormatInt(r.from.AddDate(0, 0, days.first).UnixMicro(), 10),
	}))
	if err := r.conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("make lives: %w", err)
	}
	return nil
}

// make makes the lives, and beside them the events of the days that are complete.
func (r *run) make(ctx context.Context, planned []incident) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.threads)
	err := func() error {
		for _, days := range r.plan() {
			if err := r.lives(groupCtx, days, planned); err != nil {
				return fmt.Errorf("day %d: %w", days.first+1, err)
			}
			if err := r.events(groupCtx, group, days.first+len(days.counts)); err != nil {
				return fmt.Errorf("day %d: %w", days.first+1, err)
			}
		}
		return nil
	}()
	if writing := group.Wait(); writing != nil {
		return writing // and not that lives were cancelled for it
	}
	return err
}

// events starts to write the events of the dates that later messages add nothing to, when the lives of
// so many days are made.
func (r *run) events(ctx context.Context, group *errgroup.Group, days int) error {
	dates, err := r.dates(ctx)
	if err != nil {
		return err
	}
	if days < r.Days {
		next, err := strconv.ParseUint(r.from.AddDate(0, 0, days).Format("20060102"), 10, 32)
		if err != nil {
			return err
		}
		dates = slices.DeleteFunc(dates, func(d dateSteps) bool { return uint64(d.date) >= next })
	}
	for _, d := range dates {
		r.begun = d.date
		before := slices.Clone(r.lastSeq)
		for node, count := range d.counts {
			r.lastSeq[node] += count
		}
		// A statement has one thread, which keeps its rows in order.
		group.Go(func() error {
			if err := r.write(ctx, d.date, before); err != nil {
				return fmt.Errorf("%d: %w", d.date, err)
			}
			r.wrote(d)
			return nil
		})
	}
	return nil
}

// wrote counts the events of a date.
func (r *run) wrote(d dateSteps) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.datesDone++
	for _, count := range d.counts {
		r.rows += count
	}
	r.progress(min(r.datesDone, r.Days), 0, 0)
}

// dateSteps says how many steps each node has on a date.
type dateSteps struct {
	date   uint32 // yyyymmdd
	counts []uint64
}

// dates returns the dates that there are steps of and that no statement has begun with. Steps after
// the end never happen.
func (r *run) dates(ctx context.Context) (all []dateSteps, err error) {
	parameters := clickhouse.WithParameters(clickhouse.Parameters{"end": strconv.FormatInt(r.Until.UnixMicro(), 10), "begun": strconv.FormatUint(uint64(r.begun), 10)})
	rows, err := r.conn.Query(clickhouse.Context(ctx, parameters), `SELECT toYYYYMMDD(time) AS date, node, count() FROM `+stepsTable+`
WHERE date > {begun:UInt32} AND time < fromUnixTimestamp64Micro({end:Int64}, 'UTC') GROUP BY date, node ORDER BY date`)
	if err != nil {
		return nil, fmt.Errorf("read which days have steps: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		var date uint32
		var node uint8
		var count uint64
		if err := rows.Scan(&date, &node, &count); err != nil {
			return nil, fmt.Errorf("read which days have steps: %w", err)
		}
		if len(all) == 0 || all[len(all)-1].date != date {
			all = append(all, dateSteps{date, make([]uint64, r.Nodes)})
		}
		all[len(all)-1].counts[node] = count
	}
	return all, rows.Err()
}

// write makes the events of a date, and numbers those of each node from the number after the one of
// lastSeqs.
func (r *run) write(ctx context.Context, date uint32, lastSeqs []uint64) error {
	names, values, err := columns()
	if err != nil {
		return err
	}
	facts := map[string]any{
		"Target": twinTable, "Names": strings.Join(names, ", "), "Incarnation": r.incarnation.String(), "Date": date, "LastSeqs": lastSeqs,
		"ProviderRanks": ranks(providers[:]), "SourceRanks": ranks(words()["source"]),
	}
	facts["Columns"], err = r.execute("columns", strings.Join(values, ",\n    "), facts)
	if err != nil {
		return err
	}
	head, err := r.render("head.sql", facts)
	if err != nil {
		return err
	}
	rows, err := r.render("rows.sql", facts)
	if err != nil {
		return err
	}
	if err := r.conn.Exec(clickhouse.Context(ctx, clickhouse.WithSettings(inOrder())), head+rows); err != nil {
		return fmt.Errorf("make events: %w", err)
	}
	if err := r.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE "+stepsTable+" DROP PARTITION ID '%d'", date)); err != nil {
		return fmt.Errorf("drop steps: %w", err)
	}
	return nil
}

// ranks returns the place, from 1, that each word has in their order.
func ranks(all []string) []int {
	sorted := slices.Sorted(slices.Values(all))
	places := make([]int, len(all))
	for i, word := range all {
		place, _ := slices.BinarySearch(sorted, word)
		places[i] = place + 1
	}
	return places
}

// kinds returns how many events of each kind the history has.
func (r *run) kinds(ctx context.Context) (map[string]uint64, error) {
	all := map[string]uint64{}
	rows, err := r.conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"incarnation": r.incarnation.String()})),
		"SELECT toString(kind), count() FROM events WHERE incarnation = {incarnation:UUID} GROUP BY kind")
	if err != nil {
		return nil, fmt.Errorf("count kinds: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		var kind string
		var count uint64
		if err := rows.Scan(&kind, &count); err != nil {
			return nil, fmt.Errorf("count kinds: %w", err)
		}
		all[kind] = count
	}
	return all, rows.Err()
}

func (r *run) progress(days, rollUps, of int) {
	if r.Progress != nil {
		r.Progress(Progress{Rows: r.rows, Of: r.Rows, Day: days, Days: r.Days, RollUps: rollUps, OfRollUps: of, Elapsed: time.Since(r.started)})
	}
}
