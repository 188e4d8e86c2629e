package app

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"carom/schemas/warehouse"
)

// rowsAtOnce is how many rows one insert takes; keysAtOnce is how many keys one query asks for, which
// travel in its URL.
const rowsAtOnce, keysAtOnce = 50_000, 2_000

// noMessage is the message id of what no message led to.
var noMessage uuid.UUID

// statement is a row of suppressions that an operator writes.
type statement struct {
	key, tenant string
	tombstone   bool
	expires     time.Time // 1970 or the zero time for never
}

func parameters(p clickhouse.Parameters) clickhouse.QueryOption {
	for name, value := range p {
		p[name] = parameter.Replace(value)
	}
	return clickhouse.WithParameters(p)
}

func micros(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

// writeStatements adds rows in blocks. What was written before an error stays; the same command
// once more completes it.
func writeStatements(ctx context.Context, conn driver.Conn, at time.Time, actor, reason string, rows []statement) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
	for len(rows) > 0 {
		block := rows[:min(len(rows), rowsAtOnce)]
		rows = rows[len(block):]
		batch, err := conn.PrepareBatch(ctx, `INSERT INTO suppressions
(recipient_key, tenant, time, tombstone, pending, category, origin, provider, actor, reason, message_id, recipient_index, expires_at)`)
		if err != nil {
			return fmt.Errorf("write suppressions: %w", err)
		}
		for _, r := range block {
			expires := r.expires
			if expires.Unix() <= 0 {
				expires = time.Unix(0, 0)
			}
			if err := batch.Append(r.key, r.tenant, at, r.tombstone, false, "manual", "operator", "", actor, reason, noMessage, uint32(0), expires.UTC()); err != nil {
				_ = batch.Abort() // the first error is the one to tell
				return fmt.Errorf("write suppressions: %w", err)
			}
		}
		if err := batch.Send(); err != nil {
			return fmt.Errorf("write suppressions: %w", err)
		}
	}
	return nil
}

// held is a key that is suppressed for a tenant, or waits.
type held struct{ key, tenant string }

func holding(ctx context.Context, conn driver.Conn, keys []string) ([]held, error) {
	var all []held
	for len(keys) > 0 {
		some := keys[:min(len(keys), keysAtOnce)]
		keys = keys[len(some):]
		rows, err := conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"keys": warehouse.TextArray(some)})), `
SELECT recipient_key, tenant FROM suppressed WHERE recipient_key IN {keys:Array(String)}
UNION DISTINCT
SELECT recipient_key, tenant FROM suppressions_pending WHERE recipient_key IN {keys:Array(String)}`)
		if err != nil {
			return nil, fmt.Errorf("read suppressions: %w", err)
		}
		err = each(rows, func() error {
			var h held
			if err := rows.Scan(&h.key, &h.tenant); err != nil {
				return err
			}
			all = append(all, h)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read suppressions: %w", err)
		}
	}
	return all, nil
}

// suppressedLine is one who is suppressed, or waits.
type suppressedLine struct {
	Key      string    `json:"key"`
	Tenant   string    `json:"tenant"` // empty for all
	Since    time.Time `json:"since"`
	Expires  time.Time `json:"expires_at"` // 1970 for never
	Category string    `json:"category"`
	Provider string    `json:"provider"`
	Actor    string    `json:"actor"`
	Reason   string    `json:"reason"`
	Message  uuid.UUID `json:"message_id"`
	Index    uint32    `json:"recipient_index"`
}

const (
	suppressedColumns = "recipient_key, tenant, since, expires_at, category, provider, actor, reason, message_id, recipient_index FROM suppressed"
	pendingColumns    = "recipient_key, tenant, since, toDateTime64(0, 6, 'UTC'), category, provider, 'suppression', reason, message_id, recipient_index FROM suppressions_pending"
)

