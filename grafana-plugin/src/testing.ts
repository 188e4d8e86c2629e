import type { CaromDataSource } from './datasource';
import type { TableInfo, ViewInfo } from './types';

/** Views for unit tests of the editors; what the backend really has is in views.json. */
export const someViews: ViewInfo[] = [
  {
    name: 'deliverability',
    title: 'Deliverability',
    description: 'What became of the mail',
    metrics: [
      { name: 'delivered_share', title: 'Delivered, share', unit: 'percentunit', breakdowns: ['provider', 'source'] },
      { name: 'delivered', title: 'Delivered', breakdowns: ['provider'] },
    ],
    breakdowns: [
      { name: 'provider', title: 'Provider' },
      { name: 'source', title: 'Source' },
    ],
    filters: [
      { name: 'provider', title: 'Provider' },
      { name: 'tenant', title: 'Tenant' },
    ],
    formats: ['timeseries', 'table'],
    defaults: { metrics: ['delivered_share'], breakdown: ['provider'], limit: 20 },
  },
  {
    name: 'trace',
    title: 'Message trace',
    description: 'The life of a message',
    metrics: [],
    breakdowns: [],
    filters: [],
    formats: ['table', 'logs'],
    defaults: { metrics: null, breakdown: null, limit: 100 },
    searchable: true,
  },
];

export const someTables: TableInfo[] = [
  { name: 'events', comment: 'Steps', columns: [{ name: 'time', type: 'DateTime64(6)', comment: 'when' }] },
  { name: 'gauges', comment: 'State', columns: [{ name: 'time', type: 'DateTime64(6)', comment: 'when' }] },
];

/** What the editors use of a data source, answering from the lists above. */
export function fakeDataSource(change: Partial<Record<keyof CaromDataSource, unknown>> = {}) {
  const fake = {
    views: jest.fn(() => Promise.resolve(someViews)),
    schema: jest.fn(() => Promise.resolve(someTables)),
    values: jest.fn((_field: string, search: string) =>
      Promise.resolve(['google', 'yahoo'].filter((v) => v.includes(search)))
    ),
    preview: jest.fn(() => Promise.resolve('SELECT sum(delivered)\nFROM rollup_1m')),
    getTagKeys: jest.fn(() => Promise.resolve([{ text: 'Provider', value: 'provider' }])),
    ...change,
  };
  return fake as typeof fake & CaromDataSource;
}
