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
    seq UInt64 COMMENT 'sequence number in the node\'s event stream, from 1, without gaps' CODEC(T64, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it happened, by the node\'s clock' CODEC(Delta, ZSTD(1)),
    kind Enum8('received' = 1, 'delivered' = 2, 'deferred' = 3, 'queue-deferred' = 4, 'bounced' = 5, 'remote-bounce' = 6, 'remote-status' = 7, 'complaint' = 8, 'rejected' = 9, 'suppressed' = 10, 'expired' = 11, 'deleted' = 12, 'discarded' = 13, 'expanded' = 14, 'report-consumed' = 15, 'held' = 16, 'released' = 17, 'rerouted' = 18, 'limit-applied' = 19) COMMENT 'which step this is',
    message_id UUID COMMENT 'message; zero for a queue\'s event',
    recipient_index UInt32 COMMENT 'which recipient of the message, from 0',
    recipients UInt32 COMMENT 'how many recipients the event speaks of: 1, or those of a queue',
    mail_from String COMMENT 'reverse-path as the feeder gave it; empty for the null sender',
    mail_from_domain LowCardinality(String) COMMENT 'domain of mail_from, lower case',
    from_domain LowCardinality(String) COMMENT 'domain of the From header, lower case',
    dkim_domains Array(LowCardinality(String)) COMMENT 'each d= that carom signed with',
    recipient String COMMENT 'forward-path',
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipient, lower case',
    recipient_key String COMMENT 'keyed hash of the normalised recipient, the key of suppressions',
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
    reply String COMMENT 'reply of the peer, or what went wrong here',
    reply_template LowCardinality(String) COMMENT 'reply with numbers, ids and addresses replaced, to group by',
    category LowCardinality(String) COMMENT 'one of 29 words for what the reply means',
    class Enum8('' = 0, 'hard' = 1, 'soft' = 2, 'undetermined' = 3, 'none' = 4) COMMENT 'hard: the address is dead; soft: it is not',
    dimension Enum8('' = 0, 'ok' = 1, 'rate' = 2, 'connections' = 3, 'messages' = 4, 'block' = 5, 'greylist' = 6, 'unavailable' = 7, 'user' = 8, 'content' = 9, 'auth' = 10, 'other' = 11) COMMENT 'what the reply is about',
    scope LowCardinality(String) COMMENT 'whom a refusal is aimed at',
    scope_value String COMMENT 'the address, domain or URL that the reply names',
    classifier_version UInt32 COMMENT 'version of the rules',
    pmta_category LowCardinality(String) COMMENT 'PowerMTA\'s bounce category',
    size UInt64 COMMENT 'octets of the message',
    queued_us UInt64 COMMENT 'microseconds since acceptance',
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
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock',
    repaired Bool DEFAULT false COMMENT 'stored by a second insert, which the roll-ups leave out because they have the first',
    INDEX message_id_bloom message_id TYPE bloom_filter(0.01) GRANULARITY 1,
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
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'One row per recipient and step: what every node did and what every receiver answered';

CREATE TABLE IF NOT EXISTS events ON CLUSTER `main` AS `carom`.events_local
ENGINE = Distributed(`main`, `carom`, events_local, cityHash64(node))
COMMENT 'One row per recipient and step: what every node did and what every receiver answered';

-- Migration 2: gauges

CREATE TABLE IF NOT EXISTS gauges_local ON CLUSTER `main`
(
    node LowCardinality(String) COMMENT 'name of the node',
    incarnation UUID COMMENT 'life of the node\'s log',
    seq UInt64 COMMENT 'sequence number in the node\'s gauge stream' CODEC(T64, ZSTD(1)),
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
    effective_rate Float64 COMMENT 'messages a second that bind now, 0 for unlimited',
    warmup_start DateTime64(6, 'UTC') COMMENT 'first day of warm-up, 1970 for none',
    established DateTime64(6, 'UTC') COMMENT 'established-since of the source, 1970 for none',
    exempt Bool COMMENT 'the loop must not touch the key',
    backoff_by_config Bool COMMENT 'backoff patterns of the configuration set the rate',
    config_hash UInt64 COMMENT 'hash of the configuration in force' CODEC(Delta, ZSTD(1)),
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
    seq UInt64 COMMENT 'sequence number in the node\'s stream of queue gauges' CODEC(T64, ZSTD(1)),
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
    held UInt64 COMMENT 'recipients that an operator\'s order about some of the queue\'s mail keeps back',
    paused UInt64 COMMENT 'recipients in a queue that an operator has paused',
    estimated Bool COMMENT 'the queue is so long that how its mail divides was estimated from an even sample; what the whole queue holds is exact',
    oldest_age UInt64 COMMENT 'seconds since the oldest of them was accepted',
    backoff Bool COMMENT 'the queue is in backoff mode',
    limit_scope LowCardinality(String) COMMENT 'what the limit that binds is about: order, queue, node, source-ip, vmta, pool or key; the rest has none, and so has what nothing keeps',
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
    seq UInt64 COMMENT 'sequence number in the node\'s annotation stream' CODEC(T64, ZSTD(1)),
    format_version UInt8 COMMENT 'version of the record format',
    time DateTime64(6, 'UTC') COMMENT 'when it happened, by the node\'s clock' CODEC(Delta, ZSTD(1)),
    name LowCardinality(String) COMMENT 'what happened: start, stop, reload, note',
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
    last_arrived SimpleAggregateFunction(max, DateTime64(6, 'UTC')) COMMENT 'when the last of these events reached ClickHouse'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, epoch, ts)
TTL toDateTime(ts) + INTERVAL 2 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Answers per key and limit epoch in steps of ten seconds: the evidence of the control loop';

CREATE TABLE IF NOT EXISTS k10s ON CLUSTER `main` AS `carom`.k10s_local
ENGINE = Distributed(`main`, `carom`, k10s_local, cityHash64(provider))
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
    max(arrived) AS last_arrived
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
    sample_reply SimpleAggregateFunction(max, String) COMMENT 'one of the refusals, cut; empty for none',
    last_arrived SimpleAggregateFunction(max, DateTime64(6, 'UTC')) COMMENT 'when the last of these events reached ClickHouse'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (provider, source, tenant, ts)
TTL toDateTime(ts) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Answers per key and tenant in steps of a minute: the evidence of scores';

CREATE TABLE IF NOT EXISTS k1m ON CLUSTER `main` AS `carom`.k1m_local
ENGINE = Distributed(`main`, `carom`, k1m_local, cityHash64(provider))
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
    substring(maxIf(reply, dimension NOT IN ('ok', 'user')), 1, 500) AS sample_reply,
    max(arrived) AS last_arrived
FROM events_local
WHERE NOT repaired AND kind IN ('delivered', 'deferred', 'bounced', 'queue-deferred')
    AND provider != '' AND source != ''
    AND (scope NOT IN ('domain', 'url', 'recipient') OR scope = 'recipient' AND dimension = 'user')
GROUP BY ts, provider, source, tenant
COMMENT 'Fills k1m from events';

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
ENGINE = Distributed(`main`, `carom`, provider_minutes_local, cityHash64(provider))
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

CREATE TABLE IF NOT EXISTS rollup_1m_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
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
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1)),
    deliver_us SimpleAggregateFunction(sum, UInt64) COMMENT 'microseconds from acceptance to delivery, summed over the delivered' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), provider, source, tenant, vmta, pool, kind, class, dimension, category, ts)
