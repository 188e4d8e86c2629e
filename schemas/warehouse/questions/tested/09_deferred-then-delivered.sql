-- Weekly report: mail that was deferred and then delivered, how late was it?
SELECT
    transform(bucket, [0, 1, 2, 3, 4, 5, 6], ['under 1 minute', '1 to 5 minutes', '5 to 15 minutes', '15 to 60 minutes', '1 to 4 hours', '4 to 24 hours', 'over 24 hours'], '') AS delay,
    count() AS recipients,
    round(recipients / sum(recipients) OVER (), 4) AS share
FROM
(
    SELECT multiIf(seconds < 60, 0, seconds < 300, 1, seconds < 900, 2, seconds < 3600, 3, seconds < 14400, 4, seconds < 86400, 5, 6) AS bucket
    FROM deliveries
    WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND provider != '' AND attempt > 1
)
GROUP BY bucket
ORDER BY bucket
