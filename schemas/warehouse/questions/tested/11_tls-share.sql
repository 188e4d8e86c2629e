-- Weekly report: how much goes out encrypted, by provider?
SELECT
    provider,
    count() AS delivered,
    round(countIf(tls != '') / count(), 4) AS tls_share,
    round(countIf(tls = 'TLS 1.3') / count(), 4) AS tls13_share
FROM deliveries
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND provider != ''
GROUP BY provider
ORDER BY delivered DESC, provider
