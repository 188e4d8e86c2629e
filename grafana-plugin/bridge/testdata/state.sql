-- What the nodes' agents, the loop, its operators and the jobs write beside the events, which a made history lacks.
INSERT INTO nodes (node, incarnation, seen_at, started_at, version, event_seq, limits_generation)
SELECT node, any(incarnation), fromUnixTimestamp64Micro({until:Int64}, 'UTC'), min(time), '0.1.0', max(seq), 7 FROM events GROUP BY node;

INSERT INTO completeness_ledger
    (node, incarnation, stream, generation, updated_at, arrived_to, first_seq, high_seq, row_count, missing_from, missing_to, last_arrived)
SELECT node, any(incarnation), 'event', 1, fromUnixTimestamp64Micro({until:Int64}, 'UTC'), max(arrived), min(seq), max(seq), count(), [], [], max(arrived)
FROM events GROUP BY node;

INSERT INTO reputation (ts, generation, kind, provider, name, score, score_high, band, worst, n_eff, confidence)
SELECT
    fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL hour HOUR - INTERVAL 1 SECOND, 100 - hour, kind,
    if(kind = 'source', '', provider), if(kind = 'provider', '', source), min(55 + cityHash64(provider, source, hour) % 45), 100, 'medium', 'refusals', 100, 0.9
FROM (SELECT DISTINCT provider, source FROM rollup_1h WHERE provider != '' AND source != '')
ARRAY JOIN range(24) AS hour
ARRAY JOIN ['provider', 'source', 'key'] AS kind
GROUP BY ALL;

INSERT INTO limit_state (provider, source, generation, updated_at, epoch, mode, rate, connections, messages_per_connection, cap, goal, long_term)
SELECT provider, source, 1, fromUnixTimestamp64Micro({until:Int64}, 'UTC'), 3, 'cruise', 20, 10, 100, 40, 30, 25
FROM (SELECT DISTINCT provider, source FROM limit_log);

INSERT INTO overrides (id, version, kind, provider, source, ceiling, actor, reason, created_at, expires_at, cancelled)
SELECT generateUUIDv4(), 1, 'pin', provider, source, 12, 'anna', 'the receiver asked for it', fromUnixTimestamp64Micro({until:Int64}, 'UTC'), toDateTime64(0, 6, 'UTC'), false
FROM limit_state ORDER BY provider, source LIMIT 1;

INSERT INTO job_runs (job, started_at, run_id, updated_at, finished_at, status, error)
SELECT
    job, fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL n MINUTE - INTERVAL 1 SECOND AS started, generateUUIDv4(), started,
    started + INTERVAL 120 MILLISECOND, if(n = 7, 'failed', 'ok'), if(n = 7, 'ClickHouse did not answer', '')
FROM (SELECT arrayJoin(['control', 'reputation', 'completeness']) AS job, arrayJoin(range(60)) AS n);

-- The address with the most blocked attempts is in its fifth day of warm-up.
INSERT INTO gauges (node, incarnation, seq, format_version, time, provider, source, static_rate, effective_rate, warmup_start, throttle_bound,
    local_factor, limit_scope, limit, limit_by, arrived)
WITH (SELECT source FROM events WHERE dimension = 'block' GROUP BY source ORDER BY count() DESC, source LIMIT 1) AS address
SELECT
    any(node), any(incarnation), 1000000000 + n, 1, fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL n MINUTE - INTERVAL 1 SECOND AS at, 'google', address,
    5, 0.5, fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 4 DAY, 0.4, 1, 'loop', '0.5 messages a second', 'loop: BACKOFF', at
FROM events ARRAY JOIN range(360) AS n
GROUP BY n;

INSERT INTO annotations (node, incarnation, seq, format_version, time, name, text, arrived)
SELECT any(node), any(incarnation), 1000000000, 1, fromUnixTimestamp64Micro({until:Int64}, 'UTC') - INTERVAL 1 HOUR AS at, 'reload', 'the configuration was read again', at
FROM events;
