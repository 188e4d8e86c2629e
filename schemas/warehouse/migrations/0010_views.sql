-- What people ask, with names that need no knowledge of carom. deploy/docs/sql.md is their guide.
--
-- Three sorts. Rows: deliveries, bounces, deferrals, complaints, message_trace show one step of one
-- recipient each, out of events; ask them with a span of time, a message or a recipient.
-- Sums: traffic_minute, traffic_hour, traffic_day, job_day, domain_day, sender_day, cohort_day, latency_day hold
-- counts to be summed as one likes; a rate is one sum over another (rates.go has the only
-- definitions). Reports: job_report, tenant_week, ip_day, time_to_deliver have the rates worked out.
-- Sums and reports read roll-ups, and events of the last hour only, so that a picker or a dashboard
-- costs little.
--
-- A filter on a column of the view reaches the table below: every such column is passed on as it
-- is, or is a key of the GROUP BY.

CREATE VIEW IF NOT EXISTS deliveries
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

-- The bounces that came by mail are taken from attributions, which know the delivery that each is
-- about; of those that are not proven nobody knows provider or tenant, and they are left out.
CREATE VIEW IF NOT EXISTS bounces
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

CREATE VIEW IF NOT EXISTS deferrals
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

CREATE VIEW IF NOT EXISTS complaints
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

-- The steps of a message and, by the id that they name, the reports about it.
CREATE VIEW IF NOT EXISTS message_trace
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

{{define "traffic columns"}}    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    source LowCardinality(String) COMMENT 'address that the receiver sees; empty before it is known',
    vmta LowCardinality(String) COMMENT 'virtual MTA',
    pool LowCardinality(String) COMMENT 'virtual MTA pool, empty for none',
    category LowCardinality(String) COMMENT 'what the answer means, one of 30 words',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
{{measures}},
{{volumes}},
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted'{{end -}}
{{define "tenant column"}}    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',{{end -}}
{{- define "traffic values"}}provider, source, vmta, pool, category, toString(dimension) AS dimension,
{{measuresOf}},
{{volumesOf}},
    if(kind = 'rejected' AND category = 'suppressed', events, 0) AS refused_suppressed{{end -}}

CREATE VIEW IF NOT EXISTS traffic_minute
(
    minute DateTime('UTC') COMMENT 'start of the minute',
{{template "traffic columns"}}
)
COMMENT 'Counts by minute over all tenants, to be summed: from acceptance to the end of each recipient'
AS SELECT ts AS minute, {{template "traffic values"}}
FROM rollup_1m;

-- What the jobs have not summed up yet is taken from the finer table or the events, so that a view reaches
-- up to now, whether the jobs run or not.
CREATE VIEW IF NOT EXISTS traffic_hour
(
    hour DateTime('UTC') COMMENT 'start of the hour',
{{template "tenant column"}}
{{template "traffic columns"}}
)
COMMENT 'Counts by hour, to be summed'
AS SELECT ts AS hour, tenant, {{template "traffic values"}}
FROM {{upToNow "provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h" "rollup_1h"}};

CREATE VIEW IF NOT EXISTS traffic_day
(
    day Date COMMENT 'day, UTC',
{{template "tenant column"}}
{{template "traffic columns"}}
)
COMMENT 'Counts by day, to be summed'
AS SELECT toDate(ts) AS day, tenant, {{template "traffic values"}}
FROM {{upToNow "provider, source, vmta, pool, tenant, category, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h" "rollup_1d" "rollup_1h"}};

CREATE VIEW IF NOT EXISTS job_day
(
    day Date COMMENT 'day, UTC',
    job LowCardinality(String) COMMENT 'job; empty for mail without one',
    tenant LowCardinality(String) COMMENT 'on whose behalf; empty for the failures of a whole queue',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
{{measures}},
{{volumes}}
)
COMMENT 'Counts by job and day, to be summed'
AS SELECT toDate(ts) AS day, job, tenant, provider, toString(dimension) AS dimension,
{{measuresOf}},
{{volumesOf}}
FROM {{upToNow "job, tenant, provider, dimension, kind, class, events, first_attempts, octets, within_1m, within_10m, within_1h" "jobs_1d" "jobs_1h"}};