TTL toDateTime(ts) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of a minute';

CREATE TABLE IF NOT EXISTS rollup_1m ON CLUSTER `main` AS `carom`.rollup_1m_local
ENGINE = Distributed(`main`, `carom`, rollup_1m_local, cityHash64(toStartOfHour))
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of a minute';

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_1m_mv ON CLUSTER `main` TO rollup_1m_local AS
SELECT
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    vmta,
    pool,
    tenant,
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
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h,
    sumIf(queued_us, kind = 'delivered') AS deliver_us
FROM events_local
WHERE NOT repaired
GROUP BY ts, provider, source, vmta, pool, tenant, kind, class, dimension, category
COMMENT 'Fills rollup_1m from events';

CREATE TABLE IF NOT EXISTS rollup_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
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
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1)),
    deliver_us SimpleAggregateFunction(sum, UInt64) COMMENT 'microseconds from acceptance to delivery, summed over the delivered' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), provider, source, tenant, vmta, pool, kind, class, dimension, category, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of a hour';

CREATE TABLE IF NOT EXISTS rollup_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'pool that the virtual MTA was taken from',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the events of a whole queue',
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
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1)),
    deliver_us SimpleAggregateFunction(sum, UInt64) COMMENT 'microseconds from acceptance to delivery, summed over the delivered' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (provider, source, tenant, vmta, pool, kind, class, dimension, category, ts)
