// Package windows reads what the control loop decides from: the ten-second roll-up of answers, the
// hour before, and the gauges of the nodes.
//
// It reads roll-ups and gauges only, four queries a run and one each for keys that are slow, new, warming
// up, suspended or resting, so its cost follows keys and buckets and not mail. How fresh the data is
// comes from the data: a bucket counts as complete after the delay with which recent buckets were seen to
// fill, but not before each node of the key that is behind says in a gauge that its events are stored. Errors
// are those of the connection. A Reader is safe for concurrent use.
package windows

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/control"
	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/limits"
	"carom/schemas/warehouse"
)

const (
	// liveGauge is how old the last gauge of a node may be: nine gauges, so that an agent that is
	// restarted does not look like a node that is gone.
	liveGauge = 9 * event.GaugeInterval
	// slowestGauge is what the machine may need to bring a gauge to ClickHouse, however fast time passes.
	slowestGauge = 15 * time.Second
	// shortestSettle and longestSettle bound how long after its end a bucket counts as complete. An
	// agent stores an event within 2 s when it has much to do (ingest/ship, maxLag), and may begin to
	// use them from one batch to the next, before any bucket was seen to fill late.
	shortestSettle = 3 * time.Second
	longestSettle  = 30 * time.Second
	// settleSpan is how far back the filling of buckets is looked at: several batches of an agent.
	settleSpan = time.Minute
	// gaugeStored is how long ago the events of a node that keeps up may be complete when its gauge comes: two
	// batches of an agent.
	gaugeStored = 4 * time.Second
	// pickup is how long a lease takes from ClickHouse into force at a node, at most.
	pickup = 5 * time.Second
	hour   = time.Hour
)

// Node is the last gauge of a key on one node.
type Node struct {
	Name            string
	Backlog         uint64
	OpenConnections uint32
	LocalFactor     float64
	LeaseEpoch      uint64
	EffectiveRate   float64
}

// Key is what is known of one key.
type Key struct {
	control.Windows
	Nodes []Node
	// Resting says of a key of Wanted.Resting that few attempts were made in the last day and none was refused.
	Resting bool

	warmupStart time.Time
}

// Wanted lists the keys of which more is read than of others.
type Wanted struct {
	Slow      []limits.Key                 // evidence reaches further back than the smallest window
	Suspended []limits.Key                 // whether the receiver said that it will not relent
	Resting   []limits.Key                 // whether they send so little, unrefused, that they need no lease
	IsKnown   func(limits.Key) bool        // the loop has a state of the key: its history is not read; nil for none
	Policy    func(string) *control.Policy // of a provider; nil for Reader.Policy everywhere
}

// Snapshot is what is known at one moment.
type Snapshot struct {
	To       time.Time     // end of the last complete bucket
	Delay    time.Duration // worst delay from an event to its effect
	Lateness time.Duration // longest that a recent bucket took to fill after its end
	Keys     map[limits.Key]*Key

	// storedTo is until when the events of each live node are stored, by its clock. A node that does not say is
	// not in it.
	storedTo map[string]time.Time
}

// CompleteTo returns the end of the last bucket that is complete for every key of a provider.
func (s *Snapshot) CompleteTo(provider string) time.Duration {
	to := Since(s.To)
	for id, k := range s.Keys {
		if id.Provider == provider {
			to = min(to, k.To)
		}
	}
	return to
}

// Since turns a time into the Duration that control counts in: since 1970.
func Since(t time.Time) time.Duration { return time.Duration(t.UnixNano()) }

// Time is the reverse of Since.
func Time(d time.Duration) time.Time { return time.Unix(0, int64(d)).UTC() }

// Reader reads snapshots.
type Reader struct {
	Conn   driver.Conn
	Policy *control.Policy
	// Period is how often the job runs; it is part of the delay.
	Period time.Duration
}

