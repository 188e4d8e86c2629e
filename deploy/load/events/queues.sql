-- What waits: of each node, every ten minutes of the last days, the twenty largest backlogs and the rest.
-- A recipient waits from an attempt that was deferred until the next one.
INSERT INTO queue_gauges
    (node, incarnation, seq, format_version, time, queue, vmta, provider, source, tenant, job, queues, ready, waiting, held, paused, oldest_age, backoff, limit_scope, limit,
    limit_by, config_hash, arrived)
WITH
    waits AS (
        SELECT
            node, queue, vmta, provider, source, tenant, job, dimension, time - toIntervalMicrosecond(queued_us) AS accepted,
            toInt64(toUnixTimestamp(time)) AS since, since + toInt64(600 * exp2(least(attempt, 9) - 1)) AS next
        FROM events
        WHERE incarnation = {incarnation:UUID} AND kind = 'deferred' AND time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
    ),
    counted AS (
        SELECT
            node, queue, vmta, provider, source, tenant, job, toDateTime64(moment, 6, 'UTC') AS time,
            count() AS n, dateDiff('second', min(accepted), time) AS age, countIf(dimension IN ('rate', 'connections', 'messages', 'block')) * 2 > n AS limited
        FROM (SELECT *, arrayJoin(range(toUInt64(intDiv(since + 599, 600) * 600), toUInt64(next), 600)) AS moment FROM waits)
        WHERE moment < intDiv({until_us:Int64}, 1000000)
        GROUP BY node, queue, vmta, provider, source, tenant, job, time
    ),
    ranked AS (
        SELECT *, row_number() OVER (PARTITION BY node, time ORDER BY n DESC, queue, tenant, job) <= 20 AS large
        FROM counted
    ),
    summed AS (
        SELECT
            node, time, if(large, ranked.queue, '') AS q, if(large, ranked.vmta, '') AS v, if(large, ranked.provider, '') AS p, if(large, ranked.source, '') AS s,
            if(large, ranked.tenant, '') AS t, if(large, ranked.job, '') AS j, uniqExact(ranked.queue) AS queues, sum(n) AS waiting, max(age) AS oldest,
            max(large AND limited) AS bound
        FROM ranked
        GROUP BY node, time, q, v, p, s, t, j
    )
SELECT
    node, {incarnation:UUID}, row_number() OVER (PARTITION BY node ORDER BY time, q, t, j), 1, time, q, v, p, s, t, j, queues,
    intDiv(waiting, 20), waiting - intDiv(waiting, 20), 0, 0, oldest, bound,
    multiIf(q = '', '', bound, 'key', 'queue'), multiIf(q = '', '', bound, 'max-msg-rate', 'retry-after'), multiIf(q = '', '', bound, 'loop', 'receiver'),
    cityHash64(intDiv(toUInt64(toUnixTimestamp64Micro(time)), 172800000000), 'configuration'), time + INTERVAL 2 SECOND
FROM summed