TTL toDateTime(ts) + INTERVAL 1500 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by provider, source, virtual MTA, pool, tenant, outcome and category, in steps of a day';

CREATE TABLE IF NOT EXISTS latency_1m_local ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts for one recipient' CODEC(T64, ZSTD(1)),
    to_deliver AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from acceptance to delivery, of the delivered',
    dns AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from MAIL to the last reply'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), provider, source, ts)
TTL toDateTime(ts) + INTERVAL 15 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of a minute';

CREATE TABLE IF NOT EXISTS latency_1m ON CLUSTER `main` AS `carom`.latency_1m_local
ENGINE = Distributed(`main`, `carom`, latency_1m_local, cityHash64(toStartOfHour))
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of a minute';

CREATE MATERIALIZED VIEW IF NOT EXISTS latency_1m_mv ON CLUSTER `main` TO latency_1m_local AS
SELECT
    toStartOfMinute(toDateTime(time, 'UTC')) AS ts,
    provider,
    source,
    count() AS attempts,
    quantilesTDigestStateIf(0.5, 0.9, 0.99)(queued_us, kind = 'delivered') AS to_deliver,
    quantilesTDigestStateIf(0.5, 0.9, 0.99)(dns_us, dns_us > 0) AS dns,
    quantilesTDigestStateIf(0.5, 0.9, 0.99)(connect_us, connect_us > 0) AS connect,
    quantilesTDigestStateIf(0.5, 0.9, 0.99)(tls_us, tls_us > 0) AS tls,
    quantilesTDigestStateIf(0.5, 0.9, 0.99)(transfer_us, transfer_us > 0) AS transfer
FROM events_local
WHERE NOT repaired AND kind IN ('delivered', 'deferred', 'bounced') AND attempt > 0
GROUP BY ts, provider, source
COMMENT 'Fills latency_1m from events';

CREATE TABLE IF NOT EXISTS latency_1h ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts for one recipient' CODEC(T64, ZSTD(1)),
    to_deliver AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from acceptance to delivery, of the delivered',
    dns AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from MAIL to the last reply'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), provider, source, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of a hour';

