-- Weekly report: which answers did we never get before?
SELECT provider, template, min(t.first_seen) AS first, sum(t.events) AS times
FROM reply_templates AS t
GROUP BY provider, template
HAVING first >= {from:DateTime('UTC')} AND first < {to:DateTime('UTC')}
ORDER BY times DESC, provider, template
LIMIT 50
