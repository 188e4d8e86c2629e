-- pmta show topqueues: which queues are told "later" most in the last hour, and what was said last?
SELECT queue, uniqExact(message_id, recipient_index) AS recipients, argMax(reply, time) AS last_reply
FROM deferrals
WHERE time >= {to:DateTime('UTC')} - INTERVAL 1 HOUR AND time < {to:DateTime('UTC')} AND what = 'recipient'
GROUP BY queue
ORDER BY recipients DESC, queue
LIMIT 20