CREATE TABLE IF NOT EXISTS latency_1d ON CLUSTER `main`
(
    ts DateTime('UTC') COMMENT 'start of the day' CODEC(Delta, ZSTD(1)),
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before resolution',
    source LowCardinality(String) COMMENT 'address that the receiver sees',
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts for one recipient' CODEC(T64, ZSTD(1)),
    to_deliver AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from acceptance to delivery, of the delivered',
    dns AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of DNS look-ups, where there were some',
    connect AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds until the greeting, of new connections',
    tls AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds of the TLS handshake, of new connections',
    transfer AggregateFunction(quantilesTDigest(0.5, 0.9, 0.99), UInt64) COMMENT 'microseconds from MAIL to the last reply'
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (provider, source, ts)
TTL toDateTime(ts) + INTERVAL 1500 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Quantiles of the time to deliver and of the phases of attempts by provider and source, in steps of a day';

CREATE TABLE IF NOT EXISTS jobs_1h_local ON CLUSTER `main`
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
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1)),
    deliver_us SimpleAggregateFunction(sum, UInt64) COMMENT 'microseconds from acceptance to delivery, summed over the delivered' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (tenant, job, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by job, tenant, provider and outcome, in steps of a hour';

CREATE TABLE IF NOT EXISTS jobs_1h ON CLUSTER `main` AS `carom`.jobs_1h_local
ENGINE = Distributed(`main`, `carom`, jobs_1h_local, cityHash64(tenant))
COMMENT 'All events by job, tenant, provider and outcome, in steps of a hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS jobs_1h_mv ON CLUSTER `main` TO jobs_1h_local AS
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
    countIf(kind = 'delivered' AND queued_us <= 3600000000) AS within_1h,
    sumIf(queued_us, kind = 'delivered') AS deliver_us
FROM events_local
WHERE NOT repaired
GROUP BY ts, job, tenant, provider, kind, class, dimension
COMMENT 'Fills jobs_1h from events';

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
    within_1h SimpleAggregateFunction(sum, UInt64) COMMENT 'delivered within an hour' CODEC(T64, ZSTD(1)),
    deliver_us SimpleAggregateFunction(sum, UInt64) COMMENT 'microseconds from acceptance to delivery, summed over the delivered' CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}')
