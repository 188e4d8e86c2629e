// Whose mail it is and what came back: tenants, jobs, bounces, complaints, the week, one message.
import { bars, dashboard, logs, on, picker, row, series, stat, table, text, textbox } from './lib';

const outcome = ['delivery_rate', 'recipient_deferral_rate', 'hard_bounce_rate', 'soft_bounce_rate'];

export const tenant = dashboard({
  uid: 'carom-tenant',
  title: 'Tenant and job',
  description: 'Who causes what.',
  from: 'now-24h',
  variables: [picker('tenant', 'Tenant'), picker('provider', 'Provider')],
  where: on('provider'),
  rows: [
    row(
      'Tenants',
      table(
        'What became of their mail',
        {
          view: 'deliverability',
          metrics: ['accepted', 'attempts', 'delivered', ...outcome, 'suppressed'],
          by: ['tenant'],
          where: on('tenant'),
          limit: 100,
        },
        { w: 24, h: 9 }
      ),
      series(
        'Delivered per second',
        {
          view: 'deliverability',
          metrics: ['delivered_per_second'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, stack: true }
      ),
      series(
        'Dead addresses',
        {
          view: 'bounces',
          metrics: ['hard_bounce_rate'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Complaints as they came',
        {
          view: 'complaints',
          metrics: ['complaints'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, stack: true }
      ),
      series(
        'Late at the first attempt',
        {
          view: 'deferrals',
          metrics: ['recipient_deferral_rate'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      )
    ),
    row(
      'Who made the difference',
      table('Deferred attempts', {
        view: 'contributors',
        metrics: ['deferred_attempts'],
        by: ['tenant', 'provider'],
        where: on('provider', 'tenant'),
      }),
      table('Bounced', {
        view: 'contributors',
        metrics: ['bounced'],
        by: ['tenant', 'provider'],
        where: on('provider', 'tenant'),
      }),
      table('Blocked attempts, by job', {
        view: 'contributors',
        metrics: ['blocked'],
        by: ['job', 'tenant'],
        where: on('provider', 'tenant'),
      }),
      table('Dead addresses, by job', {
        view: 'contributors',
        metrics: ['hard_bounced'],
        by: ['job', 'tenant'],
        where: on('provider', 'tenant'),
      })
    ),
    row(
      'Jobs',
      table(
        'Jobs',
        {
          view: 'jobs',
          metrics: ['accepted', 'delivered', 'left', ...outcome],
          by: ['job', 'tenant'],
          where: { ...on('tenant'), 'job !=': '' },
          limit: 100,
        },
        { w: 24, h: 10 }
      )
    ),
  ],
});

export const job = dashboard({
  uid: 'carom-job',
  title: 'Job',
  description: 'One job: how far it is, to whom it went, what came back.',
  from: 'now-24h',
  variables: [picker('job', 'Job', false)],
  rows: [
    row(
      undefined,
      stat('Accepted', { view: 'jobs', metrics: ['accepted'], where: on('job') }),
      stat('Delivered', { view: 'jobs', metrics: ['delivered'], where: on('job') }),
      stat('Left to do', { view: 'jobs', metrics: ['left'], where: on('job') }),
      stat('Delivery rate', { view: 'jobs', metrics: ['delivery_rate'], where: on('job') }),
      stat('Dead addresses', { view: 'jobs', metrics: ['hard_bounce_rate'], where: on('job') }),
      stat('Within ten minutes', { view: 'jobs', metrics: ['within_10m_rate'], where: on('job') })
    ),
    row(
      'Course',
      series(
        'Accepted and delivered',
        { view: 'deliverability', metrics: ['accepted', 'delivered'], where: on('job') },
        { min: 0, description: 'By the hour: jobs are summed up no finer.' }
      ),
      series(
        'In the queues',
        { view: 'queues', metrics: ['ready', 'waiting', 'held', 'paused'], where: on('job') },
        { min: 0, stack: true }
      ),
      table(
        'Receivers',
        {
          view: 'jobs',
          metrics: ['attempts', 'delivered', ...outcome, 'within_10m_rate'],
          by: ['provider'],
          where: on('job'),
          limit: 50,
        },
        { w: 24 }
      )
    ),
    row(
      'What came back',
      bars('Attempts that were refused, by what the answer is about', {
        view: 'deferrals',
        metrics: ['deferred_attempts'],
        by: ['dimension'],
        where: on('job'),
        limit: 12,
      }),
      series(
        'Complaints',
        { view: 'complaints', metrics: ['complaints'], by: ['provider'], where: on('job') },
        { min: 0, stack: true }
      ),
      logs('Bounces', { view: 'events', where: { ...on('job'), kind: 'bounced' }, limit: 100 })
    ),
  ],
});

export const bounces = dashboard({
  uid: 'carom-bounces',
  title: 'Bounces',
  description: 'What was refused for good, why, by whom, and what came back later.',
  from: 'now-24h',
  variables: [picker('provider', 'Provider'), picker('tenant', 'Tenant')],
  where: on('provider'),
  rows: [
    row(
      undefined,
      stat('Bounced', { view: 'bounces', metrics: ['bounced'], where: on('provider', 'tenant') }),
      stat('Dead addresses', { view: 'bounces', metrics: ['hard_bounce_rate'], where: on('provider', 'tenant') }),
      stat('For other reasons', { view: 'bounces', metrics: ['soft_bounce_rate'], where: on('provider', 'tenant') }),
      stat('Expired', { view: 'bounces', metrics: ['expired'], where: on('provider', 'tenant') }),
      stat(
        'Came back later',
        { view: 'bounces', metrics: ['later_bounce_rate_72h'], where: on('provider', 'tenant') },
        {
          timeFrom: '10d',
          description: 'Accepted first and returned by mail within 72 hours, of days that are old enough.',
        }
      ),
      stat('Suppressed', { view: 'deliverability', metrics: ['suppressed'], where: on('tenant') })
    ),
    row(
      'Why',
      series(
        'By category',
        {
          view: 'bounces',
          metrics: ['bounced'],
          by: ['category'],
          where: on('provider', 'tenant'),
          limit: 15,
        },
        { min: 0, stack: true, w: 16 }
      ),
      bars(
        'Categories',
        {
          view: 'bounces',
          metrics: ['bounced'],
          by: ['category'],
          where: on('provider', 'tenant'),
          limit: 15,
        },
        { w: 8 }
      ),
      table(
        'Replies',
        {
          view: 'deferrals',
          metrics: ['replies'],
          by: ['reply_template', 'category', 'provider'],
          where: on('provider'),
          limit: 100,
        },
        {
          w: 24,
          h: 9,
          description: 'What receivers said, now and for good: text without what differs from mail to mail, by day.',
        }
      )
    ),
    row(
      'Where and whose',
      series(
        'Dead addresses by receiver',
        {
          view: 'bounces',
          metrics: ['hard_bounce_rate'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Dead addresses by tenant',
        {
          view: 'bounces',
          metrics: ['hard_bounce_rate'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      ),
      table('Receivers', {
        view: 'bounces',
        metrics: ['bounced', 'hard_bounced', 'soft_bounced', 'expired', 'hard_bounce_rate'],
        by: ['provider'],
        where: on('provider', 'tenant'),
        limit: 50,
      }),
      table('Jobs', {
        view: 'bounces',
        metrics: ['bounced', 'hard_bounced', 'soft_bounced', 'expired', 'hard_bounce_rate'],
        by: ['job', 'tenant'],
        where: { ...on('provider', 'tenant'), 'job !=': '' },
        limit: 50,
      })
    ),
    row(
      'The last of them',
      logs('Bounces', {
        view: 'events',
        where: { ...on('provider', 'tenant'), kind: 'bounced' },
        limit: 100,
      })
    ),
  ],
});

export const complaints = dashboard({
  uid: 'carom-complaints',
  title: 'Complaints',
  description: 'Who complained, about whose mail, and how many of the mail that was delivered.',
  from: 'now-14d',
  refresh: '5m',
  variables: [picker('provider', 'Provider'), picker('tenant', 'Tenant')],
  where: on('provider'),
  rows: [
    row(
      undefined,
      stat('Complaints', { view: 'complaints', metrics: ['complaints'], where: on('provider', 'tenant') }, { w: 6 }),
      stat(
        'Within 24 hours',
        { view: 'complaints', metrics: ['complaint_rate_24h'], where: on('provider', 'tenant') },
        { w: 6 }
      ),
      stat(
        'Within 7 days',
        { view: 'complaints', metrics: ['complaint_rate_7d'], where: on('provider', 'tenant') },
        { w: 6 }
      ),
      stat(
        'Half within',
        { view: 'complaints', metrics: ['hours_to_complain'], where: on('provider', 'tenant') },
        { w: 6 }
      )
    ),
    row(
      undefined,
      text(
        'How to read this',
        'A complaint counts on the day of the **delivery** that it is about, and a day counts only when it is old enough: complaints come for a week. Google and Apple send no reports, so no complaints there does not mean that nobody complained.',
        { h: 3 }
      )
    ),
    row(
      'Rates by day of delivery',
      series(
        'Within 72 hours, by receiver',
        {
          view: 'complaints',
          metrics: ['complaint_rate_72h'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      ),
      series(
        'Within 72 hours, by tenant',
        {
          view: 'complaints',
          metrics: ['complaint_rate_72h'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0 }
      )
    ),
    row(
      'As they came',
      series(
        'By receiver',
        {
          view: 'complaints',
          metrics: ['complaints'],
          by: ['provider'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, stack: true }
      ),
      series(
        'By tenant',
        {
          view: 'complaints',
          metrics: ['complaints'],
          by: ['tenant'],
          where: on('provider', 'tenant'),
          limit: 12,
        },
        { min: 0, stack: true }
      ),
      table('By job', {
        view: 'complaints',
        metrics: ['complaints', 'hours_to_complain'],
        by: ['job', 'tenant'],
        where: { ...on('provider', 'tenant'), 'job !=': '' },
        limit: 50,
      }),
      table('By From domain and sort', {
        view: 'complaints',
        metrics: ['complaints'],
        by: ['from_domain', 'feedback_type'],
        where: on('provider', 'tenant'),
        limit: 50,
      })
    ),
  ],
});

export const weekly = dashboard({
  uid: 'carom-weekly',
  title: 'Weekly report',
  description: 'The last seven days until yesterday (UTC) in numbers, beside the seven days before.',
  days: 7,
  refresh: '',
  variables: [picker('tenant', 'Tenant')],
  rows: [
    row(
      undefined,
      stat('Delivered', { view: 'deliverability', metrics: ['delivered'], where: on('tenant') }),
      stat('Delivery rate', { view: 'deliverability', metrics: ['delivery_rate'], where: on('tenant') }),
      stat('Dead addresses', { view: 'bounces', metrics: ['hard_bounce_rate'], where: on('tenant') }),
      stat('Late', { view: 'deferrals', metrics: ['recipient_deferral_rate'], where: on('tenant') }),
      stat(
        'Complaints in 72 h',
        { view: 'complaints', metrics: ['complaint_rate_72h'], where: on('tenant') },
        { timeFrom: '10d' }
      ),
      stat('Within ten minutes', { view: 'latency', metrics: ['within_10m_rate'], where: on('tenant') })
    ),
    row(
      'Days',
      series(
        'Delivered',
        { view: 'deliverability', metrics: ['delivered'], by: ['provider'], where: on('tenant'), limit: 10 },
        { min: 0, stack: true, interval: '6h' }
      ),
      series(
        'Delivery rate',
        {
          view: 'deliverability',
          metrics: ['delivery_rate'],
          by: ['provider'],
          where: on('tenant'),
          limit: 10,
        },
        { min: 0, max: 1, interval: '6h' }
      ),
      series(
        'Time to deliver',
        { view: 'latency', metrics: ['to_deliver_p50', 'to_deliver_p90'] },
        { min: 0, interval: '6h', description: 'Of all tenants: times are kept by receiver and source.' }
      ),
      series(
        'Complaints within 72 hours',
        {
          view: 'complaints',
          metrics: ['complaint_rate_72h'],
          by: ['provider'],
          where: on('tenant'),
          limit: 10,
        },
        { min: 0, timeFrom: '10d' }
      )
    ),
    row(
      'Beside the week before',
      table('Delivered', {
        view: 'contributors',
        metrics: ['delivered'],
        by: ['tenant'],
        where: on('tenant'),
        limit: 30,
      }),
      table('Bounced', {
        view: 'contributors',
        metrics: ['bounced'],
        by: ['tenant'],
        where: on('tenant'),
        limit: 30,
      }),
      table('Deferred attempts', {
        view: 'contributors',
        metrics: ['deferred_attempts'],
        by: ['provider'],
        where: on('tenant'),
        limit: 30,
      }),
      table('Blocked attempts', {
        view: 'contributors',
        metrics: ['blocked'],
        by: ['provider'],
        where: on('tenant'),
        limit: 30,
      })
    ),
    row(
      'Tenants, receivers, addresses',
      table(
        'Tenants',
        {
          view: 'deliverability',
          metrics: ['accepted', 'delivered', ...outcome],
          by: ['tenant'],
          where: on('tenant'),
          limit: 50,
        },
        { w: 24 }
      ),
      table('Receivers', {
        view: 'deliverability',
        metrics: ['delivered', ...outcome],
        by: ['provider'],
        where: on('tenant'),
        limit: 30,
      }),
      table('Source addresses', {
        view: 'sources',
        metrics: ['delivered', 'delivery_rate', 'blocked_rate', 'throttled_rate'],
        by: ['source'],
        where: on('tenant'),
        limit: 30,
      })
    ),
  ],
});

export const trace = dashboard({
  uid: 'carom-trace',
  title: 'Message trace',
  description: 'The life of one message, or of all messages to one address.',
  from: 'now-24h',
  refresh: '',
  variables: [textbox('message', 'Message or recipient')],
  rows: [
    row(
      undefined,
      text(
        'How to find a message',
        'Type the **message id** (as in events and the accounting file; it tells its time, so the time range does not matter) or a **recipient** at the top.',
        { h: 3 }
      )
    ),
    row(
      undefined,
      table('Steps', { view: 'trace', search: '$message' }, { w: 24, h: 12, minWidth: 170 }),
      logs('As a log', { view: 'trace', search: '$message' })
    ),
  ],
});
