-- With which words is mail deferred, and how much of it for the first time?
SELECT provider, reply_template, count() AS attempts, countIf(attempt = 1) AS recipients
FROM deferrals
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND what = 'recipient'
GROUP BY provider, reply_template
ORDER BY attempts DESC, provider, reply_template
LIMIT 20
