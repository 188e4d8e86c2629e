package reputation

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// FeedbackQuery counts, for each provider, complaints by the time at which they came and deliveries: k and
// n of the last silent window, and of the time before it. Parameters: since, recent and until,
// microseconds since 1970. Complaints that nobody proved count as little here as elsewhere.
const FeedbackQuery = `
SELECT provider, toFloat64(sum(old_k)), toFloat64(sum(old_n)), toFloat64(sum(new_k)), toFloat64(sum(new_n))
FROM
(
    SELECT provider, 0 AS old_k, sumIf(h.ok, h.ts < fromUnixTimestamp64Micro({recent:Int64}, 'UTC')) AS old_n, 0 AS new_k,
        sumIf(h.ok, h.ts >= fromUnixTimestamp64Micro({recent:Int64}, 'UTC')) AS new_n
    FROM (` + hours + `) AS h
    GROUP BY provider
    UNION ALL
    SELECT provider, countIf(time < fromUnixTimestamp64Micro({recent:Int64}, 'UTC')), 0, countIf(time >= fromUnixTimestamp64Micro({recent:Int64}, 'UTC')), 0
    FROM attributions FINAL
    WHERE proven AND kind = 'complaint' AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    GROUP BY provider
)
WHERE provider != ''
GROUP BY provider`

// hours are the hours of k1h, and the minutes of k1m that it does not hold yet.
const hours = `
    SELECT provider, source, tenant, ts, ok, usr, rate, conn, msgc, block, content, auth, other, canaries, canary_block, sample_reply
    FROM k1h WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    UNION ALL
    SELECT provider, source, tenant, ts, ok, usr, rate, conn, msgc, block, content, auth, other, canaries, canary_block, sample_reply
    FROM k1m WHERE ts >= (SELECT max(ts) + INTERVAL 1 HOUR FROM k1h) AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
        AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')`

// Feedback says what is known of a provider's feedback loop.
type Feedback string

// The states of a feedback loop.
const (
	Live   Feedback = "live"
	None   Feedback = "none"
	Silent Feedback = "silent" // reports stopped: unknown, not good
)

// FeedbackOf judges a feedback loop by the reports (k) and deliveries (n) of the last silent window and of
// the time before it.
func (p *Policy) FeedbackOf(oldK, oldN, newK, newN float64) Feedback {
	switch {
	case newK > 0:
		return Live
	case oldK == 0:
		return None
	case oldN > 0 && newN*oldK/oldN >= p.SilentExpected:
		return Silent
	default:
		return Live
	}
}

