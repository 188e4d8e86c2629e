-- Each node starts once, and reloads where the events' configuration becomes another.
INSERT INTO annotations (node, incarnation, seq, format_version, time, name, text, tags, arrived)
SELECT
    concat('load-', toString(node)), {incarnation:UUID}, row_number() OVER (PARTITION BY node ORDER BY moment), 1, moment AS time,
    if(n = 0, 'start', 'reload'), if(n = 0, 'started', 'the configuration was read again'), ['load'], moment + INTERVAL 2 SECOND
FROM
(
    SELECT
        node, n, intDiv({from_us:Int64}, 172800000000) AS first,
        fromUnixTimestamp64Micro(if(n = 0, {from_us:Int64}, toInt64((first + n) * 172800000000)), 'UTC') AS moment
    FROM (SELECT arrayJoin(range(1, {nodes:UInt64} + 1)) AS node, arrayJoin(range(0, 100)) AS n)
)
WHERE moment < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
