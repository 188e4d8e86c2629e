-- How did each rate go, day by day?
-- dashboard
SELECT
    t.day AS day,
    sum(t.delivered) AS delivered,
    round({{rate "delivery_rate"}}, 4) AS delivery_rate,
    round({{rate "hard_bounce_rate"}}, 4) AS hard_bounce_rate,
    round({{rate "soft_bounce_rate"}}, 4) AS soft_bounce_rate,
    round({{rate "first_attempt_rate"}}, 4) AS first_attempt_rate,
    round({{rate "attempt_deferral_rate"}}, 4) AS attempt_deferral_rate,
    round({{rate "recipient_deferral_rate"}}, 4) AS recipient_deferral_rate
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY day
ORDER BY day
