-- Who must not be mailed. Rows are only added: a tombstone takes an earlier row back. The last
-- statement by time counts; at the same time a suppression wins over a tombstone.
--
-- ORDER BY: "is this address suppressed, and since when" reads one granule; the same statement
-- written twice collapses. Kept for ever. The index finds what is new since the last look.
CREATE TABLE IF NOT EXISTS suppressions{{onCluster}}
(
    recipient_key String COMMENT 'keyed hash of the normalised address, 32 hexadecimal digits',
    tenant LowCardinality(String) COMMENT 'tenant it holds for, empty for all',
    time DateTime64(6, 'UTC') COMMENT 'when the cause happened, or the operator spoke',
    tombstone Bool COMMENT 'takes earlier rows of the same key and tenant back',
    category LowCardinality(String) COMMENT 'why: the category of the bounce or complaint, or manual',
    origin LowCardinality(String) COMMENT 'who found out: job, operator or import',
    actor String COMMENT 'name of the job or of the operator',
    reason String COMMENT 'the reply, or a note',
    message_id UUID COMMENT 'message that led to it, zero for none',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it ends by itself, 1970 for never',
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock',
    INDEX arrived_range arrived TYPE minmax GRANULARITY 1
)
ENGINE = {{engine "ReplacingMergeTree"}}
ORDER BY (recipient_key, tenant, time, tombstone)
SETTINGS {{durable}}
COMMENT 'Suppressions and their tombstones, append-only; the view suppressed is the present state';

CREATE VIEW IF NOT EXISTS suppressed{{onCluster}} AS
SELECT recipient_key, tenant, last.2 AS since, last.3 AS category, last.4 AS origin, last.5 AS reason, last.6 AS expires_at
FROM
(
    SELECT recipient_key, tenant, argMax((tombstone, time, category, origin, reason, expires_at), (time, NOT tombstone)) AS last
    FROM suppressions
    GROUP BY recipient_key, tenant
)
WHERE NOT last.1 AND (last.6 <= toDateTime64(0, 6, 'UTC') OR last.6 > now64(6))
COMMENT 'Who is suppressed now';
