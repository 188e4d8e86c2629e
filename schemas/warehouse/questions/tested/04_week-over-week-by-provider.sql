-- Weekly report: how did each provider change against the week before?
SELECT
    provider,
    sumIf(t.delivered, t.day >= toDate({from:DateTime('UTC')})) AS delivered,
    sumIf(t.delivered, t.day < toDate({from:DateTime('UTC')})) AS delivered_before,
    round({{rateIf "delivery_rate" "t.day >= toDate({from:DateTime('UTC')})"}}, 4) AS delivery_rate,
    round({{rateIf "delivery_rate" "t.day < toDate({from:DateTime('UTC')})"}}, 4) AS delivery_rate_before,
    round({{rateIf "recipient_deferral_rate" "t.day >= toDate({from:DateTime('UTC')})"}}, 4) AS recipient_deferral_rate,
    round({{rateIf "recipient_deferral_rate" "t.day < toDate({from:DateTime('UTC')})"}}, 4) AS recipient_deferral_rate_before
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')})
GROUP BY provider
HAVING sum(t.finished) > 0
ORDER BY delivered DESC, provider
