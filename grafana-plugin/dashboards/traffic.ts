// Is mail flowing: the overview, one receiver, one of our addresses.
import { bars, dashboard, on, picker, row, series, stat, table } from './lib';

/** Of the view sources. */
const health = ['delivery_rate', 'attempt_deferral_rate', 'hard_bounce_rate', 'blocked_rate', 'throttled_rate'];
const rates = ['delivery_rate', 'recipient_deferral_rate', 'hard_bounce_rate', 'blocked_rate', 'throttled_rate'];

export const overview = dashboard({
  uid: 'carom-overview',
  title: 'Overview',
  description: 'Is mail flowing, to whom not, since when; what changed since yesterday, and who caused it.',
  variables: [picker('provider', 'Provider'), picker('tenant', 'Tenant')],
  where: on('provider'),
  rows: [
    row(
      undefined,
      stat(
        'Delivered',
        { view: 'deliverability', metrics: ['delivery_rate'], where: on('provider', 'tenant') },
        {
          description: 'Accepted by receivers, of all recipients that are done.',
        }
      ),
      stat('Per second', {
        view: 'deliverability',
        metrics: ['delivered_per_second'],
        where: on('provider', 'tenant'),
      }),
      stat(
        'Late',
        {
          view: 'deliverability',
          metrics: ['recipient_deferral_rate'],
          where: on('provider', 'tenant'),
        },
        {
          description: 'Recipients whose first attempt was deferred; each once.',
        }
      ),
      stat('Dead addresses', {
        view: 'deliverability',
        metrics: ['hard_bounce_rate'],
        where: on('provider', 'tenant'),
      }),
      stat(
        'Complaints in 72 h',
        { view: 'complaints', metrics: ['complaint_rate_72h'], where: on('provider', 'tenant') },
        {
          timeFrom: '10d',
          description: 'Of the mail of days that are old enough. Google and Apple send no reports.',
        }
      ),
      stat('Oldest in the queues', { view: 'queues', metrics: ['oldest_seconds'], where: on('provider', 'tenant') })
    ),
    row(
      'Is mail flowing',
      series(
        'Delivered per second',
        {
          view: 'deliverability',
          metrics: ['delivered_per_second'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { stack: true, min: 0 }
      ),
      series(
        'The same a day before',
        {
          view: 'deliverability',
          metrics: ['delivered_per_second'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { stack: true, min: 0, timeShift: '1d' }
      ),
      series(
        'Delivery rate',
        {
          view: 'deliverability',
          metrics: ['delivery_rate'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, max: 1 }
      ),
      series(
        'In the queues',
        {
          view: 'queues',
          metrics: ['queued'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, stack: true }
      )
    ),
    row(
      'To whom not',
      table(
        'Receivers',
        {
          view: 'deliverability',
          metrics: ['attempts', 'delivered', ...rates, 'queue_failures'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 50,
        },
        { w: 24, h: 9, description: 'The busiest receivers of the time range.' }
      ),
      series(
        'Deferred attempts by reason',
        {
          view: 'deferrals',
          metrics: ['deferred_attempts'],
          by: ['category'],
          where: on('provider', 'tenant'),
          limit: 10,
        },
        { min: 0, stack: true }
      ),
      series(
        'Bounced by category',
        {
          view: 'bounces',
          metrics: ['bounced'],
          by: ['category'],
          where: on('provider', 'tenant'),
          limit: 10,
        },
        { min: 0, stack: true }
      )
    ),
    row(
      'What changed since yesterday, and who caused it',
      table('Deferred attempts: now and before', {
        view: 'contributors',
        metrics: ['deferred_attempts'],
        by: ['provider', 'tenant'],
        where: on('provider', 'tenant'),
      }),
      table('Dead addresses: now and before', {
        view: 'contributors',
        metrics: ['hard_bounced'],
        by: ['provider', 'tenant'],
        where: on('provider', 'tenant'),
      }),
      table(
        'Limits that changed',
        {
          view: 'limit_changes',
          metrics: ['ts', 'provider', 'source', 'kind', 'rate_old', 'rate_new', 'reason_text', 'id'],
          where: on('provider'),
          limit: 50,
        },
        { w: 24 }
      )
    ),
  ],
});

export const provider = dashboard({
  uid: 'carom-provider',
  title: 'Provider',
  description: 'One receiver: reputation, limits, what it says when it defers, how long it takes.',
  variables: [picker('provider', 'Provider', false), picker('source', 'Source')],
  where: on('provider', 'source'),
  rows: [
    row(
      undefined,
      stat('Delivered', { view: 'deliverability', metrics: ['delivery_rate'], where: on('provider', 'source') }),
      stat('Late', {
        view: 'deliverability',
        metrics: ['recipient_deferral_rate'],
        where: on('provider', 'source'),
      }),
      stat('Throttled', { view: 'deliverability', metrics: ['throttled_rate'], where: on('provider', 'source') }),
      stat('Blocked', { view: 'deliverability', metrics: ['blocked_rate'], where: on('provider', 'source') }),
      stat(
        'Reputation',
        { view: 'reputation', metrics: ['score'], where: on('provider'), by: ['provider'] },
        { description: '0 to 100; the band edges are 80, 60 and 30.' }
      ),
      stat('Half delivered within', { view: 'latency', metrics: ['to_deliver_p50'], where: on('provider', 'source') })
    ),
    row(
      'Limits and what was accepted under them',
      series(
        'Limit, accepted and refused',
        {
          view: 'limits',
          metrics: ['limit_rate', 'accepted_per_second', 'refused_per_second'],
          by: ['source'],
          where: on('provider', 'source'),
          limit: 6,
        },
        { min: 0 }
      ),
      series(
        'Reputation by source',
        {
          view: 'reputation',
          metrics: ['score'],
          by: ['source'],
          where: on('provider', 'source'),
          limit: 12,
        },
        { min: 0, max: 100 }
      ),
      table(
        'Decisions',
        {
          view: 'limit_changes',
          metrics: ['ts', 'source', 'kind', 'rate_old', 'rate_new', 'mode_to', 'reason_text', 'p', 'id'],
          where: on('provider', 'source'),
          limit: 50,
        },
        { w: 24 }
      )
    ),
    row(
      'What it says',
      series(
        'Deferred attempts by reason',
        {
          view: 'deferrals',
          metrics: ['deferred_attempts'],
          by: ['category'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, stack: true }
      ),
      series(
        'Bounced by category',
        {
          view: 'bounces',
          metrics: ['bounced'],
          by: ['category'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, stack: true }
      ),
      table(
        'Replies',
        {
          view: 'deferrals',
          metrics: ['replies'],
          by: ['reply_template', 'category'],
          where: on('provider'),
          limit: 50,
        },
        { w: 24, description: 'Text without what differs from mail to mail, by day.' }
      )
    ),
    row(
      'How long it takes',
      series(
        'Time to deliver',
        {
          view: 'latency',
          metrics: ['to_deliver_p50', 'to_deliver_p90', 'to_deliver_p99'],
          where: on('provider', 'source'),
        },
        { min: 0 }
      ),
      series(
        'Parts of an attempt, half of them',
        {
          view: 'latency',
          metrics: ['dns_p50', 'connect_p50', 'tls_p50', 'transfer_p50'],
          where: on('provider', 'source'),
        },
        { min: 0 }
      )
    ),
    row(
      'By address and by tenant',
      table('Source addresses', {
        view: 'sources',
        metrics: ['attempts', 'delivered', ...health],
        by: ['source'],
        where: on('provider', 'source'),
        limit: 50,
      }),
      table('Tenants', {
        view: 'deliverability',
        metrics: ['attempts', 'delivered', ...rates],
        by: ['tenant'],
        where: on('provider', 'source'),
        limit: 50,
      })
    ),
  ],
});

export const source = dashboard({
  uid: 'carom-source',
  title: 'Source',
  description: 'One of our addresses: its health, its warm-up, where it is blocked.',
  from: 'now-24h',
  variables: [picker('source', 'Source', false), picker('provider', 'Provider')],
  where: on('provider', 'source'),
  rows: [
    row(
      undefined,
      stat('Delivered', { view: 'sources', metrics: ['delivery_rate'], where: on('provider', 'source') }),
      stat('Recipients delivered', { view: 'sources', metrics: ['delivered'], where: on('provider', 'source') }),
      stat('Blocked', { view: 'sources', metrics: ['blocked_rate'], where: on('provider', 'source') }),
      stat('Throttled', { view: 'sources', metrics: ['throttled_rate'], where: on('provider', 'source') }),
      stat('Reputation', { view: 'reputation', metrics: ['score'], by: ['source'], where: on('source') }),
      stat(
        'Day of warm-up',
        { view: 'warmup', metrics: ['warmup_day'], by: ['source'], where: on('source') },
        { description: 'Empty for an address that is not in warm-up.' }
      )
    ),
    row(
      'Health',
      series(
        'Delivery rate by receiver',
        {
          view: 'deliverability',
          metrics: ['delivery_rate'],
          by: ['provider'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, max: 1 }
      ),
      series(
        'Reputation by receiver',
        {
          view: 'reputation',
          metrics: ['score'],
          by: ['provider'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, max: 100 }
      ),
      table(
        'Receivers',
        {
          view: 'sources',
          metrics: ['attempts', 'delivered', ...health],
          by: ['provider'],
          where: on('provider', 'source'),
          limit: 50,
        },
        { w: 24 }
      )
    ),
    row(
      'Blocks',
      series(
        'Blocked attempts',
        {
          view: 'deliverability',
          metrics: ['blocked'],
          by: ['provider'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, stack: true }
      ),
      series(
        'Throttled attempts',
        {
          view: 'deliverability',
          metrics: ['throttled'],
          by: ['provider'],
          where: on('provider', 'source'),
          limit: 10,
        },
        { min: 0, stack: true }
      ),
      bars('Deferred because of', {
        view: 'deferrals',
        metrics: ['deferred_attempts'],
        by: ['category'],
        where: on('provider', 'source'),
        limit: 12,
      }),
      table('Limits that changed', {
        view: 'limit_changes',
        metrics: ['ts', 'provider', 'rate_old', 'rate_new', 'reason_text', 'id'],
        where: on('provider', 'source'),
        limit: 50,
      })
    ),
    row(
      'Warm-up',
      series(
        'Allowed and delivered per second',
        {
          view: 'warmup',
          metrics: ['warmup_rate', 'delivered_per_second'],
          by: ['source'],
          where: on('source'),
        },
        { min: 0 }
      ),
      table('Addresses in warm-up', {
        view: 'warmup',
        metrics: ['warmup_day', 'warmup_rate', 'delivered', 'delivery_rate', 'hard_bounce_rate', 'blocked'],
        by: ['source'],
        limit: 50,
      })
    ),
  ],
});
