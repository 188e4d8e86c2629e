-- What the loop decided (limit_log), where it stands (limit_state), what it handed to each node
-- (leases) and what operators told it (overrides).

-- ORDER BY: an agent asks for "my rows of the highest generation". All rows of one generation go
-- in by one insert and share issued_at, so they become visible together.
CREATE TABLE IF NOT EXISTS leases
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
    greylisting Bool COMMENT 'the receiver greylists without a word: unclassified refusals of first attempts do not count',
    not_after DateTime64(6, 'UTC') COMMENT 'end of this lease before its ttl, 1970 for none',
    reason_id String COMMENT 'id of the row in limit_log that explains the limit',
    document String COMMENT 'only in the row with empty key: the rest of the limits document as JSON (scoped limits, holds, modes)'
)
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMMDD(issued_at)
ORDER BY (node, generation, provider, source)
{{ttl "leases" "issued_at" 2}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1
COMMENT 'Limits handed to the nodes; the agents turn the highest generation into limits.json';

-- ORDER BY: one row a key; read with FINAL. Kept for ever: it is small and start-up begins here.
CREATE TABLE IF NOT EXISTS limit_state
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
ENGINE = {{engine "ReplacingMergeTree" "generation"}}
ORDER BY (provider, source)
SETTINGS {{durable}}
COMMENT 'Where the control loop stands for each key; read with FINAL';

-- ORDER BY: "explain this key" reads its changes in order; an event's limit_epoch and limit_reason
-- lead to the row by epoch or id.
CREATE TABLE IF NOT EXISTS limit_log
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
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(ts)
ORDER BY (provider, source, ts)
{{ttl "limit_log" "ts" 400}}
SETTINGS {{durable}}
COMMENT 'Every change of a limit with its evidence, before and after, actor and expiry';

-- ORDER BY: one row an override; read with FINAL. There are few.
CREATE TABLE IF NOT EXISTS overrides
(
    id UUID COMMENT 'the override; a later version replaces it, cancelling included',
    version UInt64 COMMENT 'version of the row, microseconds since 1970; the highest wins',
    kind Enum8('pin' = 1, 'cancel' = 2, 'mode' = 3, 'kill' = 4) COMMENT 'pin: fixes a limit; cancel: takes a change back, and the loop waits; mode: active, advise or off; kill: the loop does nothing',
    provider LowCardinality(String) COMMENT 'provider it is for, empty for all',
    source LowCardinality(String) COMMENT 'source it is for, empty for all',
    rate Float64 COMMENT 'messages a second of a pin, 0 for not pinned',
    ceiling Float64 COMMENT 'messages a second that the loop may not go above, 0 for none',
    floor Float64 COMMENT 'messages a second that the loop may not go below, 0 for none',
    connections UInt32 COMMENT 'connections of a pin, 0 for not pinned',
    messages_per_connection UInt32 COMMENT 'messages per connection of a pin, 0 for not pinned',
    mode LowCardinality(String) COMMENT 'mode to set: active, advise or off',
    cancels String COMMENT 'id of the row of limit_log that is taken back, empty for none',
    actor String COMMENT 'who set it',
    reason String COMMENT 'why',
    created_at DateTime64(6, 'UTC') COMMENT 'when it was set',
    expires_at DateTime64(6, 'UTC') COMMENT 'when it lapses, 1970 for never',
    cancelled Bool COMMENT 'it was taken back'
)
ENGINE = {{engine "ReplacingMergeTree" "version"}}
ORDER BY id
SETTINGS {{durable}}
COMMENT 'What operators told the loop: pins, modes, the kill switch; read with FINAL';
