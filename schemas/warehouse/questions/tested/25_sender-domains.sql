-- Which From domain does badly, and where?
SELECT
    t.from_domain AS from_domain,
    t.provider AS provider,
    sum(t.delivered) AS delivered,
    round({{rate "delivery_rate"}}, 4) AS delivery_rate,
    round({{rate "recipient_deferral_rate"}}, 4) AS recipient_deferral_rate
FROM sender_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')}) AND t.from_domain != '' AND t.signature = 0
GROUP BY from_domain, provider
HAVING sum(t.finished) > 0
ORDER BY delivery_rate, from_domain, provider
LIMIT 50
