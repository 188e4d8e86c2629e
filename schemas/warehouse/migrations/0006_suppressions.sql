-- Who must not be mailed. Rows are only added: a tombstone takes earlier rows back; at the same
-- time a suppression wins over a tombstone. A pending row is no suppression yet: it waits for a
-- second bounce (see analytics/suppression).
--
-- ORDER BY: "is this address suppressed, and since when" reads one granule; the whole list comes in
-- the order of keys; the same statement written twice collapses. Kept for ever. Small granules: keys
-- are random, and each that is asked for reads one.
CREATE TABLE IF NOT EXISTS suppressions
(
    recipient_key String COMMENT 'keyed hash of the normalised address, 32 hexadecimal digits',
    tenant LowCardinality(String) COMMENT 'tenant it holds for, empty for all',
    time DateTime64(6, 'UTC') COMMENT 'when the cause happened, or the operator spoke',
    tombstone Bool COMMENT 'takes earlier rows of the same key and tenant back',
    pending Bool DEFAULT false COMMENT 'not in force: it came while the provider refused everybody',
    category LowCardinality(String) COMMENT 'why: the category of the bounce or complaint, or manual',
    origin LowCardinality(String) COMMENT 'who found out: job, operator or import',
    provider LowCardinality(String) DEFAULT '' COMMENT 'provider whose answer it was, empty for none or unknown',
    actor String COMMENT 'name of the job or of the operator',
    reason String COMMENT 'the reply, or a note',
    message_id UUID COMMENT 'message that led to it, zero for none',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it ends by itself, 1970 for never',
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock',
    INDEX arrived_range arrived TYPE minmax GRANULARITY 1,
    INDEX time_range time TYPE minmax GRANULARITY 1
)
ENGINE = {{engine "ReplacingMergeTree"}}
ORDER BY (recipient_key, tenant, time, tombstone, pending)
SETTINGS {{durable}}, index_granularity = 256
COMMENT 'Suppressions and their tombstones, append-only; the view suppressed is the present state';

-- A suppression holds until a tombstone that is later, or its own end: one that ends does not
-- shorten an earlier one that does not.
CREATE VIEW IF NOT EXISTS suppressed
(
    recipient_key String COMMENT 'keyed hash of the normalised address, 32 hexadecimal digits',
    tenant LowCardinality(String) COMMENT 'tenant it holds for, empty for all',
    since DateTime64(6, 'UTC') COMMENT 'when the cause happened, or the operator spoke',
    category LowCardinality(String) COMMENT 'why: the category of the bounce or complaint, or manual',
    origin LowCardinality(String) COMMENT 'who found out: job, operator or import',
    reason String COMMENT 'the reply, or a note',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it ends by itself, 1970 for never',
    provider LowCardinality(String) COMMENT 'provider whose answer it was, empty for none or unknown',
    actor String COMMENT 'name of the job or of the operator',
    message_id UUID COMMENT 'message that led to it, zero for none',
    recipient_index UInt32 COMMENT 'which recipient of the message'
)
COMMENT 'Who is suppressed now'
AS SELECT
    recipient_key, tenant, last.1 AS since, last.2 AS category, last.3 AS origin, last.4 AS reason, last.5 AS expires_at,
    last.6 AS provider, last.7 AS actor, last.8 AS message_id, last.9 AS recipient_index
FROM
(
    SELECT
        recipient_key, tenant, maxIf(time, tombstone) AS removed,
        argMaxIf((time, category, origin, reason, expires_at, provider, actor, message_id, recipient_index), time,
            NOT tombstone AND (expires_at <= toDateTime64(0, 6, 'UTC') OR expires_at > now64(6))) AS last
    FROM suppressions
    WHERE NOT pending
    GROUP BY recipient_key, tenant
)
WHERE last.1 > toDateTime64(0, 6, 'UTC') AND last.1 >= removed;

-- since is the first bounce that waits: what came before the last statement is settled. Few keys
-- wait, so that the rest of the table is not grouped.
CREATE VIEW IF NOT EXISTS suppressions_pending
(
    recipient_key String COMMENT 'keyed hash of the normalised address, 32 hexadecimal digits',
    tenant LowCardinality(String) COMMENT 'tenant it would hold for, empty for all',
    since DateTime64(6, 'UTC') COMMENT 'first bounce that waits',
    last_bounce DateTime64(6, 'UTC') COMMENT 'last one',
    bounces UInt64 COMMENT 'how many wait',
    category LowCardinality(String) COMMENT 'category of the last one',
    provider LowCardinality(String) COMMENT 'provider that it came from',
    reason String COMMENT 'its reply',
    message_id UUID COMMENT 'message that led to it, zero for none',
    recipient_index UInt32 COMMENT 'which recipient of the message'
)
COMMENT 'Whose suppression waits for a second bounce'
AS SELECT
    recipient_key, tenant, arrayMin(waiting).1 AS since, arrayMax(waiting).1 AS last_bounce, length(waiting) AS bounces, arrayMax(waiting).2 AS category,
    arrayMax(waiting).3 AS provider, arrayMax(waiting).4 AS reason, arrayMax(waiting).5 AS message_id, arrayMax(waiting).6 AS recipient_index
