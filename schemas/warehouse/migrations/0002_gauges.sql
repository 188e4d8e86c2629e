-- The state of each key on each node, every ten seconds: backlog, open connections, what binds.
--
-- ORDER BY: the control job reads "the last minute of this key over all nodes".
CREATE TABLE IF NOT EXISTS gauges
(
{{columns "gauges"}},
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, time, node)
{{ttl "gauges" "arrived" 15}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'State of each key (provider, source) on each node, every ten seconds';

-- What waits on each node, every ten seconds: a row for each of the largest backlogs, by queue, tenant
-- and job, and one for the rest.
--
-- ORDER BY: "this queue over time", and "all of a node at one time" by the part's range of time.
CREATE TABLE IF NOT EXISTS queue_gauges
(
{{columns "queue_gauges"}},
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(time)
ORDER BY (provider, source, queue, time, node)
{{ttl "queue_gauges" "arrived" 15}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'What waits in each of the largest queues of each node, by tenant and job, every ten seconds';
