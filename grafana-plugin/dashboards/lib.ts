// Parts that the dashboards are put together from. What comes out is the JSON that Grafana stores; its schema version
// is that of Grafana 11.0.
import type { CaromQuery, Filter, Format } from '../src/types';

type Json = Record<string, unknown>;

export type Target = CaromQuery & { datasource: typeof datasource };

/** What a panel shows, without its place. */
interface Body extends Json {
  type: string;
  title: string;
  targets?: Target[];
}

export interface Panel extends Body {
  id: number;
  gridPos: { x: number; y: number; w: number; h: number };
}

/** A panel of a size of so many of 24 columns; dashboard() places it. */
interface Unplaced {
  w: number;
  h: number;
  body: Body;
}

export interface Dashboard extends Json {
  uid: string;
  title: string;
  time: { from: string; to: string };
  panels: Panel[];
}

/** Whichever of carom's data sources the picker at the top names. */
export const datasource = { type: 'carom-deliverability-datasource', uid: '${datasource}' } as const;

/** A query of the builder; its filters are `field: variable or value`, or `'field !=': value`. */
export interface Ask {
  view: string;
  metrics?: string[];
  by?: string[];
  where?: Record<string, string>;
  format?: Format;
  limit?: number;
  search?: string;
}

/** Filters on what the pickers of those fields at the top choose. */
export const on = (...fields: string[]) => Object.fromEntries(fields.map((f) => [f, `$${f}`]));

/**
 * From which value on a metric is a warning, and from which on it is bad. The first is the smaller one where more is
 * worse. Receivers' own lines are those of complaints: Google asks for less than 0.1 % and acts at 0.3 %.
 */
const bounds: Record<string, [number, number]> = {
  delivery_rate: [0.95, 0.85],
  within_10m_rate: [0.9, 0.5],
  recipient_deferral_rate: [0.1, 0.3],
  attempt_deferral_rate: [0.2, 0.5],
  hard_bounce_rate: [0.02, 0.05],
  soft_bounce_rate: [0.02, 0.1],
  later_bounce_rate_72h: [0.005, 0.02],
  blocked_rate: [0.005, 0.05],
  throttled_rate: [0.02, 0.1],
  complaint_rate_24h: [0.001, 0.003],
  complaint_rate_72h: [0.001, 0.003],
  complaint_rate_7d: [0.001, 0.003],
  score: [80, 30],
  to_deliver_p50: [60, 3600],
  oldest_seconds: [3600, 14400],
};

/** The SQL of a panel that no view answers; its filters stand where $__adhoc does. */
export interface AskSQL {
  sql: string;
  where?: Record<string, string>;
  format?: Format;
}

function target(refId: string, format: Format, ask: Ask | AskSQL): Target {
  const filters: Filter[] = Object.entries(ask.where ?? {}).map(([key, value]) => {
    const [field, op = '='] = key.split(' ');
    return { field, op: op as Filter['op'], values: [value] };
  });
  if ('sql' in ask) {
    return { refId, datasource, mode: 'sql', format: ask.format ?? format, sql: ask.sql.trim(), filters };
  }
  return {
    refId,
    datasource,
    mode: 'builder',
    format: ask.format ?? format,
    view: ask.view,
    metrics: ask.metrics ?? [],
    breakdown: ask.by ?? [],
    filters,
    ...(ask.limit ? { limit: ask.limit } : {}),
    ...(ask.search ? { search: ask.search } : {}),
  };
}

function targets(format: Format, asks: Array<Ask | AskSQL>): Target[] {
  return asks.map((ask, i) => target(String.fromCharCode(65 + i), format, ask));
}

export interface Options {
  /** Of 24 columns. */
  w?: number;
  h?: number;
  description?: string;
  /** Of SQL; the metrics of views bring theirs along. */
  unit?: string;
  min?: number;
  max?: number;
  /** Of SQL: from which value on it is a warning, and bad, as in bounds. */
  limits?: [number, number];
  stack?: boolean;
  /** Looks at the time range so much earlier: "1d". */
  timeShift?: string;
  /** Of the columns of a table, in pixels. */
  minWidth?: number;
  /** The shortest step of curves: "1h". */
  interval?: string;
  /** Shows the last days, "10d", whatever the dashboard shows: for what is known only days later. */
  timeFrom?: string;
}