FROM
(
    SELECT
        recipient_key, tenant, maxIf(time, NOT pending) AS settled,
        maxIf(time, NOT pending AND tombstone) AS removed,
        maxIf(time, NOT pending AND NOT tombstone AND (expires_at <= toDateTime64(0, 6, 'UTC') OR expires_at > now64(6))) AS holds,
        arrayFilter(w -> w.1 > settled, groupArrayIf((time, category, provider, reason, message_id, recipient_index), pending)) AS waiting
    FROM suppressions
    WHERE recipient_key IN (SELECT recipient_key FROM suppressions WHERE pending)
    GROUP BY recipient_key, tenant
)
WHERE notEmpty(waiting) AND (holds <= toDateTime64(0, 6, 'UTC') OR holds < removed);

-- What an agent asks every two seconds: which keys were spoken of since. Its cost follows the
-- changes, not the length of the list. An agent that was away for longer reads the whole list.
CREATE TABLE IF NOT EXISTS suppression_changes
(
    arrived DateTime64(6, 'UTC') COMMENT 'when the row reached ClickHouse, by its clock',
    recipient_key String COMMENT 'key that the row is about'
)
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(arrived)
ORDER BY arrived
{{ttl "suppression_changes" "arrived" 3}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'Keys of which suppressions has new rows, by time';

CREATE MATERIALIZED VIEW IF NOT EXISTS suppression_changes_mv TO suppression_changes AS
SELECT arrived, recipient_key
FROM suppressions
WHERE recipient_key != ''
COMMENT 'Fills suppression_changes from suppressions';

-- ORDER BY: the job counts the soft bounces of one address; of one message only the first counts.
CREATE TABLE IF NOT EXISTS soft_bounces
(
    recipient_key String COMMENT 'keyed hash of the normalised address',
    message_id UUID COMMENT 'message that was refused',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    time DateTime64(6, 'UTC') COMMENT 'when it was refused first',
    category LowCardinality(String) COMMENT 'category of the reply',
    provider LowCardinality(String) COMMENT 'provider whose answer it was',
    reply String COMMENT 'the reply, cut'
)
ENGINE = {{engine "ReplacingMergeTree"}}
ORDER BY (recipient_key, message_id, recipient_index)
{{ttl "soft_bounces" "time" 400}}
SETTINGS {{durable}}
COMMENT 'Messages that were refused because of a mailbox that is alive; enough of them suppress for a while';

-- ORDER BY: "is this bounce part of an accident" asks for one provider and minute.
CREATE TABLE IF NOT EXISTS suppression_waves
(
    provider LowCardinality(String) COMMENT 'provider that had an accident',
    minute DateTime('UTC') COMMENT 'minute whose unknown users wait for a second bounce',
    found_at DateTime64(6, 'UTC') COMMENT 'when the breaker opened for this minute; the latest row wins',
    unknown UInt64 COMMENT 'unknown users of the window that opened it',
    delivered UInt64 COMMENT 'accepted in that window',
    share Float64 COMMENT 'unknown users among both',
    median Float64 COMMENT 'median share of the same hour on the days before, -1 with too little history',
    threshold Float64 COMMENT 'share above which the breaker opens'
)
ENGINE = {{engine "ReplacingMergeTree" "found_at"}}
PARTITION BY toYYYYMM(minute)
ORDER BY (provider, minute)
{{ttl "suppression_waves" "minute" 400}}
SETTINGS {{durable}}
COMMENT 'Minutes in which a provider refused so many as unknown that it was believed to be its accident; read with FINAL';

-- ORDER BY: one row a complaint and address of the operator's; the last attempt wins. Read with FINAL.
CREATE TABLE IF NOT EXISTS webhook_deliveries
(
    endpoint LowCardinality(String) COMMENT 'URL without its query',
    event_id String COMMENT 'node/incarnation/seq of the event, the idempotency key',
    version UInt64 COMMENT 'microseconds since 1970 of this row; the highest wins',
    event_time DateTime64(6, 'UTC') COMMENT 'time of the event',
    status Enum8('waiting' = 0, 'delivered' = 1, 'given-up' = 2) COMMENT 'waiting: it will be tried again',
    attempts UInt32 COMMENT 'how often it was tried',
    next_at DateTime64(6, 'UTC') COMMENT 'when it is tried again',
    answer String COMMENT 'status or error of the last attempt'
)
ENGINE = {{engine "ReplacingMergeTree" "version"}}
PARTITION BY toYYYYMM(event_time)
ORDER BY (endpoint, event_id)
{{ttl "webhook_deliveries" "event_time" 90}}
SETTINGS {{durable}}
COMMENT 'What became of each complaint that the operator''s own system is told of; read with FINAL';
