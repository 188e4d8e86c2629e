-- The state of each key in the last hours, every ten seconds of the minutes in which it has mail.
INSERT INTO gauges
    (node, incarnation, seq, format_version, time, provider, source, backlog, open_connections, throttle_bound, local_factor, static_rate, static_connections,
    static_messages, adaptive_rate, adaptive_connections, adaptive_messages, lease_epoch, lease_rate, effective_rate, limit_scope, limit, limit_by,
    config_hash, events_to, arrived)
WITH
    minutes AS (
        SELECT
            node, provider, source, toStartOfMinute(time) AS minute, count() AS n,
            countIf(dimension IN ('rate', 'connections', 'messages', 'block', 'unavailable')) / n AS refused,
            max(open_connections) AS open, max(limit_epoch) AS epoch, max(limit_reason != '') AS looped, max(limit_actor = 'guard') AS guarded,
            any(config_hash) AS configuration, 20. + cityHash64(provider, source) % 80 AS base
        FROM events
        WHERE incarnation = {incarnation:UUID} AND kind IN ('delivered', 'deferred', 'bounced') AND time >= fromUnixTimestamp64Micro({from_us:Int64}, 'UTC')
        GROUP BY node, provider, source, minute
    ),
    read AS (
        SELECT *, toDateTime64(minute, 6, 'UTC') + toIntervalSecond(second) AS time, if(looped, if(refused > 0.2, base / 2, base), 0) AS lease,
            multiIf(refused = 0, '', guarded AND refused > 0.2, 'guard', looped, 'loop', 'queue') AS scope
        FROM minutes
        ARRAY JOIN [0, 10, 20, 30, 40, 50] AS second
    )
SELECT
    node, {incarnation:UUID}, row_number() OVER (PARTITION BY node ORDER BY time, provider, source), 1, time, provider, source,
    toUInt64(n * (1 + 20 * refused)), open, least(1, 3 * refused), if(guarded AND refused > 0.2, 0.5, 1), 100, 20, 100,
    if(looped, 200, 0), if(looped, 20, 0), if(looped, 100, 0), if(looped, epoch, 0), lease, if(looped, lease, 100), scope,
    multiIf(scope = '', '', scope = 'queue', 'max-msg-rate 100/s', concat('rate ', toString(if(looped, lease, 50)), '/s')),
    multiIf(scope = 'queue', '/etc/carom/config:12:2', scope = 'loop', concat('loop, epoch ', toString(epoch)), scope), configuration, time, time + INTERVAL 2 SECOND
FROM read
WHERE time < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
