-- Weekly report: what had the receivers last said to mail that expired?
SELECT provider, last_reply, count() AS recipients
FROM
(
    SELECT
        argMax(provider, time) AS provider,
        if(countIf(kind = 'deferred') = 0, 'never answered', argMaxIf(reply_template, time, kind = 'deferred')) AS last_reply
    FROM events
    WHERE kind IN ('deferred', 'expired')
        AND time >= {from:DateTime('UTC')} - INTERVAL 7 DAY AND time < {to:DateTime('UTC')}
        AND (message_id, recipient_index) GLOBAL IN (SELECT message_id, recipient_index FROM events WHERE kind = 'expired' AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')})
    GROUP BY message_id, recipient_index
)
GROUP BY provider, last_reply
ORDER BY recipients DESC, provider, last_reply
LIMIT 50
