// What the system itself does: the closed loop and the nodes.
import { dashboard, on, picker, row, series, stat, table } from './lib';

export const loop = dashboard({
  uid: 'carom-loop',
  title: 'Closed loop',
  description: 'Limits, what was accepted under them, each decision with its reason, and what each node has of it.',
  variables: [picker('provider', 'Provider'), picker('source', 'Source')],
  where: on('provider', 'source'),
  rows: [
    row(
      'Limit and accepted rate',
      series(
        'Limit',
        {
          view: 'limits',
          metrics: ['limit_rate'],
          by: ['provider', 'source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Accepted',
        {
          view: 'limits',
          metrics: ['accepted_per_second'],
          by: ['provider', 'source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Refused: too fast, too many, blocked',
        {
          view: 'limits',
          metrics: ['refused_per_second'],
          by: ['provider', 'source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Limit in connections',
        {
          view: 'limits',
          metrics: ['limit_connections'],
          by: ['provider', 'source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0 }
      )
    ),
    row(
      'Decisions',
      table(
        'Decisions with their reasons',
        {
          view: 'limit_changes',
          metrics: [
            'ts',
            'provider',
            'source',
            'kind',
            'mode_to',
            'rate_old',
            'rate_new',
            'reason_text',
            'rule_id',
            'p',
            'accepted_rate',
            'actor',
            'id',
          ],
          where: on('provider', 'source'),
          limit: 100,
        },
        { w: 24, h: 10 }
      ),
      table(
        'Where each key stands',
        {
          sql: `
SELECT provider, source, mode AS "Mode", rate AS "Rate", connections AS "Connections", messages_per_connection AS "Messages a connection",
    cap AS "Capacity", goal AS "Goal", long_term AS "Long term", updated_at AS "Since"
FROM limit_state FINAL
WHERE $__adhoc
ORDER BY provider, source
LIMIT 200`,
          where: on('provider', 'source'),
        },
        { w: 24, h: 8, description: 'The state of the controller; rates in messages a second.' }
      )
    ),
    row(
      'Leases and nodes',
      series(
        'Leases per node',
        {
          view: 'limits',
          metrics: ['lease_rate'],
          by: ['node'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0, stack: true }
      ),
      series(
        'What binds now, per node',
        {
          view: 'limits',
          metrics: ['effective_rate'],
          by: ['node'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'How often the limit binds',
        {
          view: 'limits',
          metrics: ['throttle_bound'],
          by: ['provider', 'source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0, max: 1 }
      ),
      series(
        "The nodes' own guard",
        {
          view: 'limits',
          metrics: ['local_factor'],
          by: ['node'],
          where: on('provider', 'source'),
          limit: 12,
        },
        {
          min: 0,
          max: 1,
          description: 'Below 100 % a node slows down by itself, before the loop has decided.',
        }
      ),
      table(
        'What holds mail back, and who set it',
        {
          view: 'limits',
          metrics: ['throttle_bound', 'effective_rate', 'backlog'],
          by: ['provider', 'source', 'node'],
          where: on('provider', 'source'),
          limit: 100,
        },
        { w: 24, description: 'The last reading of the time range: of all limits the one that held mail back longest.' }
      )
    ),
    row(
      'Operators and jobs',
      table(
        'Pins and modes in force',
        {
          sql: `
SELECT toString(kind) AS "Kind", provider, source, nullIf(rate, 0) AS "Rate", nullIf(ceiling, 0) AS "Ceiling", nullIf(floor, 0) AS "Floor",
    nullIf(connections, 0) AS "Connections", mode AS "Mode", actor AS "Who", reason AS "Why", created_at AS "Set at",
    nullIf(expires_at, toDateTime64(0, 6, 'UTC')) AS "Until"
FROM overrides FINAL
WHERE NOT cancelled AND (expires_at = toDateTime64(0, 6, 'UTC') OR expires_at > now64(6)) AND $__adhoc
ORDER BY created_at DESC
LIMIT 100`,
          where: on('provider', 'source'),
        },
        { w: 24, description: 'What operators told the loop; rates in messages a second.' }
      ),
      table(
        'Runs of the jobs',
        {
          sql: `
SELECT job AS "Name", count() AS "Runs", countIf(status = 'failed') AS "Failed", max(started_at) AS "Last start",
    quantile(0.5)(if(finished_at > started_at, dateDiff('millisecond', started_at, finished_at), NULL)) / 1000 AS "Seconds, half of them",
    argMaxIf(error, started_at, error != '') AS "Last error"
FROM job_runs FINAL
WHERE $__timeFilter(started_at)
GROUP BY job
ORDER BY job`,
        },
        { w: 24 }
      )
    ),
  ],
});

export const node = dashboard({
  uid: 'carom-node',
  title: 'Node',
  description: 'The nodes: queues, what they write and ship, and whether all of it arrived.',
  variables: [picker('node', 'Node')],
  rows: [
    row(
      undefined,
      stat('In the queues', { view: 'queues', metrics: ['queued'], where: on('node') }, { w: 6 }),
      stat('Oldest', { view: 'queues', metrics: ['oldest_seconds'], where: on('node') }, { w: 6 }),
      stat(
        'Events missing',
        {
          sql: `
SELECT sum(arraySum(arrayMap((a, b) -> b - a + 1, missing_from, missing_to))) AS missing
FROM completeness_ledger FINAL
WHERE node != '' AND stream = 'event'`,
        },
        {
          unit: 'short',
          limits: [1, 100],
          w: 6,
          description: 'Numbers that a node gave out and that never arrived; of all nodes.',
        }
      ),
      stat(
        'Behind',
        {
          sql: `
SELECT max(dateDiff('second', seen_at, now64(6))) AS behind
FROM nodes FINAL
WHERE seen_at > now() - INTERVAL 1 DAY AND NOT startsWith(node, 'import/')`,
        },
        {
          unit: 's',
          limits: [60, 600],
          w: 6,
          description: 'Seconds since the agent that was quiet longest was heard; of those heard within a day.',
        }
      )
    ),
    row(
      'Queues',
      series(
        'In the queues',
        { view: 'queues', metrics: ['ready', 'waiting', 'held', 'paused'], where: on('node') },
        { min: 0, stack: true }
      ),
      series(
        'By node',
        { view: 'queues', metrics: ['queued'], by: ['node'], where: on('node'), limit: 12 },
        { min: 0, stack: true }
      ),
      series(
        'Age of the oldest',
        { view: 'queues', metrics: ['oldest_seconds'], by: ['node'], where: on('node'), limit: 12 },
        { min: 0 }
      ),
      series(
        'What keeps them',
        { view: 'queues', metrics: ['queued'], by: ['limit_scope'], where: on('node'), limit: 12 },
        { min: 0, stack: true }
      ),
      table(
        'Largest queues',
        {
          view: 'queues',
          metrics: ['queued', 'ready', 'waiting', 'held', 'oldest_seconds'],
          by: ['queue', 'node', 'limit'],
          where: on('node'),
          limit: 50,
        },
        { w: 24, h: 9 }
      )
    ),
    row(
      'Streams',
      table(
        'Completeness',
        { view: 'completeness', where: on('node') },
        {
          w: 24,
          h: 8,
          minWidth: 150,
          description: 'Missing and doubled numbers of each stream, and how long it has been quiet.',
        }
      ),
      series(
        'Events stored per second',
        {
          sql: `
SELECT $__timeInterval(ts) AS time, sum(events) / $__interval_s AS "Events per second"
FROM rollup_1m
WHERE $__timeFilter(ts)
GROUP BY time
ORDER BY time`,
        },
        { unit: 'eps', min: 0 }
      ),
      table('Agents', {
        sql: `
SELECT node, max(seen_at) AS "Seen at", argMax(version, seen_at) AS "Version", argMax(limits_generation, seen_at) AS "Limits, run",
    sum(quarantined) AS "Quarantined"
FROM nodes FINAL
WHERE NOT startsWith(node, 'import/') AND $__adhoc
GROUP BY node
ORDER BY node
LIMIT 100`,
        where: on('node'),
      })
    ),
    row(
      'Connections and what happened',
      series(
        'Open connections',
        { view: 'limits', metrics: ['open_connections'], by: ['node'], where: on('node'), limit: 12 },
        { min: 0, stack: true }
      ),
      table('Operations', { view: 'annotations', where: { 'name !=': 'limit-change' }, limit: 50 })
    ),
  ],
});
