-- To which domains does most mail go, and how is it received?
SELECT
    t.recipient_domain AS recipient_domain,
    sum(t.delivered) AS delivered,
    round({{rate "delivery_rate"}}, 4) AS delivery_rate,
    round({{rate "recipient_deferral_rate"}}, 4) AS recipient_deferral_rate,
    round({{rate "hard_bounce_rate"}}, 4) AS hard_bounce_rate
FROM domain_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
    AND recipient_domain GLOBAL IN (
        -- First which, then how: rates of 200,000 domains cost more than those of 20.
        SELECT recipient_domain
        FROM domain_day
        WHERE dimension = 'ok' AND day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
        GROUP BY recipient_domain
        ORDER BY sum(delivered) DESC, recipient_domain
        LIMIT 20)
GROUP BY recipient_domain
ORDER BY delivered DESC, recipient_domain