/** Steps of colour. Two ascending limits mean that more is worse. */
function thresholds(limits?: [number, number]): Json {
  const step = (color: string, value: number | null) => ({ color, value });
  if (!limits) {
    return { mode: 'absolute', steps: [step('text', null)] };
  }
  const [a, b] = limits;
  return a < b
    ? { mode: 'absolute', steps: [step('green', null), step('orange', a), step('red', b)] }
    : { mode: 'absolute', steps: [step('red', null), step('orange', b), step('green', a)] };
}

function defaults(o: Options, custom: Json = {}): Json {
  return {
    ...(o.unit ? { unit: o.unit } : {}),
    ...(o.min === undefined ? {} : { min: o.min }),
    ...(o.max === undefined ? {} : { max: o.max }),
    color: { mode: o.limits ? 'thresholds' : 'palette-classic' },
    thresholds: thresholds(o.limits),
    custom,
  };
}

/** No number is neither good nor bad. */
const nothing = { type: 'special', options: { match: 'null', result: { text: 'no data', color: 'text', index: 0 } } };

/** One number over the whole time range; it is asked as a table, because rates are not averaged. */
export function stat(title: string, ask: Ask | AskSQL, options: Options = {}): Unplaced {
  const o = { ...options, limits: options.limits ?? ('sql' in ask ? undefined : bounds[ask.metrics?.[0] ?? '']) };
  return {
    w: o.w ?? 4,
    h: o.h ?? 4,
    body: {
      type: 'stat',
      title,
      description: o.description,
      datasource,
      targets: targets('table', [ask]),
      ...(o.timeFrom ? { timeFrom: o.timeFrom } : {}),
      fieldConfig: { defaults: { ...defaults(o), noValue: 'no data', mappings: [nothing] }, overrides: [] },
      options: {
        reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
        colorMode: o.limits ? 'value' : 'none',
        graphMode: 'none',
        textMode: 'value',
        justifyMode: 'auto',
        orientation: 'auto',
      },
    },
  };
}

/**
 * What the legend says beside a name: of what happened the sum, of what goes on a second the mean, of rates and states
 * the last one, because a mean of rates is not the rate.
 */
function calcsOf(ask: Ask | AskSQL): string[] {
  const metric = 'sql' in ask ? '' : (ask.metrics?.[0] ?? '');
  if (metric.endsWith('_per_second')) {
    return ['mean'];
  }
  return ['deliverability', 'deferrals', 'bounces', 'complaints'].some((v) => !('sql' in ask) && ask.view === v) &&
    !metric.includes('_rate')
    ? ['sum']
    : ['lastNotNull'];
}

/** Curves. */
export function series(title: string, asks: Ask | AskSQL | Array<Ask | AskSQL>, o: Options = {}): Unplaced {
  return {
    w: o.w ?? 12,
    h: o.h ?? 8,
    body: {
      type: 'timeseries',
      title,
      description: o.description,
      datasource,
      ...(o.interval ? { interval: o.interval } : {}),
      ...(o.timeShift ? { timeShift: o.timeShift } : {}),
      ...(o.timeFrom ? { timeFrom: o.timeFrom } : {}),
      targets: targets('timeseries', [asks].flat()),
      fieldConfig: {
        defaults: {
          ...defaults({ ...o, limits: undefined }),
          custom: {
            drawStyle: 'line',
            lineWidth: 1,
            fillOpacity: o.stack ? 40 : 0,
            spanNulls: false,
            showPoints: 'auto',
            pointSize: 5,
            stacking: { mode: o.stack ? 'normal' : 'none', group: 'A' },
            lineInterpolation: 'linear',
            axisSoftMin: 0,
          },
        },
        overrides: [],
      },
      options: {
        legend: { displayMode: 'table', placement: 'right', showLegend: true, calcs: calcsOf([asks].flat()[0]) },
        tooltip: { mode: 'multi', sort: 'desc' },
      },
    },
  };
}

