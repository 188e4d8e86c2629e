import {
  CustomVariableSupport,
  type DataQueryRequest,
  type DataQueryResponse,
  type Field,
  FieldType,
  type MetricFindValue,
  type QueryEditorProps,
  toDataFrame,
} from '@grafana/data';
import { from, map, type Observable } from 'rxjs';
import { VariableEditor } from './components/VariableEditor';
import type { CaromDataSource } from './datasource';
import type { CaromOptions, CaromQuery, CaromVariableQuery } from './types';

/** The props of the editor of a template variable. */
export type VariableEditorProps = QueryEditorProps<CaromDataSource, CaromQuery, CaromOptions, CaromVariableQuery>;

/** Fills template variables: with the values of a field out of small tables, or with a SELECT. */
export class CaromVariableSupport extends CustomVariableSupport<CaromDataSource, CaromVariableQuery> {
  editor = VariableEditor;

  constructor(private readonly datasource: CaromDataSource) {
    super();
  }

  query(request: DataQueryRequest<CaromVariableQuery>): Observable<DataQueryResponse> {
    const asked = request.targets[0];
    if (asked?.kind === 'sql') {
      const target: CaromQuery = {
        refId: 'variable',
        mode: 'sql',
        format: 'table',
        sql: asked.sql, // the data source puts variables in
      };
      return this.datasource
        .query({ ...request, targets: [target] } as DataQueryRequest<CaromQuery>)
        .pipe(map((response) => ({ ...response, data: [optionsFrame(optionsOf(response))] })));
    }
    // Grafana calls the text that was typed into the picker __searchFilter.
    const typed: unknown = request.scopedVars.__searchFilter?.value;
    const search = typeof typed === 'string' ? typed : '';
    const values = asked?.field ? this.datasource.values(asked.field, search, request.range) : [];
    return from(Promise.resolve(values)).pipe(
      map((list) => ({ data: [optionsFrame(list.map((text) => ({ text })))] }))
    );
  }
}

/** The options in an answer: columns __text and __value, else the first column; each value once. */
function optionsOf(response: DataQueryResponse): MetricFindValue[] {
  const frame = response.data[0] && toDataFrame(response.data[0]);
  if (!frame) {
    return [];
  }
  const column = (name: string) => frame.fields.find((f: Field) => f.name === name);
  const values = column('__value') ?? column('value') ?? frame.fields[0];
  const texts = column('__text') ?? column('text') ?? values;
  const seen = new Map<string, string>();
  for (let i = 0; i < frame.length; i++) {
    seen.set(String(values?.values[i]), String(texts?.values[i]));
  }
  return [...seen].map(([value, text]) => ({ text, value }));
}

function optionsFrame(options: MetricFindValue[]) {
  return toDataFrame({
    fields: [
      { name: 'text', type: FieldType.string, values: options.map((o) => o.text) },
      { name: 'value', type: FieldType.string, values: options.map((o) => o.value ?? o.text) },
    ],
  });
}
