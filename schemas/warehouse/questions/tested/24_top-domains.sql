-- To which domains does the mail go, and how is it received?
-- dashboard
SELECT
    t.recipient_domain AS recipient_domain,
    sum(t.delivered) AS delivered,
    round({{rate "delivery_rate"}}, 4) AS delivery_rate,
    round({{rate "recipient_deferral_rate"}}, 4) AS recipient_deferral_rate,
    round({{rate "hard_bounce_rate"}}, 4) AS hard_bounce_rate
FROM domain_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY recipient_domain
HAVING sum(t.attempts) > 0
ORDER BY delivered DESC, recipient_domain
LIMIT 20
