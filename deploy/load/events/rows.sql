-- The events of one day: what the steps' numbers stand for. The steps are put into the order of the
-- nodes' logs, which gives the sequence numbers, and then into the order of the table, since it takes
-- less to sort numbers here than whole events when they are stored.
--
-- Words are looked up by the few distinct numbers of a block and not row by row: a function of one
-- LowCardinality column is worked out for its dictionary alone. Place 0 of a list is no word.
SELECT
    {{.Columns}}
FROM
(
    SELECT
        *,
        multiIf(letter_1 = 109, address, letter_1 = 105, source_name, letter_1 = 113, code_id, '') AS variable_1,
        multiIf(letter_2 = 109, address, letter_2 = 105, source_name, letter_2 = 113, code_id, '') AS variable_2,
        mail_time + rcpt_time + data_time + body_time + final_time AS transfer_time
    FROM
    (
        SELECT
            *,
            concat(first_names[bitAnd(recipient, 31) + 1], '.', last_names[bitAnd(intDiv(recipient, 32), 31) + 1], toString(intDiv(recipient, 1024)), '@', domain_name) AS address,
            source_names[source_place] AS source_name,
            substring(hex(chance_2), 1, 12) AS code_id,
            if(greeted, toUInt64(round_trip * (0.9 + 0.3 * unit(chance, 1))), 0) AS mail_time,
            if(greeted AND ended > {{.Mail}}, toUInt64(40 + 400 * unit(chance, 2)), 0) AS rcpt_time,
            if(transferred AND provider % 4 = 0, toUInt64(30 + 300 * unit(chance, 3)), 0) AS data_time,
            if(transferred, toUInt64(200 + message_size * (0.02 + 0.02 * unit(chance_2, 0))), 0) AS body_time,
            if(transferred, toUInt64(round_trip + exp(11.2 + 0.8 * normal(chance_3))), 0) AS final_time
        FROM
        (
            SELECT
                *,
                is_attempt AND ended > {{.Connect}} AS connected,
                is_attempt AND ended >= {{.Mail}} AS greeted,
                is_attempt AND ended = {{.FinalDot}} AS transferred
            FROM
            (
                SELECT
                    *,
                    -- Place 0 of a list is no word.
                    toLowCardinality(toUInt16(if(is_queued, provider + 1, 0))) AS provider_place,
                    toLowCardinality(toUInt16(if(is_queued, source + 1, 0))) AS source_place,
                    toLowCardinality(toUInt16(if(is_report, 0, source + 1))) AS vmta_place,
                    toLowCardinality(toUInt16(if(is_tried, provider + 1, 0))) AS mx_place,
                    toUInt16(if(is_tried, provider * 4 + bitAnd(chance_3, 3) + 1, 0)) AS mx_ip_place,
                    toLowCardinality(toUInt16(if(of_message, tenant + 1, 0))) AS tenant_place,
                    toLowCardinality(toUInt16(if(of_queue, 0, tenant + 1))) AS sender_place,
                    toLowCardinality(toUInt16(if(of_message, job, 0))) AS job_number,
                    toLowCardinality(toUInt16(if(of_message, pool, 0))) AS pool_place,
                    phase_of[reply_place] AS ended,
                    first_variables[reply_place] AS letter_1,
                    second_variables[reply_place] AS letter_2,
                    toLowCardinality(if(domain < {{.Consumers}}, consumer_names[domain_number + 1], concat('site-', toString(domain_number), '.example'))) AS domain_name,
                    bitAnd(chance, 31) = 0 AND is_tried AS fresh,
                    if(of_message, toUInt64(12000 + cityHash64(job, tenant) % 60000 + bitAnd(salt, 1023)), 0) AS message_size,
                    -- A limit changes every few hours, and every hour where the loop works.
                    if(is_attempt, intDiv(us, if(provider % 4 = 0, 3600000000, 21600000000)), 0) AS epoch_number
                FROM
                (
                    SELECT
                        *,
                        kind IN ({{.Complaint}}, {{.RemoteBounce}}, {{.RemoteStatus}}, {{.ReportConsumed}}) AS is_report,
                        kind = {{.QueueDeferred}} AS of_queue,
                        kind IN ({{.Delivered}}, {{.Deferred}}, {{.Bounced}}) AS is_attempt,
                        is_attempt OR of_queue AS is_tried,
                        NOT is_report AND NOT of_queue AS of_message,
                        toUInt64(toUnixTimestamp64Micro(time)) AS us,
                        toUInt64(toUnixTimestamp64Micro(received)) AS received_us,
                        us - received_us AS waited,
                        intHash64(salt + 100 * kind + step) AS chance,
                        intHash64(chance + 1) AS chance_2, intHash64(chance + 2) AS chance_3,
                        toLowCardinality(toUInt16(reply + 1)) AS reply_place,
                        toLowCardinality(domain) AS domain_number,
                        20000 + 3000 * (provider % 40) AS round_trip,
                        -- Mail of a key shares the connections of a minute.
                        intDiv(us, 60000000) AS minute
                    FROM
                    (
                        SELECT
                            *,
                            [{{ints .LastSeqs}}][node + 1] + row_number() OVER (PARTITION BY node ORDER BY time, message, step) AS seq,
                            kind IN ({{.Delivered}}, {{.Deferred}}, {{.Bounced}}, {{.QueueDeferred}}, {{.Suppressed}}, {{.Expired}}) AS is_queued
                        FROM {{.Steps}}
                        WHERE toYYYYMMDD(time) = {{.Date}} AND time < fromUnixTimestamp64Micro({{.EndMicros}}, 'UTC')
                        -- The table's order, by name.
                        ORDER BY if(is_queued, [{{ints .ProviderRanks}}][provider + 1], 0), if(is_queued, [{{ints .SourceRanks}}][source + 1], 0), time
                    )
                )
            )
        )
    )
)
