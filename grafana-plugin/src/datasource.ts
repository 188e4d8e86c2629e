import {
  type AdHocVariableFilter,
  type DataQueryRequest,
  type DataQueryResponse,
  type DataSourceGetTagValuesOptions,
  type DataSourceInstanceSettings,
  type DataSourceWithLogsContextSupport,
  dateTime,
  type LogRowContextOptions,
  LogRowContextQueryDirection,
  type LogRowModel,
  type MetricFindValue,
  type ScopedVars,
  type TimeRange,
} from '@grafana/data';
import { DataSourceWithBackend, getTemplateSrv } from '@grafana/runtime';
import { lastValueFrom } from 'rxjs';
import { displayText, interpolate, isComplete } from './query';
import { type CaromOptions, type CaromQuery, defaultQuery, type Filter, type TableInfo, type ViewInfo } from './types';
import { CaromVariableSupport } from './variables';

/** How many values a picker shows. */
const pickerSize = 100;

/** How far the context of a log row is looked for, and how much of it is shown. */
const contextMilliseconds = 2 * 60 * 60 * 1000;
const contextRows = 50;

/**
 * The data source. It sends queries to the backend as they are, with variables and ad hoc filters put in; what views
 * and fields there are it asks the backend, so nothing of the schema is known here.
 */
export class CaromDataSource
  extends DataSourceWithBackend<CaromQuery, CaromOptions>
  implements DataSourceWithLogsContextSupport<CaromQuery>
{
  private viewsOnce?: Promise<ViewInfo[]>;
  private schemaOnce?: Promise<TableInfo[]>;

  constructor(settings: DataSourceInstanceSettings<CaromOptions>) {
    super(settings);
    this.variables = new CaromVariableSupport(this);
    this.annotations = { getDefaultQuery: () => ({ ...defaultQuery, view: 'annotations', format: 'table' }) };
  }

  getDefaultQuery(): Partial<CaromQuery> {
    return { ...defaultQuery };
  }

  filterQuery(query: CaromQuery): boolean {
    return !query.hide && isComplete(query);
  }

  applyTemplateVariables(query: CaromQuery, scopedVars: ScopedVars, filters?: AdHocVariableFilter[]): CaromQuery {
    return interpolate(query, getTemplateSrv(), scopedVars, filters);
  }

  /** What Explore gets when a panel is opened there: no variable is left. */
  interpolateVariablesInQueries(
    queries: CaromQuery[],
    scopedVars: ScopedVars,
    filters?: AdHocVariableFilter[]
  ): CaromQuery[] {
    return queries.map((query) => ({
      ...this.applyTemplateVariables(query, scopedVars, filters),
      datasource: this.getRef(),
    }));
  }

  getQueryDisplayText(query: CaromQuery): string {
    return displayText(query);
  }

  /** The views that can be asked. Asked once; a failure is asked again. */
  views(): Promise<ViewInfo[]> {
    this.viewsOnce ??= this.getResource<ViewInfo[]>('views').catch((error: unknown) => {
      this.viewsOnce = undefined;
      throw error;
    });
    return this.viewsOnce;
  }

  /** Tables and columns for completion. Asked once; a failure is asked again. */
  schema(): Promise<TableInfo[]> {
    this.schemaOnce ??= this.getResource<TableInfo[]>('schema').catch((error: unknown) => {
      this.schemaOnce = undefined;
      throw error;
    });
    return this.schemaOnce;
  }

  /** Values of a field that contain search, the most frequent ones of the time range; without one of the last week. */
  values(field: string, search = '', range?: TimeRange): Promise<string[]> {
    const span = range ? { from: range.from.valueOf(), to: range.to.valueOf() } : {};
    return this.getResource<string[]>('values', { field, search, limit: pickerSize, ...span });
  }

  /** The SQL that a query would run, formatted; to edit, it is one statement with macros for the time range. */
  async preview(query: CaromQuery, range?: TimeRange, edit = false): Promise<string> {
    const span = range ?? { from: dateTime().subtract(1, 'hour'), to: dateTime() };
    const { sql } = await this.postResource<{ sql: string }>('preview', {
      query: this.applyTemplateVariables(query, {}),
      range: { from: span.from.toISOString(), to: span.to.toISOString() },
      interval: Math.max(1000, Math.round((span.to.valueOf() - span.from.valueOf()) / 1000)),
      edit,
    });
    return sql;
  }

  async getTagKeys(): Promise<MetricFindValue[]> {
    const names = new Map<string, string>();
    for (const view of await this.views()) {
      view.filters.forEach((f) => names.set(f.name, f.title ?? f.name));
    }
    return [...names].map(([value, text]) => ({ text, value }));
  }

  async getTagValues(options: DataSourceGetTagValuesOptions<CaromQuery>): Promise<MetricFindValue[]> {
    return (await this.values(options.key, '', options.timeRange)).map((text) => ({ text }));
  }

  /** What happened on the same node shortly before or after a row of the log. */
  async getLogRowContext(row: LogRowModel, options?: LogRowContextOptions): Promise<DataQueryResponse> {
    const forward = options?.direction === LogRowContextQueryDirection.Forward;
    const from = dateTime(forward ? row.timeEpochMs : row.timeEpochMs - contextMilliseconds);
    const to = dateTime(forward ? row.timeEpochMs + contextMilliseconds : row.timeEpochMs);
    const filters: Filter[] = row.labels.node ? [{ field: 'node', op: '=', values: [row.labels.node] }] : [];
    const request = {
      requestId: `carom-context-${row.uid}-${forward ? 'after' : 'before'}`,
      interval: '1s',
      intervalMs: 1000,
      range: { from, to, raw: { from, to } },
      scopedVars: {},
      timezone: 'UTC',
      app: 'explore',
      startTime: Date.now(),
      targets: [
        {
          refId: 'context',
          mode: 'builder',
          format: 'logs',
          view: 'events',
          filters,
          limit: options?.limit ?? contextRows,
        },
      ],
    } as DataQueryRequest<CaromQuery>;
    return lastValueFrom(this.query(request));
  }
}
