-- What the loop knows of reputation (reputation), which mail it keeps back for complaints (holds), and
-- what came of its changes (limit_outcomes).

-- ORDER BY: "the score of this provider's keys over time"; the last run is found by ts.
-- The arrays of a row belong together: component by component, those that do not count are left out.
CREATE TABLE IF NOT EXISTS reputation
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
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(ts)
ORDER BY (kind, provider, name, ts)
{{ttl "reputation" "ts" 35}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT 'Scores of every run: who is thought of how well, and by what numbers';

-- ORDER BY: one row a hold; read with FINAL. Kept for ever: there are few, and people ask for years.
CREATE TABLE IF NOT EXISTS holds
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
ENGINE = {{engine "ReplacingMergeTree" "version"}}
ORDER BY id
SETTINGS {{durable}}
COMMENT 'Mail that is held back because of complaints; read with FINAL';

-- ORDER BY: "what came of this change".
CREATE TABLE IF NOT EXISTS limit_outcomes
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
ENGINE = {{engine "ReplacingMergeTree" "written_at"}}
PARTITION BY toYYYYMM(changed_at)
ORDER BY (id, after_minutes)
{{ttl "limit_outcomes" "changed_at" 400}}
SETTINGS {{durable}}
COMMENT 'What came of each decrease and suspension of a source after 15 minutes, an hour and a day; read with FINAL';
