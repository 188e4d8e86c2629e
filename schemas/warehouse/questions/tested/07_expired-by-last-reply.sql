-- Weekly report: what had the receivers last said to mail that expired?
SELECT provider, last_reply, count() AS recipients
FROM
(
    SELECT provider, reply_template AS last_reply
    FROM events
    WHERE kind = 'deferred' AND provider != '' AND time >= {from:DateTime('UTC')} - INTERVAL 1 DAY AND time < {to:DateTime('UTC')}
        -- Expired mail has the number of its last attempt. A hash is quicker to look for than three columns.
        AND cityHash64(message_id, recipient_index, attempt) GLOBAL IN (
            SELECT cityHash64(message_id, recipient_index, attempt)
            FROM events
            WHERE kind = 'expired' AND attempt > 0 AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')})
    UNION ALL
    SELECT provider, 'never answered' AS last_reply
    FROM events
    WHERE kind = 'expired' AND attempt = 0 AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
)
GROUP BY provider, last_reply
ORDER BY recipients DESC, provider, last_reply
LIMIT 50
