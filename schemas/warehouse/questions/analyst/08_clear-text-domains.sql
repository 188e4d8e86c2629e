-- Which domains still take mail in clear text?
SELECT recipient_domain, count() AS clear_text
FROM deliveries
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND tls = ''
GROUP BY recipient_domain
ORDER BY clear_text DESC, recipient_domain
LIMIT 20
