-- pmta trace: what became of the mail to this address?
-- {recipient:String} SELECT recipient FROM deliveries WHERE time >= {to:DateTime('UTC')} - INTERVAL 1 DAY AND time < {to:DateTime('UTC')} ORDER BY recipient LIMIT 1
SELECT time, message_id, step, attempt, provider, source, reply
FROM message_trace
WHERE recipient = {recipient:String}
ORDER BY time, step
