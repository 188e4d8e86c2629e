package warehouse

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/event"
)

// A Table is one that nodes fill from a stream of their log.
type Table[T any] struct {
	Name    string
	Columns []event.Column[T]

	rolledUp bool // has roll-ups behind it, and the column repaired
}

// The tables that nodes fill.
var (
	Events      = Table[event.Event]{"events", event.Columns, true}
	Gauges      = Table[event.Gauge]{"gauges", event.GaugeColumns, false}
	QueueGauges = Table[event.QueueGauge]{"queue_gauges", event.QueueGaugeColumns, false}
	Annotations = Table[event.Annotation]{"annotations", event.AnnotationColumns, false}
)

// NewBlock returns an empty block of rows for the table.
func (t Table[T]) NewBlock() *event.Block[T] { return event.NewBlock(t.Columns) }

// RowError says that a row can't be written as the table's types want it. Nothing was sent.
type RowError struct {
	Index int // of the row in the batch
	Err   error
}

func (e *RowError) Error() string { return fmt.Sprintf("row %d: %v", e.Index, e.Err) }

// Unwrap returns the cause.
func (e *RowError) Unwrap() error { return e.Err }

// insertSettings make an insert with a token exact: what was stored under the token, in the table
// or in a roll-up behind it, is not stored again. The batch must stay one block per partition and
// table, since the blocks of an insert are told apart by their number: hence no asynchronous
// insert and one thread.
func insertSettings(token string) clickhouse.Settings {
	return clickhouse.Settings{
		"insert_deduplicate":                                 1,
		"insert_deduplication_token":                         token,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		"async_insert":                                       0,
		"insert_distributed_sync":                            1, // on a cluster: stored by the shard, not queued for it
		"max_insert_threads":                                 1,
		"parallel_view_processing":                           1,
		"materialized_views_ignore_errors":                   0,
		"max_partitions_per_insert_block":                    0, // a wrong clock must not stop the log
	}
}

// InsertBlock writes the rows of block as one batch. After an error the caller does not know whether they
// are stored: it repeats the same rows with the same token until there is none, and then asks Landed.
// The table and its roll-ups hold the batch once, as long as fewer blocks than the deduplication
// window came in between (Landed tells), and but for what Repair mends. Another token over the
// same rows stores them again.
//
// A caller that wants speed keeps two blocks of some 50,000 rows, fills one with Append (or with
// AppendRecord, for what comes from a log) while ClickHouse stores the other, and uses them again
// after Reset: filling takes about a microsecond a row, InsertBlock as much again.
//
// The error is a *RowError for a row that does not fit the table; see also BadData.
func (t Table[T]) InsertBlock(ctx context.Context, conn driver.Conn, token string, block *event.Block[T]) error {
	return t.insert(ctx, conn, token, block, false)
}

// Insert is InsertBlock for a few rows.
func (t Table[T]) Insert(ctx context.Context, conn driver.Conn, token string, rows []T) error {
	block := t.NewBlock()
	for i := range rows {
		if err := block.Append(&rows[i]); err != nil {
			return fmt.Errorf("insert into %s: %w", t.Name, &RowError{Index: i, Err: err})
		}
	}
	return t.InsertBlock(ctx, conn, token, block)
}

// Repair stores rows in the table and not in its roll-ups. It is for rows that a repeated insert
// confirmed and that Landed does not find: ClickHouse writes the token down a moment before the
// rows, and if it dies in between it takes every repetition for a duplicate, in that table only.
// It is repeated like InsertBlock, under a token of its own. A table with replicas does both in one
// step: what is not found there is on its way from another replica, and the error is
// ErrReplicaBehind.
//
// The same death can cost a roll-up its part of the batch. That is not noticed here; the events
// are there to compute it again.
func (t Table[T]) Repair(ctx context.Context, conn driver.Conn, token string, block *event.Block[T]) error {
	window, err := DedupWindow(ctx, conn, t.Name)
	if err != nil {
		return err
	}
	if window.Replicated {
		return ErrReplicaBehind
	}
	return t.insert(ctx, conn, token, block, t.rolledUp)
}

