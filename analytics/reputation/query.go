package reputation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"carom/schemas/warehouse"
)

// FeedbackQuery counts, for each provider, complaints by the time at which they came and deliveries: k and
// n of the last silent window, and of the time before it. Parameters: since, recent and until,
// microseconds since 1970. Complaints that nobody proved count as little here as elsewhere.
var FeedbackQuery = `
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
var hours = warehouse.Hourly("provider, source, tenant, ts, ok, usr, rate, conn, msgc, block, content, auth, other, canaries, canary_block",
	"ts >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND ts < fromUnixTimestamp64Micro({until:Int64}, 'UTC')")

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
	micros := func(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }
	return map[string]string{
		"since": micros(now.Add(-p.SlowSpan).Truncate(time.Hour)), "recent": micros(now.Add(-p.SilentWindow)), "until": micros(now),
		"near": micros(now.Add(-p.FastSpan)), "fast_half": number(p.FastHalfLife.Seconds()), "slow_half": number(p.SlowHalfLife.Seconds()),
		"tail": number(p.TailPerDay), "live": warehouse.TextArray(live),
	}
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// Query sums, for everybody who is scored, the cases (k) and answers (n) of the four components, decayed by
// age: by provider and source (key), provider and tenant, source, provider, sending domain (sender) and
// recipient domain. Its columns are kind, provider, name, attempts_per_day, permanent (a reply of the last day
// says so), and the arrays fast_k, fast_n, slow_k and slow_n in the order complaints, unknown users, blocks,
// refusals. Scores makes scores of them: the formula is short in Go, while ClickHouse takes seconds to
// analyse it in one query, before it reads anything.
//
// Greylisting, unavailable receivers and what is about one recipient's mailbox never enter. A refusal under
// an epoch that a probe began was asked for: it is taken out of the refusals again, from k10s, as far back
// as that reaches; k10s knows no tenants.
//
// A sending domain is, for each From domain, the first signature's domain that is aligned with it (RFC 7489
// section 3.1.1, relaxed, without the public suffix list), by the places of signatures in the last two
// weeks; the From domain where there is none. Complaints are not known by recipient domain.
var Query = `
SELECT kind, provider, name, sum(attempted) / greatest(1, dateDiff('second', min(began), ` + now + `) / 86400) AS attempts_per_day, max(is_permanent),
    sumForEach(kf), sumForEach(nf), sumForEach(ks), sumForEach(ns)
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
HAVING sum(attempted) > 0
ORDER BY kind, provider, name`

// now is the time of the run.
const now = `fromUnixTimestamp64Micro({until:Int64}, 'UTC')`

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

const age = `greatest(0, dateDiff('second', toDateTime(ts), ` + now + `))`

// places sums by provider, source and tenant.
var places = `
SELECT provider, source, tenant,` + decayed + `, sumIf(nn[4], NOT is_near AND counted) AS attempted, min(ts) AS began, max(is_permanent) AS is_permanent
FROM
(
    SELECT provider, source, tenant, ts, false AS is_near, true AS counted, ` + age + ` AS age,` + vector + `, false AS is_permanent
    FROM (` + hours + `)
    UNION ALL
    SELECT provider, source, tenant, ts, false AS is_near, false AS counted, toInt64(0) AS age, [0., 0., 0., 0.] AS kk, [0., 0., 0., 0.] AS nn, true AS is_permanent
    FROM k1m WHERE ts >= ` + now + ` - INTERVAL 1 DAY AND ts < ` + now + ` AND ` + warehouse.IsPermanentlyDeferred + `
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
    WHERE (provider, source, epoch) IN (SELECT provider, source, epoch FROM limit_log WHERE rule_id = 'PROBE' AND kind = 'change' AND limit_log.ts >= ` + now + ` - INTERVAL 2 DAY)
        AND t.ts < ` + now + ` AND (NOT near OR t.ts >= fromUnixTimestamp64Micro({near:Int64}, 'UTC'))
)
GROUP BY provider, source, tenant`

// outcomes makes the arrays of one row of the roll-ups by domain.
const outcomes = `
    [0., if(dimension = 'user', toFloat64(events), 0.), if(dimension IN ('block', 'content', 'auth'), toFloat64(events), 0.), if(dimension IN ('rate', 'connections'), toFloat64(events), 0.)] AS kk,
    [if(kind = 'delivered' AND has({live:Array(String)}, provider), toFloat64(events), 0.), if(dimension IN ('ok', 'user'), toFloat64(events), 0.),
        if(dimension NOT IN ('greylist', 'unavailable'), toFloat64(events), 0.), if(dimension NOT IN ('greylist', 'unavailable'), toFloat64(events), 0.)] AS nn`

// middle is the age of an hour's events.
const middle = `greatest(0, dateDiff('second', ts, ` + now + `) - 1800)`

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
            WHERE kind IN ('delivered', 'deferred', 'bounced') AND ts >= ` + now + ` - INTERVAL 1 DAY
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

func isKind(word string) bool { return slices.Contains(Kinds, word) }
