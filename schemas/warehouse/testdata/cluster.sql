CREATE DATABASE IF NOT EXISTS `carom` ON CLUSTER `main`;

CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER `main`
(
    version UInt32 COMMENT 'number of the migration',
    name String COMMENT 'its name',
    checksum UInt32 COMMENT 'CRC-32 of its SQL',
    applied_at DateTime64(6, 'UTC') COMMENT 'when it was applied',
    applied_by String COMMENT 'version of carom that applied it'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', applied_at)
ORDER BY version
COMMENT 'Migrations that were applied to this database; read with FINAL';

-- Migration 1: events

CREATE TABLE IF NOT EXISTS events_local ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node that wrote the event',
    incarnation UUID COMMENT 'life of the node\'s log; a reinstalled node gets a new one',
    seq UInt64 COMMENT 'sequence number in the node\'s event stream, from 1, without gaps' CODEC(Delta, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it happened, by the node\'s clock' CODEC(Delta, ZSTD(1)),
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step this is',
    message_id UUID COMMENT 'message; zero for a queue\'s event' CODEC(ZSTD(6)),
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipients UInt32 COMMENT 'how many recipients the event speaks of: 1, or those of a queue',
    mail_from String COMMENT 'reverse-path as the feeder gave it; empty for the null sender' CODEC(ZSTD(5)),
    mail_from_domain LowCardinality(String) COMMENT 'domain of mail_from, lower case',
    from_domain LowCardinality(String) COMMENT 'domain of the From header, lower case',
    dkim_domains Array(LowCardinality(String)) COMMENT 'each d= that carom signed with',
    recipient String COMMENT 'forward-path' CODEC(ZSTD(3)),
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipient, lower case',
    recipient_key String COMMENT 'keyed hash of the normalised recipient, the key of suppressions; empty in received events that show the recipient' CODEC(ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'what the receiver sees: the bound IPv4 address or IPv6 /64',
    source_ip IPv6 COMMENT 'local address that was bound',
    queue LowCardinality(String) COMMENT 'domain/vmta',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, if one was chosen',
    ehlo_name LowCardinality(String) COMMENT 'name given in EHLO',
    job LowCardinality(String) COMMENT 'job ID',
    envid String COMMENT 'envelope ID (RFC 3461 section 4.4)',
    tenant LowCardinality(String) COMMENT 'on whose behalf; never empty for a message',
    smtp_user LowCardinality(String) COMMENT 'login name of the feeder',
    listener LowCardinality(String) COMMENT 'local address and port the message came in by',
    client_ip IPv6 COMMENT 'address of the feeder',
    client_mta LowCardinality(String) COMMENT 'EHLO name of the feeder',
    mx_host LowCardinality(String) COMMENT 'host that was talked to',
    mx_ip IPv6 COMMENT 'its address',
    attempt UInt32 COMMENT 'number of the attempt for this recipient, from 1',
    phase Enum8('' = 0, 'resolve' = 1, 'connect' = 2, 'greeting' = 3, 'ehlo' = 4, 'tls' = 5, 'auth' = 6, 'mail' = 7, 'rcpt' = 8, 'data' = 9, 'body' = 10, 'final-dot' = 11) COMMENT 'where the attempt ended',
    code UInt16 COMMENT 'SMTP reply code; 0 if the peer sent none',
    enhanced LowCardinality(String) COMMENT 'enhanced status code (RFC 3463)',
    reply String COMMENT 'reply of the peer, or what went wrong here' CODEC(ZSTD(1)),
    reply_template LowCardinality(String) COMMENT 'reply with numbers, ids and addresses replaced, to group by',
    category LowCardinality(String) COMMENT 'one of 30 words for what the reply means',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the reply is about',
    scope LowCardinality(String) COMMENT 'whom a refusal is aimed at',
    scope_value String COMMENT 'the address, domain or URL that the reply names',
    classifier_version UInt32 COMMENT 'version of the rules',
    pmta_category LowCardinality(String) COMMENT 'PowerMTA\'s bounce category',
    size UInt64 COMMENT 'octets of the message' CODEC(T64, ZSTD(1)),
    queued_us UInt64 COMMENT 'microseconds since acceptance' CODEC(T64, ZSTD(1)),
    dns_us UInt64 COMMENT 'microseconds of DNS look-ups' CODEC(T64, ZSTD(1)),
    connect_us UInt64 COMMENT 'microseconds until the greeting; 0 on a reused connection' CODEC(T64, ZSTD(1)),
    tls_us UInt64 COMMENT 'microseconds of the TLS handshake' CODEC(T64, ZSTD(1)),
    transfer_us UInt64 COMMENT 'microseconds from MAIL to the last reply' CODEC(T64, ZSTD(1)),
    tls_version LowCardinality(String) COMMENT 'TLS version, empty without TLS',
    tls_cipher LowCardinality(String) COMMENT 'TLS cipher suite',
    open_connections UInt32 COMMENT 'connections of the key that were open, this one included' CODEC(T64, ZSTD(1)),
    message_on_connection UInt32 COMMENT 'number of the message on its connection, from 1' CODEC(T64, ZSTD(1)),
    connection_id UUID COMMENT 'connection of the attempt',
    limit_epoch UInt64 COMMENT 'version of the key\'s limit when the attempt started',
    limit_actor LowCardinality(String) COMMENT 'who set the limit: config, loop, guard or an operator',
    limit_reason String COMMENT 'reason id of the limit\'s row in limit_log',
    limiting_scope LowCardinality(String) COMMENT 'which limit held the attempt back longest',
    canary Bool COMMENT 'attempt was a canary of a suspended key',
    feedback_type LowCardinality(String) COMMENT 'Feedback-Type of a complaint (RFC 5965), action of a status report, what a consumed mail was',
    reporting_mta LowCardinality(String) COMMENT 'who wrote the report',
    match_method LowCardinality(String) COMMENT 'how the report was joined to its message',
    match_confidence Float32 COMMENT '0 to 1; 1 is a verified token',
    original_message_id UUID COMMENT 'message that the report is about',
    original_index UInt32 COMMENT 'its recipient that the report is about',
    config_hash UInt64 COMMENT 'hash of the configuration in force' CODEC(Delta, ZSTD(1)),
    headers Map(LowCardinality(String), String) COMMENT 'headers chosen by the configuration',
    mail_us UInt64 COMMENT 'microseconds until the reply to MAIL, of transfer_us like the four below' CODEC(T64, ZSTD(1)),
    rcpt_us UInt64 COMMENT 'microseconds from there to the last reply to RCPT; next to nothing with PIPELINING' CODEC(T64, ZSTD(1)),
    data_us UInt64 COMMENT 'microseconds from there to the reply to DATA; 0 with CHUNKING' CODEC(T64, ZSTD(1)),
    body_us UInt64 COMMENT 'microseconds of sending the message' CODEC(T64, ZSTD(1)),
    final_dot_us UInt64 COMMENT 'microseconds until the reply to the end of data, or to BDAT' CODEC(T64, ZSTD(1)),
    hold_exempt Bool COMMENT 'the control loop never holds the mail back: adaptive-hold no for its virtual MTA or user, or its job is exempt',
    url_hosts Array(LowCardinality(String)) COMMENT 'hosts of the URLs in the message, in lower case, where the provider refused mail for a URL in the last hour; the first 20 by name',
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock' CODEC(Delta, ZSTD(1)),
    repaired Bool DEFAULT false COMMENT 'stored by a second insert, which the roll-ups leave out because they have the first',
    INDEX message_id_bloom message_id TYPE bloom_filter(0.03) GRANULARITY 1,
    INDEX original_message_id_bloom original_message_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX recipient_key_bloom recipient_key TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX headers_bloom mapValues(headers) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX job_set job TYPE set(500) GRANULARITY 1,
    INDEX reply_template_set reply_template TYPE set(500) GRANULARITY 1,
    INDEX seq_range seq TYPE minmax GRANULARITY 1,
    INDEX arrived_range arrived TYPE minmax GRANULARITY 1,
    PROJECTION by_recipient (SELECT _part_offset ORDER BY recipient)
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, time)
TTL toDateTime(arrived) + INTERVAL 180 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(3)'
COMMENT 'One row per recipient and step: what every node did and what every receiver answered';

CREATE TABLE IF NOT EXISTS events ON CLUSTER `main` AS `carom`.events_local
ENGINE = Distributed(`main`, `carom`, events_local, cityHash64(node))
COMMENT 'One row per recipient and step: what every node did and what every receiver answered';

-- Migration 2: gauges

CREATE TABLE IF NOT EXISTS gauges_local ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node',
    incarnation UUID COMMENT 'life of the node\'s log',
    seq UInt64 COMMENT 'sequence number in the node\'s gauge stream' CODEC(Delta, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it was read, by the node\'s clock' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'provider of the key',
    source LowCardinality(String) COMMENT 'source of the key',
    backlog UInt64 COMMENT 'recipients that are due and wait',
    open_connections UInt32 COMMENT 'open connections' CODEC(T64, ZSTD(1)),
    throttle_bound Float32 COMMENT 'share of the last ten seconds in which the limit held mail back',
    local_factor Float32 COMMENT 'factor of the local guard, 1 if it is not acting',
    static_rate Float64 COMMENT 'configured messages a second, 0 for unlimited',
    static_connections UInt32 COMMENT 'configured connections',
    static_messages UInt32 COMMENT 'configured messages per connection, 0 for unlimited',
    adaptive_rate Float64 COMMENT 'ceiling of the loop in messages a second, 0 for none above static',
    adaptive_connections UInt32 COMMENT 'ceiling of the loop in connections, 0 for none',
    adaptive_messages UInt32 COMMENT 'ceiling of the loop in messages per connection, 0 for none',
    lease_epoch UInt64 COMMENT 'epoch of the lease in force, 0 for none',
    lease_rate Float64 COMMENT 'messages a second of the lease in force',
    effective_rate Float64 COMMENT 'messages a second that bind now, 0 for unlimited; a billionth lets nothing through',
    warmup_start DateTime64(6, 'UTC') COMMENT 'first day of warm-up, 1970 for none',
    established DateTime64(6, 'UTC') COMMENT 'established-since of the source, 1970 for none',
    static_unknown Bool COMMENT 'nothing is sent under the key: what is configured for it is not known, and static and adaptive values are 0',
    source_disabled Bool COMMENT 'no queue of the key that has mail may use the source: a pattern or an operator disabled it',
    backoff_by_config Bool COMMENT 'backoff patterns of the configuration set the rate',
    limit_scope LowCardinality(String) COMMENT 'what the limit is about that held mail back longest in the last ten seconds: node, vmta, pool, queue, source-ip, loop, glide, guard, hold, domain or url; empty if none did',
    limit LowCardinality(String) COMMENT 'that limit: directive and value, or what mail it is about',
    limit_by LowCardinality(String) COMMENT 'who set it: a place in the configuration, or loop, glide or guard with the reason',
    config_hash UInt64 COMMENT 'hash of the configuration in force' CODEC(Delta, ZSTD(1)),
    events_to DateTime64(6, 'UTC') COMMENT 'every event of the node from before it was stored when the gauge was sent, 1970 if that is not known',
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, time, node)
TTL toDateTime(arrived) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
COMMENT 'State of each key (provider, source) on each node, every ten seconds';

CREATE TABLE IF NOT EXISTS gauges ON CLUSTER `main` AS `carom`.gauges_local
ENGINE = Distributed(`main`, `carom`, gauges_local, cityHash64(node))
COMMENT 'State of each key (provider, source) on each node, every ten seconds';

CREATE TABLE IF NOT EXISTS queue_gauges_local ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node',
    incarnation UUID COMMENT 'life of the node\'s log',
    seq UInt64 COMMENT 'sequence number in the node\'s stream of queue gauges' CODEC(Delta, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it was read, by the node\'s clock; the rows of one reading share it' CODEC(Delta, ZSTD(1)),
    queue LowCardinality(String) COMMENT 'domain/vmta; empty in the one row that sums all that have no row of their own',
    vmta LowCardinality(String) COMMENT 'virtual MTA of the queue',
    provider LowCardinality(String) COMMENT 'provider that the queue\'s last session talked to; empty before the first',
    source LowCardinality(String) COMMENT 'source that it was bound to; empty before the first',
    tenant LowCardinality(String) COMMENT 'whose mail the row counts; empty where it sums several',
    job LowCardinality(String) COMMENT 'job of the mail; empty where it sums several, or has none',
    queues UInt32 COMMENT 'queues that the row speaks of: 1, or how many the rest are',
    ready UInt64 COMMENT 'recipients that are due: only the limit is in their way',
    waiting UInt64 COMMENT 'recipients that wait for a time: that of their next attempt, or the end of their queue\'s retry-after',
    held UInt64 COMMENT 'recipients that an operator\'s order about some of the queue\'s mail, or a hold of the control loop, keeps back',
    paused UInt64 COMMENT 'recipients in a queue that an operator has paused',
    estimated Bool COMMENT 'the queue is so long that how its mail divides was estimated from an even sample; what the whole queue holds is exact',
    oldest_age UInt64 COMMENT 'seconds since the oldest of them was accepted',
    backoff Bool COMMENT 'the queue is in backoff mode',
    limit_scope LowCardinality(String) COMMENT 'what the limit that binds is about: order, hold, queue, node, source-ip, vmta, pool, loop, glide, guard or key; the rest has none, and so has what nothing keeps',
    limit LowCardinality(String) COMMENT 'the limit that binds: directive and value, or what the queue waits for',
    limit_by LowCardinality(String) COMMENT 'who set it: a place in the configuration, loop, guard, receiver, or an operator',
    config_hash UInt64 COMMENT 'hash of the configuration in force' CODEC(Delta, ZSTD(1)),
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, queue, time, node)
TTL toDateTime(arrived) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
COMMENT 'What waits in each of the largest queues of each node, by tenant and job, every ten seconds';

CREATE TABLE IF NOT EXISTS queue_gauges ON CLUSTER `main` AS `carom`.queue_gauges_local
ENGINE = Distributed(`main`, `carom`, queue_gauges_local, cityHash64(node))
COMMENT 'What waits in each of the largest queues of each node, by tenant and job, every ten seconds';

-- Migration 3: annotations

CREATE TABLE IF NOT EXISTS annotations_local ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node',
    incarnation UUID COMMENT 'life of the node\'s log',
    seq UInt64 COMMENT 'sequence number in the node\'s annotation stream' CODEC(Delta, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it happened, by the node\'s clock' CODEC(Delta, ZSTD(1)),
    name LowCardinality(String) COMMENT 'what happened: start, stop, upgrade, reload, schema, policy, limit-mode, kill-switch, note, or what an order is',
    text String COMMENT 'in words',
    tags Array(LowCardinality(String)) COMMENT 'words to filter by',
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMM(time)
ORDER BY (time, node)
TTL toDateTime(arrived) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Things an operator should see beside the curves: starts, reloads, notes';

CREATE TABLE IF NOT EXISTS annotations ON CLUSTER `main` AS `carom`.annotations_local
ENGINE = Distributed(`main`, `carom`, annotations_local, cityHash64(node))
COMMENT 'Things an operator should see beside the curves: starts, reloads, notes';

-- Migration 4: rollups

CREATE TABLE IF NOT EXISTS k10s_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the ten seconds' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    epoch UInt64 COMMENT 'limit epoch that the attempts started under',
    ok SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted' CODEC(T64, ZSTD(1)),
    usr SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: no such user' CODEC(T64, ZSTD(1)),
    rate SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages a second' CODEC(T64, ZSTD(1)),
    conn SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many connections' CODEC(T64, ZSTD(1)),
    msgc SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages on the connection' CODEC(T64, ZSTD(1)),
    block SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: the source is blocked' CODEC(T64, ZSTD(1)),
    grey SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: greylisted' CODEC(T64, ZSTD(1)),
    unav SimpleAggregateFunction(sum, UInt64) COMMENT 'receiver unavailable, connection failures included' CODEC(T64, ZSTD(1)),
    content SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: content' CODEC(T64, ZSTD(1)),
    auth SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: authentication of the sender' CODEC(T64, ZSTD(1)),
    other SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: unclassified' CODEC(T64, ZSTD(1)),
    n1 SimpleAggregateFunction(sum, UInt64) COMMENT 'first attempts' CODEC(T64, ZSTD(1)),
    f1 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n1' CODEC(T64, ZSTD(1)),
    n2 SimpleAggregateFunction(sum, UInt64) COMMENT 'retries' CODEC(T64, ZSTD(1)),
    f2 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n2' CODEC(T64, ZSTD(1)),
    canaries SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that were canaries' CODEC(T64, ZSTD(1)),
    canary_block SimpleAggregateFunction(sum, UInt64) COMMENT 'canaries among block' CODEC(T64, ZSTD(1)),
    max_open SimpleAggregateFunction(max, UInt32) COMMENT 'most connections of the key that one node had open',
    min_msgc_idx SimpleAggregateFunction(min, UInt32) COMMENT 'smallest message number on a connection that msgc was answered to; 4294967295 for none',
    sample_reply SimpleAggregateFunction(max, String) COMMENT 'one of the refusals, cut; empty for none',
    last_arrived SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'second by which the last of these events had reached ClickHouse' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, epoch, ts)
TTL toDateTime(ts) + INTERVAL 2 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Answers per key and limit epoch in steps of ten seconds: the evidence of the control loop';

CREATE TABLE IF NOT EXISTS k10s ON CLUSTER `main` AS `carom`.k10s_local
ENGINE = Distributed(`main`, `carom`, k10s_local)
COMMENT 'Answers per key and limit epoch in steps of ten seconds: the evidence of the control loop';

CREATE MATERIALIZED VIEW IF NOT EXISTS k10s_mv ON CLUSTER `main` TO k10s_local AS
SELECT
    toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND) AS ts,
    provider,
    source,
    limit_epoch AS epoch,
    countIf(dimension = 'ok') AS ok,
    countIf(dimension = 'user') AS usr,
    countIf(dimension = 'rate') AS rate,
    countIf(dimension = 'connections') AS conn,
    countIf(dimension = 'messages') AS msgc,
    countIf(dimension = 'block') AS block,
    countIf(dimension = 'greylist') AS grey,
    countIf(dimension = 'unavailable') AS unav,
    countIf(dimension = 'content') AS content,
    countIf(dimension = 'auth') AS auth,
    countIf(dimension IN ('', 'other')) AS other,
    countIf(kind != 'queue-deferred' AND attempt <= 1) AS n1,
    countIf(kind != 'queue-deferred' AND attempt <= 1 AND dimension IN ('', 'other')) AS f1,
    countIf(kind != 'queue-deferred' AND attempt > 1) AS n2,
    countIf(kind != 'queue-deferred' AND attempt > 1 AND dimension IN ('', 'other')) AS f2,
    countIf(canary) AS canaries,
    countIf(canary AND dimension = 'block') AS canary_block,
    max(open_connections) AS max_open,
    min(if(dimension = 'messages' AND message_on_connection > 0, message_on_connection, 4294967295)) AS min_msgc_idx,
    substring(maxIf(reply, dimension NOT IN ('ok', 'user')), 1, 500) AS sample_reply,
    toDateTime(max(arrived) + toIntervalMicrosecond(999999), 'UTC') AS last_arrived
FROM events_local
WHERE NOT repaired AND kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred')
    AND provider != '' AND source != ''
    AND (scope NOT IN ('domain', 'url', 'recipient') OR scope = 'recipient' AND dimension = 'user')
GROUP BY ts, provider, source, epoch
COMMENT 'Fills k10s from events';

CREATE TABLE IF NOT EXISTS k1m_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    ok SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted' CODEC(T64, ZSTD(1)),
    usr SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: no such user' CODEC(T64, ZSTD(1)),
    rate SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages a second' CODEC(T64, ZSTD(1)),
    conn SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many connections' CODEC(T64, ZSTD(1)),
    msgc SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages on the connection' CODEC(T64, ZSTD(1)),
    block SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: the source is blocked' CODEC(T64, ZSTD(1)),
    grey SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: greylisted' CODEC(T64, ZSTD(1)),
    unav SimpleAggregateFunction(sum, UInt64) COMMENT 'receiver unavailable, connection failures included' CODEC(T64, ZSTD(1)),
    content SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: content' CODEC(T64, ZSTD(1)),
    auth SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: authentication of the sender' CODEC(T64, ZSTD(1)),
    other SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: unclassified' CODEC(T64, ZSTD(1)),
    n1 SimpleAggregateFunction(sum, UInt64) COMMENT 'first attempts' CODEC(T64, ZSTD(1)),
    f1 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n1' CODEC(T64, ZSTD(1)),
    n2 SimpleAggregateFunction(sum, UInt64) COMMENT 'retries' CODEC(T64, ZSTD(1)),
    f2 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n2' CODEC(T64, ZSTD(1)),
    canaries SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that were canaries' CODEC(T64, ZSTD(1)),
    canary_block SimpleAggregateFunction(sum, UInt64) COMMENT 'canaries among block' CODEC(T64, ZSTD(1)),
    max_open SimpleAggregateFunction(max, UInt32) COMMENT 'most connections of the key that one node had open',
    min_msgc_idx SimpleAggregateFunction(min, UInt32) COMMENT 'smallest message number on a connection that msgc was answered to; 4294967295 for none',
    sample_reply SimpleAggregateFunction(max, String) COMMENT 'one of the refusals, cut; empty for none'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, tenant, ts)