func (t Table[T]) insert(ctx context.Context, conn driver.Conn, token string, block *event.Block[T], repaired bool) (err error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(insertSettings(token)))
	names := event.Names(t.Columns)
	if repaired {
		names = append(names, "repaired")
	}
	batch, err := conn.PrepareBatch(ctx, fmt.Sprintf("INSERT INTO %s (%s)", t.Name, strings.Join(names, ", ")))
	if err != nil {
		return fmt.Errorf("prepare insert into %s: %w", t.Name, err)
	}
	defer func() {
		if err != nil {
			_ = batch.Abort() // gives the connection back; the first error is the one to tell
		}
	}()
	if err := t.fill(batch, block); err != nil {
		return fmt.Errorf("insert into %s: %w", t.Name, err)
	}
	if repaired {
		if err := batch.Column(len(t.Columns)).Append(slices.Repeat([]bool{true}, block.Len())); err != nil {
			return fmt.Errorf("insert into %s: %w", t.Name, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("insert into %s: %w", t.Name, err)
	}
	return nil
}

// fill puts the columns of block into batch.
func (t Table[T]) fill(batch driver.Batch, block *event.Block[T]) error {
	data := bytes.NewReader(nil)
	reader := chproto.NewReader(data)
	for i, to := range batch.Columns()[:len(t.Columns)] {
		c := t.Columns[i]
		data.Reset(block.Native(i))
		if string(to.Type()) == c.Type {
			if err := to.Decode(reader, block.Len()); err != nil {
				return fmt.Errorf("column %s: %w", c.Name, err)
			}
			continue
		}
		// The table has another type than this binary: an older enumeration, a column that an
		// operator changed.
		from, err := column.Type(c.Type).Column(c.Name, &column.ServerContext{Timezone: time.UTC})
		if err == nil {
			err = from.Decode(reader, block.Len())
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
		for row := range block.Len() {
			if err := to.AppendRow(from.Row(row, false)); err != nil {
				return &RowError{Index: row, Err: fmt.Errorf("column %s: %w", c.Name, err)}
			}
		}
	}
	return nil
}

// Place names a run of records in a stream of a node's log.
type Place struct {
	Node        string
	Incarnation event.ID
	From, To    uint64 // both included
}

// Landed returns which numbers of p are stored, in order, and whether the table may have
// forgotten their token: so many blocks came in after them that repeating the insert could store
// them twice.
func (t Table[T]) Landed(ctx context.Context, conn driver.Conn, p Place) (seqs []uint64, forgotten bool, err error) {
	window, err := DedupWindow(ctx, conn, t.Name)
	if err != nil {
		return nil, false, err
	}
	// A replica that is a second or more behind does not answer: rows that it lacks are not missing.
	fresh := clickhouse.WithSettings(clickhouse.Settings{
		"max_replica_delay_for_distributed_queries": 1, "fallback_to_stale_replicas_for_distributed_queries": 0,
	})
	var first time.Time
	parameters := clickhouse.WithParameters(clickhouse.Parameters{
		"node": p.Node, "incarnation": p.Incarnation.String(),
		"from": strconv.FormatUint(p.From, 10), "to": strconv.FormatUint(p.To, 10),
	})
	err = conn.QueryRow(clickhouse.Context(ctx, parameters, fresh), fmt.Sprintf(`SELECT groupUniqArray(seq), min(arrived) FROM %s
WHERE node = {node:String} AND incarnation = {incarnation:UUID} AND seq BETWEEN {from:UInt64} AND {to:UInt64}`, t.Name)).Scan(&seqs, &first)
	if err != nil {
		return nil, false, fmt.Errorf("look for stored rows of %s: %w", t.Name, err)
	}
	if len(seqs) == 0 {
		return nil, false, nil
	}
	slices.Sort(seqs)
	// The rows of one insert share arrived, so (node, incarnation, arrived) counts inserts.
	var blocks uint64
	parameters = clickhouse.WithParameters(clickhouse.Parameters{"first": strconv.FormatInt(first.UnixMicro(), 10)})
	err = conn.QueryRow(clickhouse.Context(ctx, parameters), fmt.Sprintf(
		"SELECT uniqExact(node, incarnation, arrived) FROM %s WHERE arrived > fromUnixTimestamp64Micro({first:Int64}, 'UTC')", t.Name,
	)).Scan(&blocks)
	if err != nil {
		return nil, false, fmt.Errorf("count later inserts of %s: %w", t.Name, err)
	}
	// Half the window, since an insert over midnight is more than one block.
	return seqs, blocks >= window.Blocks/2 || window.Age > 0 && time.Since(first) >= window.Age/2, nil
}
