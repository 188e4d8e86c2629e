-- Is all accepted mail accounted for: done, dropped, or still in the queue?
SELECT
    t.tenant AS tenant,
    sum(t.accepted) AS accepted,
    sum(t.finished) AS finished,
    sum(t.suppressed) AS suppressed,
    sum(t.removed) AS removed,
    sum(t.left) AS left
FROM job_report AS t
WHERE t.tenant != ''
GROUP BY tenant
ORDER BY tenant
