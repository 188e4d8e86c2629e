-- pmta show vmtas: what did each virtual MTA do in the last hour, and how much a minute?
SELECT vmta, sum(delivered) AS ok, round(ok / 60, 2) AS per_minute, sum(deferred_attempts) AS later
FROM traffic_minute
WHERE minute >= {to:DateTime('UTC')} - INTERVAL 1 HOUR AND minute < {to:DateTime('UTC')} AND vmta != ''
GROUP BY vmta
ORDER BY vmta
