-- What waits where, and does our own limit hold it?
-- dashboard
SELECT
    provider,
    source,
    sum(backlog) AS waiting,
    sum(open_connections) AS connections,
    round(max(throttle_bound), 2) AS held_by_limit
FROM
(
    SELECT node, provider, source, argMax(backlog, time) AS backlog, argMax(open_connections, time) AS open_connections, argMax(throttle_bound, time) AS throttle_bound
    FROM gauges
    WHERE time >= {to:DateTime('UTC')} - INTERVAL 1 MINUTE AND time < {to:DateTime('UTC')}
    GROUP BY node, provider, source
)
GROUP BY provider, source
HAVING waiting > 0
ORDER BY waiting DESC, provider, source
LIMIT 50
