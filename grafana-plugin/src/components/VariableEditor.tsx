import type { SelectableValue } from '@grafana/data';
import { Alert, InlineField, RadioButtonGroup, Select, TextArea } from '@grafana/ui';
import { useCallback } from 'react';
import type { CaromVariableQuery } from '../types';
import type { VariableEditorProps } from '../variables';
import { useLoaded } from './useLoaded';

const kinds: Array<SelectableValue<CaromVariableQuery['kind']>> = [
  { label: 'Values of a field', value: 'values' },
  { label: 'SQL', value: 'sql' },
];

/** The editor of a template variable: values of a field, which cost little, or the first column of a SELECT. */
export function VariableEditor({ datasource, query: stored, onChange }: VariableEditorProps) {
  const query: CaromVariableQuery = { ...stored, refId: stored?.refId ?? 'variable', kind: stored?.kind ?? 'values' };
  const fields = useLoaded(useCallback(() => datasource.getTagKeys(), [datasource]));
  return (
    <>
      <InlineField label="From" labelWidth={12}>
        <RadioButtonGroup
          aria-label="From"
          options={kinds}
          value={query.kind}
          onChange={(kind) => onChange({ ...query, kind })}
        />
      </InlineField>
      {query.kind === 'values' ? (
        <InlineField label="Field" labelWidth={12}>
          <Select
            inputId="carom-variable-field"
            aria-label="Field"
            width={32}
            isLoading={fields.loading}
            options={(fields.value ?? []).map((f) => ({ label: f.text, value: String(f.value) }))}
            value={query.field}
            onChange={({ value }) => onChange({ ...query, field: value })}
          />
        </InlineField>
      ) : (
        <InlineField label="SELECT" labelWidth={12} grow tooltip="The first column, or columns __text and __value">
          <TextArea
            id="carom-variable-sql"
            rows={4}
            defaultValue={query.sql}
            placeholder="SELECT DISTINCT tenant FROM rollup_1d WHERE $__timeFilter(ts) ORDER BY tenant LIMIT 500"
            onBlur={(e) => onChange({ ...query, sql: e.currentTarget.value })}
          />
        </InlineField>
      )}
      {fields.error && (
        <Alert severity="error" title="The fields could not be listed">
          {fields.error}
        </Alert>
      )}
    </>
  );
}
