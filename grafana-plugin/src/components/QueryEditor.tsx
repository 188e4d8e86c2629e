import type { QueryEditorProps, SelectableValue } from '@grafana/data';
import { Alert, InlineField, InlineFieldRow, RadioButtonGroup, Select } from '@grafana/ui';
import { useCallback, useState } from 'react';
import type { CaromDataSource } from '../datasource';
import { type CaromOptions, type CaromQuery, defaultQuery, type Format, type Mode } from '../types';
import { BuilderEditor } from './BuilderEditor';
import { SqlEditor } from './SqlEditor';
import { SqlPreview } from './SqlPreview';
import { messageOf, useLoaded } from './useLoaded';

export type Props = QueryEditorProps<CaromDataSource, CaromQuery, CaromOptions>;

const modes: Array<SelectableValue<Mode>> = [
  { label: 'Builder', value: 'builder', description: 'Choose a view, what to show of it and how to break it down' },
  { label: 'SQL', value: 'sql', description: 'Write a SELECT with macros for the time range' },
];

const formats: Array<SelectableValue<Format>> = [
  { label: 'Time series', value: 'timeseries' },
  { label: 'Table', value: 'table' },
  { label: 'Logs', value: 'logs' },
];

/** The editor of a query: a builder in the words of the views, or SQL. Every choice runs the query. */
export function QueryEditor({ datasource, query: stored, onChange, onRunQuery, range }: Props) {
  const query: CaromQuery = { ...defaultQuery, ...stored };
  const [error, setError] = useState<string>();
  const views = useLoaded(useCallback(() => datasource.views(), [datasource]));
  const view = views.value?.find((v) => v.name === query.view);

  const change = (next: CaromQuery) => {
    onChange(next);
    onRunQuery();
  };

  // Who goes on in SQL begins with what the builder made.
  const changeMode = async (mode: Mode) => {
    setError(undefined);
    if (mode === 'sql' && !query.sql?.trim() && view) {
      try {
        change({ ...query, mode, sql: await datasource.preview(query, range, true) });
        return;
      } catch (e) {
        setError(messageOf(e));
      }
    }
    change({ ...query, mode });
  };

  const known = query.mode === 'builder' && view ? formats.filter((f) => view.formats.includes(f.value!)) : formats;

  return (
    <div>
      <InlineFieldRow>
        <InlineField label="Mode" labelWidth={12}>
          <RadioButtonGroup aria-label="Mode" options={modes} value={query.mode} onChange={changeMode} />
        </InlineField>
        <InlineField label="Show as" labelWidth={12}>
          <Select
            inputId={`${query.refId}-format`}
            aria-label="Show as"
            width={20}
            options={known}
            value={query.format}
            onChange={({ value }) => value && change({ ...query, format: value })}
          />
        </InlineField>
      </InlineFieldRow>
      {views.error && (
        <Alert severity="error" title="The views could not be listed">
          {views.error}
        </Alert>
      )}
      {error && (
        <Alert severity="warning" title="No SQL could be made of the builder's query">
          {error}
        </Alert>
      )}
      {query.mode === 'sql' ? (
        <SqlEditor datasource={datasource} query={query} onChange={onChange} onRunQuery={onRunQuery} />
      ) : (
        <>
          <BuilderEditor
            datasource={datasource}
            query={query}
            views={views.value ?? []}
            loading={views.loading}
            onChange={change}
          />
          <SqlPreview datasource={datasource} query={query} range={range} />
        </>
      )}
    </div>
  );
}
