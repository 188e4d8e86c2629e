-- Weekly report: who tries to mail suppressed addresses?
SELECT
    t.tenant AS tenant,
    sum(t.refused_suppressed) AS refused_at_rcpt,
    sum(t.suppressed) AS dropped_later,
    round((refused_at_rcpt + dropped_later) / nullIf(sum(t.accepted) + refused_at_rcpt, 0), 4) AS share_of_submitted
FROM traffic_day AS t
WHERE day >= toDate({from:DateTime('UTC')}) AND day < toDate({to:DateTime('UTC')})
GROUP BY tenant
HAVING refused_at_rcpt + dropped_later > 0
ORDER BY refused_at_rcpt + dropped_later DESC, tenant