// Read returns what is known at now, by ClickHouse's clock.
func (r *Reader) Read(ctx context.Context, now time.Time, wanted Wanted) (*Snapshot, error) {
	s := &Snapshot{Keys: map[limits.Key]*Key{}, storedTo: map[string]time.Time{}}
	if err := r.gauges(ctx, now, s); err != nil {
		return nil, err
	}
	if err := r.buckets(ctx, now, wanted.Slow, s); err != nil {
		return nil, err
	}
	if err := r.lastHour(ctx, now, s); err != nil {
		return nil, err
	}
	if err := r.history(ctx, now, wanted, s); err != nil {
		return nil, err
	}
	if err := r.warmups(ctx, now, wanted, s); err != nil {
		return nil, err
	}
	if err := r.permanent(ctx, now, wanted.Suspended, s); err != nil {
		return nil, err
	}
	if err := r.resting(ctx, now, wanted, s); err != nil {
		return nil, err
	}
	settle := min(max(s.Lateness, shortestSettle), max(longestSettle, clock.Scaled(shortestSettle)))
	s.To = now.Add(-settle).Truncate(r.Policy.Step)
	s.Delay = r.Policy.Step + max(s.Lateness, shortestSettle) + r.Period + pickup
	for _, k := range s.Keys {
		k.To, k.Delay = Since(s.complete(k, now).Truncate(r.Policy.Step)), s.Delay
	}
	s.freeze(now)
	return s, nil
}

// complete returns until when k's events are complete: To, unless a node is behind. A node keeps up while it
// says so with each gauge. One that has died is waited for until it is no live node any more: whether its
// events come is not known before.
func (s *Snapshot) complete(k *Key, now time.Time) time.Time {
	to := s.To
	for _, n := range k.Nodes {
		if stored, ok := s.storedTo[n.Name]; ok && stored.Before(to) && now.Sub(stored) > event.GaugeInterval+clock.Scaled(gaugeStored) {
			to = stored
		}
	}
	return to
}

func (s *Snapshot) key(k limits.Key) *Key {
	known, ok := s.Keys[k]
	if !ok {
		known = &Key{Windows: control.Windows{Static: limits.None()}}
		s.Keys[k] = known
	}
	return known
}

// gauges reads the last gauge of each key and node, and adds up conf(K). A gauge from the future,
// of a clock that was wrong for a while, would pass for the last one until that time comes.
func (r *Reader) gauges(ctx context.Context, now time.Time, s *Snapshot) (err error) {
	live := max(liveGauge, clock.Scaled(slowestGauge))
	rows, err := r.query(ctx, clickhouse.Parameters{"since": micros(now.Add(-live)), "until": micros(now.Add(live))}, `
SELECT provider, source, node, backlog, open_connections, local_factor, lease_epoch, effective_rate, static_unknown, source_disabled, warmup_start, established, events_to,
    static_rate, static_connections, static_messages, adaptive_rate, adaptive_connections, adaptive_messages
FROM gauges
WHERE time > fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC') AND provider != '' AND source != ''
ORDER BY time DESC
LIMIT 1 BY provider, source, node`)
	if err != nil {
		return fmt.Errorf("read gauges: %w", err)
	}
	defer func() { err = closing(err, rows, "read gauges") }()
	sums := map[*Key]*configured{}
	for rows.Next() {
		var (
			id                 limits.Key
			n                  Node
			factor             float32
			unknown, disabled  bool
			warmup, since      time.Time
			stored             time.Time
			static, adaptive   float64
			staticC, adaptiveC uint32
			staticM, adaptiveM uint32
		)
		if err := rows.Scan(&id.Provider, &id.Source, &n.Name, &n.Backlog, &n.OpenConnections, &factor, &n.LeaseEpoch, &n.EffectiveRate, &unknown, &disabled, &warmup, &since, &stored,
			&static, &staticC, &staticM, &adaptive, &adaptiveC, &adaptiveM); err != nil {
			return fmt.Errorf("read gauges: %w", err)
		}
		n.LocalFactor = float64(factor)
		if stored.Unix() > 0 && stored.After(s.storedTo[n.Name]) {
			s.storedTo[n.Name] = stored
		}
		k := s.key(id)
		k.Nodes = append(k.Nodes, n)
		if disabled {
			k.Frozen = "the source is disabled on " + n.Name
		}
		k.Established = k.Established || since.Unix() > 0
		if warmup.Unix() > 0 && (k.warmupStart.IsZero() || warmup.Before(k.warmupStart)) {
			k.warmupStart = warmup
		}
		if sums[k] == nil {
			sums[k] = &configured{}
		}
		if unknown {
			continue
		}
		sums[k].add(limits.Static(static, staticC, staticM), limits.Limit{RatePerSecond: adaptive, Connections: adaptiveC, MessagesPerConnection: adaptiveM})
	}
	for k, sum := range sums {
		k.Windows.Nodes = len(k.Nodes)
		if k.Static, k.Adaptive = sum.of(len(k.Nodes)); sum.nodes == 0 && k.Frozen == "" {
			k.Frozen = "no node sends mail under the key, so what is configured is not known"
		}
		for _, n := range k.Nodes {
			if n.Backlog > 0 {
				k.Waiting += 1 / float64(len(k.Nodes))
			}
		}
	}
	return nil
}

