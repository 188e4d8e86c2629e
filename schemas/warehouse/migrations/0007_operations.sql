-- Who is alive and what ran.

-- ORDER BY: one row a node and life of its log; read with FINAL.
CREATE TABLE IF NOT EXISTS nodes
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
ENGINE = {{engine "ReplacingMergeTree" "seen_at"}}
ORDER BY (node, incarnation)
SETTINGS {{durable}}
COMMENT 'The nodes and their agents'' last sign of life; read with FINAL';

-- ORDER BY: "when did this job last finish, and how long do its runs take".
-- A run is written when it starts and again when it ends; read with FINAL.
CREATE TABLE IF NOT EXISTS job_runs
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
ENGINE = {{engine "ReplacingMergeTree" "updated_at"}}
PARTITION BY toYYYYMM(started_at)
ORDER BY (job, started_at, run_id)
{{ttl "job_runs" "started_at" 90}}
SETTINGS {{durable}}
COMMENT 'Runs of the analytics jobs; read with FINAL';

-- ORDER BY: one row a file that was imported; read with FINAL. A row is written before each batch, so
-- that an import that was killed sends its last batch again as it was. Kept for ever: it is what keeps
-- a file from being imported twice.
CREATE TABLE IF NOT EXISTS imports
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
ENGINE = {{engine "ReplacingMergeTree" "updated_at"}}
ORDER BY node
SETTINGS {{durable}}
COMMENT 'Files that were imported and how far; read with FINAL';
