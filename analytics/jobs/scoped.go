package jobs

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/limits"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

const (
	// maxScoped bounds the scopes without a limit that are looked at in one run: those refused most.
	maxScoped = 100
	// scopedQuiet is how long a scope must not have been refused until its limit is let go.
	scopedQuiet = 24 * time.Hour
)

// scopeOf returns what the source of a key stands for that is of the mail with a domain, or with a URL of a host:
// in limit_state and limit_log such a key is provider/domain:VALUE or provider/url:VALUE. It is "" for a source.
func scopeOf(key limits.Key) (scope taxonomy.Scope, value string) {
	name, value, _ := strings.Cut(key.Source, ":")
	if scope = taxonomy.Scope(name); scope == taxonomy.ScopeDomain || scope == taxonomy.ScopeURL {
		return scope, value
	}
	return "", ""
}

// IsScoped reports whether a key stands for a scope at a provider.
func IsScoped(key limits.Key) bool {
	scope, _ := scopeOf(key)
	return scope != ""
}

// scopedLimits decides about the keys (provider, domain or URL): a refusal that names a DKIM, SPF or From
// domain, or the host of a URL, is no evidence against any source, but against the mail that has it, whatever
// source it leaves by.
//
// scoped_refusals says which keys there are. What their mail was answered is counted in events, because no
// roll-up knows it: over the minutes of a window, for the providers and values that are refused now, so
// that it costs nothing as long as nobody refuses one. Events name the hosts of a message's URLs once
// its provider has refused any for one (sender/deliver).
func (t *Throttle) scopedLimits(ctx context.Context, p *pass, snapshot *windows.Snapshot) ([]limits.ScopedLimit, error) {
	looked := map[limits.Key]*windows.Key{}
	inForce := keysWhereScoped(p.states)
	for _, key := range inForce {
		looked[key] = &windows.Key{}
	}
	refused, err := t.scopes(ctx, p, inForce)
	if err != nil {
		return nil, err
	}
	for _, r := range refused {
		if r.isRecent && len(looked) < len(inForce)+maxScoped {
			looked[r.key] = &windows.Key{}
		}
	}
	now := p.run.started
	if len(looked) == 0 {
		return nil, nil
	}
	if err := t.scopedWindows(ctx, p, snapshot, looked); err != nil {
		return nil, err
	}
	nodes := map[string]map[string]bool{} // live ones by provider
	for key, k := range snapshot.Keys {
		for _, n := range k.Nodes {
			if nodes[key.Provider] == nil {
				nodes[key.Provider] = map[string]bool{}
			}
			nodes[key.Provider][n.Name] = true
		}
	}
	lately := map[limits.Key]bool{}
	for _, r := range refused {
		lately[r.key] = true
	}
	var all []limits.ScopedLimit
	for _, key := range slices.SortedFunc(maps.Keys(looked), limits.Key.Compare) {
		k := looked[key]
		k.Windows.Nodes = max(1, len(nodes[key.Provider]))
		if !lately[key] {
			before := p.states[key]
			after := before
			var reasons []control.Reason
			after.Control, reasons = control.Release(before.Control, windows.Since(now), &k.Windows, "Nobody refused this in a day")
			p.enter(key, actorLoop, before, after, true, reasons, &k.Windows)
			continue
		}
		p.decide(key, k, p.mode(key, k))
		state := p.states[key]
		if state.Control.Epoch == 0 || state.Control.RatePerSecond <= 0 || math.IsInf(state.Control.RatePerSecond, 1) {
			continue
		}
		scope, value := scopeOf(key)
		all = append(all, limits.ScopedLimit{
			Provider: key.Provider, Scope: string(scope), Value: value,
			Epoch: state.Control.Epoch, RatePerSecond: state.Control.RatePerSecond / float64(k.Windows.Nodes), ReasonID: state.ReasonID,
		})
	}
	return all, nil
}

// keysWhereScoped returns the scopes that have a limit, in order.
func keysWhereScoped(states map[limits.Key]remembered) []limits.Key {
	var keys []limits.Key
	for key, s := range states {
		if IsScoped(key) && s.Control.Epoch > 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, limits.Key.Compare)
	return keys
}

// refusedScope is a scope that was refused in the last scopedQuiet.
type refusedScope struct {
	key      limits.Key
	isRecent bool // in the smallest window of the provider
}

