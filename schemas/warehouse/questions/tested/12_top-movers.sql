-- Weekly report: where did we lose or win most mail against the week before?
SELECT
    provider,
    source,
    round(now, 4) AS delivery_rate,
    round(before, 4) AS delivery_rate_before,
    round(finished * (now - before), 1) AS recipients_won
FROM
(
    SELECT
        provider,
        source,
        sumIf(t.finished, t.day >= toDate({from:DateTime('UTC')})) AS finished,
        {{rateIf "delivery_rate" "t.day >= toDate({from:DateTime('UTC')})"}} AS now,
        {{rateIf "delivery_rate" "t.day < toDate({from:DateTime('UTC')})"}} AS before
    FROM traffic_day AS t
    WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')}) AND source != ''
    GROUP BY provider, source
)
WHERE recipients_won != 0
ORDER BY abs(recipients_won) DESC, provider, source
LIMIT 20
