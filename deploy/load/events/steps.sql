-- The lives of the messages that some days receive: a row for each step, with the numbers of
-- everything that follows. All of it comes from hashes of the message's number and the seed.
--
-- Each part names what the next ones use: a name that stood for an expression would be worked out
-- again, by the planner, in every place that uses it.
INSERT INTO {{.Steps}}
    (message, salt, received, time, step, attempt, kind, node, source, provider, domain, recipient, job, tenant, pool, reply)
WITH
    {{numbers "consumer-slot"}} AS consumer_slots,
    {{numbers "consumer-provider"}} AS consumer_providers,
    {{numbers "hoster-slot"}} AS hoster_slots,
    {{numbers "chance"}} AS chances,
    -- A number from 0 to 1 from the nth 16 bits of a hash, and one about normal from the sum of four.
    (h, n) -> bitAnd(bitShiftRight(h, 16 * n), 65535) / 65536. AS unit,
    h -> (unit(h, 0) + unit(h, 1) + unit(h, 2) + unit(h, 3) - 2) * 1.7320508 AS normal,
    numbered AS (
        SELECT
            number AS message,
            cityHash64(message, {seed:UInt64}) AS salt,
            arrayFirstIndex(next -> next > message, [{{ints .Nexts}}]) AS day -- from 1, of this run's
        FROM numbers_mt({first:UInt64}, {count:UInt64})
    ),
    salted AS (
        SELECT
            *,
            intHash64(salt + 1) AS salt_2, intHash64(salt + 2) AS salt_3, intHash64(salt + 3) AS salt_4, intHash64(salt + 4) AS salt_5,
            intHash64(salt + 5) AS salt_6, intHash64(salt + 6) AS salt_7, intHash64(salt + 7) AS salt_8,
            salt_3 % {{.Recipients}} AS recipient,
            -- Mail comes by day: the place in the day, from 0 to 1, and with it the time of day.
            (message - [{{ints .Firsts}}][day] + unit(intHash64(salt), 3)) / [{{ints .Counts}}][day] AS place,
            bitAnd(salt, 7) = 0 AS urgent
        FROM numbered
    ),
    timed AS (
        -- Mail is densest at noon (UTC), four times as dense as at midnight.
        SELECT *, place + 0.6 / (2 * pi()) * (sin(2 * pi() * (place - 0.05)) + sin(2 * pi() * 0.05)) AS day_part
        FROM salted
    ),
    ordered AS (
        SELECT
            *,
            floor({from_us:UInt64} + 86400e6 * (day - 1 + day_part)) AS received_us,
            -- A job is mailed for a while: most of the mail belongs to the newest ones.
            toUInt16(if(urgent, 0, greatest(1, floor(least(({days_before:UInt32} + day - 1 + day_part) / {days:UInt32}, 0.9999999) * {{.Jobs}}) + 1 - floor(21 * pow(unit(salt_2, 0), 2))))) AS job,
            -- An address that is dead is dead in every mailing.
            intHash64(recipient + 1000003) AS person
        FROM timed
    ),
    owned AS (
        SELECT
            *,
            toUInt8(floor(exp(log({{.Tenants}} + 1) * unit(if(urgent, salt_2, cityHash64(job, {seed:UInt64})), 1))) - 1) AS tenant,
            toUInt32(if(
                bitAnd(person, 1023) < 717,
                consumer_slots[bitShiftRight(person, 10) % 1000 + 1],
                {{.Consumers}} - 1 + floor(pow({{.OtherDomains}} + 1, unit(person, 1)))
            )) AS domain
        FROM ordered
    ),
    placed AS (
        SELECT
            *,
            NOT urgent AND tenant % 10 = 9 AND unit(salt_2, 2) < exp2({days_before:UInt32} + day - 11.) AS warm,
            toUInt8(if(domain < {{.Consumers}}, consumer_providers[least(domain, {{.Consumers}} - 1) + 1], hoster_slots[intHash64(domain) % 1000 + 1])) AS provider,
            -- Some tenants have old lists.
            bitAnd(bitShiftRight(person, 32), 1023) < if(tenant % 17 = 3, 60, 12) AS bad,
            bitAnd(bitShiftRight(person, 42), 1023) < 2 AS full
        FROM owned
    ),
    sourced AS (
        SELECT
            *,
            toUInt8(multiIf(urgent, 2, warm, 3, 1)) AS pool,
            toUInt8(multiIf(
                urgent, {{.BulkSources}} + bitShiftRight(salt_3, 48) % {{.UrgentSources}},
                warm, {{.BulkSources}} + {{.UrgentSources}} + bitShiftRight(salt_3, 48) % {{.WarmSources}},
                bitShiftRight(salt_3, 48) % {{.BulkSources}}
            )) AS source
        FROM placed
    ),
    met AS (
        SELECT *, {{.IncidentExpression}} AS incident
        FROM sourced
    ),
    fated AS (
        SELECT
            *,
            multiIf(
                bad AND bitAnd(salt_4, 1) = 1, {{fate "suppressed"}},
                bad, {{fate "unknown"}},
                full, {{fate "full"}},
                incident > 0 AND bitAnd(bitShiftRight(salt_4, 1), 15) < 14, [{{ints .IncidentFates}}][incident],
                provider % 5 = 4 AND bitAnd(bitShiftRight(salt_4, 5), 15) < 3, {{fate "greylisted"}},
                chances[bitShiftRight(salt_4, 16) % 10000 + 1]
            ) AS fate,
            toFloat64([{{ints .IncidentEnds}}][greatest(incident, 1)]) AS incident_end,
            exp(13.3 + 1.1 * normal(salt_8)) AS wait,
            salt_5 % 100000 AS chance
        FROM met
    ),
    tried AS (
        SELECT
            *,
            [{{ints .FirstKinds}}][fate + 1] AS first_kind,
            toUInt8(if(
                fate IN ({{fate "limited"}}, {{fate "block-for-now"}}),
                least({{.AttemptsUntilExpiry}}, greatest(1, ceil(log2(greatest(0, incident_end - received_us) / 600e6 + 1)))),
                [{{ints .Deferrals}}][fate + 1]
            )) AS deferrals
        FROM fated
    ),
    ended AS (
        SELECT *, if(deferrals >= {{.AttemptsUntilExpiry}}, {{.Expired}}, [{{ints .FinalKinds}}][fate + 1]) AS final_kind
        FROM tried
    ),
    reported AS (
        SELECT
            *,
            -- Complaints come from providers with a feedback loop, more of them about some tenants.
            multiIf(
                fate = {{fate "outage"}} AND chance < 2000, {{.QueueDeferred}},
                final_kind != {{.Delivered}}, 0,
                provider % 3 != 1 AND chance < if(tenant % 17 = 3, 250, 45), {{.Complaint}},
                chance BETWEEN 1000 AND 1110, {{.RemoteBounce}},
                chance BETWEEN 1111 AND 1125, {{.RemoteStatus}},
                0
            ) AS extra
        FROM ended
    ),
    stepped AS (
        SELECT
            *,
            arrayJoin(range(toUInt8(if(first_kind = {{.Received}}, deferrals + 2 + (extra != 0), 1)))) AS step
        FROM reported
    ),
    named AS (
        SELECT
            *,
            multiIf(step = 0, first_kind, step <= deferrals, {{.Deferred}}, step = deferrals + 1, final_kind, extra) AS kind,
            multiIf(
                step <= deferrals, [{{ints .DeferralRoles}}][fate + 1],
                step = deferrals + 1, [{{ints .FinalRoles}}][fate + 1],
                extra = {{.QueueDeferred}}, {{.RoleConnect}},
                if(bitAnd(salt_6, 3) = 0, {{.RoleFull}}, {{.RoleUnknown}})
            ) AS role,
            -- The last attempt stands for what comes behind it.
            least(step, deferrals + 1) AS nth
        FROM stepped
    ),
    attempted AS (
        SELECT
            *,
            received_us + if(fate = {{fate "outage"}}, greatest(0, incident_end - received_us) + 20 * wait, wait)
                + if(nth > 1, 600e6 * (exp2(nth - 1) - 1) * (0.92 + 0.16 * unit(intHash64(salt + nth), 0)), 0) AS attempt_us
        FROM named
    ),
    dated AS (
        SELECT
            *,
            fromUnixTimestamp64Micro(toInt64(received_us), 'UTC') AS received,
            fromUnixTimestamp64Micro(toInt64(multiIf(
                step = 0, received_us,
                kind = {{.Expired}}, received_us + 172800e6,
                step <= deferrals + 1, attempt_us,
                -- Reports come hours and days later; the failures of a queue before the end.
                kind = {{.QueueDeferred}}, received_us + 60e6 * unit(salt_5, 3),
                kind = {{.Complaint}}, attempt_us + least(exp(23.8 + 1.2 * normal(salt_7)), 1728000e6),
                attempt_us + least(exp(20.2 + 1.6 * normal(salt_7)), 345600e6)
            )), 'UTC') AS time
        FROM attempted
    )
SELECT
    message, salt, received, time, step,
    multiIf(step = 0 OR kind IN ({{.Suppressed}}, {{.QueueDeferred}}, {{.Complaint}}, {{.RemoteBounce}}, {{.RemoteStatus}}), 0, kind = {{.Expired}}, deferrals, step) AS attempt,
    kind, source % {{.Nodes}} AS node, source, provider, domain, recipient, job, tenant, pool,
    multiIf(
        kind = {{.Expired}}, {{.ReplyExpired}}, kind = {{.Suppressed}}, {{.ReplySuppressed}}, kind = {{.Rejected}}, {{.ReplyRejected}},
        kind = {{.Complaint}}, {{.ReplyComplaint}}, kind IN ({{.Received}}, {{.RemoteStatus}}, {{.ReportConsumed}}), {{.ReplyNone}},
        provider * {{.BasesOfProvider}} + [{{ints .RoleFirst}}][role + 1]
            -- A provider's hosts mostly say the same; some of its customers run other servers.
            + if(bitAnd(salt_6, 31) = 0, bitShiftRight(salt_6, 8), provider) % [{{ints .RoleCount}}][role + 1]
    ) AS reply
FROM dated
