-- How do addresses that are new take off?
SELECT
    source,
    min(t.day) AS since,
    count() AS days,
    argMax(t.delivered, t.day) AS delivered_last_day,
    round({{rate "first_attempt_rate"}}, 4) AS first_attempt_rate,
    round({{rate "recipient_deferral_rate"}}, 4) AS recipient_deferral_rate
FROM ip_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 23 AND day < toDate({to:DateTime('UTC')}) AND t.attempts > 0
GROUP BY source
ORDER BY since DESC, source
