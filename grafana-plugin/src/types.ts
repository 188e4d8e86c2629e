import type { DataSourceJsonData } from '@grafana/data';
import type { DataQuery } from '@grafana/schema';

/** How a query was written: chosen in the builder, or as SQL. */
export type Mode = 'builder' | 'sql';

/** What the answer is shaped for. */
export type Format = 'timeseries' | 'table' | 'logs';

/** How a filter compares. The backend refuses what a field does not know. */
export type Operator = '=' | '!=' | 'in' | 'not in' | '=~' | '!~';

/** One condition on a field of a view. Values may be template variables; several mean any of them. */
export interface Filter {
  field: string;
  op: Operator;
  values: string[];
}

/** A query as a dashboard stores it. The backend reads the same JSON. */
export interface CaromQuery extends DataQuery {
  mode: Mode;
  format: Format;
  /** Builder: the view's name. */
  view?: string;
  /** Builder: names of the view's metrics; none means those that the view begins with. */
  metrics?: string[];
  /** Builder: a series, or a row, for each value of these fields. */
  breakdown?: string[];
  /** Conditions; in SQL they stand where $__adhoc does. */
  filters?: Filter[];
  /** Builder: so many series or rows at most. */
  limit?: number;
  /** Builder, views trace and events: a message id or a recipient. */
  search?: string;
  /** SQL mode: the statement with macros. */
  sql?: string;
}

/** What a new panel asks; the backend fills in the metrics that the view begins with. */
export const defaultQuery: Omit<CaromQuery, 'refId'> = {
  mode: 'builder',
  format: 'timeseries',
  view: 'deliverability',
  metrics: [],
  breakdown: [],
  filters: [],
};

/** A metric of a view; the unit is Grafana's name for it. */
export interface MetricInfo {
  name: string;
  title: string;
  unit?: string;
  description?: string;
  /** Fields that it can be broken down and filtered by. */
  breakdowns: string[];
}

/** A field to break down or filter by. */
export interface FieldInfo {
  name: string;
  title?: string;
}

/** What the backend says of a view: resource "views". */
export interface ViewInfo {
  name: string;
  title: string;
  description: string;
  /** Empty for a view of rows. */
  metrics: MetricInfo[];
  breakdowns: FieldInfo[];
  filters: FieldInfo[];
  formats: Format[];
  /** What a new query begins with. */
  defaults: { metrics: string[] | null; breakdown: string[] | null; limit: number };
  /** The view takes a message id or a recipient. */
  searchable?: boolean;
}

/** A table for completion: resource "schema". */
export interface TableInfo {
  name: string;
  comment: string;
  columns: Array<{ name: string; type: string; comment: string }>;
}

/** Settings of a data source that are no secrets. */
export interface CaromOptions extends DataSourceJsonData {
  /** host:port */
  address?: string;
  protocol?: 'native' | 'http';
  tls?: boolean;
  tlsSkipVerify?: boolean;
  /** PEM of the authority that signed the server's certificate; empty: the system's. */
  tlsCaCert?: string;
  user?: string;
  /** The tenant whose user this is: the builder then asks tables that have rows of tenants. ClickHouse keeps tenants apart. */
  tenant?: string;
  database?: string;
  maxRows?: number;
  timeoutSeconds?: number;
}

/** Secrets: the frontend writes them and never reads them. */
export interface CaromSecrets {
  password?: string;
}

/** What fills a template variable: the values of a field, or the first column of a SELECT. */
export interface CaromVariableQuery extends DataQuery {
  kind: 'values' | 'sql';
  field?: string;
  sql?: string;
}
