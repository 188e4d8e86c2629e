-- Which part of each day's mail was complained about, 24 hours, 72 hours and 7 days later?
-- dashboard
SELECT
    t.day AS day,
    sum(t.delivered) AS delivered,
    round({{rate "complaint_rate_24h"}}, 4) AS complaint_rate_24h,
    round({{rate "complaint_rate_72h"}}, 4) AS complaint_rate_72h,
    round({{rate "complaint_rate_7d"}}, 4) AS complaint_rate_7d
FROM cohort_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')})
GROUP BY day
ORDER BY day
