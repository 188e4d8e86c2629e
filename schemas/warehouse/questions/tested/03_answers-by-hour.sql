-- When did which provider turn us away?
-- dashboard
SELECT
    t.hour AS hour,
    t.provider AS provider,
    sum(t.attempts) AS attempts,
    sum(t.deferred_attempts) AS deferred_attempts,
    round({{rate "attempt_deferral_rate"}}, 4) AS attempt_deferral_rate,
    sum(t.queue_failures) AS queue_failures
FROM traffic_hour AS t
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')} AND t.provider != ''
GROUP BY hour, provider
HAVING attempts + queue_failures > 0
ORDER BY hour, provider
