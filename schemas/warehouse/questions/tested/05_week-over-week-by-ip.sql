-- Weekly report: how did each source address change against the week before?
SELECT
    source,
    sumIf(t.delivered, t.day >= toDate({from:DateTime('UTC')})) AS delivered,
    sumIf(t.delivered, t.day < toDate({from:DateTime('UTC')})) AS delivered_before,
    round({{rateIf "delivery_rate" "t.day >= toDate({from:DateTime('UTC')})"}}, 4) AS delivery_rate,
    round({{rateIf "delivery_rate" "t.day < toDate({from:DateTime('UTC')})"}}, 4) AS delivery_rate_before,
    sumIf(t.blocked, t.day >= toDate({from:DateTime('UTC')})) AS blocked,
    sumIf(t.blocked, t.day < toDate({from:DateTime('UTC')})) AS blocked_before
FROM ip_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')})
GROUP BY source
ORDER BY source