TTL toDateTime(ts) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Answers per key and tenant in steps of a minute: the evidence of scores';

CREATE TABLE IF NOT EXISTS k1m ON CLUSTER `main` AS `carom`.k1m_local
ENGINE = Distributed(`main`, `carom`, k1m_local)
COMMENT 'Answers per key and tenant in steps of a minute: the evidence of scores';

CREATE MATERIALIZED VIEW IF NOT EXISTS k1m_mv ON CLUSTER `main` TO k1m_local AS
SELECT
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    tenant,
    countIf(dimension = 'ok') AS ok,
    countIf(dimension = 'user') AS usr,
    countIf(dimension = 'rate') AS rate,
    countIf(dimension = 'connections') AS conn,
    countIf(dimension = 'messages') AS msgc,
    countIf(dimension = 'block') AS block,
    countIf(dimension = 'greylist') AS grey,
    countIf(dimension = 'unavailable') AS unav,
    countIf(dimension = 'content') AS content,
    countIf(dimension = 'auth') AS auth,
    countIf(dimension IN ('', 'other')) AS other,
    countIf(kind != 'queue-deferred' AND attempt <= 1) AS n1,
    countIf(kind != 'queue-deferred' AND attempt <= 1 AND dimension IN ('', 'other')) AS f1,
    countIf(kind != 'queue-deferred' AND attempt > 1) AS n2,
    countIf(kind != 'queue-deferred' AND attempt > 1 AND dimension IN ('', 'other')) AS f2,
    countIf(canary) AS canaries,
    countIf(canary AND dimension = 'block') AS canary_block,
    max(open_connections) AS max_open,
    min(if(dimension = 'messages' AND message_on_connection > 0, message_on_connection, 4294967295)) AS min_msgc_idx,
    substring(maxIf(reply, dimension NOT IN ('ok', 'user')), 1, 500) AS sample_reply
FROM events_local
WHERE NOT repaired AND kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred')
    AND provider != '' AND source != ''
    AND (scope NOT IN ('domain', 'url', 'recipient') OR scope = 'recipient' AND dimension = 'user')
GROUP BY ts, provider, source, tenant
COMMENT 'Fills k1m from events';

CREATE TABLE IF NOT EXISTS k1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    ok SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted' CODEC(T64, ZSTD(1)),
    usr SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: no such user' CODEC(T64, ZSTD(1)),
    rate SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages a second' CODEC(T64, ZSTD(1)),
    conn SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many connections' CODEC(T64, ZSTD(1)),
    msgc SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: too many messages on the connection' CODEC(T64, ZSTD(1)),
    block SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: the source is blocked' CODEC(T64, ZSTD(1)),
    grey SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: greylisted' CODEC(T64, ZSTD(1)),
    unav SimpleAggregateFunction(sum, UInt64) COMMENT 'receiver unavailable, connection failures included' CODEC(T64, ZSTD(1)),
    content SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: content' CODEC(T64, ZSTD(1)),
    auth SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: authentication of the sender' CODEC(T64, ZSTD(1)),
    other SimpleAggregateFunction(sum, UInt64) COMMENT 'refused: unclassified' CODEC(T64, ZSTD(1)),
    n1 SimpleAggregateFunction(sum, UInt64) COMMENT 'first attempts' CODEC(T64, ZSTD(1)),
    f1 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n1' CODEC(T64, ZSTD(1)),
    n2 SimpleAggregateFunction(sum, UInt64) COMMENT 'retries' CODEC(T64, ZSTD(1)),
    f2 SimpleAggregateFunction(sum, UInt64) COMMENT 'unclassified refusals among n2' CODEC(T64, ZSTD(1)),
    canaries SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that were canaries' CODEC(T64, ZSTD(1)),
    canary_block SimpleAggregateFunction(sum, UInt64) COMMENT 'canaries among block' CODEC(T64, ZSTD(1)),
    max_open SimpleAggregateFunction(max, UInt32) COMMENT 'most connections of the key that one node had open',
    min_msgc_idx SimpleAggregateFunction(min, UInt32) COMMENT 'smallest message number on a connection that msgc was answered to; 4294967295 for none',
    sample_reply SimpleAggregateFunction(max, String) COMMENT 'one of the refusals, cut; empty for none'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, tenant, ts)
