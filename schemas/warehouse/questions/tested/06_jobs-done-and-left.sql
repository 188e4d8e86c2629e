-- Weekly report: which jobs are done, and what is left of the others?
SELECT job, tenant, accepted, delivered, left, round(done_share, 4) AS done_share, round(delivery_rate, 4) AS delivery_rate, complaints
FROM job_report
WHERE job != '' AND last_day >= toDate({from:DateTime('UTC')}) AND first_day < toDate({to:DateTime('UTC')})
ORDER BY left DESC, job, tenant
LIMIT 100
