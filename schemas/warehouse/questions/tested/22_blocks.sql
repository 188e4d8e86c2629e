-- Which address is blocked where, and since when?
-- dashboard
SELECT
    t.source AS source,
    t.provider AS provider,
    sum(t.attempts) AS blocked,
    min(t.hour) AS first_hour,
    max(t.hour) AS last_hour
FROM traffic_hour AS t
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')} AND t.dimension = 'block'
GROUP BY source, provider
HAVING blocked > 0
ORDER BY blocked DESC, source, provider
LIMIT 100