func readLines(ctx context.Context, conn driver.Conn, query string, p clickhouse.Parameters) ([]suppressedLine, error) {
	rows, err := conn.Query(clickhouse.Context(ctx, parameters(p)), query)
	if err != nil {
		return nil, fmt.Errorf("read suppressions: %w", err)
	}
	lines := []suppressedLine{}
	err = each(rows, func() error {
		var l suppressedLine
		if err := rows.Scan(&l.Key, &l.Tenant, &l.Since, &l.Expires, &l.Category, &l.Provider, &l.Actor, &l.Reason, &l.Message, &l.Index); err != nil {
			return err
		}
		lines = append(lines, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read suppressions: %w", err)
	}
	return lines, nil
}

// listLines returns the lines that f asks for, newest first, and how many there are in all.
func listLines(ctx context.Context, conn driver.Conn, f *suppressFlags, since time.Time) ([]suppressedLine, uint64, error) {
	columns, table := suppressedColumns, "suppressed"
	if f.pending {
		columns, table = pendingColumns, "suppressions_pending"
	}
	const which = ` WHERE since >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ({tenant:String} = '' OR tenant = {tenant:String})
    AND ({category:String} = '' OR category = {category:String}) AND ({provider:String} = '' OR provider = {provider:String})`
	p := func() clickhouse.Parameters {
		return clickhouse.Parameters{
			"since": micros(since), "tenant": f.tenant, "category": f.reason, "provider": f.provider, "limit": fmt.Sprint(f.limit),
		}
	}
	lines, err := readLines(ctx, conn, "SELECT "+columns+which+" ORDER BY since DESC, recipient_key, tenant LIMIT {limit:UInt32}", p())
	if err != nil || len(lines) < int(f.limit) { //nolint:gosec // bounded
		return lines, uint64(len(lines)), err
	}
	var total uint64
	if err := conn.QueryRow(clickhouse.Context(ctx, parameters(p())), "SELECT count() FROM "+table+which).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count suppressions: %w", err)
	}
	return lines, total, nil
}

// historyLine is a row of suppressions.
type historyLine struct {
	Time      time.Time `json:"time"`
	Tenant    string    `json:"tenant"`
	Tombstone bool      `json:"tombstone"`
	Pending   bool      `json:"pending"`
	Category  string    `json:"category"`
	Origin    string    `json:"origin"`
	Provider  string    `json:"provider"`
	Actor     string    `json:"actor"`
	Reason    string    `json:"reason"`
	MessageID uuid.UUID `json:"message_id"`
	Index     uint32    `json:"recipient_index"`
	Expires   time.Time `json:"expires_at"`
}

// evidenceLine is an event of a message that led to a suppression.
type evidenceLine struct {
	Time      time.Time `json:"time"`
	MessageID uuid.UUID `json:"message_id"`
	Kind      string    `json:"kind"`
	Tenant    string    `json:"tenant"`
	Provider  string    `json:"provider"`
	Source    string    `json:"source"`
	Reply     string    `json:"reply"`
}

// maxHistory bounds what show reads.
const maxHistory = 200

func readState(ctx context.Context, conn driver.Conn, key string) (*suppressionState, error) {
	s := &suppressionState{Key: key, History: []historyLine{}, Events: []evidenceLine{}}
	var err error
	const one = " WHERE recipient_key = {key:String} ORDER BY tenant"
	if s.Suppressed, err = readLines(ctx, conn, "SELECT "+suppressedColumns+one, clickhouse.Parameters{"key": key}); err != nil {
		return nil, err
	}
	if s.Pending, err = readLines(ctx, conn, "SELECT "+pendingColumns+one, clickhouse.Parameters{"key": key}); err != nil {
		return nil, err
	}
	keyOnly := clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"key": key}))
	rows, err := conn.Query(keyOnly, fmt.Sprintf(`
SELECT time, tenant, tombstone, pending, category, origin, provider, actor, reason, message_id, recipient_index, expires_at
FROM suppressions FINAL
WHERE recipient_key = {key:String}
ORDER BY time DESC, tenant
LIMIT %d`, maxHistory))
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	err = each(rows, func() error {
		var h historyLine
		if err := rows.Scan(&h.Time, &h.Tenant, &h.Tombstone, &h.Pending, &h.Category, &h.Origin, &h.Provider, &h.Actor, &h.Reason, &h.MessageID, &h.Index, &h.Expires); err != nil {
			return err
		}
		s.History = append(s.History, h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	rows, err = conn.Query(keyOnly, fmt.Sprintf(`
SELECT time, if(kind IN ('complaint', 'remote-bounce'), original_message_id, message_id) AS message, toString(kind), tenant, provider, source,
    if(kind = 'complaint', feedback_type, substring(reply, 1, 500))
FROM events
WHERE recipient_key = {key:String} AND kind IN ('delivered', 'bounced', 'remote-bounce', 'complaint', 'expired')
ORDER BY time DESC
LIMIT %d`, maxHistory))
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	err = each(rows, func() error {
		var e evidenceLine
		if err := rows.Scan(&e.Time, &e.MessageID, &e.Kind, &e.Tenant, &e.Provider, &e.Source, &e.Reply); err != nil {
			return err
		}
		s.Events = append(s.Events, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return s, nil
}

// undone is the answer of undo.
type undone struct {
	Provider   string           `json:"provider"`
	From       time.Time        `json:"from"`
	To         time.Time        `json:"to"`
	Done       bool             `json:"done"` // false for a dry run
	Suppressed int              `json:"suppressed"`
	Pending    int              `json:"pending"`
	Kept       int              `json:"kept"` // something else suppresses them too
	Samples    []suppressedLine `json:"samples"`
}

const undoSamples = 10

// readUndo returns whom bounces of a provider in a span of time suppressed, or made wait, and
// nothing else did, and the tombstones that take it back.
func readUndo(ctx context.Context, conn driver.Conn, provider string, from, to time.Time) (*undone, []statement, error) {
	const theirs = `(origin = 'job' AND category != 'complaint' AND provider = {provider:String}
    AND time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time <= fromUnixTimestamp64Micro({to:Int64}, 'UTC'))`
	rows, err := conn.Query(clickhouse.Context(ctx, parameters(clickhouse.Parameters{"provider": provider, "from": micros(from), "to": micros(to)})), `
SELECT recipient_key, tenant, arrayExists(h -> NOT h.2, holding) AS suppressed, arrayAll(h -> h.3, holding) AS only, holding[1].1, holding[1].4, holding[1].5
FROM
(
    SELECT
        recipient_key, tenant, maxIf(time, tombstone) AS removed,
        arraySort(arrayFilter(h -> h.1 >= removed, groupArrayIf((time, pending, `+theirs+`, category, reason),
            NOT tombstone AND (expires_at <= toDateTime64(0, 6, 'UTC') OR expires_at > now64(6))))) AS holding
    FROM suppressions
    WHERE recipient_key IN (SELECT recipient_key FROM suppressions WHERE NOT tombstone AND `+theirs+`)
    GROUP BY recipient_key, tenant
)
WHERE arrayExists(h -> h.3, holding)
ORDER BY recipient_key, tenant`)
	if err != nil {
		return nil, nil, fmt.Errorf("read suppressions: %w", err)
	}
	u := &undone{Provider: provider, From: from, To: to, Samples: []suppressedLine{}}
	var tombstones []statement
	err = each(rows, func() error {
		l := suppressedLine{Provider: provider}
		var suppressed, only bool
		if err := rows.Scan(&l.Key, &l.Tenant, &suppressed, &only, &l.Since, &l.Category, &l.Reason); err != nil {
			return err
		}
		switch {
		case !only:
			u.Kept++
			return nil
		case suppressed:
			u.Suppressed++
		default:
			u.Pending++
		}
		if len(u.Samples) < undoSamples {
			u.Samples = append(u.Samples, l)
		}
		tombstones = append(tombstones, statement{key: l.Key, tenant: l.Tenant, tombstone: true})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read suppressions: %w", err)
	}
	return u, tombstones, nil
}
