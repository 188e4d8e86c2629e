package jobs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/analytics/control"
	"carom/analytics/windows"
	"carom/schemas/limits"
)

// contributor is who had a part in what lowered a limit, as limit_log.evidence holds it. Shares are of all
// of the same kind.
type contributor struct {
	Kind       string  `json:"kind"` // job, tenant, from_domain; source and provider are the others in the same window
	Value      string  `json:"value"`
	Volume     float64 `json:"volume"`
	Refusals   float64 `json:"refusals"`
	Unknown    float64 `json:"unknown_users"`
	Complaints float64 `json:"complaints"`
	Verdict    string  `json:"verdict"` // ours: surely more trouble than volume; theirs: the receiver treats all alike
}

const (
	// contributorsOfKind are written down of each kind: those with the most trouble beyond their volume.
	contributorsOfKind = 3
	// contributorTime bounds the search: it must not keep a limit from its nodes.
	contributorTime = 3 * time.Second
	// complaintSpan is how far back complaints of contributors count, by delivery.
	complaintSpan = 24 * time.Hour
)

// lowers reports whether a rule takes something away, so that people ask who caused it.
func lowers(rule control.Rule) bool { return slices.Contains(punishing, string(rule)) }

// explain adds to the entries what people ask for first: whose mail caused a decrease, and how the key was
// thought of. A limit does not wait for it: what cannot be read is left out.
func (t *Throttle) explain(ctx context.Context, p *pass) {
	if len(p.entries) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, contributorTime)
	defer cancel()
	if err := t.contributors(ctx, p); err != nil {
		t.Log.WarnContext(ctx, "who caused the decreases is not known", "error", err)
	}
	if err := t.bands(ctx, p); err != nil {
		t.Log.WarnContext(ctx, "the scores of the keys are not known", "error", err)
	}
}

// window is that of the evidence of a decision.
type window struct{ from, to time.Duration }

// contributors adds to each decrease whose mail it was about, in the window that it was decided from.
func (t *Throttle) contributors(ctx context.Context, p *pass) error {
	lowered := map[window][]*entry{}
	for i := range p.entries {
		if e := &p.entries[i]; lowers(e.reason.Rule) && !IsScoped(e.key) {
			w := window{e.reason.Evidence.From, e.reason.Evidence.To}
			lowered[w] = append(lowered[w], e)
		}
	}
	for w, entries := range lowered {
		if err := t.contributorsIn(ctx, windows.Time(w.from), windows.Time(w.to), entries); err != nil {
			return err
		}
	}
	return nil
}

