-- Whose mail is complained about?
SELECT
    t.tenant AS tenant,
    sum(t.complaints) AS complaints_so_far,
    sum(t.delivered_7d) AS delivered_7d,
    sum(t.complaints_7d) AS complaints_7d,
    round({{rate "complaint_rate_7d"}}, 4) AS complaint_rate_7d
FROM cohort_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) - 7 AND day < toDate({to:DateTime('UTC')})
GROUP BY tenant
HAVING complaints_so_far > 0
ORDER BY complaint_rate_7d DESC NULLS LAST, tenant
