import type { AdHocVariableFilter, ScopedVars } from '@grafana/data';
import type { TemplateSrv } from '@grafana/runtime';
import type { CaromQuery, FieldInfo, Filter, Operator, ViewInfo } from './types';

/** What Grafana stores for a variable of which All is chosen. */
const all = '$__all';

/** How many values of one variable may stand in a filter; the backend bounds it again. */
export const maxValues = 1000;

type Templates = Pick<TemplateSrv, 'replace' | 'getVariables'>;

/** isComplete says whether there is something to run. */
export function isComplete(query: CaromQuery): boolean {
  return query.mode === 'sql' ? Boolean(query.sql?.trim()) : Boolean(query.view);
}

/**
 * interpolate puts the values of template variables into a query, and the dashboard's ad hoc filters behind its own
 * filters. A filter whose variable is All is left out: it would only slow the query down, and the picker lists a part
 * of the values only.
 */
export function interpolate(
  query: CaromQuery,
  templates: Templates,
  scopedVars: ScopedVars,
  adhoc: AdHocVariableFilter[] = []
): CaromQuery {
  const own = (query.filters ?? []).flatMap((f) => expandFilter(f, templates, scopedVars));
  return {
    ...query,
    filters: [...own, ...adhoc.flatMap(fromAdhoc)],
    search: query.search && templates.replace(query.search, scopedVars),
    sql: query.sql && templates.replace(query.sql, scopedVars, quoteForSQL),
  };
}

function expandFilter(filter: Filter, templates: Templates, scopedVars: ScopedVars): Filter[] {
  const values: string[] = [];
  for (const value of filter.values) {
    if (isAll(value, templates, scopedVars)) {
      return [];
    }
    let several: string[] | undefined;
    const text = templates.replace(value, scopedVars, (v: string | string[]) => {
      several = Array.isArray(v) ? v : [v];
      return several.join(',');
    });
    // A variable by itself is a list of values; in the middle of a text it is text.
    values.push(...(several && isVariable(value) ? several : [text]));
  }
  if (values.length === 0) {
    return [];
  }
  return [{ ...filter, op: operatorFor(filter.op, values.length), values: values.slice(0, maxValues) }];
}

/** A variable that may have several values is written as =; with several it means any of them. */
function operatorFor(op: Operator, count: number): Operator {
  if (count > 1 && op === '=') {
    return 'in';
  }
  return count > 1 && op === '!=' ? 'not in' : op;
}

function isVariable(text: string): boolean {
  return /^\s*(\$\w+|\$\{\w+(:\w+)?\}|\[\[\w+\]\])\s*$/.test(text);
}

function isAll(text: string, templates: Templates, scopedVars: ScopedVars): boolean {
  const name = text
    .match(/^\s*(?:\$(\w+)|\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\])\s*$/)
    ?.slice(1)
    .find(Boolean);
  if (!name) {
    return false;
  }
  // A repeated panel or row has one value of its own.
  const scoped = scopedVars[name]?.value;
  if (scoped !== undefined) {
    return scoped === all || (Array.isArray(scoped) && scoped.includes(all));
  }
  const variable = templates.getVariables().find((v) => v.name === name);
  if (!variable || !('current' in variable)) {
    return false;
  }
  const value: unknown = (variable.current as { value?: unknown })?.value;
  return value === all || (Array.isArray(value) && value.includes(all));
}

/** fromAdhoc turns a filter of the dashboard's filter bar into one of the query's. */
function fromAdhoc(filter: AdHocVariableFilter): Filter[] {
  if (!filter.key) {
    return []; // it is being typed
  }
  switch (filter.operator) {
    case '=|':
      return [{ field: filter.key, op: 'in', values: filter.values ?? [filter.value] }];
    case '!=|':
      return [{ field: filter.key, op: 'not in', values: filter.values ?? [filter.value] }];
    default:
      // One that the backend does not know gets its error, rather than a curve without the filter.
      return [{ field: filter.key, op: filter.operator as Operator, values: [filter.value] }];
  }
}

/**
 * quoteForSQL formats a variable in SQL: one that can have several values becomes a list of literals for IN (…); a
 * single one is put between the quotes of the statement, so only what would end them is escaped.
 */
export function quoteForSQL(value: string | string[], variable?: { multi?: boolean; includeAll?: boolean }): string {
  if (Array.isArray(value)) {
    return value.map(literal).join(', ');
  }
  return variable?.multi || variable?.includeAll ? literal(value) : escape(value);
}

function literal(value: string): string {
  return `'${escape(value)}'`;
}

function escape(value: string): string {
  return String(value).replace(/\\/g, '\\\\').replace(/'/g, "\\'");
}

/** changeView moves a query to another view and keeps what that view knows too. */
export function changeView(query: CaromQuery, view: ViewInfo): CaromQuery {
  const known = (list: Array<{ name: string }>, names: string[] = []) =>
    names.filter((n) => list.some((x) => x.name === n));
  const metrics = known(view.metrics, query.metrics);
  return {
    ...query,
    view: view.name,
    format: view.formats.includes(query.format) ? query.format : view.formats[0],
    metrics: metrics.length > 0 ? metrics : (view.defaults.metrics ?? []),
    breakdown: known(view.breakdowns, metrics.length > 0 ? query.breakdown : (view.defaults.breakdown ?? [])),
    filters: (query.filters ?? []).filter((f) => view.filters.some((x) => x.name === f.field)),
    search: view.searchable ? query.search : undefined,
  };
}

/** breakdownsOf lists the fields by which all metrics of a query are kept. */
export function breakdownsOf(query: CaromQuery, view: ViewInfo): FieldInfo[] {
  const names = query.metrics?.length ? query.metrics : (view.defaults.metrics ?? []);
  const metrics = view.metrics.filter((m) => names.includes(m.name));
  return view.breakdowns.filter((b) => metrics.every((m) => m.breakdowns.includes(b.name)));
}

/** displayText says in one line what a query asks, for a collapsed row of the editor. */
export function displayText(query: CaromQuery): string {
  if (query.mode === 'sql') {
    return query.sql?.replace(/\s+/g, ' ').trim() ?? '';
  }
  const filters = (query.filters ?? []).map((f) => `${f.field} ${f.op} ${f.values.join(', ')}`);
  return [
    `${query.view ?? ''}: ${(query.metrics ?? []).join(', ')}`,
    query.breakdown?.length ? `by ${query.breakdown.join(', ')}` : '',
    filters.length ? `where ${filters.join(' and ')}` : '',
    query.search ?? '',
  ]
    .filter(Boolean)
    .join(' ');
}