// contributorsIn reads, for one window, the volume and the trouble of each job, tenant and From domain, and of the
// other sources and providers.
func (t *Throttle) contributorsIn(ctx context.Context, from, to time.Time, entries []*entry) error {
	keys := make([]limits.Key, len(entries))
	for i, e := range entries {
		keys[i] = e.key
	}
	counts := map[limits.Key][]control.Contribution{}
	rows, err := t.Conn.Query(with(ctx, windows.WithKeys(clickhouse.Parameters{
		"from": micros(from), "to": micros(to), "complaints": micros(to.Add(-complaintSpan)),
	}, keys)), `
SELECT provider, source, kind, value, sum(volume), sum(refusals), sum(unknown), sum(complained)
FROM
(
    SELECT provider, source, w.1 AS kind, w.2 AS value, count() AS volume,
        countIf(dimension IN ('rate', 'connections', 'messages', 'block', 'unavailable', 'other', '')) AS refusals, countIf(dimension = 'user') AS unknown, 0 AS complained
    FROM events
    ARRAY JOIN [('job', toString(job)), ('tenant', toString(tenant)), ('from_domain', toString(from_domain))] AS w
    WHERE events.kind IN ('delivered', 'deferred', 'bounced') AND `+windows.IsKey+`
        AND time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    GROUP BY provider, source, kind, value
    UNION ALL
    SELECT provider, source, w.1 AS kind, w.2 AS value, 0 AS volume, 0 AS refusals, 0 AS unknown, uniqExact(message_id, recipient_index) AS complained
    FROM attributions FINAL
    ARRAY JOIN [('job', job), ('tenant', toString(tenant)), ('from_domain', toString(from_domain))] AS w
    WHERE proven AND attributions.kind = 'complaint' AND `+windows.IsKey+`
        AND delivered_at >= fromUnixTimestamp64Micro({complaints:Int64}, 'UTC') AND attributions.time >= fromUnixTimestamp64Micro({complaints:Int64}, 'UTC')
    GROUP BY provider, source, kind, value
    UNION ALL
    SELECT provider, '' AS source, 'source' AS kind, k.source AS value, sum(ok + usr + rate + conn + msgc + block + unav + other) AS volume,
        sum(rate + conn + msgc + block + unav + other) AS refusals, sum(usr) AS unknown, 0 AS complained
    FROM k10s AS k
    WHERE provider IN {providers:Array(String)} AND ts >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    GROUP BY provider, k.source
    UNION ALL
    SELECT '' AS provider, source, 'provider' AS kind, k.provider AS value, sum(ok + usr + rate + conn + msgc + block + unav + other) AS volume,
        sum(rate + conn + msgc + block + unav + other) AS refusals, sum(usr) AS unknown, 0 AS complained
    FROM k10s AS k
    WHERE source IN {sources:Array(String)} AND ts >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    GROUP BY k.provider, source
)
WHERE value != ''
GROUP BY provider, source, kind, value
ORDER BY sum(refusals) + sum(unknown) + sum(complained) DESC
LIMIT 100 BY provider, source, kind`)
	if err != nil {
		return fmt.Errorf("read who caused decreases: %w", err)
	}
	err = each(rows, "read who caused decreases", func() error {
		var key limits.Key
		var c control.Contribution
		err := rows.Scan(&key.Provider, &key.Source, &c.Kind, &c.Value, &c.Volume, &c.Refusals, &c.User, &c.Complaints)
		counts[key] = append(counts[key], c)
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		own := slices.Concat(counts[e.key], counts[limits.Key{Provider: e.key.Provider}], counts[limits.Key{Source: e.key.Source}])
		seen := map[string]int{}
		for _, c := range control.Contributors(own) {
			if seen[c.Kind]++; seen[c.Kind] > contributorsOfKind {
				continue
			}
			e.contributors = append(e.contributors, contributor{
				Kind: c.Kind, Value: c.Value, Volume: c.VolumeShare, Refusals: c.RefusalShare, Unknown: c.UserShare, Complaints: c.ComplaintsShare, Verdict: string(c.Verdict),
			})
		}
	}
	return nil
}

// bands adds the last score of each key.
func (t *Throttle) bands(ctx context.Context, p *pass) error {
	keys := make([]limits.Key, 0, len(p.entries))
	for i := range p.entries {
		keys = append(keys, p.entries[i].key)
	}
	type scoreOf struct {
		score float64
		band  string
	}
	scores := map[limits.Key]scoreOf{}
	rows, err := t.Conn.Query(with(ctx, windows.WithKeys(clickhouse.Parameters{"since": micros(p.run.started.Add(-time.Hour))}, keys)), `
SELECT provider, name, argMax(score, ts), argMax(band, ts)
FROM reputation
WHERE kind = 'key' AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND provider IN {providers:Array(String)} AND concat(provider, '/', name) IN {keys:Array(String)}
GROUP BY provider, name`)
	if err != nil {
		return fmt.Errorf("read reputation: %w", err)
	}
	err = each(rows, "read reputation", func() error {
		var key limits.Key
		var s scoreOf
		err := rows.Scan(&key.Provider, &key.Source, &s.score, &s.band)
		scores[key] = s
		return err
	})
	for i := range p.entries {
		s := scores[p.entries[i].key]
		p.entries[i].score, p.entries[i].band = s.score, s.band
	}
	return err
}
