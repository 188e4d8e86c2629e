-- Why does mail bounce, by provider?
-- dashboard
SELECT
    t.provider AS provider,
    t.category AS category,
    sum(t.hard_bounced) AS hard,
    sum(t.soft_bounced) AS soft
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY provider, category
HAVING hard + soft > 0
ORDER BY hard + soft DESC, provider, category
LIMIT 100
