-- Nothing lost, nothing twice: gaps = 0 and duplicates = 0 for every node and stream.
--
-- The numbers of a stream start at 1 and have no gaps, so exact counting settles it. before_first
-- is 0 until retention drops the oldest rows. A filter by node or stream reaches the tables.
CREATE VIEW IF NOT EXISTS completeness{{onCluster}} AS
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
