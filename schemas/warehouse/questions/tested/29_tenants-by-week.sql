-- How do the tenants do, week by week?
-- dashboard
SELECT week, tenant, delivered, round(delivery_rate, 4) AS delivery_rate, round(hard_bounce_rate, 4) AS hard_bounce_rate, round(complaint_rate_7d, 4) AS complaint_rate_7d
FROM tenant_week
WHERE week >= toMonday({from:DateTime('UTC')}) - 7 AND week < toDate({to:DateTime('UTC')}) AND tenant != '' AND finished > 0
ORDER BY week, delivered DESC, tenant