PARTITION BY toYYYYMM(ts)
ORDER BY (tenant, job, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 400 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by job, tenant, provider and outcome, in steps of a day';

CREATE TABLE IF NOT EXISTS domains_1h_local ON CLUSTER `main`
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (recipient_domain, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by recipient domain and outcome, in steps of a hour';

CREATE TABLE IF NOT EXISTS domains_1h ON CLUSTER `main` AS `carom`.domains_1h_local
ENGINE = Distributed(`main`, `carom`, domains_1h_local, cityHash64(recipient_domain))
COMMENT 'All events by recipient domain and outcome, in steps of a hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS domains_1h_mv ON CLUSTER `main` TO domains_1h_local AS
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
FROM events_local
WHERE NOT repaired AND recipient_domain != ''
GROUP BY ts, recipient_domain, provider, kind, class, dimension
COMMENT 'Fills domains_1h from events';

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

CREATE TABLE IF NOT EXISTS senders_1h_local ON CLUSTER `main`
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{database}/{table}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(ts)
ORDER BY (from_domain, dkim_domain, signature, provider, kind, class, dimension, ts)
TTL toDateTime(ts) + INTERVAL 35 DAY
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'All events by From domain, each DKIM domain, provider and outcome, in steps of a hour';

CREATE TABLE IF NOT EXISTS senders_1h ON CLUSTER `main` AS `carom`.senders_1h_local
ENGINE = Distributed(`main`, `carom`, senders_1h_local, cityHash64(from_domain))
COMMENT 'All events by From domain, each DKIM domain, provider and outcome, in steps of a hour';

CREATE MATERIALIZED VIEW IF NOT EXISTS senders_1h_mv ON CLUSTER `main` TO senders_1h_local AS
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
FROM events_local
ARRAY JOIN if(empty(dkim_domains), [''], dkim_domains) AS dkim_domain, arrayEnumerate(if(empty(dkim_domains), [''], dkim_domains)) AS place
WHERE NOT repaired AND from_domain != ''
GROUP BY ts, from_domain, dkim_domain, signature, provider, kind, class, dimension
COMMENT 'Fills senders_1h from events';

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
ENGINE = Distributed(`main`, `carom`, reply_templates_local, cityHash64(template))
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
    kind Enum8('pin' = 1, 'hold' = 2, 'mode' = 3, 'kill' = 4) COMMENT 'pin: fixes a limit; hold: stops a tenant; mode: active, advise or off; kill: the loop does nothing',
    provider LowCardinality(String) COMMENT 'provider it is for, empty for all',
    source LowCardinality(String) COMMENT 'source it is for, empty for all',
    tenant LowCardinality(String) COMMENT 'tenant it is for, empty for all',
    bound Enum8('' = 0, 'fixed' = 1, 'ceiling' = 2, 'floor' = 3) COMMENT 'how a pin binds',
    rate Float64 COMMENT 'messages a second of a pin, 0 for not pinned',
    connections UInt32 COMMENT 'connections of a pin, 0 for not pinned',
    messages_per_connection UInt32 COMMENT 'messages per connection of a pin, 0 for not pinned',
    mode LowCardinality(String) COMMENT 'mode to set: active, advise or off',
    actor String COMMENT 'who set it',
    reason String COMMENT 'why',
    created_at DateTime64(6, 'UTC') COMMENT 'when it was set',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it lapses, 1970 for never',
    cancelled Bool COMMENT 'it was taken back'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}', version)
ORDER BY id
SETTINGS replicated_deduplication_window = 20000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What operators told the loop: pins, holds, modes, the kill switch; read with FINAL';

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

CREATE VIEW IF NOT EXISTS suppressed ON CLUSTER `main` AS
SELECT
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
WHERE last.1 > toDateTime64(0, 6, 'UTC') AND last.1 >= removed
COMMENT 'Who is suppressed now';

CREATE VIEW IF NOT EXISTS suppressions_pending ON CLUSTER `main` AS
SELECT
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
WHERE notEmpty(waiting) AND (holds <= toDateTime64(0, 6, 'UTC') OR holds < removed)
COMMENT 'Whose suppression waits for a second bounce';

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

-- Migration 8: completeness

CREATE VIEW IF NOT EXISTS completeness ON CLUSTER `main` AS
SELECT
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
GROUP BY node, incarnation, stream
COMMENT 'Per node, life of the log and stream: numbers missing and numbers stored twice';

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
ENGINE = Distributed(`main`, `carom`, reports_local, cityHash64(node))
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

CREATE VIEW IF NOT EXISTS attributed ON CLUSTER `main` AS
SELECT
    kind, message_id, recipient_index, time, delivered_at, provider, source, tenant, vmta, pool, job, mail_from_domain, from_domain,
    recipient_key, feedback_type, category, class, dimension, match_method, match_confidence
FROM attributions FINAL
WHERE proven
ORDER BY time, node, incarnation, seq
LIMIT 1 BY kind, message_id, recipient_index
COMMENT 'Reports that count, each kind once for a message and recipient';

CREATE VIEW IF NOT EXISTS report_cohorts ON CLUSTER `main` AS
SELECT
    provider, source, tenant, hour,
    sum(accepted) AS accepted, sum(complained) AS complained, sum(bounced) AS bounced, sum(bounced_hard) AS bounced_hard
FROM
(
    SELECT provider, source, tenant, toStartOfHour(ts) AS hour, sum(ok) AS accepted, 0 AS complained, 0 AS bounced, 0 AS bounced_hard
    FROM k1m
    GROUP BY provider, source, tenant, hour
    UNION ALL
    SELECT
        provider, source, tenant, toStartOfHour(toDateTime(delivered_at, 'UTC')) AS hour, 0 AS accepted,
        countIf(kind = 'complaint') AS complained, countIf(kind = 'remote-bounce') AS bounced,
        countIf(kind = 'remote-bounce' AND class = 'hard') AS bounced_hard
    FROM attributed
    GROUP BY provider, source, tenant, hour
)
GROUP BY provider, source, tenant, hour
COMMENT 'Accepted, complained and bounced by hour of delivery, per provider, source and tenant';

