-- pmta show jobs: how far is each job of the last two days?
SELECT job, accepted, delivered, hard_bounced + soft_bounced AS bounced, left
FROM job_report
WHERE last_day >= toDate({to:DateTime('UTC')}) - 2 AND job != ''
ORDER BY left DESC, job
LIMIT 20
