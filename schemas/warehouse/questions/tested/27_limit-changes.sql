-- Which limits did the loop change, and why?
SELECT ts, provider, source, mode_from, mode_to, rate_old, rate_new, rule_id, reason_text, actor
FROM limit_log
WHERE ts >= {from:DateTime('UTC')} AND ts < {to:DateTime('UTC')} AND kind IN ('change', 'operator')
ORDER BY ts, provider, source
LIMIT 200