// scopes returns the domains and hosts that were refused in the last scopedQuiet: those with a limit, and the others that
// were refused most in the smallest windows.
func (t *Throttle) scopes(ctx context.Context, p *pass, inForce []limits.Key) ([]refusedScope, error) {
	now := p.run.started
	rows, err := t.Conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(now.Add(-scopedQuiet)), "near": micros(now.Add(-p.policy.Widest().WindowMin)), "keys": warehouse.TextArray(names(inForce)),
	}), fmt.Sprintf(`
SELECT provider, concat(scope, ':', value) AS source, max(ts), concat(provider, '/', source) IN {keys:Array(String)} AS has_limit
FROM scoped_refusals
WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
GROUP BY provider, source
ORDER BY has_limit DESC, sumIf(refusals, ts >= fromUnixTimestamp64Micro({near:Int64}, 'UTC')) DESC, provider, source
LIMIT %d`, len(inForce)+10*maxScoped))
	if err != nil {
		return nil, fmt.Errorf("read scoped_refusals: %w", err)
	}
	var all []refusedScope
	err = each(rows, "read scoped_refusals", func() error {
		var key limits.Key
		var at time.Time
		var hasLimit bool
		if err := rows.Scan(&key.Provider, &key.Source, &at, &hasLimit); err != nil {
			return err
		}
		all = append(all, refusedScope{key, now.Sub(at) < p.policy.ThresholdsOf(key.Provider).WindowMin})
		return nil
	})
	return all, err
}

// names returns how each key is written.
func names(keys []limits.Key) []string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = key.String()
	}
	return list
}

// oldEpoch marks answers from before the limit in force reached the nodes.
const oldEpoch = math.MaxUint64

// scopedWindows counts what the mail with each domain, and with URLs of each host or of one below it, was
// answered. Events know the epoch of their source and not that of the scope: what happened a delay after a
// decision counts as under it.
func (t *Throttle) scopedWindows(ctx context.Context, p *pass, snapshot *windows.Snapshot, looked map[limits.Key]*windows.Key) error {
	keys := slices.Collect(maps.Keys(looked))
	providers := make([]string, len(keys))
	for i, key := range keys {
		providers[i] = key.Provider
	}
	step := p.policy.Thresholds.Step
	for key, k := range looked {
		k.Static, k.Adaptive, k.Waiting = limits.None(), limits.Limit{}, 1
		k.To, k.Delay = snapshot.CompleteTo(key.Provider), snapshot.Delay
	}
	rows, err := t.Conn.Query(with(ctx, clickhouse.Parameters{
		"since": micros(p.run.started.Add(-p.policy.Widest().WindowMin - step)), "until": micros(p.run.started),
		"keys": warehouse.TextArray(names(keys)), "providers": warehouse.TextArray(distinct(providers)),
	}), `
SELECT provider, value, toDateTime(toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND), 'UTC') AS ts,
    countIf(dimension = 'ok'), countIf(dimension = 'user'), countIf(ours AND dimension = 'rate'), countIf(ours AND dimension = 'block'),
    countIf(ours AND dimension = 'unavailable'), countIf(ours AND dimension = 'content'), countIf(ours AND dimension = 'auth'),
    countIf(ours AND dimension IN ('', 'other')), substring(maxIf(reply, ours), 1, 500)
FROM (
    SELECT provider, time, dimension, reply, concat(scope, ':', scope_value) = value AS ours,
        arrayJoin(arrayDistinct(arrayConcat(
            arrayMap(d -> concat('domain:', d), arrayConcat(dkim_domains, [from_domain, mail_from_domain])),
            arrayFlatten(arrayMap(h -> arrayMap(i -> concat('url:', arrayStringConcat(arraySlice(splitByChar('.', h), i), '.')), range(1, greatest(2, length(splitByChar('.', h))))), url_hosts))
        ))) AS value
    FROM events
    WHERE provider IN {providers:Array(String)} AND kind IN ('delivered', 'deferred', 'bounced')
        AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
        AND (dimension IN ('ok', 'user') OR scope IN ('domain', 'url'))
)
WHERE concat(provider, '/', value) IN {keys:Array(String)}
GROUP BY provider, value, ts
ORDER BY provider, value, ts`)
	if err != nil {
		return fmt.Errorf("count the answers to scopes: %w", err)
	}
	return each(rows, "count the answers to scopes", func() error {
		var key limits.Key
		var ts time.Time
		b := control.Bucket{MinMessages: control.NoMessages}
		c := &b.Counts
		if err := rows.Scan(&key.Provider, &key.Source, &ts, &c.OK, &c.User, &c.Rate, &c.Block, &c.Unavailable, &c.Content, &c.Auth, &c.Other, &b.Sample); err != nil {
			return err
		}
		state := p.states[key].Control
		b.Start, b.Epoch = windows.Since(ts), state.Epoch
		if state.Epoch > 0 && b.Start < state.Since+snapshot.Delay {
			b.Epoch = oldEpoch
		}
		k := looked[key]
		k.Buckets = append(k.Buckets, b)
		k.Newest = max(k.Newest, min(b.Start+step, windows.Since(p.run.started)))
		k.Hour.Add(b.Counts)
		return nil
	})
}
