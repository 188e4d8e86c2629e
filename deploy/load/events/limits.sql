-- Why the loop's limits are what they are: a row for each limit epoch that the events name, decided from
-- the answers of the epoch before. Refusals cut the rate by half; it comes back when they are over.
INSERT INTO limit_log
    (id, ts, provider, source, epoch, epoch_from, generation, kind, mode_from, mode_to, rate_old, rate_new, connections_old, connections_new,
    messages_old, messages_new, rule_id, reason_text, window_from, window_to, n_by_class, p, accepted_rate, cap, goal, long_term, sample_replies, actor, expires_at)
WITH
    epochs AS (
        SELECT
            provider, source, limit_epoch AS epoch, any(limit_reason) AS id, fromUnixTimestamp64Micro(toInt64((epoch - 1000) * 3600000000), 'UTC') AS began,
            toUInt64(count()) AS n, countIf(dimension IN ('rate', 'connections', 'messages', 'block', 'unavailable')) AS refused,
            map('ok', countIf(dimension = 'ok'), 'rate', countIf(dimension = 'rate'), 'conn', countIf(dimension = 'connections'), 'msgc', countIf(dimension = 'messages'),
                'block', countIf(dimension = 'block'), 'unav', countIf(dimension = 'unavailable')) AS answers,
            groupUniqArrayIf(3)(reply, dimension IN ('rate', 'connections', 'messages', 'block', 'unavailable')) AS replies
        FROM events
        WHERE incarnation = {incarnation:UUID} AND limit_reason != ''
        GROUP BY provider, source, epoch
    ),
    decided AS (
        SELECT
            *,
            lagInFrame(epoch) OVER (PARTITION BY provider, source ORDER BY epoch) AS epoch_before,
            lagInFrame(began) OVER (PARTITION BY provider, source ORDER BY epoch) AS began_before,
            lagInFrame(n) OVER (PARTITION BY provider, source ORDER BY epoch) AS n_before,
            lagInFrame(refused) OVER (PARTITION BY provider, source ORDER BY epoch) AS refused_before,
            lagInFrame(answers) OVER (PARTITION BY provider, source ORDER BY epoch) AS answers_before,
            lagInFrame(replies) OVER (PARTITION BY provider, source ORDER BY epoch) AS replies_before,
            if(n_before = 0, 0, refused_before / n_before) AS share,
            multiIf(n_before = 0, 'startup', share > 0.2, 'backoff', 'cruise') AS mode,
            20. + cityHash64(provider, source) % 80 AS base,
            if(mode = 'backoff', base / 2, base) AS rate
        FROM epochs
    ),
    compared AS (
        SELECT
            *,
            lagInFrame(mode) OVER (PARTITION BY provider, source ORDER BY epoch) AS mode_before,
            lagInFrame(rate) OVER (PARTITION BY provider, source ORDER BY epoch) AS rate_before
        FROM decided
    )
SELECT
    id, began, provider, source, epoch, epoch_before, epoch, 'change', if(mode_before = '', 'startup', mode_before), mode, rate_before, rate,
    if(rate_before = 0, 0, 10), 10, if(rate_before = 0, 0, 100), 100,
    multiIf(mode = 'startup', 'STARTUP', mode = 'backoff', 'BACKOFF', mode_before = 'backoff', 'RECOVER', 'PROBE'),
    multiIf(
        mode = 'startup', 'the key is new',
        mode = 'backoff', concat(toString(refused_before), ' of ', toString(n_before), ' attempts were refused'),
        mode_before = 'backoff', 'the refusals are over', 'nothing is refused'
    ),
    began_before, began, answers_before, share, n_before * (1 - share) / 3600, base, base, base, replies_before, 'loop', fromUnixTimestamp64Micro(toInt64(0), 'UTC')
FROM compared
