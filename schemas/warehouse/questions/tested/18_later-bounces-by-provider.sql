-- Which providers accept mail and return it later?
SELECT
    t.provider AS provider,
    sum(t.bounces) AS bounces_so_far,
    round({{rate "later_bounce_rate_72h"}}, 4) AS later_bounce_rate_72h,
    sum(t.hard_bounces_72h) AS hard_72h
FROM cohort_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')})
GROUP BY provider
HAVING bounces_so_far > 0
ORDER BY bounces_so_far DESC, provider