TTL toDateTime(ts) + INTERVAL 60 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Answers per key and tenant in steps of an hour: the slow part of scores';

CREATE TABLE IF NOT EXISTS provider_minutes_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    delivered SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted' CODEC(T64, ZSTD(1)),
    unknown SimpleAggregateFunction(sum, UInt64) COMMENT 'refused for good: no such user' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, ts)
TTL toDateTime(ts) + INTERVAL 16 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Accepted mail and unknown users of each provider over all sources: the evidence of the breaker';

CREATE TABLE IF NOT EXISTS provider_minutes ON CLUSTER `main` AS `carom`.provider_minutes_local
ENGINE = Distributed(`main`, `carom`, provider_minutes_local)
COMMENT 'Accepted mail and unknown users of each provider over all sources: the evidence of the breaker';

CREATE MATERIALIZED VIEW IF NOT EXISTS provider_minutes_mv ON CLUSTER `main` TO provider_minutes_local AS
SELECT
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
    provider,
    countIf(kind = 'delivered') AS delivered,
    countIf(kind = 'bounced') AS unknown
FROM events_local
WHERE NOT repaired AND provider != '' AND (kind = 'delivered' OR kind = 'bounced' AND class = 'hard' AND dimension = 'user' AND category != 'suppressed')
GROUP BY ts, provider
COMMENT 'Fills provider_minutes from events';

CREATE TABLE IF NOT EXISTS scoped_refusals_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the ten seconds' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    scope LowCardinality(String) COMMENT 'what the refusal is aimed at: domain or url',
    value String COMMENT 'the domain or URL that it names',
    refusals SimpleAggregateFunction(sum, UInt64) COMMENT 'refusals' CODEC(T64, ZSTD(1)),
    sample_reply SimpleAggregateFunction(max, String) COMMENT 'one of them, cut'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, scope, value, ts)
TTL toDateTime(ts) + INTERVAL 2 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Refusals that are aimed at a domain or URL and say nothing of the source, in steps of ten seconds';

CREATE TABLE IF NOT EXISTS scoped_refusals ON CLUSTER `main` AS `carom`.scoped_refusals_local
ENGINE = Distributed(`main`, `carom`, scoped_refusals_local)
COMMENT 'Refusals that are aimed at a domain or URL and say nothing of the source, in steps of ten seconds';

CREATE MATERIALIZED VIEW IF NOT EXISTS scoped_refusals_mv ON CLUSTER `main` TO scoped_refusals_local AS
SELECT
    toStartOfInterval(toDateTime(time, 'UTC'), INTERVAL 10 SECOND) AS ts,
    provider,
    scope,
    scope_value AS value,
    count() AS refusals,
    substring(max(reply), 1, 500) AS sample_reply
FROM events_local
WHERE NOT repaired AND kind IN ('deferred', 'bounced') AND provider != '' AND scope IN ('domain', 'url') AND scope_value != ''
GROUP BY ts, provider, scope, value
COMMENT 'Fills scoped_refusals from events';

CREATE TABLE IF NOT EXISTS rollup_1m_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    category LowCardinality(String) COMMENT 'category of the replies',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1)),
    octets SimpleAggregateFunction(sum, UInt64) COMMENT 'octets of the messages' CODEC(T64, ZSTD(1)),
    within_1m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within a minute of acceptance' CODEC(T64, ZSTD(1)),
    within_10m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within ten minutes' CODEC(T64, ZSTD(1)),
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), provider, source, vmta, pool, kind, class, dimension, category, ts)
TTL toDateTime(ts) + INTERVAL 8 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, outcome and category, in steps of a minute';

CREATE TABLE IF NOT EXISTS rollup_1m ON CLUSTER `main` AS `carom`.rollup_1m_local
ENGINE = Distributed(`main`, `carom`, rollup_1m_local)
COMMENT 'All events by provider, source, virtual MTA, pool, outcome and category, in steps of a minute';

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_1m_mv ON CLUSTER `main` TO rollup_1m_local AS
SELECT
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    vmta,
    pool,
    kind,
    class,
    dimension,
    category,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts,
    sum(size) AS octets,
    countIf(kind = 'delivered' AND queued_us <= 60000000) AS within_1m,
    countIf(kind = 'delivered' AND queued_us <= 600000000) AS within_10m,
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h
FROM events_local
WHERE NOT repaired
GROUP BY ts, provider, source, vmta, pool, kind, class, dimension, category
COMMENT 'Fills rollup_1m from events';

CREATE TABLE IF NOT EXISTS rollup_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    category LowCardinality(String) COMMENT 'category of the replies',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1)),
    octets SimpleAggregateFunction(sum, UInt64) COMMENT 'octets of the messages' CODEC(T64, ZSTD(1)),
    within_1m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within a minute of acceptance' CODEC(T64, ZSTD(1)),
    within_10m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within ten minutes' CODEC(T64, ZSTD(1)),
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (ts, provider, source, tenant, vmta, pool, kind, class, dimension, category)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of an hour';

CREATE TABLE IF NOT EXISTS rollup_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    category LowCardinality(String) COMMENT 'category of the replies',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1)),
    octets SimpleAggregateFunction(sum, UInt64) COMMENT 'octets of the messages' CODEC(T64, ZSTD(1)),
    within_1m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within a minute of acceptance' CODEC(T64, ZSTD(1)),
    within_10m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within ten minutes' CODEC(T64, ZSTD(1)),
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (ts, provider, source, tenant, vmta, pool, kind, class, dimension, category)
TTL toDateTime(ts) + INTERVAL 1500 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of a day';

CREATE TABLE IF NOT EXISTS latency_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts for one recipient' CODEC(T64, ZSTD(1)),
    to_deliver AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from acceptance to delivery, of the delivered',
    dns AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from MAIL to the last reply'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (ts, provider, source)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of an hour';

CREATE TABLE IF NOT EXISTS latency_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts for one recipient' CODEC(T64, ZSTD(1)),
    to_deliver AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from acceptance to delivery, of the delivered',
    dns AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from MAIL to the last reply'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (ts, provider, source)
TTL toDateTime(ts) + INTERVAL 1500 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of a day';

