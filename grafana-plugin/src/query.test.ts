import type { ScopedVars, TypedVariableModel } from '@grafana/data';
import catalogue from '../pkg/views/testdata/views.json';
import { breakdownsOf, changeView, displayText, interpolate, isComplete, maxValues, quoteForSQL } from './query';
import type { CaromQuery, ViewInfo } from './types';

type Value = string | string[];

/** A template service with these variables, which replaces and formats as Grafana's does. */
function templates(variables: Record<string, Value>, multi = true) {
  const replace = (text = '', scopedVars: ScopedVars = {}, format?: unknown) =>
    text.replace(/\$\{?(\w+)\}?/g, (whole, name: string) => {
      const value: Value | undefined = scopedVars[name]?.value ?? variables[name];
      if (value === undefined) {
        return whole;
      }
      return typeof format === 'function' ? format(value, { multi }) : String(value);
    });
  const list = Object.entries(variables).map(([name, value]) => ({ name, current: { value } }));
  return { replace, getVariables: () => list as unknown as TypedVariableModel[] };
}

const query: CaromQuery = { refId: 'A', mode: 'builder', format: 'timeseries', view: 'deliverability' };
const withFilter = (op: '=' | '!=' | '=~', ...values: string[]): CaromQuery => ({
  ...query,
  filters: [{ field: 'provider', op, values }],
});

describe('interpolate', () => {
  it.each([
    ['one value', withFilter('=', '$provider'), { provider: 'google' }, [['=', 'google']]],
    ['several values', withFilter('=', '$provider'), { provider: ['google', 'yahoo'] }, [['in', 'google', 'yahoo']]],
    ['none of several', withFilter('!=', '$provider'), { provider: ['a', 'b'] }, [['not in', 'a', 'b']]],
    ['All leaves the filter out', withFilter('=', '${provider}'), { provider: ['$__all'] }, []],
    ['no value leaves the filter out', withFilter('=', '$provider'), { provider: [] }, []],
    ['a variable in the middle of a text', withFilter('=~', '^$provider.*'), { provider: 'goo' }, [['=~', '^goo.*']]],
    ['a comma is part of a value', withFilter('=', '$provider'), { provider: ['a,b'] }, [['=', 'a,b']]],
    ['no variable', withFilter('=', 'google'), {}, [['=', 'google']]],
    ['the empty value stays', withFilter('=', ''), {}, [['=', '']]],
    ['an unknown variable is text', withFilter('=', '$nothing'), {}, [['=', '$nothing']]],
  ])('%s', (_, asked, variables, want) => {
    const got = interpolate(asked, templates(variables as Record<string, Value>), {});
    expect(got.filters?.map((f) => [f.op, ...f.values])).toEqual(want);
  });

  it("takes a repeated panel's own value", () => {
    const scoped = { provider: { text: 'yahoo', value: 'yahoo' } };
    const got = interpolate(withFilter('=', '$provider'), templates({ provider: ['$__all'] }), scoped);
    expect(got.filters).toEqual([{ field: 'provider', op: '=', values: ['yahoo'] }]);
  });

  it('bounds the number of values', () => {
    const many = Array.from({ length: maxValues + 5 }, (_, i) => `v${i}`);
    expect(interpolate(withFilter('=', '$p'), templates({ p: many }), {}).filters?.[0].values).toHaveLength(maxValues);
  });

  it('appends the ad hoc filters, and passes on an operator it does not know', () => {
    const got = interpolate(query, templates({}), {}, [
      { key: 'tenant', operator: '=', value: 'acme' },
      { key: 'source', operator: '=|', value: 'a', values: ['a', 'b'] },
      { key: 'vmta', operator: '!=|', value: 'a', values: ['a', 'b'] },
      { key: 'job', operator: '<', value: '5' },
      { key: '', operator: '=', value: '' },
    ]);
    expect(got.filters?.map((f) => [f.field, f.op, ...f.values])).toEqual([
      ['tenant', '=', 'acme'],
      ['source', 'in', 'a', 'b'],
      ['vmta', 'not in', 'a', 'b'],
      ['job', '<', '5'],
    ]);
  });

  it('quotes variables in SQL and replaces them in the search', () => {
    const asked: CaromQuery = { ...query, mode: 'sql', sql: 'SELECT 1 WHERE tenant IN ($t)', search: '$id' };
    const got = interpolate(asked, templates({ t: ["o'neil", 'b\\'], id: 'x@y.test' }), {});
    expect(got.sql).toBe("SELECT 1 WHERE tenant IN ('o\\'neil', 'b\\\\')");
    expect(got.search).toBe('x@y.test');
  });
});

