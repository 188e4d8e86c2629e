-- Who bounces our mail because of reputation, and with which words?
SELECT provider, source, count() AS recipients, argMax(reply, time) AS last_reply
FROM bounces
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND how = 'refused' AND dimension = 'block'
GROUP BY provider, source
ORDER BY recipients DESC, provider, source
