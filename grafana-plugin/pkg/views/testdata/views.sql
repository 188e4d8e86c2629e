-- deliverability
SELECT t, provider, delivery_rate
FROM
(
    SELECT *, dense_rank() OVER (ORDER BY weight DESC, provider) AS place
    FROM
    (
        SELECT *, sum(step_weight) OVER (PARTITION BY provider) AS weight
        FROM
        (
            SELECT
                toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
                r.provider AS provider,
                sum(if(r.kind = 'delivered', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)), 0) AS delivery_rate,
                sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)) AS step_weight
            FROM rollup_1m AS r
            WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != ''
            GROUP BY t, provider
        )
    )
    WHERE weight > 0
)
WHERE place <= 20
ORDER BY t;

-- reputation
SELECT
    toStartOfInterval(r.ts, INTERVAL 30 SECOND) AS t,
    r.provider AS provider,
    argMax(r.score, (r.ts, -r.score)) AS score
FROM reputation AS r
WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND kind = 'provider' AND provider != '' AND (provider) IN
(
    SELECT r.provider
    FROM reputation AS r
    WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND kind = 'provider' AND provider != ''
    GROUP BY r.provider
    ORDER BY argMax(r.score, (r.ts, -r.score)), r.provider
    LIMIT 20
)
GROUP BY t, provider
ORDER BY t;

-- deferrals
SELECT t, category, deferred_attempts
FROM
(
    SELECT *, dense_rank() OVER (ORDER BY weight DESC, category) AS place
    FROM
    (
        SELECT *, sum(step_weight) OVER (PARTITION BY category) AS weight
        FROM
        (
            SELECT
                toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
                r.category AS category,
                sum(if(r.kind = 'deferred', r.events, 0)) AS deferred_attempts,
                sum(if(r.kind = 'deferred', r.events, 0)) AS step_weight
            FROM rollup_1m AS r
            WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
            GROUP BY t, category
        )
    )
    WHERE weight > 0
)
WHERE place <= 20
ORDER BY t;

-- bounces
SELECT t, category, bounced
FROM
(
    SELECT *, dense_rank() OVER (ORDER BY weight DESC, category) AS place
    FROM
    (
        SELECT *, sum(step_weight) OVER (PARTITION BY category) AS weight
        FROM
        (
            SELECT
                toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
                r.category AS category,
                sum(if(r.kind = 'bounced' AND r.class = 'hard', r.events, 0)) + sum(if(r.kind = 'bounced' AND r.class != 'hard' OR r.kind = 'expired', r.events, 0)) AS bounced,
                sum(if(r.kind = 'bounced' AND r.class = 'hard', r.events, 0)) + sum(if(r.kind = 'bounced' AND r.class != 'hard' OR r.kind = 'expired', r.events, 0)) AS step_weight
            FROM rollup_1m AS r
            WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
            GROUP BY t, category
        )
    )
    WHERE weight > 0
)
WHERE place <= 20
ORDER BY t;

-- complaints
SELECT t, provider, complaints
FROM
(
    SELECT *, dense_rank() OVER (ORDER BY weight DESC, provider) AS place
    FROM
    (
        SELECT *, sum(step_weight) OVER (PARTITION BY provider) AS weight
        FROM
        (
            SELECT
                toStartOfInterval(r.ts, INTERVAL 30 SECOND) AS t,
                r.provider AS provider,
                count() AS complaints,
                count() AS step_weight
            FROM (
                SELECT time AS ts, provider FROM complaints WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != ''
            ) AS r
            GROUP BY t, provider
        )
    )
    WHERE weight > 0
)
WHERE place <= 20
ORDER BY t;

-- limits
SELECT
    toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
    r.provider AS provider,
    r.source AS source,
    argMax(r.rate_new, r.ts) AS limit_rate
FROM (
    SELECT greatest(l.ts, toDateTime64(toDateTime('2026-11-29 06:00:00', 'UTC'), 6, 'UTC')) AS ts, provider, source, rate_new FROM limit_log AS l WHERE l.ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != '' AND source != '' AND kind != 'would_change'
) AS r
GROUP BY t, provider, source
ORDER BY t;

SELECT
    toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
    r.provider AS provider,
    r.source AS source,
    (sum(if(r.kind = 'delivered', r.events, 0))) / greatest(1, least(60, 1795953600 - toUnixTimestamp(t))) AS accepted_per_second
FROM rollup_1m AS r
WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != '' AND source != '' AND (provider, source) IN
(
    SELECT r.provider, r.source
    FROM rollup_1m AS r
    WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != '' AND source != ''
    GROUP BY r.provider, r.source
    HAVING sum(if(r.kind = 'delivered', r.events, 0)) > 0
    ORDER BY sum(if(r.kind = 'delivered', r.events, 0)) DESC, r.provider, r.source
    LIMIT 20
)
GROUP BY t, provider, source
ORDER BY t;