/** Where a column of a table leads, by its name. */
const links: Record<string, { title: string; url: string }> = {
  provider: link('Provider', 'carom-provider', 'provider'),
  source: link('Source', 'carom-source', 'source'),
  tenant: link('Tenant', 'carom-tenant', 'tenant'),
  job: link('Job', 'carom-job', 'job'),
  node: link('Node', 'carom-node', 'node'),
};

function link(title: string, uid: string, variable: string) {
  return {
    title: `${title}: \${__value.text}`,
    url: `/d/${uid}?var-${variable}=\${__value.raw:percentencode}&\${__url_time_range}&var-datasource=\${datasource}`,
  };
}

/** Widths of columns that are wider than others, in pixels. */
const widths: Record<string, number> = {
  source: 125,
  ts: 160,
  Since: 160,
  'Set at': 160,
  'Seen at': 160,
  'Last start': 160,
  id: 180,
  Why: 300,
  'Last error': 300,
  reason_text: 340,
  reply_template: 420,
};

/** Rows; columns that name something lead to its dashboard, and what is bad is in colour. */
export function table(title: string, ask: Ask | AskSQL, o: Options = {}): Unplaced {
  const column = (name: string, properties: Json) => ({
    matcher: { id: 'byName', options: name },
    properties: Object.entries(properties).map(([id, value]) => ({ id, value })),
  });
  const overrides = [
    ...Object.entries(links).map(([name, l]) =>
      column(name, { links: [l], ...('sql' in ask ? { displayName: l.title.split(':')[0] } : {}) })
    ),
    ...Object.entries(widths)
      .filter(([name]) => new RegExp(`\\b${name}\\b`).test(JSON.stringify(ask)))
      .map(([name, width]) => column(name, { 'custom.width': width })),
    ...('sql' in ask ? [] : (ask.metrics ?? []))
      .filter((name) => name in bounds)
      .map((name) =>
        column(name, {
          color: { mode: 'thresholds' },
          thresholds: thresholds(bounds[name]),
          'custom.cellOptions': { type: 'color-text' },
        })
      ),
  ];
  return {
    w: o.w ?? 12,
    h: o.h ?? 8,
    body: {
      type: 'table',
      title,
      description: o.description,
      datasource,
      targets: targets('table', [ask]),
      fieldConfig: {
        defaults: {
          ...defaults(o, { align: 'auto', cellOptions: { type: 'auto' }, inspect: true, minWidth: o.minWidth ?? 100 }),
          noValue: '',
        },
        overrides,
      },
      options: { showHeader: true, cellHeight: 'sm', footer: { show: false, reducer: [], fields: '' } },
    },
  };
}

/** Bars, one a row of the answer. */
export function bars(title: string, ask: Ask | AskSQL, o: Options = {}): Unplaced {
  return {
    w: o.w ?? 12,
    h: o.h ?? 8,
    body: {
      type: 'bargauge',
      title,
      description: o.description,
      datasource,
      targets: targets('table', [ask]),
      fieldConfig: { defaults: { ...defaults({ min: 0, ...o }), noValue: 'no data' }, overrides: [] },
      options: {
        displayMode: 'basic',
        orientation: 'horizontal',
        showUnfilled: true,
        valueMode: 'color',
        reduceOptions: { calcs: ['lastNotNull'], fields: '', limit: 25, values: true },
      },
    },
  };
}

/** Events as a log. */
export function logs(title: string, ask: Ask, o: Options = {}): Unplaced {
  return {
    w: o.w ?? 24,
    h: o.h ?? 12,
    body: {
      type: 'logs',
      title,
      description: o.description,
      datasource,
      targets: targets('logs', [ask]),
      options: {
        showTime: true,
        showLabels: false,
        wrapLogMessage: true,
        enableLogDetails: true,
        sortOrder: 'Descending',
        dedupStrategy: 'none',
        prettifyLogMessage: false,
      },
    },
  };
}

/** Words. */
export function text(title: string, content: string, o: Options = {}): Unplaced {
  return { w: o.w ?? 24, h: o.h ?? 3, body: { type: 'text', title, options: { mode: 'markdown', content } } };
}

