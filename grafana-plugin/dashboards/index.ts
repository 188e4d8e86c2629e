import { loop, node } from './loop';
import type { Dashboard } from './lib';
import { bounces, complaints, job, tenant, trace, weekly } from './mail';
import { overview, provider, source } from './traffic';

/** Every dashboard, by the name of its file in src/dashboards. */
export const dashboards: Record<string, Dashboard> = {
  overview,
  provider,
  source,
  tenant,
  loop,
  bounces,
  complaints,
  weekly,
  job,
  trace,
  node,
};

/** What stands in the file of a dashboard. */
export const fileOf = (dashboard: Dashboard) => JSON.stringify(dashboard, null, 2) + '\n';
