-- Weekly report: how much mail did each automatic change of a limit hold back?
SELECT
    l.ts AS changed_at,
    l.provider AS provider,
    l.source AS source,
    l.rule_id AS rule,
    l.rate_old AS rate_old,
    l.rate_new AS rate_new,
    h.attempts AS attempts_held,
    round(h.seconds, 1) AS average_seconds_queued
FROM
(
    SELECT limit_reason, count() AS attempts, avg(queued_us) / 1e6 AS seconds
    FROM events
    WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND provider != '' AND limiting_scope IN ('loop', 'glide', 'guard') AND kind IN ('delivered', 'deferred', 'bounced')
    GROUP BY limit_reason
) AS h
GLOBAL INNER JOIN (SELECT id, ts, provider, source, rule_id, rate_old, rate_new FROM limit_log) AS l ON l.id = h.limit_reason
ORDER BY attempts_held DESC, changed_at, provider, source
LIMIT 50
