-- Why is mail deferred: attempts, and the recipients behind them?
-- dashboard
SELECT
    t.provider AS provider,
    t.dimension AS about,
    sum(t.deferred_attempts) AS attempts,
    sum(t.deferred_recipients) AS recipients
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY provider, about
HAVING attempts > 0
ORDER BY attempts DESC, provider, about
LIMIT 100
