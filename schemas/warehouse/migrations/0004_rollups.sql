-- Sums over events in steps of time; rollUps in rollups.go is the one table that they are all
-- rendered from. Rows are states: always read them with sum(), max(), min() or
-- quantilesBFloat16Merge(…)() and GROUP BY.
--
-- k10s, k1m, provider_minutes and scoped_refusals are what the jobs read instead of events, so that
-- their cost follows keys and buckets, not mail. Evidence is one attempt each: delivered, deferred, bounced,
-- and queue-deferred once for the whole queue. A refusal aimed at a domain, a URL or one recipient
-- says nothing of (provider, source) and is left out; an unknown user always counts, because its
-- share is the list's quality.
--
-- The others are for people. rollup_1m and reply_templates are filled by views as events come in; those by
-- the hour and by the day by the job that calls RollUp. Each can be rebuilt for any range from events.
--
-- PARTITION BY day, but for steps of a day: retention and RollUp replace whole days.
{{range rollUps}}
-- ORDER BY: {{.Why}}.
CREATE TABLE IF NOT EXISTS {{.Table}}
(
    ts DateTime('UTC') COMMENT 'start of the {{.Step}}' CODEC(Delta, ZSTD(1)),
{{.Columns}}
)
ENGINE = {{engine "AggregatingMergeTree"}}
PARTITION BY {{.Partition}}
ORDER BY ({{.Order}})
{{ttl .Table "ts" .Days}}
SETTINGS {{durable}}, ttl_only_drop_parts = 1, default_compression_codec = 'ZSTD(1)'
COMMENT '{{.Comment}}';
{{if not .From}}
CREATE MATERIALIZED VIEW IF NOT EXISTS {{.Table}}_mv TO {{.Table}} AS
{{.View}}
COMMENT 'Fills {{.Table}} from events';
{{end}}{{end}}
