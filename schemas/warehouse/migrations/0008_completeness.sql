-- Nothing lost, nothing twice: gaps = 0 and duplicates = 0 for every node and stream.
--
-- The numbers of a stream start at 1 and have no gaps, so exact counting settles it. before_first
-- is 0 until retention drops the oldest rows. A filter by node or stream reaches the tables.
CREATE VIEW IF NOT EXISTS completeness
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

-- What the job completeness has seen of each stream: so a run looks at what arrived since the last one.
-- The row with an empty node says how far the job went.
--
-- ORDER BY: one row a stream; read with FINAL. There are few, and a stream that is over stays as it is.
CREATE TABLE IF NOT EXISTS completeness_ledger
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
ENGINE = {{engine "ReplacingMergeTree" "updated_at"}}
ORDER BY (node, incarnation, stream)
SETTINGS {{durable}}
COMMENT 'What the job completeness has counted of each stream; read with FINAL';