-- limit_changes
SELECT
    ts,
    provider,
    source,
    toString(kind) AS kind,
    reason_text,
    rate_old,
    rate_new,
    connections_old,
    connections_new,
    messages_old,
    messages_new,
    mode_from,
    mode_to,
    rule_id,
    p,
    wilson_lo,
    accepted_rate,
    cap,
    goal,
    nullIf(window_from, toDateTime64(0, 6, 'UTC')) AS window_from,
    nullIf(window_to, toDateTime64(0, 6, 'UTC')) AS window_to,
    n_by_class,
    sample_replies,
    score,
    band,
    actor,
    pinned_by,
    nullIf(expires_at, toDateTime64(0, 6, 'UTC')) AS expires_at,
    epoch,
    epoch_from,
    generation,
    id,
    evidence
FROM limit_log
WHERE ts >= toDateTime64('2026-11-29 06:00:00.000000', 6, 'UTC')
    AND ts < toDateTime64('2026-11-29 12:00:00.000000', 6, 'UTC')
ORDER BY ts DESC, id
LIMIT 200;

-- queues
SELECT t, provider, queued
FROM
(
    SELECT *, dense_rank() OVER (ORDER BY weight DESC, provider) AS place
    FROM
    (
        SELECT *, sum(step_weight) OVER (PARTITION BY provider) AS weight
        FROM
        (
            SELECT
                toStartOfInterval(r.ts, INTERVAL 30 SECOND) AS t,
                r.provider AS provider,
                sum(r.ready + r.waiting + r.held + r.paused) AS queued,
                sum(r.ready + r.waiting + r.held + r.paused) AS step_weight
            FROM (
                SELECT ts, node, provider, max(ready) AS ready, max(waiting) AS waiting, max(held) AS held, max(paused) AS paused FROM
                (
                    SELECT toStartOfInterval(time, INTERVAL 30 SECOND) AS ts, node, provider, time AS reading, sum(ready) AS ready, sum(waiting) AS waiting, sum(held) AS held, sum(paused) AS paused FROM queue_gauges WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND provider != '' GROUP BY ts, node, provider, reading
                )
                GROUP BY ts, node, provider
            ) AS r
            GROUP BY t, provider
        )
    )
)
WHERE place <= 20
ORDER BY t;

-- latency
SELECT
    toStartOfInterval(r.ts, INTERVAL 60 SECOND) AS t,
    quantilesBFloat16Merge(0.5, 0.9, 0.99)(r.to_deliver)[1] / 1e6 AS to_deliver_p50,
    quantilesBFloat16Merge(0.5, 0.9, 0.99)(r.to_deliver)[2] / 1e6 AS to_deliver_p90,
    quantilesBFloat16Merge(0.5, 0.9, 0.99)(r.to_deliver)[3] / 1e6 AS to_deliver_p99
FROM (
    SELECT toStartOfMinute(toDateTime(time, 'UTC')) AS ts, quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(queued_us) * 8) / 8), kind = 'delivered') AS to_deliver, count() AS attempts FROM events WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0 GROUP BY ts
) AS r
GROUP BY t
ORDER BY t;

-- warmup
SELECT
    toStartOfInterval(r.ts, INTERVAL 30 SECOND) AS t,
    r.source AS source,
    max(if(r.warmup_start > toDateTime64(0, 6, 'UTC'), dateDiff('day', r.warmup_start, r.ts) + 1, 0)) AS warmup_day,
    sum(r.effective_rate) AS warmup_rate
FROM (
    SELECT toStartOfInterval(time, INTERVAL 30 SECOND) AS ts, provider, source, node, max(warmup_start) AS warmup_start, avg(effective_rate) AS effective_rate FROM gauges AS g WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND source != '' AND (source) IN
(
    SELECT r.source
    FROM (
        SELECT toStartOfInterval(time, INTERVAL 30 SECOND) AS ts, provider, source, node, max(warmup_start) AS warmup_start, avg(effective_rate) AS effective_rate FROM gauges AS g WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND source != '' AND g.warmup_start > toDateTime64(0, 6, 'UTC') GROUP BY ts, provider, source, node
    ) AS r
    GROUP BY r.source
    ORDER BY max(if(r.warmup_start > toDateTime64(0, 6, 'UTC'), dateDiff('day', r.warmup_start, r.ts) + 1, 0)) DESC, r.source
    LIMIT 20
) AND g.warmup_start > toDateTime64(0, 6, 'UTC') GROUP BY ts, provider, source, node
) AS r
GROUP BY t, source
ORDER BY t;

