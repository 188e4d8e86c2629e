-- What takes the time on a connection: the greeting, TLS or the transfer?
SELECT
    provider,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(connect)[1] / 1e3, 1) AS connect_ms_median,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(connect)[3] / 1e3, 1) AS connect_ms_p99,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(tls)[1] / 1e3, 1) AS tls_ms_median,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(transfer)[1] / 1e3, 1) AS transfer_ms_median,
    round(quantilesBFloat16Merge(0.5, 0.9, 0.99)(transfer)[3] / 1e3, 1) AS transfer_ms_p99
FROM latency_day
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY provider
ORDER BY provider
