-- pmta show domains: what did each domain take in the last day?
SELECT recipient_domain, sum(delivered) AS ok, sum(deferred_attempts) AS later, sum(hard_bounced) + sum(soft_bounced) AS bounced
FROM domain_day
WHERE day = toDate({to:DateTime('UTC')}) - 1
GROUP BY recipient_domain
HAVING ok + later + bounced > 0
ORDER BY ok DESC, recipient_domain
LIMIT 20