CREATE TABLE IF NOT EXISTS jobs_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    job LowCardinality(String) COMMENT 'job of the messages, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1)),
    octets SimpleAggregateFunction(sum, UInt64) COMMENT 'octets of the messages' CODEC(T64, ZSTD(1)),
    within_1m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within a minute of acceptance' CODEC(T64, ZSTD(1)),
    within_10m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within ten minutes' CODEC(T64, ZSTD(1)),
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (tenant, job, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by job, tenant, provider and outcome, in steps of an hour';

CREATE TABLE IF NOT EXISTS jobs_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    job LowCardinality(String) COMMENT 'job of the messages, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1)),
    octets SimpleAggregateFunction(sum, UInt64) COMMENT 'octets of the messages' CODEC(T64, ZSTD(1)),
    within_1m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within a minute of acceptance' CODEC(T64, ZSTD(1)),
    within_10m SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within ten minutes' CODEC(T64, ZSTD(1)),
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (tenant, job, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by job, tenant, provider and outcome, in steps of a day';

CREATE TABLE IF NOT EXISTS domains_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipients',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (recipient_domain, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by recipient domain and outcome, in steps of an hour';

CREATE TABLE IF NOT EXISTS domains_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipients',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (recipient_domain, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by recipient domain and outcome, in steps of a day';

CREATE TABLE IF NOT EXISTS senders_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    from_domain LowCardinality(String) COMMENT 'domain of the From field',
    dkim_domain LowCardinality(String) COMMENT 'a d= that carom signed with, empty for none',
    signature UInt8 COMMENT '0 for the first signature of a message or none: sums over all signatures count a message once for each',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (from_domain, dkim_domain, signature, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by From domain, each DKIM domain, provider and outcome, in steps of an hour';

CREATE TABLE IF NOT EXISTS senders_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    from_domain LowCardinality(String) COMMENT 'domain of the From field',
    dkim_domain LowCardinality(String) COMMENT 'a d= that carom signed with, empty for none',
    signature UInt8 COMMENT '0 for the first signature of a message or none: sums over all signatures count a message once for each',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step the events are',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the replies are about',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events' CODEC(T64, ZSTD(1)),
    recipients SimpleAggregateFunction(sum, UInt64) COMMENT 'recipients that they speak of; a queue-deferred event is one with many' CODEC(T64, ZSTD(1)),
    first_attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'events that are the answer to the first attempt for their recipient' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (from_domain, dkim_domain, signature, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by From domain, each DKIM domain, provider and outcome, in steps of a day';

CREATE TABLE IF NOT EXISTS reply_templates_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    template LowCardinality(String) COMMENT 'reply with numbers, ids and addresses replaced',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    category LowCardinality(String) COMMENT 'category of the reply',
    first_seen SimpleAggregateFunction(min, DateTime('UTC')) COMMENT 'first time on that day',
    last_seen SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'last time on that day',
    events SimpleAggregateFunction(sum, UInt64) COMMENT 'events with such a reply' CODEC(T64, ZSTD(1)),
    sample SimpleAggregateFunction(any, String) COMMENT 'one of the replies, cut'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (template, provider, category, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'What receivers say, day by day: each template of replies with first and last time, count and a sample';

CREATE TABLE IF NOT EXISTS reply_templates ON CLUSTER `main` AS `carom`.reply_templates_local
ENGINE = Distributed(`main`, `carom`, reply_templates_local)
COMMENT 'What receivers say, day by day: each template of replies with first and last time, count and a sample';

CREATE MATERIALIZED VIEW IF NOT EXISTS reply_templates_mv ON CLUSTER `main` TO reply_templates_local AS
SELECT
    toStartOfDay(toDateTime(time, 'UTC')) AS ts,
    reply_template AS template,
    provider,
    category,
    toDateTime(min(time), 'UTC') AS first_seen,
    toDateTime(max(time), 'UTC') AS last_seen,
    count() AS events,
    substring(any(reply), 1, 500) AS sample
FROM events_local
WHERE NOT repaired AND reply_template != ''
GROUP BY ts, template, provider, category
COMMENT 'Fills reply_templates from events';

-- Migration 5: control

CREATE TABLE IF NOT EXISTS leases ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'node that the lease is for',
    generation UInt64 COMMENT 'number of the hand-out, only increases; a node ignores smaller ones',
    provider LowCardinality(String) COMMENT 'provider of the key; empty in the row that heads the document',
    source LowCardinality(String) COMMENT 'source of the key; empty in the row that heads the document',
    issued_at DateTime64(6, 'UTC') COMMENT 'when the generation was issued',
    ttl_seconds Float64 COMMENT 'how long the node may use it from first sight, in seconds',
    epoch UInt64 COMMENT 'version of the limit of the key; a re-split keeps it',
    rate Float64 COMMENT 'messages a second for this node',
    connections UInt32 COMMENT 'connections for this node',
    messages_per_connection UInt32 COMMENT 'messages per connection, 0 for no limit',
    canary Bool COMMENT 'the key is suspended: only canaries go out',
    greylisting Bool COMMENT 'the receiver greylists without a word: unclassified refusals of first attempts do not count',
    not_after DateTime64(6, 'UTC') COMMENT 'end of this lease before its ttl, 1970 for none',
    reason_id String COMMENT 'id of the row in limit_log that explains the limit',
    document String COMMENT 'only in the row with empty key: the rest of the limits document as JSON (scoped limits, holds, modes)'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(issued_at)
ORDER BY (node, generation, provider, source)
TTL toDateTime(issued_at) + INTERVAL 2 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
COMMENT 'Limits handed to the nodes; the agents turn the highest generation into limits.json';

CREATE TABLE IF NOT EXISTS limit_state ON CLUSTER `main`
(
    provider LowCardinality(String) COMMENT 'provider of the key',
    source LowCardinality(String) COMMENT 'source of the key',
    generation UInt64 COMMENT 'run of the controller that wrote it; the highest wins',
    updated_at DateTime64(6, 'UTC') COMMENT 'when it was decided',
    epoch UInt64 COMMENT 'version of the limit',
    mode LowCardinality(String) COMMENT 'state of the state machine: startup, cruise, backoff and so on',
    rate Float64 COMMENT 'L: messages a second over all nodes',
    connections UInt32 COMMENT 'C: connections over all nodes',
    messages_per_connection UInt32 COMMENT 'M: messages per connection',
    cap Float64 COMMENT 'measured capacity in messages a second, 0 for unknown',
    goal Float64 COMMENT 'capacity to come back to, in messages a second',
    long_term Float64 COMMENT 'lt: largest accepted rate that was seen lately, in messages a second',
    reason_id String COMMENT 'id of the last row of limit_log',
    state String COMMENT 'whole state of the controller for the key as JSON'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', generation)
ORDER BY (provider, source)
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Where the control loop stands for each key; read with FINAL';

CREATE TABLE IF NOT EXISTS limit_log ON CLUSTER `main`
(
    id String COMMENT 'reason id, carried by leases and events',
    ts DateTime64(6, 'UTC') COMMENT 'when it was decided, by the clock of the job',
    provider LowCardinality(String) COMMENT 'provider of the key',
    source LowCardinality(String) COMMENT 'source of the key',
    epoch UInt64 COMMENT 'epoch that the change begins',
    epoch_from UInt64 COMMENT 'epoch that the evidence was gathered under',
    generation UInt64 COMMENT 'run of the controller that decided',
    kind Enum8('change' = 0, 'would_change' = 1, 'expiry' = 2, 'operator' = 3) COMMENT 'change: took effect; would_change: advised, or overruled by a pin',
    mode_from LowCardinality(String) COMMENT 'state before',
    mode_to LowCardinality(String) COMMENT 'state after',
    rate_old Float64 COMMENT 'L before, messages a second',
    rate_new Float64 COMMENT 'L after, messages a second',
    connections_old UInt32 COMMENT 'C before',
    connections_new UInt32 COMMENT 'C after',
    messages_old UInt32 COMMENT 'M before, messages per connection',
    messages_new UInt32 COMMENT 'M after, messages per connection',
    rule_id LowCardinality(String) COMMENT 'rule that fired',
    reason_text String COMMENT 'the reason in words',
    window_from DateTime64(6, 'UTC') COMMENT 'start of the evidence, included',
    window_to DateTime64(6, 'UTC') COMMENT 'end of the evidence, excluded',
    n_by_class Map(LowCardinality(String), UInt64) COMMENT 'attempts of the window by dimension, as the columns of k10s name them',
    p Float64 COMMENT 'share of refusals in the window',
    wilson_lo Float64 COMMENT 'lower bound of p that was compared',
    accepted_rate Float64 COMMENT 'a: accepted messages a second at overload',
    cap Float64 COMMENT 'capacity after the decision, messages a second',
    goal Float64 COMMENT 'goal after the decision, messages a second',
    long_term Float64 COMMENT 'lt after the decision, messages a second',
    sample_replies Array(String) COMMENT 'up to three replies of the window',
    score Float64 COMMENT 'score of the key at that time, 0 to 100; 0 with an empty band',
    band LowCardinality(String) COMMENT 'band of the score, empty if there was none',
    pinned_by String COMMENT 'who pinned the key, empty if nobody',
    actor LowCardinality(String) COMMENT 'who decided: loop, or an operator by name',
    expires_at DateTime64(6, 'UTC') COMMENT 'when the decision lapses, 1970 for never',
    policy_hash UInt64 COMMENT 'hash of the policy that was in force',
    state_before String COMMENT 'controller state before, as JSON',
    evidence String COMMENT 'everything else the decision was computed from, as JSON'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (provider, source, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Every change of a limit with its evidence, before and after, actor and expiry';

CREATE TABLE IF NOT EXISTS overrides ON CLUSTER `main`
(
    id UUID COMMENT 'the override; a later version replaces it, cancelling included',
    version UInt64 COMMENT 'version of the row, microseconds since 1970; the highest wins',
    kind Enum8('pin' = 1, 'cancel' = 2, 'mode' = 3, 'kill' = 4) COMMENT 'pin: fixes a limit; cancel: takes a change back, and the loop waits; mode: active, advise or off; kill: the loop does nothing',
    provider LowCardinality(String) COMMENT 'provider it is for, empty for all',
    source LowCardinality(String) COMMENT 'source it is for, empty for all',
    rate Float64 COMMENT 'messages a second of a pin, 0 for not pinned',
    ceiling Float64 COMMENT 'messages a second that the loop may not go above, 0 for none',
    floor Float64 COMMENT 'messages a second that the loop may not go below, 0 for none',
    connections UInt32 COMMENT 'connections of a pin, 0 for not pinned',
    messages_per_connection UInt32 COMMENT 'messages per connection of a pin, 0 for not pinned',
    mode LowCardinality(String) COMMENT 'mode to set: active, advise or off',
    cancels String COMMENT 'id of the row of limit_log that is taken back, empty for none',
    actor String COMMENT 'who set it',
    reason String COMMENT 'why',
    created_at DateTime64(6, 'UTC') COMMENT 'when it was set',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it lapses, 1970 for never',
    cancelled Bool COMMENT 'it was taken back'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', version)
ORDER BY id
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What operators told the loop: pins, modes, the kill switch; read with FINAL';

-- Migration 6: suppressions

CREATE TABLE IF NOT EXISTS suppressions ON CLUSTER `main`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
ORDER BY (recipient_key, tenant, time, tombstone, pending)
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 256
COMMENT 'Suppressions and their tombstones, append-only; the view suppressed is the present state';

CREATE VIEW IF NOT EXISTS suppressed ON CLUSTER `main`
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

CREATE VIEW IF NOT EXISTS suppressions_pending ON CLUSTER `main`
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

CREATE TABLE IF NOT EXISTS suppression_changes ON CLUSTER `main`
(
    arrived DateTime64(6, 'UTC') COMMENT 'when the row reached ClickHouse, by its clock',
    recipient_key String COMMENT 'key that the row is about'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(arrived)
ORDER BY arrived
TTL toDateTime(arrived) + INTERVAL 3 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
COMMENT 'Keys of which suppressions has new rows, by time';

CREATE MATERIALIZED VIEW IF NOT EXISTS suppression_changes_mv ON CLUSTER `main` TO suppression_changes AS
SELECT arrived, recipient_key
FROM suppressions
WHERE recipient_key != ''
COMMENT 'Fills suppression_changes from suppressions';

CREATE TABLE IF NOT EXISTS soft_bounces ON CLUSTER `main`
(
    recipient_key String COMMENT 'keyed hash of the normalised address',
    message_id UUID COMMENT 'message that was refused',
    recipient_index UInt32 COMMENT 'which recipient of the message',
    time DateTime64(6, 'UTC') COMMENT 'when it was refused first',
    category LowCardinality(String) COMMENT 'category of the reply',
    provider LowCardinality(String) COMMENT 'provider whose answer it was',
    reply String COMMENT 'the reply, cut'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
ORDER BY (recipient_key, message_id, recipient_index)
TTL toDateTime(time) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Messages that were refused because of a mailbox that is alive; enough of them suppress for a while';

CREATE TABLE IF NOT EXISTS suppression_waves ON CLUSTER `main`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', found_at)
PARTITION BY toYYYYMM(minute)
ORDER BY (provider, minute)
TTL toDateTime(minute) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Minutes in which a provider refused so many as unknown that it was believed to be its accident; read with FINAL';

CREATE TABLE IF NOT EXISTS webhook_deliveries ON CLUSTER `main`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', version)
PARTITION BY toYYYYMM(event_time)
ORDER BY (endpoint, event_id)
TTL toDateTime(event_time) + INTERVAL 90 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What became of each complaint that the operator''s own system is told of; read with FINAL';

-- Migration 7: operations

CREATE TABLE IF NOT EXISTS nodes ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node',
    incarnation UUID COMMENT 'life of its event log',
    seen_at DateTime64(6, 'UTC') COMMENT 'last sign of life of its agent; the latest row wins',
    started_at DateTime64(6, 'UTC') COMMENT 'start of the agent',
    version String COMMENT 'version of carom on the node',
    event_seq UInt64 COMMENT 'last event that is known to be here',
    gauge_seq UInt64 COMMENT 'last gauge that is known to be here',
    queue_gauge_seq UInt64 COMMENT 'last queue gauge that is known to be here',
    annotation_seq UInt64 COMMENT 'last annotation that is known to be here',
    quarantined UInt64 COMMENT 'records that could not be stored and lie in the quarantine files of the node',
    limits_generation UInt64 COMMENT 'generation of its limits.json'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', seen_at)
ORDER BY (node, incarnation)
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'The nodes and their agents'' last sign of life; read with FINAL';

CREATE TABLE IF NOT EXISTS job_runs ON CLUSTER `main`
(
    job LowCardinality(String) COMMENT 'name of the job',
    started_at DateTime64(6, 'UTC') COMMENT 'start of the run',
    run_id UUID COMMENT 'the run',
    updated_at DateTime64(6, 'UTC') COMMENT 'when this row was written; the latest wins',
    finished_at DateTime64(6, 'UTC') COMMENT 'end of the run, 1970 while it runs',
    status Enum8('running' = 0, 'ok' = 1, 'failed' = 2, 'skipped' = 3) COMMENT 'skipped: another run had the turn',
    generation UInt64 COMMENT 'generation that the run wrote, 0 for none',
    instance String COMMENT 'host and process of the run',
    version String COMMENT 'version of carom',
    data_to DateTime64(6, 'UTC') COMMENT 'how far the data reached that the run used',
    keys UInt32 COMMENT 'keys that were looked at',
    changes UInt32 COMMENT 'changes that were made',
    rows_read UInt64 COMMENT 'rows read from ClickHouse',
    error String COMMENT 'why it failed'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', updated_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (job, started_at, run_id)
TTL toDateTime(started_at) + INTERVAL 90 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Runs of the analytics jobs; read with FINAL';

CREATE TABLE IF NOT EXISTS imports ON CLUSTER `main`
(
    node String COMMENT 'import/ and the beginning of head_hash: the node of the events of the file',
    incarnation UUID COMMENT 'of the events of the file, made of head_hash',
    updated_at DateTime64(6, 'UTC') COMMENT 'when the row was written; the latest wins',
    file String COMMENT 'where the file was read last',
    format LowCardinality(String) COMMENT 'what the file is: pmta',
    head_bytes UInt64 COMMENT 'octets at its beginning by which the file is known again, uncompressed',
    head_hash String COMMENT 'their SHA-256 in hexadecimal',
    text_bytes UInt64 COMMENT 'octets that were read, uncompressed, those of the last batch included',
    file_bytes UInt64 COMMENT 'size of the file on disk when it was read to its end, 0 before',
    record_from UInt64 COMMENT 'first record of the last batch, from 1, without header lines',
    records UInt64 COMMENT 'its last record; what was skipped counts as well',
    seq_from UInt64 COMMENT 'first seq of the last batch',
    seq UInt64 COMMENT 'its last seq: the number of events of the file',
    skipped UInt64 COMMENT 'records that were skipped so far',
    done Bool COMMENT 'the last batch is known to be stored',
    imported_by String COMMENT 'version of carom'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', updated_at)
ORDER BY node
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Files that were imported and how far; read with FINAL';

-- Migration 8: completeness

CREATE VIEW IF NOT EXISTS completeness ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node, or import/ and the hash of the file',
    incarnation UUID COMMENT 'life of its log',
    stream String COMMENT 'event, gauge, queue_gauge or annotation',
    first_seq UInt64 COMMENT 'lowest number that is stored',
    last_seq UInt64 COMMENT 'highest number that is stored',
    row_count UInt64 COMMENT 'rows that are stored',
    gaps Int64 COMMENT 'numbers between them that are missing',
    duplicates Int64 COMMENT 'rows too many',
    before_first Int64 COMMENT 'numbers below the lowest: missing, or past retention'
)
COMMENT 'Per node, life of the log and stream: numbers missing and numbers stored twice'
AS SELECT
    node,
    incarnation,
    stream,
    min(seq) AS first_seq,
    max(seq) AS last_seq,
    count() AS row_count,
    max(seq) - min(seq) + 1 - uniqExact(seq) AS gaps,
    count() - uniqExact(seq) AS duplicates,
    min(seq) - 1 AS before_first
FROM
(
    SELECT node, incarnation, 'event' AS stream, seq FROM events
    UNION ALL
    SELECT node, incarnation, 'gauge' AS stream, seq FROM gauges
    UNION ALL
    SELECT node, incarnation, 'queue_gauge' AS stream, seq FROM queue_gauges
    UNION ALL
    SELECT node, incarnation, 'annotation' AS stream, seq FROM annotations
)
GROUP BY node, incarnation, stream;

CREATE TABLE IF NOT EXISTS completeness_ledger ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node; empty in the row that says how far the job went',
    incarnation UUID COMMENT 'life of its log',
    stream LowCardinality(String) COMMENT 'event, gauge, queue_gauge or annotation',
    generation UInt64 COMMENT 'run of the job that wrote it',
    updated_at DateTime64(6, 'UTC') COMMENT 'when it was written; the latest wins',
    arrived_to DateTime64(6, 'UTC') COMMENT 'what arrived until then was counted',
    first_seq UInt64 COMMENT 'first number that was seen',
    high_seq UInt64 COMMENT 'highest number that was seen, or confirmed by the agent',
    row_count UInt64 COMMENT 'rows that arrived',
    missing_from Array(UInt64) COMMENT 'first numbers of the runs that are missing, in order',
    missing_to Array(UInt64) COMMENT 'last numbers of the runs that are missing',
    duplicates UInt64 COMMENT 'rows too many',
    twice_from Array(UInt64) COMMENT 'first numbers of runs with rows too many, a hundred at most',
    twice_to Array(UInt64) COMMENT 'last numbers of these runs',
    last_arrived DateTime64(6, 'UTC') COMMENT 'when the last of its rows arrived'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', updated_at)
ORDER BY (node, incarnation, stream)
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What the job completeness has counted of each stream; read with FINAL';

-- Migration 9: reports

CREATE TABLE IF NOT EXISTS reports_local ON CLUSTER `main`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMM(time)
ORDER BY (node, incarnation, seq)
TTL toDateTime(time) + INTERVAL 180 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Bounces and complaints as they came, a narrow copy of events; read with FINAL';

CREATE TABLE IF NOT EXISTS reports ON CLUSTER `main` AS `carom`.reports_local
ENGINE = Distributed(`main`, `carom`, reports_local)
COMMENT 'Bounces and complaints as they came, a narrow copy of events; read with FINAL';

CREATE MATERIALIZED VIEW IF NOT EXISTS reports_mv ON CLUSTER `main` TO reports_local AS
SELECT
    node, incarnation, seq, time, toString(kind) AS kind, recipient_key, mail_from, feedback_type,
    toString(category) AS category, toString(class) AS class, toString(dimension) AS dimension,
    match_method, match_confidence, original_message_id, original_index, headers['Message-ID'] AS quoted_message_id, arrived
FROM events_local
WHERE kind IN ('remote-bounce', 'remote-status', 'complaint')
COMMENT 'Fills reports from events';

CREATE TABLE IF NOT EXISTS attributions ON CLUSTER `main`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', attributed_at)
PARTITION BY toYYYYMM(time)
ORDER BY (node, incarnation, seq)
TTL toDateTime(time) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Which delivery each report was about, and whose it was; read with FINAL';

CREATE VIEW IF NOT EXISTS attributed ON CLUSTER `main`
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

CREATE VIEW IF NOT EXISTS report_cohorts ON CLUSTER `main`
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

-- Migration 10: views

CREATE VIEW IF NOT EXISTS deliveries ON CLUSTER `main`
(
    time DateTime64(6, 'UTC') COMMENT 'when the receiver accepted the message',
    message_id UUID COMMENT 'message',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipient String COMMENT 'address',
    recipient_domain LowCardinality(String) COMMENT 'its domain',
    mail_from String COMMENT 'return path, empty for the null sender',
    from_domain LowCardinality(String) COMMENT 'domain of the From header',
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    job LowCardinality(String) COMMENT 'job',
    queue LowCardinality(String) COMMENT 'queue, domain/vmta',
    attempt UInt32 COMMENT 'at which attempt, from 1',
    seconds Float64 COMMENT 'seconds from acceptance here to acceptance there',
    size UInt64 COMMENT 'octets of the message',
    mx_host LowCardinality(String) COMMENT 'host that took it',
    mx_ip IPv6 COMMENT 'its address',
    tls LowCardinality(String) COMMENT 'TLS version, empty for clear text',
    reply String COMMENT 'what the receiver answered',
    connect_ms Float64 COMMENT 'milliseconds until the greeting, 0 on a connection that was used again',
    tls_ms Float64 COMMENT 'milliseconds of the TLS handshake',
    transfer_ms Float64 COMMENT 'milliseconds from MAIL to the last reply',
    message_on_connection UInt32 COMMENT 'number of the message on its connection, from 1',
    limited_by LowCardinality(String) COMMENT 'which limit held it back longest: queue, source-ip, vmta, pool, node; loop, glide or guard if it was set automatically; empty for none',
    limit_reason String COMMENT 'id in limit_log of the limit in force',
    node LowCardinality(String) COMMENT 'node that sent it'
)
COMMENT 'Accepted by the receiver: one row a recipient'
AS SELECT
    time, message_id, recipient_index, recipient, recipient_domain, mail_from, from_domain, provider, source, vmta, pool, tenant, job, queue,
    attempt, queued_us / 1e6 AS seconds, size, mx_host, mx_ip, tls_version AS tls, reply,
    connect_us / 1e3 AS connect_ms, tls_us / 1e3 AS tls_ms, transfer_us / 1e3 AS transfer_ms, message_on_connection,
    limiting_scope AS limited_by, limit_reason, node
FROM events
WHERE kind = 'delivered';

CREATE VIEW IF NOT EXISTS bounces ON CLUSTER `main`
(
    time DateTime64(6, 'UTC') COMMENT 'when it was refused, given up, or reported',
    how LowCardinality(String) COMMENT 'refused: by the receiver at once; expired: given up here; reported: accepted first and returned by mail later',
    delivered_at DateTime64(6, 'UTC') COMMENT 'of reported ones: when the receiver had accepted it; else 1970',
    message_id UUID COMMENT 'message',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipient String COMMENT 'address; empty for reported ones, which have recipient_key',
    recipient_key String COMMENT 'keyed hash of the address, the key of suppressions',
    recipient_domain LowCardinality(String) COMMENT 'domain of the address; empty for reported ones',
    from_domain LowCardinality(String) COMMENT 'domain of the From header',
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    job LowCardinality(String) COMMENT 'job',
    attempt UInt32 COMMENT 'number of the last attempt; 0 if there was none, and for reported ones',
    hard Bool COMMENT 'the address is dead; else it may be mailed again',
    category LowCardinality(String) COMMENT 'why, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: user, content, block, and so on',
    code UInt16 COMMENT 'SMTP reply code, 0 for none',
    enhanced LowCardinality(String) COMMENT 'enhanced status code',
    reply String COMMENT 'what the receiver answered; empty for reported ones, see message_trace',
    reply_template LowCardinality(String) COMMENT 'reply without what differs from mail to mail, to group by',
    seconds Float64 COMMENT 'seconds since acceptance here; of reported ones since acceptance there'
)
COMMENT 'Recipients that bounced: refused, expired, or returned by mail later; one row each'
AS SELECT
    time, if(kind = 'expired', 'expired', 'refused') AS how, toDateTime64(0, 6, 'UTC') AS delivered_at, message_id, recipient_index,
    recipient, recipient_key, recipient_domain, from_domain, provider, source, vmta, pool, tenant, job, attempt,
    class = 'hard' AS hard, category, toString(dimension) AS dimension, code, enhanced, reply, reply_template, queued_us / 1e6 AS seconds
FROM events
WHERE kind IN ('bounced', 'expired')
UNION ALL
SELECT
    time, 'reported' AS how, delivered_at, message_id, recipient_index,
    '' AS recipient, recipient_key, '' AS recipient_domain, from_domain, provider, source, vmta, pool, tenant, job, 0 AS attempt,
    class = 'hard' AS hard, category, dimension, 0 AS code, '' AS enhanced, '' AS reply, '' AS reply_template,
    (toUnixTimestamp64Micro(time) - toUnixTimestamp64Micro(delivered_at)) / 1e6 AS seconds
FROM attributed
WHERE kind = 'remote-bounce';

CREATE VIEW IF NOT EXISTS deferrals ON CLUSTER `main`
(
    time DateTime64(6, 'UTC') COMMENT 'when the attempt failed',
    what LowCardinality(String) COMMENT 'recipient: one recipient was told later; queue: the connection failed, for all that waits',
    recipients UInt32 COMMENT 'recipients that wait because of it: 1, or those of the queue; never sum those of what = queue, they are the same ones every time',
    message_id UUID COMMENT 'message; zero for a queue',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipient String COMMENT 'address; empty for a queue',
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipient or of the queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for a queue',
    job LowCardinality(String) COMMENT 'job; empty for a queue',
    queue LowCardinality(String) COMMENT 'queue, domain/vmta',
    attempt UInt32 COMMENT 'number of the attempt, from 1; 0 for a queue',
    phase LowCardinality(String) COMMENT 'where the attempt ended',
    category LowCardinality(String) COMMENT 'why, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: rate, connections, block, greylist, and so on',
    code UInt16 COMMENT 'SMTP reply code, 0 if there was no reply',
    enhanced LowCardinality(String) COMMENT 'enhanced status code',
    reply String COMMENT 'what the receiver answered, or what went wrong here',
    reply_template LowCardinality(String) COMMENT 'reply without what differs from mail to mail, to group by',
    mx_host LowCardinality(String) COMMENT 'host that was asked',
    mx_ip IPv6 COMMENT 'its address',
    seconds Float64 COMMENT 'seconds since acceptance here',
    limited_by LowCardinality(String) COMMENT 'which limit held the attempt back longest, empty for none',
    limit_reason String COMMENT 'id in limit_log of the limit in force',
    node LowCardinality(String) COMMENT 'node that tried'
)
COMMENT 'Attempts that will be repeated: one row a recipient and attempt, or a queue and attempt'
AS SELECT
    time, if(kind = 'queue-deferred', 'queue', 'recipient') AS what, recipients, message_id, recipient_index, recipient, recipient_domain,
    provider, source, vmta, pool, tenant, job, queue, attempt, toString(phase) AS phase, category, toString(dimension) AS dimension, code, enhanced,
    reply, reply_template, mx_host, mx_ip, queued_us / 1e6 AS seconds, limiting_scope AS limited_by, limit_reason, node
FROM events
WHERE kind IN ('deferred', 'queue-deferred');

CREATE VIEW IF NOT EXISTS complaints ON CLUSTER `main`
(
    time DateTime64(6, 'UTC') COMMENT 'when the complaint came',
    delivered_at DateTime64(6, 'UTC') COMMENT 'when the message was delivered that it is about',
    hours Float64 COMMENT 'hours in between',
    message_id UUID COMMENT 'message that it is about',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipient_key String COMMENT 'keyed hash of the address, the key of suppressions',
    provider LowCardinality(String) COMMENT 'provider that had taken the message',
    source LowCardinality(String) COMMENT 'address that it was sent from',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    job String COMMENT 'job of the message',
    from_domain LowCardinality(String) COMMENT 'domain of the From header',
    mail_from_domain LowCardinality(String) COMMENT 'domain of the return path',
    feedback_type LowCardinality(String) COMMENT 'abuse, fraud, virus and so on (RFC 5965)',
    match_method LowCardinality(String) COMMENT 'how the message was found'
)
COMMENT 'Complaints that count: proven, and the first of each message and recipient'
AS SELECT
    time, delivered_at, (toUnixTimestamp64Micro(time) - toUnixTimestamp64Micro(delivered_at)) / 3.6e9 AS hours, message_id, recipient_index, recipient_key,
    provider, source, vmta, pool, tenant, job, from_domain, mail_from_domain, feedback_type, match_method
FROM attributed
WHERE kind = 'complaint';

CREATE VIEW IF NOT EXISTS message_trace ON CLUSTER `main`
(
    time DateTime64(6, 'UTC') COMMENT 'when, by the clock of the node; to be sorted by',
    message_id UUID COMMENT 'message; of reports the one that they are about',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipient String COMMENT 'address',
    step LowCardinality(String) COMMENT 'received, deferred, delivered, bounced, expired, suppressed, complaint and so on',
    attempt UInt32 COMMENT 'number of the attempt, from 1; 0 for a step that is none',
    seconds Float64 COMMENT 'seconds since acceptance',
    provider LowCardinality(String) COMMENT 'who decides about the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    mx_host LowCardinality(String) COMMENT 'host that was talked to',
    phase LowCardinality(String) COMMENT 'where the attempt ended',
    reply String COMMENT 'what the receiver answered, or what went wrong here',
    category LowCardinality(String) COMMENT 'what that means, one of 30 words',
    class LowCardinality(String) COMMENT 'hard: the address is dead; soft: it is not',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    job LowCardinality(String) COMMENT 'job',
    dns_ms Float64 COMMENT 'milliseconds of DNS look-ups',
    connect_ms Float64 COMMENT 'milliseconds until the greeting, 0 on a connection that was used again',
    tls_ms Float64 COMMENT 'milliseconds of the TLS handshake',
    transfer_ms Float64 COMMENT 'milliseconds from MAIL to the last reply',
    limit_actor LowCardinality(String) COMMENT 'who had set the limit in force: config, loop, glide, guard',
    limited_by LowCardinality(String) COMMENT 'which limit held the attempt back longest, empty for none',
    limit_reason String COMMENT 'id in limit_log of the limit in force',
    node LowCardinality(String) COMMENT 'node that wrote it'
)
COMMENT 'The life of a message: its steps, and the reports about it'
AS SELECT
    time, message_id, recipient_index, recipient, toString(kind) AS step, attempt, queued_us / 1e6 AS seconds, provider, source, vmta, mx_host,
    toString(phase) AS phase, reply, category, toString(class) AS class, tenant, job,
    dns_us / 1e3 AS dns_ms, connect_us / 1e3 AS connect_ms, tls_us / 1e3 AS tls_ms, transfer_us / 1e3 AS transfer_ms,
    limit_actor, limiting_scope AS limited_by, limit_reason, node
FROM events
WHERE kind NOT IN ('remote-bounce', 'remote-status', 'complaint')
UNION ALL
SELECT
    time, original_message_id AS message_id, original_index AS recipient_index, recipient, toString(kind) AS step, 0 AS attempt, 0 AS seconds,
    provider, source, vmta, mx_host, '' AS phase, reply, category, toString(class) AS class, tenant, job,
    0 AS dns_ms, 0 AS connect_ms, 0 AS tls_ms, 0 AS transfer_ms, '' AS limit_actor, '' AS limited_by, '' AS limit_reason, node
FROM events
WHERE kind IN ('remote-bounce', 'remote-status', 'complaint');

CREATE VIEW IF NOT EXISTS traffic_minute ON CLUSTER `main`
(
    minute DateTime('UTC') COMMENT 'start of the minute',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees; empty before it is known',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    category LowCardinality(String) COMMENT 'what the answer means, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    octets_delivered UInt64 COMMENT 'octets of the delivered messages, once for each recipient',
    delivered_1m UInt64 COMMENT 'of the delivered, those that took a minute at most since they were accepted here',
    delivered_10m UInt64 COMMENT 'of the delivered, those that took ten minutes at most',
    delivered_1h UInt64 COMMENT 'of the delivered, those that took an hour at most',
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted'
)
COMMENT 'Counts by minute over all tenants, to be summed: from acceptance to the end of each recipient'
AS SELECT ts AS minute, provider, source, vmta, pool, category, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed,
    if(kind = 'delivered', octets, 0) AS octets_delivered,
    if(kind = 'delivered', within_1m, 0) AS delivered_1m,
    if(kind = 'delivered', within_10m, 0) AS delivered_10m,
    if(kind = 'delivered', within_1h, 0) AS delivered_1h,
    if(kind = 'rejected' AND category = 'suppressed', events, 0) AS refused_suppressed
FROM rollup_1m;

CREATE VIEW IF NOT EXISTS traffic_hour ON CLUSTER `main`
(
    hour DateTime('UTC') COMMENT 'start of the hour',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees; empty before it is known',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    category LowCardinality(String) COMMENT 'what the answer means, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    octets_delivered UInt64 COMMENT 'octets of the delivered messages, once for each recipient',
    delivered_1m UInt64 COMMENT 'of the delivered, those that took a minute at most since they were accepted here',
    delivered_10m UInt64 COMMENT 'of the delivered, those that took ten minutes at most',
    delivered_1h UInt64 COMMENT 'of the delivered, those that took an hour at most',
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted'
)
COMMENT 'Counts by hour, to be summed'
AS SELECT ts AS hour, tenant, provider, source, vmta, pool, category, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed,
    if(kind = 'delivered', octets, 0) AS octets_delivered,
    if(kind = 'delivered', within_1m, 0) AS delivered_1m,
    if(kind = 'delivered', within_10m, 0) AS delivered_10m,
    if(kind = 'delivered', within_1h, 0) AS delivered_1h,
    if(kind = 'rejected' AND category = 'suppressed', events, 0) AS refused_suppressed
FROM (
    SELECT ts, provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM rollup_1h
    UNION ALL
SELECT toStartOfHour(f.ts) AS ts, provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    vmta,
    pool,
    kind,
    class,
    dimension,
    category,
    tenant,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts,
    sum(size) AS octets,
    countIf(kind = 'delivered' AND queued_us <= 60000000) AS within_1m,
    countIf(kind = 'delivered' AND queued_us <= 600000000) AS within_10m,
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h
FROM events
WHERE time >= (SELECT max(ts) + INTERVAL 1 hour FROM rollup_1h)
GROUP BY ts, provider, source, vmta, pool, kind, class, dimension, category, tenant
) AS f
);

CREATE VIEW IF NOT EXISTS traffic_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees; empty before it is known',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    category LowCardinality(String) COMMENT 'what the answer means, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    octets_delivered UInt64 COMMENT 'octets of the delivered messages, once for each recipient',
    delivered_1m UInt64 COMMENT 'of the delivered, those that took a minute at most since they were accepted here',
    delivered_10m UInt64 COMMENT 'of the delivered, those that took ten minutes at most',
    delivered_1h UInt64 COMMENT 'of the delivered, those that took an hour at most',
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted'
)
COMMENT 'Counts by day, to be summed'
AS SELECT toDate(ts) AS day, tenant, provider, source, vmta, pool, category, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed,
    if(kind = 'delivered', octets, 0) AS octets_delivered,
    if(kind = 'delivered', within_1m, 0) AS delivered_1m,
    if(kind = 'delivered', within_10m, 0) AS delivered_10m,
    if(kind = 'delivered', within_1h, 0) AS delivered_1h,
    if(kind = 'rejected' AND category = 'suppressed', events, 0) AS refused_suppressed
FROM (
    SELECT ts, provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM rollup_1d
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM rollup_1h AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 day FROM rollup_1d)
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    vmta,
    pool,
    kind,
    class,
    dimension,
    category,
    tenant,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts,
    sum(size) AS octets,
    countIf(kind = 'delivered' AND queued_us <= 60000000) AS within_1m,
    countIf(kind = 'delivered' AND queued_us <= 600000000) AS within_10m,
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h
FROM events
WHERE time >= greatest((SELECT max(ts) + INTERVAL 1 day FROM rollup_1d), (SELECT max(ts) + INTERVAL 1 hour FROM rollup_1h))
GROUP BY ts, provider, source, vmta, pool, kind, class, dimension, category, tenant
) AS f
);

CREATE VIEW IF NOT EXISTS job_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    job LowCardinality(String) COMMENT 'job; empty for mail without one',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    octets_delivered UInt64 COMMENT 'octets of the delivered messages, once for each recipient',
    delivered_1m UInt64 COMMENT 'of the delivered, those that took a minute at most since they were accepted here',
    delivered_10m UInt64 COMMENT 'of the delivered, those that took ten minutes at most',
    delivered_1h UInt64 COMMENT 'of the delivered, those that took an hour at most'
)
COMMENT 'Counts by job and day, to be summed'
AS SELECT toDate(ts) AS day, job, tenant, provider, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed,
    if(kind = 'delivered', octets, 0) AS octets_delivered,
    if(kind = 'delivered', within_1m, 0) AS delivered_1m,
    if(kind = 'delivered', within_10m, 0) AS delivered_10m,
    if(kind = 'delivered', within_1h, 0) AS delivered_1h
FROM (
    SELECT ts, job, tenant, provider, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM jobs_1d
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, job, tenant, provider, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM jobs_1h AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 day FROM jobs_1d)
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, job, tenant, provider, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    job,
    tenant,
    provider,
    kind,
    class,
    dimension,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts,
    sum(size) AS octets,
    countIf(kind = 'delivered' AND queued_us <= 60000000) AS within_1m,
    countIf(kind = 'delivered' AND queued_us <= 600000000) AS within_10m,
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h
FROM events
WHERE time >= greatest((SELECT max(ts) + INTERVAL 1 day FROM jobs_1d), (SELECT max(ts) + INTERVAL 1 hour FROM jobs_1h))
GROUP BY ts, job, tenant, provider, kind, class, dimension
) AS f
);

CREATE VIEW IF NOT EXISTS domain_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipients',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards'
)
COMMENT 'Counts by recipient domain and day, to be summed'
AS SELECT toDate(ts) AS day, recipient_domain, provider, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed
FROM (
    SELECT ts, recipient_domain, provider, dimension, kind, class, events, first_attempts FROM domains_1d
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, recipient_domain, provider, dimension, kind, class, events, first_attempts FROM domains_1h AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 day FROM domains_1d)
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, recipient_domain, provider, dimension, kind, class, events, first_attempts FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    recipient_domain,
    provider,
    kind,
    class,
    dimension,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts
FROM events
WHERE time >= greatest((SELECT max(ts) + INTERVAL 1 day FROM domains_1d), (SELECT max(ts) + INTERVAL 1 hour FROM domains_1h)) AND recipient_domain != ''
GROUP BY ts, recipient_domain, provider, kind, class, dimension
) AS f
);

CREATE VIEW IF NOT EXISTS sender_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    from_domain LowCardinality(String) COMMENT 'domain of the From header',
    dkim_domain LowCardinality(String) COMMENT 'd= that carom signed with, empty for none; mail with two signatures is in two rows',
    signature UInt8 COMMENT '0 for the first signature or none: a sum that counts each message once takes only those',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards'
)
COMMENT 'Counts by From and DKIM domain and day, to be summed'
AS SELECT toDate(ts) AS day, from_domain, dkim_domain, signature, provider, toString(dimension) AS dimension,
    toInt64(events) * multiIf(kind = 'received', 1, kind IN ('report-consumed', 'expanded'), -1, 0) AS accepted,
    if(kind IN ('delivered', 'bounced', 'expired'), events, 0) AS finished,
    if(kind = 'delivered', events, 0) AS delivered,
    if(kind = 'bounced' AND class = 'hard', events, 0) AS hard_bounced,
    if(kind = 'bounced' AND class != 'hard' OR kind = 'expired', events, 0) AS soft_bounced,
    if(kind = 'expired', events, 0) AS expired,
    if(kind IN ('delivered', 'deferred', 'bounced'), events, 0) AS attempts,
    if(kind = 'deferred', events, 0) AS deferred_attempts,
    if(kind IN ('delivered', 'deferred', 'bounced'), first_attempts, 0) AS first_attempts,
    if(kind = 'delivered', first_attempts, 0) AS delivered_first,
    if(kind = 'deferred', first_attempts, 0) AS deferred_recipients,
    if(kind = 'queue-deferred', events, 0) AS queue_failures,
    if(kind = 'suppressed', events, 0) AS suppressed,
    if(kind IN ('deleted', 'discarded'), events, 0) AS removed
FROM (
    SELECT ts, from_domain, dkim_domain, signature, provider, dimension, kind, class, events, first_attempts FROM senders_1d
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, from_domain, dkim_domain, signature, provider, dimension, kind, class, events, first_attempts FROM senders_1h AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 day FROM senders_1d)
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, from_domain, dkim_domain, signature, provider, dimension, kind, class, events, first_attempts FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    from_domain,
    dkim_domain,
    toUInt8(place - 1) AS signature,
    provider,
    kind,
    class,
    dimension,
    count() AS events,
    sum(recipients) AS recipients,
    countIf(attempt = 1) AS first_attempts
FROM events
ARRAY JOIN if(empty(dkim_domains), [''], dkim_domains) AS dkim_domain, arrayEnumerate(if(empty(dkim_domains), [''], dkim_domains)) AS place
WHERE time >= greatest((SELECT max(ts) + INTERVAL 1 day FROM senders_1d), (SELECT max(ts) + INTERVAL 1 hour FROM senders_1h)) AND from_domain != ''
GROUP BY ts, from_domain, dkim_domain, signature, provider, kind, class, dimension
) AS f
);

