-- What waits where at the end, and which limit keeps it?
-- dashboard
SELECT
    queue,
    provider,
    sum(ready) AS due,
    sum(waiting) AS later,
    sum(held) + sum(paused) AS stopped,
    max(oldest_age) AS oldest_seconds,
    argMax(limit, ready) AS kept_by,
    argMax(limit_by, ready) AS set_by
FROM queue_gauges
WHERE time >= {to:DateTime('UTC')} - INTERVAL 1 MINUTE AND time < {to:DateTime('UTC')}
    AND (node, time) GLOBAL IN (
        SELECT node, max(time) FROM queue_gauges WHERE time >= {to:DateTime('UTC')} - INTERVAL 1 MINUTE AND time < {to:DateTime('UTC')} GROUP BY node)
GROUP BY queue, provider
HAVING due + later + stopped > 0
ORDER BY due + later + stopped DESC, queue, provider
LIMIT 50