describe('quoteForSQL', () => {
  it.each<[string, Value, { multi?: boolean; includeAll?: boolean }, string]>([
    ['a list', ['a', "b'"], {}, "'a', 'b\\''"],
    ['one of a variable that may have several', 'a', { multi: true }, "'a'"],
    ['one of a variable with All', 'a', { includeAll: true }, "'a'"],
    ['a single one stands between quotes already', "x' OR 1=1 --", {}, "x\\' OR 1=1 --"],
  ])('%s', (_, value, variable, want) => {
    expect(quoteForSQL(value, variable)).toBe(want);
  });
});

describe('isComplete', () => {
  it.each<[string, Partial<CaromQuery>, boolean]>([
    ['builder', {}, true],
    ['builder without a view', { view: undefined }, false],
    ['SQL', { mode: 'sql', sql: 'SELECT 1' }, true],
    ['blank SQL', { mode: 'sql', sql: ' \n' }, false],
    ['no SQL', { mode: 'sql' }, false],
  ])('%s', (_, change, want) => {
    expect(isComplete({ ...query, ...change })).toBe(want);
  });
});

describe('changeView', () => {
  const view: ViewInfo = {
    name: 'bounces',
    title: 'Bounces',
    description: '',
    metrics: [
      { name: 'hard', title: 'Hard', breakdowns: ['provider', 'tenant'] },
      { name: 'soft', title: 'Soft', breakdowns: ['provider'] },
    ],
    breakdowns: [{ name: 'provider' }, { name: 'tenant' }],
    filters: [{ name: 'provider' }],
    formats: ['table'],
    defaults: { metrics: ['hard'], breakdown: ['tenant'], limit: 20 },
  };
  it('keeps what the new view knows and drops the rest', () => {
    const before: CaromQuery = {
      ...query,
      metrics: ['delivered_share', 'soft'],
      breakdown: ['provider', 'vmta'],
      filters: [
        { field: 'provider', op: '=', values: ['google'] },
        { field: 'vmta', op: '=', values: ['a'] },
      ],
      search: 'x',
    };
    expect(changeView(before, view)).toEqual({
      ...query,
      view: 'bounces',
      format: 'table',
      metrics: ['soft'],
      breakdown: ['provider'],
      filters: [{ field: 'provider', op: '=', values: ['google'] }],
      search: undefined,
    });
  });
  it('begins as the view says if it knows none of the metrics', () => {
    const got = changeView({ ...query, metrics: ['delivered_share'], breakdown: ['provider'] }, view);
    expect(got).toMatchObject({ metrics: ['hard'], breakdown: ['tenant'] });
  });
  it('offers the break-downs that all chosen metrics know', () => {
    const names = (metrics: string[]) => breakdownsOf({ ...query, metrics }, view).map((b) => b.name);
    expect(names(['hard'])).toEqual(['provider', 'tenant']);
    expect(names(['hard', 'soft'])).toEqual(['provider']);
    expect(names([])).toEqual(['provider', 'tenant']);
  });
});

describe('the views of the backend', () => {
  const views = catalogue as unknown as ViewInfo[];
  it.each(views.map((v) => [v.name, v] as const))('%s begins with what it has', (_, view) => {
    const got = changeView({ refId: 'A', mode: 'builder', format: 'timeseries' }, view);
    expect(view.formats).toContain(got.format);
    expect(view.metrics.map((m) => m.name)).toEqual(expect.arrayContaining(got.metrics ?? []));
    expect(breakdownsOf(got, view).map((b) => b.name)).toEqual(expect.arrayContaining(got.breakdown ?? []));
  });
});

test('displayText', () => {
  expect(displayText({ ...withFilter('=', 'google'), metrics: ['delivered'], breakdown: ['source'] })).toBe(
    'deliverability: delivered by source where provider = google'
  );
  expect(displayText({ ...query, mode: 'sql', sql: 'SELECT 1\n  FROM x' })).toBe('SELECT 1 FROM x');
});
