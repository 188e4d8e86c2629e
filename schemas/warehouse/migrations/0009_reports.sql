-- What receivers reported (bounces, other statuses, complaints), and which delivery each was about.
--
-- reports is a narrow copy of those events: the job that attributes them must not read all events
-- to find the few. ORDER BY: an event is one row, however often it is inserted. The index finds
-- what is new since the last look.
CREATE TABLE IF NOT EXISTS reports
(
    node LowCardinality(String) COMMENT 'node that the report came to',
    incarnation UUID COMMENT 'life of its event log',
    seq UInt64 COMMENT 'number of the event',
    time DateTime64(6, 'UTC') COMMENT 'when the report came',
    kind LowCardinality(String) COMMENT 'remote-bounce, remote-status or complaint',
    recipient_key String COMMENT 'keyed hash of the address that it names, empty for none',
    mail_from String COMMENT 'originator that it names, or the return path that it came to',
    feedback_type LowCardinality(String) COMMENT 'type of the complaint, or action of the notification',
    category LowCardinality(String) COMMENT 'category of the bounce',
    class LowCardinality(String) COMMENT 'class of the bounce',
    dimension LowCardinality(String) COMMENT 'dimension of the bounce',
    match_method LowCardinality(String) COMMENT 'how the node joined it to a message',
    match_confidence Float32 COMMENT 'how sure that is, 0 to 1',
    original_message_id UUID COMMENT 'message by its token, zero for none',
    original_index UInt32 COMMENT 'which recipient of that message',
    quoted_message_id String COMMENT 'Message-ID that the report quotes, empty for none',
    arrived DateTime64(6, 'UTC') COMMENT 'when the event reached ClickHouse, by its clock',
    INDEX arrived_range arrived TYPE minmax GRANULARITY 1
)
ENGINE = {{engine "ReplacingMergeTree"}}
PARTITION BY toYYYYMM(time)
ORDER BY (node, incarnation, seq)
{{ttl "reports" "time" 180}}
SETTINGS {{durable}}
COMMENT 'Bounces and complaints as they came, a narrow copy of events; read with FINAL';

CREATE MATERIALIZED VIEW IF NOT EXISTS reports_mv TO reports AS
SELECT
    node, incarnation, seq, time, toString(kind) AS kind, recipient_key, mail_from, feedback_type,
    toString(category) AS category, toString(class) AS class, toString(dimension) AS dimension,
    match_method, match_confidence, original_message_id, original_index, headers['Message-ID'] AS quoted_message_id, arrived
FROM events
WHERE kind IN ('remote-bounce', 'remote-status', 'complaint')
COMMENT 'Fills reports from events';

-- ORDER BY: a report is attributed once, whatever runs again; read with FINAL.
CREATE TABLE IF NOT EXISTS attributions
(
    node LowCardinality(String) COMMENT 'node that the report came to',
    incarnation UUID COMMENT 'life of its event log',
    seq UInt64 COMMENT 'number of the event',
    time DateTime64(6, 'UTC') COMMENT 'when the report came',
    kind LowCardinality(String) COMMENT 'remote-bounce, remote-status or complaint',
    recipient_key String COMMENT 'keyed hash of the address that it names, empty for none',
    feedback_type LowCardinality(String) COMMENT 'type of the complaint, or action of the notification',
    category LowCardinality(String) COMMENT 'category of the bounce',
    class LowCardinality(String) COMMENT 'class of the bounce',
    dimension LowCardinality(String) COMMENT 'dimension of the bounce',
    match_method LowCardinality(String) COMMENT 'how the delivery was found: a token (return-path, reference-header, envid), dkim-reporter, verp, message-id, recipient; none',
    match_confidence Float32 COMMENT 'how sure that is, 0 to 1',
    proven Bool COMMENT 'a signature says so and the delivery was found: only such reports count against anybody',
    message_id UUID COMMENT 'message that it is about, zero for unknown',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    delivered_at DateTime64(6, 'UTC') COMMENT 'when that was delivered, 1970 for unknown',
    provider LowCardinality(String) COMMENT 'provider that took the message',
    source LowCardinality(String) COMMENT 'address that it was sent from',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    vmta LowCardinality(String) COMMENT 'virtual MTA that sent it',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    job String COMMENT 'job of the message',
    mail_from_domain LowCardinality(String) COMMENT 'domain of its MAIL FROM',
    from_domain LowCardinality(String) COMMENT 'domain of its From field',
    attributed_at DateTime64(6, 'UTC') COMMENT 'start of the run that wrote it; the latest row wins',
    INDEX attributed_range attributed_at TYPE minmax GRANULARITY 1
)
ENGINE = {{engine "ReplacingMergeTree" "attributed_at"}}
PARTITION BY toYYYYMM(time)
ORDER BY (node, incarnation, seq)
{{ttl "attributions" "time" 400}}
SETTINGS {{durable}}
COMMENT 'Which delivery each report was about, and whose it was; read with FINAL';

