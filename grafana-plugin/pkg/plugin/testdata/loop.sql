-- A day of the control loop around the history that carom load events makes: two keys, of which one
-- is cut and one is in warm-up. {until:DateTime} is the end of the history.
-- What load events makes of the loop gives way to it.
TRUNCATE TABLE gauges;

TRUNCATE TABLE queue_gauges;

TRUNCATE TABLE limit_log;

INSERT INTO gauges (node, incarnation, seq, format_version, time, provider, source, backlog, open_connections, throttle_bound, local_factor, static_rate, static_connections, effective_rate, lease_rate, lease_epoch, warmup_start, established, limit_scope, limit, limit_by)
SELECT 'load-1', toUUID('00000000-0000-7000-8000-000000000001'), number + 1, 1, {until:DateTime('UTC')} - INTERVAL 10 * intDiv(number, 2) + 10 SECOND,
    if(number % 2 = 0, 'google', 'yahoo'), if(number % 2 = 0, '192.0.2.1', '192.0.2.2'), 100 + number % 7, 5, 0.5, 1, 50, 10, 40, 40, 7,
    if(number % 2 = 0, toDateTime64(0, 6, 'UTC'), {until:DateTime('UTC')} - INTERVAL 5 DAY), toDateTime64(0, 6, 'UTC'),
    if(number % 2 = 0, 'loop', 'vmta'), if(number % 2 = 0, '40 messages a second', 'max-msg-rate 40/s'), if(number % 2 = 0, 'loop: BACKOFF', 'carom.conf:12')
FROM numbers(2000);

INSERT INTO queue_gauges (node, incarnation, seq, format_version, time, queue, vmta, provider, source, tenant, job, queues, ready, waiting, held, paused, oldest_age, backoff, limit_scope, limit, limit_by)
SELECT 'load-1', toUUID('00000000-0000-7000-8000-000000000001'), number + 1, 1, {until:DateTime('UTC')} - INTERVAL 10 * intDiv(number, 3) + 10 SECOND,
    ['gmail.com/mta1', 'yahoo.com/mta1', ''][number % 3 + 1], 'mta1', ['google', 'yahoo', ''][number % 3 + 1], '192.0.2.1', ['acme', 'globex', ''][number % 3 + 1], '',
    1, 10, 20, 3, 0, 600, number % 3 = 1, if(number % 3 = 0, 'key', ''), '', ''
FROM numbers(3000);

INSERT INTO limit_log (id, ts, provider, source, epoch, epoch_from, generation, kind, mode_from, mode_to, rate_old, rate_new, connections_old, connections_new, messages_old, messages_new,
    rule_id, reason_text, window_from, window_to, n_by_class, p, wilson_lo, accepted_rate, sample_replies, score, band, actor, evidence)
VALUES
    ('change-1', {until:DateTime('UTC')} - INTERVAL 30 DAY, 'google', '192.0.2.1', 6, 5, 1, 'change', 'startup', 'cruise', 10, 50, 10, 10, 100, 100, 'increase', 'clean for an hour',
        {until:DateTime('UTC')} - INTERVAL 31 DAY, {until:DateTime('UTC')} - INTERVAL 30 DAY, map('ok', 5000), 0, 0, 10, [], 90, 'high', 'loop', '{}'),
    ('change-0', {until:DateTime('UTC')} - INTERVAL 40 DAY, 'yahoo', '192.0.2.2', 2, 1, 1, 'change', 'startup', 'cruise', 4, 5, 10, 10, 20, 20, 'increase', 'clean for a day',
        {until:DateTime('UTC')} - INTERVAL 41 DAY, {until:DateTime('UTC')} - INTERVAL 40 DAY, map('ok', 900), 0, 0, 4, [], 90, 'high', 'loop', '{}'),
    ('change-00', {until:DateTime('UTC')} - INTERVAL 50 DAY, 'yahoo', '192.0.2.3', 2, 1, 1, 'change', 'startup', 'cruise', 4, 7, 10, 12, 20, 30, 'increase', 'clean for a day',
        {until:DateTime('UTC')} - INTERVAL 51 DAY, {until:DateTime('UTC')} - INTERVAL 50 DAY, map('ok', 900), 0, 0, 4, [], 90, 'high', 'loop', '{}'),
    ('change-2', {until:DateTime('UTC')} - INTERVAL 90 MINUTE, 'google', '192.0.2.1', 7, 6, 2, 'change', 'cruise', 'backoff', 50, 20, 10, 5, 100, 100, 'backoff', 'a third was refused as too fast',
        {until:DateTime('UTC')} - INTERVAL 100 MINUTE, {until:DateTime('UTC')} - INTERVAL 90 MINUTE, map('ok', 200, 'rate', 100), 0.33, 0.29, 21, ['421 4.7.28 too fast'], 70, 'medium', 'loop', '{"a":21}'),
    ('change-3', {until:DateTime('UTC')} - INTERVAL 80 MINUTE, 'yahoo', '192.0.2.2', 3, 2, 2, 'would_change', 'cruise', 'backoff', 5, 3, 10, 5, 20, 20, 'backoff', 'advised only',
        {until:DateTime('UTC')} - INTERVAL 90 MINUTE, {until:DateTime('UTC')} - INTERVAL 80 MINUTE, map('ok', 100, 'rate', 20), 0.16, 0.1, 3, [], 70, 'medium', 'loop', '{}');

INSERT INTO annotations (node, incarnation, seq, format_version, time, name, text, tags)
VALUES ('load-1', toUUID('00000000-0000-7000-8000-000000000001'), 1, 1, {until:DateTime('UTC')} - INTERVAL 2 HOUR, 'reload', 'configuration was loaded anew', ['reload', 'config']);

INSERT INTO completeness_ledger (node, incarnation, stream, generation, updated_at, arrived_to, first_seq, high_seq, row_count, missing_from, missing_to, duplicates, last_arrived)
VALUES ('load-1', toUUID('00000000-0000-7000-8000-000000000001'), 'event', 1, {until:DateTime('UTC')}, {until:DateTime('UTC')}, 1, 1000, 997, [10], [12], 0, {until:DateTime('UTC')});

INSERT INTO nodes (node, incarnation, seen_at, started_at, version, event_seq)
VALUES ('load-1', toUUID('00000000-0000-7000-8000-000000000001'), now64(6), now64(6) - INTERVAL 1 DAY, 'test', 1000), ('load-2', toUUID('00000000-0000-7000-8000-000000000002'), now64(6), now64(6), 'test', 5);

INSERT INTO reputation (ts, generation, kind, provider, name, score, score_high, band, band_since, n_eff, confidence, attempts_per_day, feedback, worst)
SELECT {until:DateTime('UTC')} - INTERVAL 5 * intDiv(number, 4) + 5 MINUTE, number, ['provider', 'key', 'tenant', 'tenant'][number % 4 + 1], ['google', 'google', 'google', 'yahoo'][number % 4 + 1],
    ['', '192.0.2.1', 'acme', 'acme'][number % 4 + 1], [90, 80, 70, 60][number % 4 + 1], 95, 'high', {until:DateTime('UTC')} - INTERVAL 3 DAY, 5000, 0.9, 10000, 'live', 'complaints'
FROM numbers(400);