CREATE VIEW IF NOT EXISTS returned_day ON CLUSTER `main`
(
    day Date COMMENT 'day of the delivery, UTC',
    provider LowCardinality(String) COMMENT 'provider that took the message',
    source LowCardinality(String) COMMENT 'address that it was sent from',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    complaints UInt64 COMMENT 'of the delivered, those who complained so far',
    complaints_24h UInt64 COMMENT 'of delivered_24h, those who complained within 24 hours of the delivery',
    complaints_72h UInt64 COMMENT 'of delivered_72h, those who complained within 72 hours',
    complaints_7d UInt64 COMMENT 'of delivered_7d, those who complained within 7 days',
    bounces UInt64 COMMENT 'of the delivered, those that came back by mail so far',
    bounces_72h UInt64 COMMENT 'of delivered_72h, those that came back within 72 hours',
    hard_bounces_72h UInt64 COMMENT 'of these, those that say that the address is dead'
)
COMMENT 'Complaints and later bounces by the day of the delivery that they answer: the part of cohort_day without the deliveries'
AS SELECT
    toDate(delivered_at) AS day, provider, source, tenant,
    kind = 'complaint' AS complaints,
    kind = 'complaint' AND time < delivered_at + INTERVAL 24 HOUR AND toDateTime(day, 'UTC') + INTERVAL 2 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR AS complaints_24h,
    kind = 'complaint' AND time < delivered_at + INTERVAL 72 HOUR AND toDateTime(day, 'UTC') + INTERVAL 4 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR AS complaints_72h,
    kind = 'complaint' AND time < delivered_at + INTERVAL 7 DAY AND toDateTime(day, 'UTC') + INTERVAL 8 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR AS complaints_7d,
    kind = 'remote-bounce' AS bounces,
    kind = 'remote-bounce' AND time < delivered_at + INTERVAL 72 HOUR AND toDateTime(day, 'UTC') + INTERVAL 4 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR AS bounces_72h,
    kind = 'remote-bounce' AND time < delivered_at + INTERVAL 72 HOUR AND toDateTime(day, 'UTC') + INTERVAL 4 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR AND class = 'hard' AS hard_bounces_72h
