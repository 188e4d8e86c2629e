-- What receivers answered, per key in steps of ten seconds and of a minute. The jobs read these
-- and never events, so that their cost follows keys and buckets, not mail.
--
-- Rows are states: always read them with sum(), max(), min() and GROUP BY.
-- Evidence is one attempt each: delivered, deferred, bounced, and queue-deferred once for the
-- whole queue. A refusal aimed at a domain, a URL or one recipient says nothing of (provider,
-- source) and is left out; an unknown user always counts, because its share is the list's quality.
--
-- ORDER BY: the control job reads the present epoch of one key; PARTITION BY day for retention.
CREATE TABLE IF NOT EXISTS k10s{{onCluster}}
(
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    epoch UInt64 COMMENT 'limit epoch that the attempts started under',
    ts DateTime('UTC') COMMENT 'start of the ten seconds',
{{rollup}}
)
ENGINE = {{engine "AggregatingMergeTree"}}
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, epoch, ts)
TTL ts + INTERVAL 2 DAY
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'Answers per key and limit epoch in steps of ten seconds: the evidence of the control loop';

CREATE MATERIALIZED VIEW IF NOT EXISTS k10s_mv{{onCluster}} TO k10s AS
SELECT
    provider,
    source,
    limit_epoch AS epoch,
    toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND) AS ts,
{{rollupOf}}
FROM events
WHERE {{evidence}}
GROUP BY provider, source, epoch, ts
COMMENT 'Fills k10s from events';

-- ORDER BY: the score job reads the last hours of one key over all its tenants.
CREATE TABLE IF NOT EXISTS k1m{{onCluster}}
(
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',
    ts DateTime('UTC') COMMENT 'start of the minute',
{{rollup}}
)
ENGINE = {{engine "AggregatingMergeTree"}}
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, tenant, ts)
TTL ts + INTERVAL 15 DAY
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'Answers per key and tenant in steps of a minute: the evidence of scores';

CREATE MATERIALIZED VIEW IF NOT EXISTS k1m_mv{{onCluster}} TO k1m AS
SELECT
    provider,
    source,
    tenant,
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
{{rollupOf}}
FROM events
WHERE {{evidence}}
GROUP BY provider, source, tenant, ts
COMMENT 'Fills k1m from events';
