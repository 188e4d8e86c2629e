-- Every step of every recipient, one row each; schemas/event.Columns is the truth of the columns.
--
-- ORDER BY: "what did this provider say to this source between t1 and t2", the question behind
-- every deferral burst, reads one range. A message or Message-ID is found by bloom filter (the id
-- of a message tells its day), a recipient, of whom no day is known, by a projection that is
-- an index sorted by address; jobs and reply templates by the set of them in each granule.
-- PARTITION BY day: retention drops whole parts, and a question about a day opens only that day.
-- TTL by arrival: an imported history and the rows of a node with a wrong clock live as long.
-- The indexes on seq and arrived serve the agent that asks what of its last batch is here.
-- The deduplication window is what makes a repeated batch harmless (see Insert), and a part is
-- fsynced before the insert is confirmed, because the node then removes the records from its log. A small
-- part is one file for all columns, so that this is a few calls and not two for each column.
CREATE TABLE IF NOT EXISTS events
(
{{columns "events"}},
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
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, time)
{{ttl "events" "arrived" 180}}
SETTINGS {{durable}}, min_bytes_for_wide_part = 268435456, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(3)'
COMMENT 'One row per recipient and step: what every node did and what every receiver answered';