// configured adds up the limits of the nodes of one key.
type configured struct {
	static, adaptive limits.Limit
	nodes            int
}

// add counts one node. Rates and connections add up over nodes, messages per connection do not.
func (c *configured) add(static, adaptive limits.Limit) {
	ceiling := limits.Ceiling(static, adaptive)
	if c.nodes == 0 {
		c.static, c.adaptive = static, ceiling
	} else {
		c.static = plus(c.static, static)
		c.adaptive = plus(c.adaptive, ceiling)
	}
	c.nodes++
}

// of returns the sums over so many nodes, of which some send nothing under the key and do not know what is
// configured for it: they count like the average of the others, or they would lower the ceiling.
func (c *configured) of(nodes int) (static, adaptive limits.Limit) {
	if c.nodes == 0 {
		return limits.None(), limits.Limit{}
	}
	return scaled(c.static, nodes, c.nodes), scaled(c.adaptive, nodes, c.nodes)
}

func scaled(l limits.Limit, nodes, of int) limits.Limit {
	l.RatePerSecond *= float64(nodes) / float64(of)
	if l.Connections != limits.Unlimited {
		l.Connections = uint32(min(uint64(l.Connections)*uint64(nodes)/uint64(of), limits.Unlimited-1)) //nolint:gosec // bounded
	}
	return l
}

func plus(a, b limits.Limit) limits.Limit {
	sum := limits.Limit{
		RatePerSecond:         a.RatePerSecond + b.RatePerSecond,
		Connections:           limits.Unlimited,
		MessagesPerConnection: max(a.MessagesPerConnection, b.MessagesPerConnection),
	}
	if total := uint64(a.Connections) + uint64(b.Connections); total < limits.Unlimited {
		sum.Connections = uint32(total)
	}
	return sum
}

// bucketColumns are those of a Bucket. FINAL has ClickHouse add up what several batches left of one bucket, which
// costs it a quarter of what GROUP BY does, since the rows are stored in that order.
const bucketColumns = `provider, source, epoch, ts, ok, usr, rate, conn, msgc, block, grey, unav, content, auth, other,
    max_open, min_msgc_idx, sample_reply, last_arrived, n1, f1, n2, f2`