CREATE VIEW IF NOT EXISTS domain_day
(
    day Date COMMENT 'day, UTC',
    recipient_domain LowCardinality(String) COMMENT 'domain of the recipients',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
{{measures}}
)
COMMENT 'Counts by recipient domain and day, to be summed'
AS SELECT toDate(ts) AS day, recipient_domain, provider, toString(dimension) AS dimension,
{{measuresOf}}
FROM {{upToNow "recipient_domain, provider, dimension, kind, class, events, first_attempts" "domains_1d" "domains_1h"}};

CREATE VIEW IF NOT EXISTS sender_day
(
    day Date COMMENT 'day, UTC',
    from_domain LowCardinality(String) COMMENT 'domain of the From header',
    dkim_domain LowCardinality(String) COMMENT 'd= that carom signed with, empty for none; mail with two signatures is in two rows',
    signature UInt8 COMMENT '0 for the first signature or none: a sum that counts each message once takes only those',
    provider LowCardinality(String) COMMENT 'who decides about the mail; empty before it is known, as of accepted mail',
    dimension LowCardinality(String) COMMENT 'what the answer is about: ok, user, rate, block and so on',
{{measures}}
)
COMMENT 'Counts by From and DKIM domain and day, to be summed'
AS SELECT toDate(ts) AS day, from_domain, dkim_domain, signature, provider, toString(dimension) AS dimension,
{{measuresOf}}
FROM {{upToNow "from_domain, dkim_domain, signature, provider, dimension, kind, class, events, first_attempts" "senders_1d" "senders_1h"}};

-- A day is mature at 24 hours when its last delivery is 24 hours old, by the newest event that is
-- here and not by the clock: so a history that was imported, or that lags, is judged by itself.
CREATE VIEW IF NOT EXISTS returned_day
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
    kind = 'complaint' AND time < delivered_at + INTERVAL 24 HOUR AND {{mature "day" 2}} AS complaints_24h,
    kind = 'complaint' AND time < delivered_at + INTERVAL 72 HOUR AND {{mature "day" 4}} AS complaints_72h,
    kind = 'complaint' AND time < delivered_at + INTERVAL 7 DAY AND {{mature "day" 8}} AS complaints_7d,
    kind = 'remote-bounce' AS bounces,
    kind = 'remote-bounce' AND time < delivered_at + INTERVAL 72 HOUR AND {{mature "day" 4}} AS bounces_72h,
    kind = 'remote-bounce' AND time < delivered_at + INTERVAL 72 HOUR AND {{mature "day" 4}} AND class = 'hard' AS hard_bounces_72h
FROM attributed
WHERE kind IN ('complaint', 'remote-bounce');

CREATE VIEW IF NOT EXISTS cohort_day
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
    if({{mature "day" 2}}, delivered, 0) AS delivered_24h,
    if({{mature "day" 4}}, delivered, 0) AS delivered_72h,
    if({{mature "day" 8}}, delivered, 0) AS delivered_7d,
    0 AS complaints, 0 AS complaints_24h, 0 AS complaints_72h, 0 AS complaints_7d, 0 AS bounces, 0 AS bounces_72h, 0 AS hard_bounces_72h
FROM traffic_day
WHERE delivered > 0
UNION ALL
SELECT
    day, provider, source, tenant, 0 AS delivered, 0 AS delivered_24h, 0 AS delivered_72h, 0 AS delivered_7d,
    complaints, complaints_24h, complaints_72h, complaints_7d, bounces, bounces_72h, hard_bounces_72h
FROM returned_day;

CREATE VIEW IF NOT EXISTS job_report
(
    job LowCardinality(String) COMMENT 'job; empty for mail without one',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
    first_day Date COMMENT 'day of its first event, UTC',
    last_day Date COMMENT 'day of its last event, UTC',
{{measures}},
    left Int64 COMMENT 'recipients that are still to be done: accepted and not finished, suppressed or removed',
    done_share Nullable(Float64) COMMENT 'share of the accepted that is done, 0 to 1',
    complaints UInt64 COMMENT 'of the delivered, those who complained so far',
{{rates}}
)
COMMENT 'Each job over its whole life: what was accepted, what is done, what is left'
AS SELECT
    job, tenant, first_day, last_day,
{{names}},
    accepted - toInt64(finished) - toInt64(suppressed) - toInt64(removed) AS left,
    1 - left / nullIf(accepted, 0) AS done_share,
    complaints,
{{ratesOf}}
FROM
(
    SELECT
        t.job AS job, t.tenant AS tenant, min(t.day) AS first_day, max(t.day) AS last_day,
{{sums}},
        sum(t.complaints) AS complaints
    FROM
    (
        SELECT day, job, tenant, {{names}}, 0 AS complaints FROM job_day
        UNION ALL
        SELECT toDate(delivered_at) AS day, job, tenant, {{none}}, 1 AS complaints FROM attributed WHERE kind = 'complaint' AND job != ''
    ) AS t
    GROUP BY job, tenant
);

