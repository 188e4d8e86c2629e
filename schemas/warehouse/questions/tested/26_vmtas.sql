-- What do pools and virtual MTAs carry?
-- dashboard
SELECT
    t.pool AS pool,
    t.vmta AS vmta,
    sum(t.delivered) AS delivered,
    sum(t.octets_delivered) AS octets,
    round({{rate "delivery_rate"}}, 4) AS delivery_rate,
    round({{rate "attempt_deferral_rate"}}, 4) AS attempt_deferral_rate
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY pool, vmta
HAVING sum(t.attempts) > 0
ORDER BY delivered DESC, pool, vmta