// buckets reads the roll-up and measures how late it fills: the smallest window of every key, and what lies
// before it of those that are slow, or whose refusals may be greylisting without a word.
func (r *Reader) buckets(ctx context.Context, now time.Time, slow []limits.Key, s *Snapshot) error {
	near := micros(now.Add(-r.Policy.WindowMin - r.Policy.Step))
	grey := micros(now.Add(-r.Policy.Greylisting.Window - r.Policy.Step))
	if err := r.addBuckets(ctx, now, s, clickhouse.Parameters{"now": micros(now), "near": near}, `
SELECT `+bucketColumns+`
FROM k10s FINAL
WHERE ts <= fromUnixTimestamp64Micro({now:Int64}, 'UTC') AND ts >= fromUnixTimestamp64Micro({near:Int64}, 'UTC')`); err != nil {
		return err
	}
	unclear, err := r.unclear(ctx, grey)
	if err != nil {
		return err
	}
	for far := range slices.Chunk(slices.Concat(slow, unclear), keysAtOnce) {
		if err := r.addBuckets(ctx, now, s, WithKeys(clickhouse.Parameters{
			"near": near, "far": micros(now.Add(-max(r.Policy.WindowMax, r.Policy.Greylisting.Window) - r.Policy.Step)),
		}, far), `
SELECT `+bucketColumns+`
FROM k10s FINAL
WHERE ts < fromUnixTimestamp64Micro({near:Int64}, 'UTC') AND ts >= fromUnixTimestamp64Micro({far:Int64}, 'UTC') AND `+IsKey); err != nil {
			return err
		}
	}
	for _, k := range s.Keys {
		k.Buckets = inOrder(k.Buckets)
	}
	return nil
}

// unclear returns the keys that may be greylisted without a word: enough first attempts were refused by what
// nobody could classify, and there were retries.
func (r *Reader) unclear(ctx context.Context, since string) (keys []limits.Key, err error) {
	rows, err := r.query(ctx, clickhouse.Parameters{"since": since, "least": strconv.FormatUint(max(1, r.Policy.Greylisting.First/4), 10)}, `
SELECT provider, source
FROM k10s
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND (f1 > 0 OR n2 > 0)
GROUP BY provider, source
HAVING sum(f1) >= {least:UInt64} AND sum(n2) > 0`)
	if err != nil {
		return nil, fmt.Errorf("read k10s: %w", err)
	}
	defer func() { err = closing(err, rows, "read k10s") }()
	for rows.Next() {
		var id limits.Key
		if err := rows.Scan(&id.Provider, &id.Source); err != nil {
			return nil, fmt.Errorf("read k10s: %w", err)
		}
		keys = append(keys, id)
	}
	return keys, nil
}

// addBuckets adds the rows of a query to their keys. Those of a key come together, but for few exceptions, so that
// they are gathered aside and take no more memory in the end than they need.
func (r *Reader) addBuckets(ctx context.Context, now time.Time, s *Snapshot, parameters clickhouse.Parameters, query string) (err error) {
	rows, err := r.query(ctx, parameters, query)
	if err != nil {
		return fmt.Errorf("read k10s: %w", err)
	}
	defer func() { err = closing(err, rows, "read k10s") }()
	var (
		id, last    limits.Key
		ts, arrived time.Time
		b           control.Bucket
		aside       []control.Bucket
	)
	c := &b.Counts
	flush := func() {
		if len(aside) > 0 {
			k := s.key(last)
			k.Buckets = append(slices.Clip(k.Buckets), aside...)
			aside = aside[:0]
		}
	}
	lately := now.Add(-max(settleSpan, clock.Scaled(slowestGauge)))
	for rows.Next() {
		if err := rows.Scan(&id.Provider, &id.Source, &b.Epoch, &ts, &c.OK, &c.User, &c.Rate, &c.Connections, &c.Messages, &c.Block, &c.Greylist,
			&c.Unavailable, &c.Content, &c.Auth, &c.Other, &b.MaxOpen, &b.MinMessages, &b.Sample, &arrived,
			&b.First, &b.FirstOther, &b.Retry, &b.RetryOther); err != nil {
			return fmt.Errorf("read k10s: %w", err)
		}
		if id != last {
			flush()
			last = id
		}
		b.Start = Since(ts)
		aside = append(aside, b)
		k := s.key(id)
		end := ts.Add(r.Policy.Step)
		k.Newest = max(k.Newest, min(Since(end), Since(now)))
		if end.After(lately) && !end.After(now) {
			s.Lateness = max(s.Lateness, arrived.Sub(end))
		}
	}
	flush()
	return nil
}

