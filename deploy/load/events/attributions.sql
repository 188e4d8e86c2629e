-- Which delivery each report of the history was about, as the job attribution would have found it by the
-- report's token.
INSERT INTO attributions
    (node, incarnation, seq, time, kind, recipient_key, feedback_type, category, class, dimension, match_method, match_confidence, proven,
    message_id, recipient_index, delivered_at, provider, source, tenant, vmta, pool, job, mail_from_domain, from_domain, attributed_at)
SELECT
    r.node, r.incarnation, r.seq, r.time, r.kind, r.recipient_key, r.feedback_type, r.category, r.class, r.dimension, r.match_method, r.match_confidence, true,
    e.message_id, e.recipient_index, e.time, e.provider, e.source, e.tenant, e.vmta, e.pool, e.job, e.mail_from_domain, e.from_domain,
    r.time + INTERVAL 20 SECOND
FROM events AS e
INNER JOIN (SELECT * FROM reports FINAL WHERE incarnation = {incarnation:UUID}) AS r ON r.original_message_id = e.message_id
WHERE e.kind = 'delivered' AND e.incarnation = {incarnation:UUID}