CREATE VIEW IF NOT EXISTS tenant_week
(
    week Date COMMENT 'Monday of the week, UTC',
    tenant LowCardinality(String) COMMENT 'on whose behalf',
{{measures}},
    refused_suppressed UInt64 COMMENT 'recipients that were refused at RCPT because they are suppressed; not part of accepted',
    complaints_7d UInt64 COMMENT 'recipients that complained within 7 days, of delivered_7d',
    delivered_7d UInt64 COMMENT 'recipients that were delivered that week, on days that have had 7 days to be answered',
    complaint_rate_7d Nullable(Float64) COMMENT 'complaints_7d of delivered_7d, 0 to 1; NULL without any',
{{rates}}
)
COMMENT 'Each tenant by week'
AS SELECT
    week, tenant,
{{names}},
    refused_suppressed, complaints_7d, delivered_7d, complaints_7d / nullIf(delivered_7d, 0) AS complaint_rate_7d,
{{ratesOf}}
FROM
(
    SELECT
        t.week AS week, t.tenant AS tenant,
{{sums}},
        sum(t.refused_suppressed) AS refused_suppressed, sum(t.complaints_7d) AS complaints_7d, sum(t.delivered_7d) AS delivered_7d
    FROM
    (
        SELECT
            toMonday(day) AS week, tenant, {{names}}, refused_suppressed, 0 AS complaints_7d, if({{mature "day" 8}}, delivered, 0) AS delivered_7d
        FROM traffic_day
        UNION ALL
        SELECT toMonday(day) AS week, tenant, {{none}}, 0 AS refused_suppressed, complaints_7d, 0 AS delivered_7d FROM returned_day
    ) AS t
    GROUP BY week, tenant
);

CREATE VIEW IF NOT EXISTS ip_day
(
    day Date COMMENT 'day, UTC',
    source LowCardinality(String) COMMENT 'address that the receivers see',
{{measures}},
    blocked UInt64 COMMENT 'attempts that were answered with a block of the address',
    throttled UInt64 COMMENT 'attempts that were answered with too fast, too many connections or messages',
    complaints_7d UInt64 COMMENT 'recipients that complained within 7 days, of delivered_7d',
    delivered_7d UInt64 COMMENT 'delivered, if the day has had 7 days to be answered; else 0',
    complaint_rate_7d Nullable(Float64) COMMENT 'complaints_7d of delivered_7d, 0 to 1; NULL without any',
{{rates}}
)
COMMENT 'Each source address by day'
AS SELECT
    day, source,
{{names}},
    blocked, throttled, complaints_7d, delivered_7d, complaints_7d / nullIf(delivered_7d, 0) AS complaint_rate_7d,
{{ratesOf}}
FROM
(
    SELECT
        t.day AS day, t.source AS source,
{{sums}},
        sum(t.blocked) AS blocked, sum(t.throttled) AS throttled, sum(t.complaints_7d) AS complaints_7d, sum(t.delivered_7d) AS delivered_7d
    FROM
    (
        SELECT
            day, source, {{names}}, if(dimension = 'block', attempts, 0) AS blocked,
            if(dimension IN ('rate', 'connections', 'messages'), attempts, 0) AS throttled,
            0 AS complaints_7d, if({{mature "day" 8}}, delivered, 0) AS delivered_7d
        FROM traffic_day
        WHERE source != ''
        UNION ALL
        SELECT day, source, {{none}}, 0 AS blocked, 0 AS throttled, complaints_7d, 0 AS delivered_7d FROM returned_day WHERE source != ''
    ) AS t
    GROUP BY day, source
);

CREATE VIEW IF NOT EXISTS latency_day
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
FROM {{upToNow "provider, source, attempts, to_deliver, dns, connect, tls, transfer" "latency_1d" "latency_1h"}};

CREATE VIEW IF NOT EXISTS time_to_deliver
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
