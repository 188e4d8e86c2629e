-- What is on each tenant's bill: recipients and megabytes delivered?
SELECT tenant, sum(delivered) AS recipients, round(sum(octets_delivered) / 1e6, 3) AS megabytes
FROM traffic_day
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY tenant
HAVING recipients > 0
ORDER BY recipients DESC, tenant