FROM attributed
WHERE kind IN ('complaint', 'remote-bounce');

CREATE VIEW IF NOT EXISTS cohort_day ON CLUSTER `main`
(
    day Date COMMENT 'day of the delivery, UTC',
    provider LowCardinality(String) COMMENT 'provider that took the message',
    source LowCardinality(String) COMMENT 'address that it was sent from',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    delivered UInt64 COMMENT 'recipients that a receiver accepted that day',
    delivered_24h UInt64 COMMENT 'the same, of days that have had 24 hours to be answered; else 0',
    delivered_72h UInt64 COMMENT 'the same, of days that have had 72 hours',
    delivered_7d UInt64 COMMENT 'the same, of days that have had 7 days',
    complaints UInt64 COMMENT 'of the delivered, those who complained so far',
    complaints_24h UInt64 COMMENT 'of delivered_24h, those who complained within 24 hours of the delivery',
    complaints_72h UInt64 COMMENT 'of delivered_72h, those who complained within 72 hours',
    complaints_7d UInt64 COMMENT 'of delivered_7d, those who complained within 7 days',
    bounces UInt64 COMMENT 'of the delivered, those that came back by mail so far',
    bounces_72h UInt64 COMMENT 'of delivered_72h, those that came back within 72 hours',
    hard_bounces_72h UInt64 COMMENT 'of these, those that say that the address is dead'
)
COMMENT 'Complaints and later bounces by the day of the delivery that they answer, to be summed'
AS SELECT
    day, provider, source, tenant, delivered,
    if(toDateTime(day, 'UTC') + INTERVAL 2 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR, delivered, 0) AS delivered_24h,
    if(toDateTime(day, 'UTC') + INTERVAL 4 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR, delivered, 0) AS delivered_72h,
    if(toDateTime(day, 'UTC') + INTERVAL 8 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR, delivered, 0) AS delivered_7d,
    0 AS complaints, 0 AS complaints_24h, 0 AS complaints_72h, 0 AS complaints_7d, 0 AS bounces, 0 AS bounces_72h, 0 AS hard_bounces_72h
