-- Starts, stops, reloads and notes, to be drawn beside the curves.
--
-- ORDER BY: a dashboard asks for a span of time. PARTITION BY month: a few rows a day.
CREATE TABLE IF NOT EXISTS annotations
(
{{columns "annotations"}},
    arrived DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'when the row reached ClickHouse, by its clock'
)
ENGINE = {{engine "MergeTree"}}
PARTITION BY toYYYYMM(time)
ORDER BY (time, node)
{{ttl "annotations" "arrived" 400}}
SETTINGS {{durable}}
COMMENT 'Things an operator should see beside the curves: starts, reloads, notes';
