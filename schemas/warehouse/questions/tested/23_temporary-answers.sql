-- With which temporary answers do the providers turn us away?
-- dashboard
SELECT provider, template, category, sum(t.events) AS attempts
FROM reply_templates AS t
WHERE ts >= {from:DateTime('UTC')} AND ts < {to:DateTime('UTC')} AND template LIKE '4%'
GROUP BY provider, template, category
ORDER BY attempts DESC, provider, template, category
LIMIT 20