FROM traffic_day
WHERE delivered > 0
UNION ALL
SELECT
    day, provider, source, tenant, 0 AS delivered, 0 AS delivered_24h, 0 AS delivered_72h, 0 AS delivered_7d,
    complaints, complaints_24h, complaints_72h, complaints_7d, bounces, bounces_72h, hard_bounces_72h
FROM returned_day;

CREATE VIEW IF NOT EXISTS job_report ON CLUSTER `main`
(
    job LowCardinality(String) COMMENT 'job; empty for mail without one',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    first_day Date COMMENT 'day of its first event, UTC',
    last_day Date COMMENT 'day of its last event, UTC',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    left Int64 COMMENT 'recipients that are still to be done: accepted and not finished, suppressed or removed',
    done_share Nullable(Float64) COMMENT 'share of the accepted that is done, 0 to 1',
    complaints UInt64 COMMENT 'of the delivered, those who complained so far',
    delivery_rate Nullable(Float64) COMMENT 'delivered of finished, 0 to 1; NULL without any',
    hard_bounce_rate Nullable(Float64) COMMENT 'hard_bounced of finished, 0 to 1; NULL without any',
    soft_bounce_rate Nullable(Float64) COMMENT 'soft_bounced of finished, 0 to 1; NULL without any',
    first_attempt_rate Nullable(Float64) COMMENT 'delivered_first of first_attempts, 0 to 1; NULL without any',
    attempt_deferral_rate Nullable(Float64) COMMENT 'deferred_attempts of attempts, 0 to 1; NULL without any',
    recipient_deferral_rate Nullable(Float64) COMMENT 'deferred_recipients of first_attempts, 0 to 1; NULL without any'
)
COMMENT 'Each job over its whole life: what was accepted, what is done, what is left'
AS SELECT
    job, tenant, first_day, last_day,
accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed,
    accepted - toInt64(finished) - toInt64(suppressed) - toInt64(removed) AS left,
    1 - left / nullIf(accepted, 0) AS done_share,
    complaints,
    delivered / nullIf(finished, 0) AS delivery_rate,
    hard_bounced / nullIf(finished, 0) AS hard_bounce_rate,
    soft_bounced / nullIf(finished, 0) AS soft_bounce_rate,
    delivered_first / nullIf(first_attempts, 0) AS first_attempt_rate,
    deferred_attempts / nullIf(attempts, 0) AS attempt_deferral_rate,
    deferred_recipients / nullIf(first_attempts, 0) AS recipient_deferral_rate
FROM
(
    SELECT
        t.job AS job, t.tenant AS tenant, min(t.day) AS first_day, max(t.day) AS last_day,
    sum(t.accepted) AS accepted,
    sum(t.finished) AS finished,
    sum(t.delivered) AS delivered,
    sum(t.hard_bounced) AS hard_bounced,
    sum(t.soft_bounced) AS soft_bounced,
    sum(t.expired) AS expired,
    sum(t.attempts) AS attempts,
    sum(t.deferred_attempts) AS deferred_attempts,
    sum(t.first_attempts) AS first_attempts,
    sum(t.delivered_first) AS delivered_first,
    sum(t.deferred_recipients) AS deferred_recipients,
    sum(t.queue_failures) AS queue_failures,
    sum(t.suppressed) AS suppressed,
    sum(t.removed) AS removed,
        sum(t.complaints) AS complaints
    FROM
    (
        SELECT day, job, tenant, accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed, 0 AS complaints FROM job_day
        UNION ALL
        SELECT toDate(delivered_at) AS day, job, tenant, 0 AS accepted, 0 AS finished, 0 AS delivered, 0 AS hard_bounced, 0 AS soft_bounced, 0 AS expired, 0 AS attempts, 0 AS deferred_attempts, 0 AS first_attempts, 0 AS delivered_first, 0 AS deferred_recipients, 0 AS queue_failures, 0 AS suppressed, 0 AS removed, 1 AS complaints FROM attributed WHERE kind = 'complaint' AND job != ''
    ) AS t
    GROUP BY job, tenant
);

CREATE VIEW IF NOT EXISTS tenant_week ON CLUSTER `main`
(
    week Date COMMENT 'Monday of the week, UTC',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted',
    complaints_7d UInt64 COMMENT 'recipients that complained within 7 days, of delivered_7d',
    delivered_7d UInt64 COMMENT 'recipients that were delivered that week, on days that have had 7 days to be answered',
    complaint_rate_7d Nullable(Float64) COMMENT 'complaints_7d of delivered_7d, 0 to 1; NULL without any',
    delivery_rate Nullable(Float64) COMMENT 'delivered of finished, 0 to 1; NULL without any',
    hard_bounce_rate Nullable(Float64) COMMENT 'hard_bounced of finished, 0 to 1; NULL without any',
    soft_bounce_rate Nullable(Float64) COMMENT 'soft_bounced of finished, 0 to 1; NULL without any',
    first_attempt_rate Nullable(Float64) COMMENT 'delivered_first of first_attempts, 0 to 1; NULL without any',
    attempt_deferral_rate Nullable(Float64) COMMENT 'deferred_attempts of attempts, 0 to 1; NULL without any',
    recipient_deferral_rate Nullable(Float64) COMMENT 'deferred_recipients of first_attempts, 0 to 1; NULL without any'
)
COMMENT 'Each tenant by week'
AS SELECT
    week, tenant,
accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed,
    refused_suppressed, complaints_7d, delivered_7d, complaints_7d / nullIf(delivered_7d, 0) AS complaint_rate_7d,
    delivered / nullIf(finished, 0) AS delivery_rate,
    hard_bounced / nullIf(finished, 0) AS hard_bounce_rate,
    soft_bounced / nullIf(finished, 0) AS soft_bounce_rate,
    delivered_first / nullIf(first_attempts, 0) AS first_attempt_rate,
    deferred_attempts / nullIf(attempts, 0) AS attempt_deferral_rate,
    deferred_recipients / nullIf(first_attempts, 0) AS recipient_deferral_rate
FROM
(
    SELECT
        t.week AS week, t.tenant AS tenant,
    sum(t.accepted) AS accepted,
    sum(t.finished) AS finished,
    sum(t.delivered) AS delivered,
    sum(t.hard_bounced) AS hard_bounced,
    sum(t.soft_bounced) AS soft_bounced,
    sum(t.expired) AS expired,
    sum(t.attempts) AS attempts,
    sum(t.deferred_attempts) AS deferred_attempts,
    sum(t.first_attempts) AS first_attempts,
    sum(t.delivered_first) AS delivered_first,
    sum(t.deferred_recipients) AS deferred_recipients,
    sum(t.queue_failures) AS queue_failures,
    sum(t.suppressed) AS suppressed,
    sum(t.removed) AS removed,
        sum(t.refused_suppressed) AS refused_suppressed, sum(t.complaints_7d) AS complaints_7d, sum(t.delivered_7d) AS delivered_7d
    FROM
    (
        SELECT
            toMonday(day) AS week, tenant, accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed, refused_suppressed, 0 AS complaints_7d, if(toDateTime(day, 'UTC') + INTERVAL 8 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR, delivered, 0) AS delivered_7d
        FROM traffic_day
        UNION ALL
        SELECT toMonday(day) AS week, tenant, 0 AS accepted, 0 AS finished, 0 AS delivered, 0 AS hard_bounced, 0 AS soft_bounced, 0 AS expired, 0 AS attempts, 0 AS deferred_attempts, 0 AS first_attempts, 0 AS delivered_first, 0 AS deferred_recipients, 0 AS queue_failures, 0 AS suppressed, 0 AS removed, 0 AS refused_suppressed, complaints_7d, 0 AS delivered_7d FROM returned_day
    ) AS t
    GROUP BY week, tenant
);

