-- Which job was complained about most, and how soon?
SELECT job, tenant, count() AS times, round(min(hours), 2) AS first_after_hours
FROM complaints
WHERE delivered_at >= {from:DateTime('UTC')} - INTERVAL 7 DAY AND delivered_at < {to:DateTime('UTC')}
GROUP BY job, tenant
ORDER BY times DESC, job, tenant
LIMIT 20
