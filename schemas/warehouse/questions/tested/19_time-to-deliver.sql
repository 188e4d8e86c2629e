-- How long does mail take, by provider?
-- dashboard
SELECT
    provider,
    round(quantilesTDigestMerge(0.5, 0.9, 0.99)(latency)[1] / 1e6, 3) AS p50_seconds,
    round(quantilesTDigestMerge(0.5, 0.9, 0.99)(latency)[2] / 1e6, 3) AS p90_seconds,
    round(quantilesTDigestMerge(0.5, 0.9, 0.99)(latency)[3] / 1e6, 3) AS p99_seconds
FROM time_to_deliver
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY provider
ORDER BY provider