-- trace
SELECT
    time,
    step,
    attempt,
    seconds,
    provider,
    source,
    vmta,
    mx_host,
    phase,
    substring(reply, 1, 4000) AS reply,
    category,
    class,
    recipient,
    recipient_index,
    message_id,
    tenant,
    job,
    dns_ms,
    connect_ms,
    tls_ms,
    transfer_ms,
    limit_actor,
    limited_by,
    limit_reason,
    node
FROM message_trace
WHERE message_id = '0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60' AND time >= UUIDv7ToDateTime('0198f3c2-8d5e-7c3a-9f10-1b2c3d4e5f60', 'UTC') - INTERVAL 1 HOUR
ORDER BY time, recipient_index, attempt
LIMIT 200;

-- events
SELECT
    time AS timestamp,
    substring(concat(toString(kind), if(attempt > 0, concat(' #', toString(attempt)), ''), if(recipient = '', '', concat(' ', recipient)), if(reply = '', '', concat(': ', reply))), 1, 4000) AS body,
    multiIf(kind IN ('bounced', 'expired', 'rejected', 'remote-bounce'), 'error', kind IN ('deferred', 'queue-deferred', 'complaint', 'suppressed'), 'warning', 'info') AS severity,
    concat(node, '/', toString(incarnation), '/', toString(seq)) AS id,
    mapFilter((k, v) -> v NOT IN ('', '0'), map('kind', toString(kind), 'provider', toString(provider), 'source', toString(source), 'vmta', toString(vmta), 'pool', toString(pool), 'tenant', toString(tenant), 'job', toString(job), 'queue', toString(queue), 'mx_host', toString(mx_host), 'phase', toString(phase), 'category', toString(category), 'dimension', toString(dimension), 'node', toString(node), 'message_id', toString(message_id), 'recipient', toString(recipient), 'connection_id', toString(connection_id), 'limiting_scope', toString(limiting_scope), 'limit_reason', toString(limit_reason), 'limit_epoch', toString(limit_epoch))) AS labels,
    message_id,
    limit_reason
FROM events
WHERE time >= toDateTime64('2026-11-29 06:00:00.000000', 6, 'UTC')
    AND time < toDateTime64('2026-11-29 12:00:00.000000', 6, 'UTC')
ORDER BY time DESC, node, seq DESC
LIMIT 200;

-- sources
SELECT
    r.source AS source,
    sum(if(r.kind = 'delivered', r.events, 0)) AS delivered,
    sum(if(r.kind = 'delivered', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)), 0) AS delivery_rate,
    sum(if(r.kind = 'bounced' AND r.class = 'hard', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)), 0) AS hard_bounce_rate,
    sum(if(r.kind = 'deferred', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'deferred', 'bounced'), r.events, 0)), 0) AS attempt_deferral_rate,
    sumIf(if(r.kind IN ('delivered', 'deferred', 'bounced'), r.events, 0), r.dimension = 'block') AS blocked,
    sumIf(if(r.kind IN ('delivered', 'deferred', 'bounced'), r.events, 0), r.dimension IN ('rate', 'connections', 'messages')) AS throttled
FROM (
    SELECT ts, source, kind, events, class, dimension FROM rollup_1h WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND source != ''
    UNION ALL
    SELECT toStartOfHour(f.ts) AS ts, source, kind, events, class, dimension FROM rollup_1m AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 HOUR FROM rollup_1h) AND ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC') AND source != ''
) AS r
GROUP BY source
ORDER BY delivered DESC, source
LIMIT 100;

-- jobs
SELECT
    r.job AS job,
    r.tenant AS tenant,
    sum(toInt64(r.events) * multiIf(r.kind = 'received', 1, r.kind IN ('report-consumed', 'expanded'), -1, 0)) AS accepted,
    sum(if(r.kind = 'delivered', r.events, 0)) AS delivered,
    greatest(0, sum(toInt64(r.events) * multiIf(r.kind = 'received', 1, r.kind IN ('report-consumed', 'expanded'), -1, 0)) - toInt64(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)) + sum(if(r.kind = 'suppressed', r.events, 0)) + sum(if(r.kind IN ('deleted', 'discarded'), r.events, 0)))) AS left,
    sum(if(r.kind = 'delivered', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)), 0) AS delivery_rate,
    sum(if(r.kind = 'bounced' AND r.class = 'hard', r.events, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'bounced', 'expired'), r.events, 0)), 0) AS hard_bounce_rate,
    sum(if(r.kind = 'deferred', r.first_attempts, 0)) / nullIf(sum(if(r.kind IN ('delivered', 'deferred', 'bounced'), r.first_attempts, 0)), 0) AS recipient_deferral_rate