// Parameters are those of Query and FeedbackQuery at now, but for the providers: live are those whose
// feedback loop counts.
func (p *Policy) Parameters(now time.Time, live []string) map[string]string {
	all := p.components()
	list := func(of func(ComponentPolicy) float64) string {
		parts := make([]string, len(all))
		for i, c := range all {
			parts[i] = number(of(c))
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	quoted := make([]string, len(live))
	for i, name := range live {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name) + "'"
	}
	micros := func(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }
	return map[string]string{
		"since": micros(now.Add(-p.SlowSpan).Truncate(time.Hour)), "recent": micros(now.Add(-p.SilentWindow)), "until": micros(now),
		"near": micros(now.Add(-p.FastSpan)), "fast_half": number(p.FastHalfLife.Seconds()), "slow_half": number(p.SlowHalfLife.Seconds()),
		"fast_least": number(p.FastLeast), "tail": number(p.TailPerDay), "cap": number(p.PermanentCap),
		"live": "[" + strings.Join(quoted, ",") + "]",
		"r00":  list(func(c ComponentPolicy) float64 { return c.Prior }), "m": list(func(c ComponentPolicy) float64 { return c.PriorWeight }),
		"good": list(func(c ComponentPolicy) float64 { return c.Good }), "bad": list(func(c ComponentPolicy) float64 { return c.Bad }),
		"weight": list(func(c ComponentPolicy) float64 { return c.Weight }),
	}
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// Query computes every score: by provider and source (key), provider and tenant, source, provider, sending
// domain (sender) and recipient domain. Its columns are kind, provider, name, score, score_high, n_eff,
// confidence, attempts_per_day, capped, worst, components, k, n, r0, r, low, high, sub and fast.
//
// A row of what it reads holds the cases and the answers of the four components as arrays, in the order
// complaints, unknown users, blocks, refusals. Greylisting, unavailable receivers and what is about one
// recipient's mailbox never enter. A refusal under an epoch that a probe began was asked for: it is taken
// out of the refusals again, from k10s, as far back as that reaches; k10s knows no tenants.
//
// A sending domain is, for each From domain, the first signature's domain that is aligned with it (RFC 7489
// section 3.1.1, relaxed, without the public suffix list), by the places of signatures in the last two
// weeks; the From domain where there is none. Complaints are not known by recipient domain.
var Query = `
WITH
    {r00:Array(Float64)} AS r00, {m:Array(Float64)} AS m, {good:Array(Float64)} AS good, {bad:Array(Float64)} AS bad, {weight:Array(Float64)} AS weight,
    1.282 AS z, fromUnixTimestamp64Micro({until:Int64}, 'UTC') AS now_, ['complaints', 'unknown-users', 'blocks', 'refusals'] AS words
SELECT
    kind, provider, name,
    if(capped != '', least({cap:Float64}, plain), plain) AS score,
    if(capped != '', least({cap:Float64}, high_plain), high_plain) AS score_high,
    all_n[4] AS n_eff,
    if(present[1], all_n[1] / (all_n[1] + m[1]), if(worst_at > 0, all_n[worst_at] / (all_n[worst_at] + m[worst_at]), 0)) AS confidence,
    attempts_per_day, capped, if(worst_at > 0, words[worst_at], '') AS worst,
    arrayFilter((x, p) -> p, words, present) AS components, arrayFilter((x, p) -> p, all_k, present) AS k, arrayFilter((x, p) -> p, all_n, present) AS n,
    arrayFilter((x, p) -> p, all_r0, present) AS r0, arrayFilter((x, p) -> p, all_r, present) AS r, arrayFilter((x, p) -> p, all_low, present) AS low,
    arrayFilter((x, p) -> p, all_high, present) AS high, arrayFilter((x, p) -> p, all_sub, present) AS sub,
    arrayFilter((x, p) -> p, arrayMap(f -> toBool(f), is_fast), present) AS fast
FROM
(
    SELECT
        *,
        arrayMap((c, p) -> if(p, c, 1), costs, present) AS shown,
        if(has(present, 1), indexOf(shown, arrayMin(shown)), 0) AS worst_at,
        arraySum(arrayMap((w, p) -> if(p, w, 0), weight, present)) AS weights,
        if(weights > 0, 100 * exp(arraySum(arrayMap((c, p) -> if(p, c, 0), costs, present)) / weights), 100) AS plain,
        if(weights > 0, 100 * exp((arraySum(arrayMap((c, p) -> if(p, c, 0), costs, present)) - costs[worst_at]
            + weight[worst_at] * log(least(1, greatest(0.01, log(bad[worst_at] / all_low[worst_at]) / log(bad[worst_at] / good[worst_at]))))) / weights), 100) AS high_plain
    FROM
    (
        SELECT
            *,
            arrayMap((k, n, w, r) -> (k + w * r) / (n + w), k_slow, n_slow, m, all_r0) AS r_slow,
            arrayMap((k, n, w, r) -> (k + w * r) / (n + w), k_fast, n_fast, m, all_r0) AS r_fast,
            arrayMap((f, s, n) -> f > s AND n >= {fast_least:Float64}, r_fast, r_slow, n_fast) AS is_fast,
            arrayMap((f, a, b) -> if(f, a, b), is_fast, k_fast, k_slow) AS all_k,
            arrayMap((f, a, b) -> if(f, a, b), is_fast, n_fast, n_slow) AS all_n,
            arrayMap((f, a, b) -> if(f, a, b), is_fast, r_fast, r_slow) AS all_r,
            arrayMap((a, b) -> a + b > 0, n_fast, n_slow) AS present,
            arrayMap((i, k, n, w, r0, r) -> if(i = 1, (k + w * r0) / (n + w) * pow(greatest(0, 1 - 1 / (9 * (k + w * r0)) - z / (3 * sqrt(k + w * r0))), 3),
                least(1, greatest(0, (r + z * z / (2 * (n + w)) - z * sqrt(r * (1 - r) / (n + w) + z * z / (4 * (n + w) * (n + w)))) / (1 + z * z / (n + w))))),
                [1, 2, 3, 4], all_k, all_n, m, all_r0, all_r) AS all_low,
            arrayMap((i, k, n, w, r0, r) -> if(i = 1, (k + w * r0) / (n + w) * pow(greatest(0, 1 - 1 / (9 * (k + w * r0)) + z / (3 * sqrt(k + w * r0))), 3),
                least(1, greatest(0, (r + z * z / (2 * (n + w)) + z * sqrt(r * (1 - r) / (n + w) + z * z / (4 * (n + w) * (n + w)))) / (1 + z * z / (n + w))))),
                [1, 2, 3, 4], all_k, all_n, m, all_r0, all_r) AS all_high,
            arrayMap((r, g, b) -> least(1, greatest(0.01, log(b / r) / log(b / g))), all_r, good, bad) AS all_sub,
            arrayMap((s, w) -> w * log(s), all_sub, weight) AS costs
        FROM
        (
            SELECT
                *,
                arrayMap((k, n, w, r) -> if(kind IN ('key', 'tenant'), (k + w * r) / (n + w), r),
                    sumForEach(k_slow) OVER prior, sumForEach(n_slow) OVER prior, m, r00) AS all_r0
            FROM
            (
                SELECT
                    kind, provider, name, attempts / greatest(1, days) AS attempts_per_day, if(attempts_per_day < {tail:Float64}, 'tail', provider) AS group,
                    if(permanent, 'permanently deferred', '') AS capped,
                    arrayMap(x -> greatest(0., x), k_f) AS k_fast, arrayMap(x -> greatest(0., x), n_f) AS n_fast,
                    arrayMap(x -> greatest(0., x), k_s) AS k_slow, arrayMap(x -> greatest(0., x), n_s) AS n_slow
                FROM
                (
                    SELECT kind, provider, name, sumForEach(kf) AS k_f, sumForEach(nf) AS n_f, sumForEach(ks) AS k_s, sumForEach(ns) AS n_s,
                        sum(attempted) AS attempts, dateDiff('second', min(began), now_) / 86400 AS days, max(is_permanent) AS permanent
                    FROM
                    (
                        SELECT e.1 AS kind, e.2 AS provider, e.3 AS name, kf, nf, ks, ns, attempted, began, is_permanent
                        FROM (` + places + `) AS p
                        ARRAY JOIN [('key', p.provider, p.source), ('tenant', p.provider, p.tenant), ('source', '', p.source), ('provider', p.provider, '')] AS e
                        WHERE e.3 != '' OR e.1 = 'provider'
                        UNION ALL
                        SELECT 'sender' AS kind, '' AS provider, name, kf, nf, ks, ns, attempted, began, false AS is_permanent
                        FROM (` + senders + `)
                        UNION ALL
                        SELECT 'recipient' AS kind, '' AS provider, name, kf, nf, ks, ns, attempted, began, false AS is_permanent
                        FROM (` + recipients + `)
                    )
                    GROUP BY kind, provider, name
                    HAVING attempts > 0
                )
            )
            WINDOW prior AS (PARTITION BY kind, group)
        )
    )
)
ORDER BY kind, provider, name`

// decayed turns rows of ts, is_near (read for the fast estimate) and the arrays k and n into the sums
// kf, nf, ks, ns.
const decayed = `
    sumForEach(arrayMap(x -> if(is_near, x * exp2(-age / {fast_half:Float64}), 0), kk)) AS kf, sumForEach(arrayMap(x -> if(is_near, x * exp2(-age / {fast_half:Float64}), 0), nn)) AS nf,
    sumForEach(arrayMap(x -> if(is_near, 0, x * exp2(-age / {slow_half:Float64})), kk)) AS ks, sumForEach(arrayMap(x -> if(is_near, 0, x * exp2(-age / {slow_half:Float64})), nn)) AS ns`

// vector makes the arrays of one row of k1m or k1h.
const vector = `
    [0., toFloat64(usr), toFloat64(block) - toFloat64(canary_block) + toFloat64(content + auth), toFloat64(rate + conn)] AS kk,
    [if(has({live:Array(String)}, provider), toFloat64(ok), 0.), toFloat64(ok + usr), toFloat64(ok + usr + rate + conn + msgc + block + content + auth + other) - toFloat64(canaries),
        toFloat64(ok + usr + rate + conn + msgc + block + content + auth + other)] AS nn`

// complaints are proven complaints, each once, by the time of the delivery.
const complaints = `
    SELECT provider, source, tenant, from_domain, delivered_at
    FROM attributions FINAL
    WHERE proven AND kind = 'complaint' AND time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND delivered_at >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
        AND has({live:Array(String)}, provider)
    ORDER BY time, node, incarnation, seq
    LIMIT 1 BY message_id, recipient_index`

const age = `greatest(0, dateDiff('second', toDateTime(ts), now_))`

// places sums by provider, source and tenant.
var places = `
SELECT provider, source, tenant,` + decayed + `, sumIf(nn[4], NOT is_near AND counted) AS attempted, min(ts) AS began, max(is_permanent) AS is_permanent
FROM
(
    SELECT provider, source, tenant, ts, false AS is_near, true AS counted, ` + age + ` AS age,` + vector + `,
        ts >= now_ - INTERVAL 1 DAY AND positionCaseInsensitive(sample_reply, 'permanently deferred') > 0 AS is_permanent
    FROM (` + hours + `)
    UNION ALL
    SELECT provider, source, tenant, ts, true AS is_near, true AS counted, ` + age + ` AS age,` + vector + `, false AS is_permanent
    FROM k1m WHERE ts >= fromUnixTimestamp64Micro({near:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    UNION ALL
    SELECT c.provider AS provider, c.source AS source, c.tenant AS tenant, toDateTime(c.delivered_at, 'UTC') AS ts, near AS is_near, false AS counted, ` + age + ` AS age,
        [1., 0., 0., 0.] AS kk, [0., 0., 0., 0.] AS nn, false AS is_permanent
    FROM (` + complaints + `) AS c ARRAY JOIN [false, true] AS near
    WHERE NOT near OR c.delivered_at >= fromUnixTimestamp64Micro({near:Int64}, 'UTC')
    UNION ALL
    SELECT provider, source, '' AS tenant, t.ts AS ts, near AS is_near, false AS counted, ` + age + ` AS age,
        [0., 0., 0., -toFloat64(rate + conn)] AS kk, [0., 0., 0., -toFloat64(ok + usr + rate + conn + msgc + block + content + auth + other)] AS nn, false AS is_permanent
    FROM k10s AS t ARRAY JOIN [false, true] AS near
    WHERE (provider, source, epoch) IN (SELECT provider, source, epoch FROM limit_log WHERE rule_id = 'PROBE' AND kind = 'change' AND limit_log.ts >= now_ - INTERVAL 2 DAY)
        AND t.ts < now_ AND (NOT near OR t.ts >= fromUnixTimestamp64Micro({near:Int64}, 'UTC'))
)
GROUP BY provider, source, tenant`

// outcomes makes the arrays of one row of the roll-ups by domain.
const outcomes = `
    [0., if(dimension = 'user', toFloat64(events), 0.), if(dimension IN ('block', 'content', 'auth'), toFloat64(events), 0.), if(dimension IN ('rate', 'connections'), toFloat64(events), 0.)] AS kk,
    [if(kind = 'delivered' AND has({live:Array(String)}, provider), toFloat64(events), 0.), if(dimension IN ('ok', 'user'), toFloat64(events), 0.),
        if(dimension NOT IN ('greylist', 'unavailable'), toFloat64(events), 0.), if(dimension NOT IN ('greylist', 'unavailable'), toFloat64(events), 0.)] AS nn`

// middle is the age of an hour's events.
const middle = `greatest(0, dateDiff('second', ts, now_) - 1800)`

// sendingDomains are the From domains that are signed for, each with the domain that answers for it.
const sendingDomains = `
    SELECT from_domain, argMin(dkim_domain, (signature, dkim_domain)) AS domain
    FROM senders_1h
    WHERE ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND dkim_domain != ''
        AND (dkim_domain = from_domain OR cutToFirstSignificantSubdomain(dkim_domain) = cutToFirstSignificantSubdomain(from_domain))
    GROUP BY from_domain`

var senders = `
SELECT if(d.domain = '', s.from_domain, d.domain) AS name, ` + decayed + `, sumIf(nn[4], NOT is_near) AS attempted, min(ts) AS began
FROM
(
    SELECT from_domain, ts, near AS is_near, ` + middle + ` AS age,` + outcomes + `
    FROM senders_1h ARRAY JOIN [false, true] AS near
    WHERE signature = 0 AND kind IN ('delivered', 'deferred', 'bounced') AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
        AND (NOT near OR ts + INTERVAL 1 HOUR > fromUnixTimestamp64Micro({near:Int64}, 'UTC'))
    UNION ALL
    SELECT c.from_domain AS from_domain, toDateTime(c.delivered_at, 'UTC') AS ts, near AS is_near, ` + age + ` AS age, [1., 0., 0., 0.] AS kk, [0., 0., 0., 0.] AS nn
    FROM (` + complaints + `) AS c ARRAY JOIN [false, true] AS near
    WHERE c.from_domain != '' AND (NOT near OR c.delivered_at >= fromUnixTimestamp64Micro({near:Int64}, 'UTC'))
) AS s
LEFT JOIN (` + sendingDomains + `) AS d ON s.from_domain = d.from_domain
GROUP BY name`

var recipients = `
SELECT recipient_domain AS name, ` + decayed + `, sumIf(nn[4], NOT is_near) AS attempted, min(ts) AS began
FROM
(
    SELECT recipient_domain, ts, near AS is_near, ` + middle + ` AS age,` + outcomes + `
    FROM domains_1h ARRAY JOIN [false, true] AS near
    WHERE kind IN ('delivered', 'deferred', 'bounced') AND ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
        AND (NOT near OR ts + INTERVAL 1 HOUR > fromUnixTimestamp64Micro({near:Int64}, 'UTC'))
        AND recipient_domain IN (
            SELECT recipient_domain FROM domains_1h
            WHERE kind IN ('delivered', 'deferred', 'bounced') AND ts >= now_ - INTERVAL 1 DAY
            GROUP BY recipient_domain HAVING sum(events) >= {tail:Float64})
)
GROUP BY recipient_domain`

// ParseKey reads the text form of who is scored: kind:name, where the name of a key or tenant begins with
// the provider, or the name alone, which may be several.
func ParseKey(text string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(text, ":")
	if ok && isKind(kind) {
		if name == "" {
			return "", "", fmt.Errorf("%q names nobody: want for example %s:NAME", text, kind)
		}
		return kind, name, nil
	}
	if text == "" {
		return "", "", fmt.Errorf("want a key, for example key:google/192.0.2.1 or sender:example.com")
	}
	return "", text, nil
}

// Kinds are what has scores.
var Kinds = []string{"key", "tenant", "source", "provider", "sender", "recipient"}

func isKind(word string) bool {
	for _, k := range Kinds {
		if k == word {
			return true
		}
	}
	return false
}