/** A heading, with the panels below it. */
export interface Row {
  title?: string;
  panels: Unplaced[];
}

export const row = (title: string | undefined, ...panels: Unplaced[]): Row => ({ title, panels });

/** Places panels from left to right; one that does not fit begins a line. */
function place(rows: Row[]): Panel[] {
  const out: Panel[] = [];
  let y = 0;
  for (const r of rows) {
    if (r.title) {
      out.push({
        id: out.length + 1,
        type: 'row',
        title: r.title,
        collapsed: false,
        panels: [],
        gridPos: { x: 0, y, w: 24, h: 1 },
      });
      y += 1;
    }
    let x = 0;
    let height = 0;
    for (const { w, h, body } of r.panels) {
      if (x + w > 24) {
        y += height;
        x = height = 0;
      }
      out.push({ ...body, id: out.length + 1, gridPos: { x, y, w, h } });
      x += w;
      height = Math.max(height, h);
    }
    y += height;
  }
  return out;
}

/** A picker of the values of a field. */
export function picker(field: string, label: string, several = true): Json {
  return {
    type: 'query',
    name: field,
    label,
    datasource,
    query: { refId: 'variable', kind: 'values', field },
    definition: `values of ${field}`,
    refresh: 2,
    sort: 0,
    multi: several,
    includeAll: several,
    current: several ? { text: ['All'], value: ['$__all'] } : {},
    hide: 0,
    options: [],
    skipUrlSync: false,
  };
}

/** A field to type into. */
export function textbox(name: string, label: string): Json {
  return {
    type: 'textbox',
    name,
    label,
    query: '',
    current: { text: '', value: '' },
    hide: 0,
    options: [],
    skipUrlSync: false,
  };
}

export interface Settings {
  uid: string;
  title: string;
  description: string;
  from?: string;
  /** So many whole days until yesterday, instead of from. */
  days?: number;
  refresh?: string;
  variables?: Json[];
  /** Which limits are drawn as annotations: by provider or source. */
  where?: Record<string, string>;
  rows: Row[];
}

/** A whole dashboard: the data source's picker, the pickers, ad hoc filters, annotations, links to the others. */
export function dashboard(s: Settings): Dashboard {
  const note = (name: string, color: string, ask: Ask) => ({
    name,
    datasource,
    enable: true,
    hide: false,
    iconColor: color,
    target: target('Anno', 'table', ask),
  });
  return {
    uid: s.uid,
    title: `carom / ${s.title}`,
    description: s.description,
    tags: ['carom'],
    schemaVersion: 39,
    version: 1,
    editable: true,
    graphTooltip: 1,
    timezone: s.days ? 'utc' : 'browser', // what is kept by the day is of days in UTC
    time: s.days ? { from: `now-${s.days}d/d`, to: 'now-1d/d' } : { from: s.from ?? 'now-6h', to: 'now' },
    timepicker: {},
    refresh: s.refresh ?? '30s',
    fiscalYearStartMonth: 0,
    weekStart: '',
    liveNow: false,
    links: [
      {
        type: 'dashboards',
        title: 'carom',
        tags: ['carom'],
        asDropdown: true,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
        icon: 'external link',
        tooltip: '',
        url: '',
      },
    ],
    annotations: {
      list: [
        note('Limits', 'orange', { view: 'annotations', where: { name: 'limit-change', ...s.where }, limit: 200 }),
        note('Operations', 'blue', { view: 'annotations', where: { 'name !=': 'limit-change' }, limit: 200 }),
      ],
    },
    templating: {
      list: [
        {
          type: 'datasource',
          name: 'datasource',
          label: 'Data source',
          query: datasource.type,
          current: {},
          hide: 0,
          includeAll: false,
          multi: false,
          options: [],
          refresh: 1,
          regex: '',
          skipUrlSync: false,
        },
        ...(s.variables ?? []),
        { type: 'adhoc', name: 'Filters', label: 'Filters', datasource, filters: [], hide: 0, skipUrlSync: false },
      ],
    },
    panels: place(s.rows),
  };
}