FROM (
    SELECT ts, job, tenant, events, kind, class, first_attempts FROM jobs_1h WHERE ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
    UNION ALL
    SELECT toStartOfHour(toDateTime(time, 'UTC')) AS ts, job, tenant, 1 AS events, kind, class, attempt = 1 AS first_attempts FROM events WHERE time >= toDateTime('2026-11-29 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND time >= (SELECT max(ts) + INTERVAL 1 HOUR FROM jobs_1h) AND ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
) AS r
GROUP BY job, tenant
ORDER BY accepted DESC, job, tenant
LIMIT 100;

-- completeness
SELECT
    node,
    stream,
    missing,
    duplicates,
    high_seq,
    row_count,
    last_arrived,
    greatest(0, dateDiff('millisecond', last_arrived, now64(3)) / 1000) AS silent_seconds,
    nullIf(seen_at, toDateTime64(0, 6, 'UTC')) AS seen_at,
    if(seen_at = toDateTime64(0, 6, 'UTC'), NULL, dateDiff('second', seen_at, now64(6))) AS unseen_seconds,
    quarantined,
    limits_generation,
    version,
    incarnation,
    first_seq
FROM (
    SELECT l.node AS node, l.incarnation AS incarnation, l.stream AS stream, l.first_seq AS first_seq, l.high_seq AS high_seq, l.row_count AS row_count,
        toUInt64(arraySum(arrayMap((a, b) -> b - a + 1, l.missing_from, l.missing_to))) AS missing, l.duplicates AS duplicates, l.last_arrived AS last_arrived,
        n.seen_at AS seen_at, n.version AS version, n.quarantined AS quarantined, n.limits_generation AS limits_generation
    FROM
    (
        SELECT node, incarnation, stream, first_seq, high_seq, row_count, missing_from, missing_to, duplicates, last_arrived
        FROM completeness_ledger WHERE node != '' ORDER BY updated_at DESC LIMIT 1 BY node, incarnation, stream
    ) AS l
    LEFT JOIN
    (
        SELECT node, incarnation, seen_at, version, quarantined, limits_generation FROM nodes ORDER BY seen_at DESC LIMIT 1 BY node, incarnation
    ) AS n ON n.node = l.node AND n.incarnation = l.incarnation
)
ORDER BY node, stream
LIMIT 200;

-- annotations
SELECT
    time,
    name AS title,
    substring(text, 1, 4000) AS text,
    tags,
    node,
    provider,
    source,
    change_id
FROM (
    SELECT time, name, text, arrayStringConcat(tags, ',') AS tags, node, '' AS provider, '' AS source, '' AS change_id FROM annotations
    UNION ALL
    SELECT ts AS time, 'limit-change' AS name,
        concat(provider, ' ', source, ': ', toString(round(rate_old, 2)), ' to ', toString(round(rate_new, 2)), ' messages a second. ', reason_text) AS text,
        concat('limit,', toString(kind), ',', rule_id) AS tags, '' AS node, provider, source, id AS change_id
    FROM limit_log WHERE kind != 'would_change'
)
WHERE time >= toDateTime64('2026-11-29 06:00:00.000000', 6, 'UTC')
    AND time < toDateTime64('2026-11-29 12:00:00.000000', 6, 'UTC')
ORDER BY time DESC, text
LIMIT 500;

-- contributors
SELECT
    provider,
    tenant,
    sumIf(value, is_now) AS now,
    sumIf(value, NOT is_now) AS before,
    toInt64(now) - toInt64(before) AS change,
    change / nullIf(sum(abs(change)) OVER (), 0) AS share
FROM
(
    SELECT
        r.provider AS provider,
        r.tenant AS tenant,
        r.ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AS is_now,
        sum(if(r.kind = 'deferred', r.events, 0)) AS value
    FROM (
        SELECT ts, kind, events, provider, tenant FROM rollup_1h WHERE (ts >= toDateTime('2026-11-28 06:00:00', 'UTC') AND ts < toDateTime('2026-11-28 12:00:00', 'UTC') OR ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')) AND ts >= toDateTime('2026-11-28 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
        UNION ALL
        SELECT toStartOfHour(toDateTime(time, 'UTC')) AS ts, kind, 1 AS events, provider, tenant FROM events WHERE time >= toDateTime('2026-11-28 06:00:00', 'UTC') AND time < toDateTime('2026-11-29 12:00:00', 'UTC') AND time >= (SELECT max(ts) + INTERVAL 1 HOUR FROM rollup_1h) AND (ts >= toDateTime('2026-11-28 06:00:00', 'UTC') AND ts < toDateTime('2026-11-28 12:00:00', 'UTC') OR ts >= toDateTime('2026-11-29 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')) AND ts >= toDateTime('2026-11-28 06:00:00', 'UTC') AND ts < toDateTime('2026-11-29 12:00:00', 'UTC')
    ) AS r
    GROUP BY provider, tenant, is_now
)
GROUP BY provider, tenant
HAVING now > 0 OR before > 0
ORDER BY abs(change) DESC, provider, tenant
LIMIT 20;