// inOrder puts buckets in order of time and epoch. Rows of one bucket are added up: those of several shards come
// apart.
func inOrder(buckets []control.Bucket) []control.Bucket {
	slices.SortFunc(buckets, func(a, b control.Bucket) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Epoch, b.Epoch))
	})
	n := 0
	for i := range buckets {
		b := &buckets[i]
		if n == 0 || buckets[n-1].Start != b.Start || buckets[n-1].Epoch != b.Epoch {
			buckets[n] = *b
			n++
			continue
		}
		sum := &buckets[n-1]
		sum.Counts.Add(b.Counts)
		sum.First, sum.FirstOther = sum.First+b.First, sum.FirstOther+b.FirstOther
		sum.Retry, sum.RetryOther = sum.Retry+b.Retry, sum.RetryOther+b.RetryOther
		sum.MaxOpen, sum.MinMessages = max(sum.MaxOpen, b.MaxOpen), min(sum.MinMessages, b.MinMessages)
		sum.Sample = max(sum.Sample, b.Sample)
	}
	return buckets[:n]
}

// lastHour reads the quality of what is sent.
func (r *Reader) lastHour(ctx context.Context, now time.Time, s *Snapshot) (err error) {
	rows, err := r.query(ctx, clickhouse.Parameters{"since": micros(now.Add(-hour))}, `
SELECT provider, source, sum(ok), sum(usr), sum(rate), sum(conn), sum(msgc), sum(block), sum(grey), sum(unav), sum(content), sum(auth), sum(other)
FROM k1m
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
GROUP BY provider, source`)
	if err != nil {
		return fmt.Errorf("read k1m: %w", err)
	}
	defer func() { err = closing(err, rows, "read k1m") }()
	for rows.Next() {
		var id limits.Key
		var c control.Counts
		if err := rows.Scan(&id.Provider, &id.Source, &c.OK, &c.User, &c.Rate, &c.Connections, &c.Messages, &c.Block, &c.Greylist,
			&c.Unavailable, &c.Content, &c.Auth, &c.Other); err != nil {
			return fmt.Errorf("read k1m: %w", err)
		}
		if k, ok := s.Keys[id]; ok {
			k.Hour = c
		}
	}
	return nil
}

func (r *Reader) query(ctx context.Context, parameters clickhouse.Parameters, query string) (driver.Rows, error) {
	return r.Conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(parameters)), query)
}

func micros(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

// IsKey is the condition that provider and source are a key of WithKeys. Its first parts let ClickHouse skip what
// tables keep elsewhere that are in the order of provider and source.
const IsKey = `provider IN {providers:Array(String)} AND source IN {sources:Array(String)} AND concat(provider, '/', source) IN {keys:Array(String)}`

// keysAtOnce is how many keys one query asks for: they travel in its URL, which ClickHouse bounds to 1 MB.
const keysAtOnce = 2000

// WithKeys adds the keys that IsKey asks for to the parameters of a query.
func WithKeys(p clickhouse.Parameters, keys []limits.Key) clickhouse.Parameters {
	providers, sources, both := make([]string, len(keys)), make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		providers[i], sources[i], both[i] = k.Provider, k.Source, k.String()
	}
	for name, texts := range map[string][]string{"providers": providers, "sources": sources, "keys": both} {
		slices.Sort(texts)
		p[name] = warehouse.TextArray(slices.Compact(texts))
	}
	return p
}

// closing ends the reading of rows and returns the first error.
func closing(err error, rows driver.Rows, what string) error {
	if err == nil {
		err = rows.Err()
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
	}
	if closed := rows.Close(); err == nil && closed != nil {
		err = fmt.Errorf("%s: %w", what, closed)
	}
	return err
}
