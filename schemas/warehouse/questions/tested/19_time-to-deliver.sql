-- How long does mail take, by provider?
-- dashboard
SELECT
    provider,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver)[1] / 1e6, 3) AS p50_seconds,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver)[2] / 1e6, 3) AS p90_seconds,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver)[3] / 1e6, 3) AS p99_seconds
FROM latency_day
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY provider
ORDER BY provider