CREATE VIEW IF NOT EXISTS ip_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    source LowCardinality(String) COMMENT 'address that the receivers see',
    accepted Int64 COMMENT 'recipients that were taken in, without reports that came back and aliases that were replaced; has no provider yet',
    finished UInt64 COMMENT 'recipients that were delivered or given up: delivered, hard_bounced and soft_bounced',
    delivered UInt64 COMMENT 'recipients that a receiver accepted',
    hard_bounced UInt64 COMMENT 'recipients that were refused for good because the address is dead',
    soft_bounced UInt64 COMMENT 'recipients that were given up for another reason, expired ones included',
    expired UInt64 COMMENT 'recipients that were given up because their time was over; part of soft_bounced',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    deferred_attempts UInt64 COMMENT 'attempts that will be repeated; one recipient may have many',
    first_attempts UInt64 COMMENT 'recipients that were attempted for the first time',
    delivered_first UInt64 COMMENT 'recipients that were accepted at their first attempt',
    deferred_recipients UInt64 COMMENT 'recipients that were deferred, each once, at its first attempt',
    queue_failures UInt64 COMMENT 'attempts that failed for a whole queue, before any recipient: no connection, no route',
    suppressed UInt64 COMMENT 'recipients that were taken in and not mailed because they are suppressed',
    removed UInt64 COMMENT 'recipients that an operator deleted or a queue discards',
    blocked UInt64 COMMENT 'attempts that were answered with a block of the address',
    throttled UInt64 COMMENT 'attempts that were answered with too fast, too many connections or messages',
    complaints_7d UInt64 COMMENT 'recipients that complained within 7 days, of delivered_7d',
    delivered_7d UInt64 COMMENT 'delivered, if the day has had 7 days to be answered; else 0',
    complaint_rate_7d Nullable(Float64) COMMENT 'complaints_7d of delivered_7d, 0 to 1; NULL without any',
    delivery_rate Nullable(Float64) COMMENT 'delivered of finished, 0 to 1; NULL without any',
    hard_bounce_rate Nullable(Float64) COMMENT 'hard_bounced of finished, 0 to 1; NULL without any',
    soft_bounce_rate Nullable(Float64) COMMENT 'soft_bounced of finished, 0 to 1; NULL without any',
    first_attempt_rate Nullable(Float64) COMMENT 'delivered_first of first_attempts, 0 to 1; NULL without any',
    attempt_deferral_rate Nullable(Float64) COMMENT 'deferred_attempts of attempts, 0 to 1; NULL without any',
    recipient_deferral_rate Nullable(Float64) COMMENT 'deferred_recipients of first_attempts, 0 to 1; NULL without any'
)
COMMENT 'Each source address by day'
AS SELECT
    day, source,
accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed,
    blocked, throttled, complaints_7d, delivered_7d, complaints_7d / nullIf(delivered_7d, 0) AS complaint_rate_7d,
    delivered / nullIf(finished, 0) AS delivery_rate,
    hard_bounced / nullIf(finished, 0) AS hard_bounce_rate,
    soft_bounced / nullIf(finished, 0) AS soft_bounce_rate,
    delivered_first / nullIf(first_attempts, 0) AS first_attempt_rate,
    deferred_attempts / nullIf(attempts, 0) AS attempt_deferral_rate,
    deferred_recipients / nullIf(first_attempts, 0) AS recipient_deferral_rate
FROM
(
    SELECT
        t.day AS day, t.source AS source,
    sum(t.accepted) AS accepted,
    sum(t.finished) AS finished,
    sum(t.delivered) AS delivered,
    sum(t.hard_bounced) AS hard_bounced,
    sum(t.soft_bounced) AS soft_bounced,
    sum(t.expired) AS expired,
    sum(t.attempts) AS attempts,
    sum(t.deferred_attempts) AS deferred_attempts,
    sum(t.first_attempts) AS first_attempts,
    sum(t.delivered_first) AS delivered_first,
    sum(t.deferred_recipients) AS deferred_recipients,
    sum(t.queue_failures) AS queue_failures,
    sum(t.suppressed) AS suppressed,
    sum(t.removed) AS removed,
        sum(t.blocked) AS blocked, sum(t.throttled) AS throttled, sum(t.complaints_7d) AS complaints_7d, sum(t.delivered_7d) AS delivered_7d
    FROM
    (
        SELECT
            day, source, accepted, finished, delivered, hard_bounced, soft_bounced, expired, attempts, deferred_attempts, first_attempts, delivered_first, deferred_recipients, queue_failures, suppressed, removed, if(dimension = 'block', attempts, 0) AS blocked,
            if(dimension IN ('rate', 'connections', 'messages'), attempts, 0) AS throttled,
            0 AS complaints_7d, if(toDateTime(day, 'UTC') + INTERVAL 8 DAY <= toStartOfHour(greatest((SELECT max(ts) FROM rollup_1m), (SELECT max(ts) FROM jobs_1h))) + INTERVAL 1 HOUR, delivered, 0) AS delivered_7d
        FROM traffic_day
        WHERE source != ''
        UNION ALL
        SELECT day, source, 0 AS accepted, 0 AS finished, 0 AS delivered, 0 AS hard_bounced, 0 AS soft_bounced, 0 AS expired, 0 AS attempts, 0 AS deferred_attempts, 0 AS first_attempts, 0 AS delivered_first, 0 AS deferred_recipients, 0 AS queue_failures, 0 AS suppressed, 0 AS removed, 0 AS blocked, 0 AS throttled, complaints_7d, 0 AS delivered_7d FROM returned_day WHERE source != ''
    ) AS t
    GROUP BY day, source
);

CREATE VIEW IF NOT EXISTS latency_day ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    provider LowCardinality(String) COMMENT 'who took the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    attempts UInt64 COMMENT 'attempts that a receiver answered, or that broke off: one a recipient',
    to_deliver AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from acceptance here to acceptance there, of the delivered',
    dns AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesBFloat16(0.5, 0.9, 0.99), Float64) COMMENT 'microseconds from MAIL to the last reply'
)
COMMENT 'Times as states of quantiles, to be joined by quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver); the three are its elements'
AS SELECT toDate(ts) AS day, provider, source, attempts, to_deliver, dns, connect, tls, transfer
FROM (
    SELECT ts, provider, source, attempts, to_deliver, dns, connect, tls, transfer FROM latency_1d
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, provider, source, attempts, to_deliver, dns, connect, tls, transfer FROM latency_1h AS f WHERE f.ts >= (SELECT max(ts) + INTERVAL 1 day FROM latency_1d)
    UNION ALL
SELECT toStartOfDay(f.ts) AS ts, provider, source, attempts, to_deliver, dns, connect, tls, transfer FROM (
SELECT
    toStartOfHour(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    count() AS attempts,
    quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(queued_us) * 8) / 8), kind = 'delivered') AS to_deliver,
    quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(dns_us) * 8) / 8), dns_us > 0) AS dns,
    quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(connect_us) * 8) / 8), connect_us > 0) AS connect,
    quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(tls_us) * 8) / 8), tls_us > 0) AS tls,
    quantilesBFloat16StateIf(0.5, 0.9, 0.99)(exp2(round(log2(transfer_us) * 8) / 8), transfer_us > 0) AS transfer
FROM events
WHERE time >= greatest((SELECT max(ts) + INTERVAL 1 day FROM latency_1d), (SELECT max(ts) + INTERVAL 1 hour FROM latency_1h)) AND kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0
GROUP BY ts, provider, source
) AS f
);

CREATE VIEW IF NOT EXISTS time_to_deliver ON CLUSTER `main`
(
    day Date COMMENT 'day, UTC',
    provider LowCardinality(String) COMMENT 'who took the mail',
    source LowCardinality(String) COMMENT 'address that the receiver saw',
    p50_seconds Float64 COMMENT 'half of the delivered were accepted there within so many seconds of their acceptance here; nan without any',
    p90_seconds Float64 COMMENT 'nine of ten',
    p99_seconds Float64 COMMENT 'all but one of a hundred'
)
COMMENT 'How long mail takes from acceptance here to acceptance there'
AS SELECT day, provider, source, (quantilesBFloat16Merge(0.5, 0.9, 0.99)(to_deliver) AS q)[1] / 1e6 AS p50_seconds, q[2] / 1e6 AS p90_seconds, q[3] / 1e6 AS p99_seconds
FROM latency_day
GROUP BY day, provider, source;

-- Migration 11: reputation

CREATE TABLE IF NOT EXISTS reputation ON CLUSTER `main`
(
    ts DateTime64(6, 'UTC') COMMENT 'when the scores were computed; one run has one time',
    generation UInt64 COMMENT 'number of the run',
    kind Enum8('key' = 1, 'tenant' = 2, 'source' = 3, 'provider' = 4, 'sender' = 5, 'recipient' = 6) COMMENT 'what is scored: key: provider and source; tenant: at one provider; sender: DKIM or From domain; recipient: domain of recipients',
    provider LowCardinality(String) COMMENT 'provider, empty where the score is about all of them',
    name LowCardinality(String) COMMENT 'source, tenant or domain; empty for a provider',
    score Float64 COMMENT '0 to 100',
    score_high Float64 COMMENT 'the same with the worst component at the good end of its interval',
    band LowCardinality(String) COMMENT 'high, medium, low or bad; unknown with too few answers',
    band_since DateTime64(6, 'UTC') COMMENT 'since when the band holds',
    toward LowCardinality(String) COMMENT 'band that the score points at and that does not hold yet, empty for none',
    toward_since DateTime64(6, 'UTC') COMMENT 'since when it does, 1970 for none',
    n_eff Float64 COMMENT 'answers that the score stands on, older ones counted less',
    confidence Float64 COMMENT 'weight of the own numbers against the prior, 0 to 1',
    attempts_per_day Float64 COMMENT 'attempts a day over fourteen days',
    feedback LowCardinality(String) COMMENT 'complaints: live, none (no feedback loop) or silent (reports stopped: unknown, not good)',
    capped LowCardinality(String) COMMENT 'why the score is not above a bound whatever the components say, empty for none',
    worst LowCardinality(String) COMMENT 'component that costs most: complaints, unknown-users, blocks or refusals',
    components Array(LowCardinality(String)) COMMENT 'components that count',
    k Array(Float64) COMMENT 'of each: cases, decayed',
    n Array(Float64) COMMENT 'of how many, decayed',
    r0 Array(Float64) COMMENT 'share that is expected without own numbers',
    r Array(Float64) COMMENT 'share, shrunk towards r0',
    low Array(Float64) COMMENT 'lower end of the 80 % interval of r',
    high Array(Float64) COMMENT 'upper end',
    sub Array(Float64) COMMENT 'sub-score, 0.01 to 1',
    fast Array(Bool) COMMENT 'the last hour is worse than the last days and counts'
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (kind, provider, name, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Scores of every run: who is thought of how well, and by what numbers';

CREATE TABLE IF NOT EXISTS holds ON CLUSTER `main`
(
    id String COMMENT 'the hold, as carom limits release takes it',
    version UInt64 COMMENT 'microseconds since 1970 of this row; the highest wins',
    status Enum8('held' = 1, 'trickle' = 2, 'asked' = 3, 'exempt' = 4, 'released' = 5) COMMENT 'trickle: a small share goes out; asked: past the budget, an operator decides; exempt: adaptive-hold no, alert only',
    provider LowCardinality(String) COMMENT 'provider that the mail is held for',
    tenant LowCardinality(String) COMMENT 'tenant whose mail is held, empty for any',
    job String COMMENT 'job whose mail is held, empty for any',
    from_domain LowCardinality(String) COMMENT 'From domain whose mail is held, empty for any',
    share Float64 COMMENT 'share of the mail that goes out, 0 to 1',
    began_at DateTime64(6, 'UTC') COMMENT 'when it was decided',
    complaints UInt64 COMMENT 'complaints that were counted',
    delivered Float64 COMMENT 'deliveries that were counted, by what part of their complaints has come',
    low Float64 COMMENT 'rate that the complaints are above with 90 % certainty',
    volume Float64 COMMENT 'share of the provider''s mail that it stops',
    reason_id String COMMENT 'id of the row of limit_log',
    reason String COMMENT 'the reason in words',
    actor String COMMENT 'who wrote this row: loop, or an operator by name'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', version)
ORDER BY id
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Mail that is held back because of complaints; read with FINAL';

CREATE TABLE IF NOT EXISTS limit_outcomes ON CLUSTER `main`
(
    id String COMMENT 'row of limit_log',
    provider LowCardinality(String) COMMENT 'provider of the key',
    source LowCardinality(String) COMMENT 'source of the key',
    changed_at DateTime64(6, 'UTC') COMMENT 'when the change was decided',
    after_minutes UInt32 COMMENT 'how long after it: 15, 60 or 1440',
    accepted UInt64 COMMENT 'accepted from the change until then',
    refused UInt64 COMMENT 'refused for the rate or the source, or unavailable',
    unknown UInt64 COMMENT 'unknown users',
    other UInt64 COMMENT 'everything else that was answered',
    changes UInt64 COMMENT 'further changes of the key until then',
    rate Float64 COMMENT 'limit of the key then, messages a second; 0 for none',
    written_at DateTime64(6, 'UTC') COMMENT 'when it was computed; the latest row wins'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', written_at)
PARTITION BY toYYYYMM(changed_at)
ORDER BY (id, after_minutes)
TTL toDateTime(changed_at) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What came of each decrease and suspension of a source after 15 minutes, an hour and a day; read with FINAL';