-- One complaint about a message and recipient is one, however often it is sent again; so is one
-- bounce. The first counts.
CREATE VIEW IF NOT EXISTS attributed
(
    kind LowCardinality(String) COMMENT 'remote-bounce, remote-status or complaint',
    message_id UUID COMMENT 'message that it is about',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    time DateTime64(6, 'UTC') COMMENT 'when the report came',
    delivered_at DateTime64(6, 'UTC') COMMENT 'when the message was delivered',
    provider LowCardinality(String) COMMENT 'provider that took the message',
    source LowCardinality(String) COMMENT 'address that it was sent from',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    vmta LowCardinality(String) COMMENT 'virtual MTA that sent it',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    job String COMMENT 'job of the message',
    mail_from_domain LowCardinality(String) COMMENT 'domain of its MAIL FROM',
    from_domain LowCardinality(String) COMMENT 'domain of its From field',
    recipient_key String COMMENT 'keyed hash of the address that it names, empty for none',
    feedback_type LowCardinality(String) COMMENT 'type of the complaint, or action of the notification',
    category LowCardinality(String) COMMENT 'category of the bounce',
    class LowCardinality(String) COMMENT 'class of the bounce',
    dimension LowCardinality(String) COMMENT 'dimension of the bounce',
    match_method LowCardinality(String) COMMENT 'how the delivery was found',
    match_confidence Float32 COMMENT 'how sure that is, 0 to 1'
)
COMMENT 'Reports that count, each kind once for a message and recipient'
AS WITH (a.time, a.node, a.incarnation, a.seq) AS place
SELECT
    kind, message_id, recipient_index,
    argMin(a.time, place) AS time,
    argMin(a.delivered_at, place) AS delivered_at,
    argMin(a.provider, place) AS provider,
    argMin(a.source, place) AS source,
    argMin(a.tenant, place) AS tenant,
    argMin(a.vmta, place) AS vmta,
    argMin(a.pool, place) AS pool,
    argMin(a.job, place) AS job,
    argMin(a.mail_from_domain, place) AS mail_from_domain,
    argMin(a.from_domain, place) AS from_domain,
    argMin(a.recipient_key, place) AS recipient_key,
    argMin(a.feedback_type, place) AS feedback_type,
    argMin(a.category, place) AS category,
    argMin(a.class, place) AS class,
    argMin(a.dimension, place) AS dimension,
    argMin(a.match_method, place) AS match_method,
    argMin(a.match_confidence, place) AS match_confidence
FROM attributions AS a FINAL
WHERE proven
GROUP BY kind, message_id, recipient_index;

-- The rates by delivery cohort: complaints and bounces by the hour in which their message was
-- delivered, beside what was accepted in that hour. They grow for days, so two hours compare only
-- at the same age: complained_7d of an hour is final when the hour is eight days old, and that of
-- an hour that is younger says nothing yet.
CREATE VIEW IF NOT EXISTS report_cohorts
(
    provider LowCardinality(String) COMMENT 'provider that took the messages',
    source LowCardinality(String) COMMENT 'address that they were sent from',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    hour DateTime('UTC') COMMENT 'hour of their delivery',
    accepted UInt64 COMMENT 'accepted in that hour; k1m keeps it for fifteen days',
    complained UInt64 COMMENT 'of them, complained about so far',
    bounced UInt64 COMMENT 'of them, returned by mail so far',
    bounced_hard UInt64 COMMENT 'of these, for good',
    complained_24h UInt64 COMMENT 'complained about within a day of the delivery',
    complained_72h UInt64 COMMENT 'within three days',
    complained_7d UInt64 COMMENT 'within seven days',
    bounced_72h UInt64 COMMENT 'returned within three days'
)
COMMENT 'Accepted, complained and bounced by hour of delivery and age of the report, per provider, source and tenant'
AS SELECT
    provider, source, tenant, hour,
    sum(accepted) AS accepted, sum(complained) AS complained, sum(bounced) AS bounced, sum(bounced_hard) AS bounced_hard,
    sum(complained_24h) AS complained_24h, sum(complained_72h) AS complained_72h, sum(complained_7d) AS complained_7d, sum(bounced_72h) AS bounced_72h
FROM
(
    SELECT
        provider, source, tenant, toStartOfHour(ts) AS hour, sum(ok) AS accepted, 0 AS complained, 0 AS bounced, 0 AS bounced_hard,
        0 AS complained_24h, 0 AS complained_72h, 0 AS complained_7d, 0 AS bounced_72h
    FROM k1m
    GROUP BY provider, source, tenant, hour
    UNION ALL
    SELECT
        provider, source, tenant, toStartOfHour(toDateTime(delivered_at, 'UTC')) AS hour, 0 AS accepted,
        countIf(kind = 'complaint') AS complained, countIf(kind = 'remote-bounce') AS bounced,
        countIf(kind = 'remote-bounce' AND class = 'hard') AS bounced_hard,
        countIf(kind = 'complaint' AND time < delivered_at + INTERVAL 24 HOUR) AS complained_24h,
        countIf(kind = 'complaint' AND time < delivered_at + INTERVAL 72 HOUR) AS complained_72h,
        countIf(kind = 'complaint' AND time < delivered_at + INTERVAL 7 DAY) AS complained_7d,
        countIf(kind = 'remote-bounce' AND time < delivered_at + INTERVAL 72 HOUR) AS bounced_72h
    FROM attributed
    GROUP BY provider, source, tenant, hour
)
GROUP BY provider, source, tenant, hour;
