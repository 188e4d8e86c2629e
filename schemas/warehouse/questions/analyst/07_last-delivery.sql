-- When did each address last get anything through to each provider?
SELECT provider, source, maxIf(hour, delivered > 0) AS last_delivery, sum(attempts) AS tried
FROM traffic_hour
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')} AND source != ''
GROUP BY provider, source
ORDER BY last_delivery, provider, source
