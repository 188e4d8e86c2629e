import type { SelectableValue } from '@grafana/data';
import { AsyncMultiSelect, IconButton, InlineField, InlineFieldRow, Input, Select } from '@grafana/ui';
import type { CaromDataSource } from '../datasource';
import type { FieldInfo, Filter, Operator } from '../types';

interface Props {
  /** Begins the ids of the inputs. */
  id: string;
  /** Begins the accessible names, because there are several filters. */
  name: string;
  datasource: CaromDataSource;
  fields: FieldInfo[];
  filter: Filter;
  onChange: (filter: Filter) => void;
  onRemove: () => void;
}

const operators: Array<SelectableValue<Operator>> = [
  { label: 'is', value: '=' },
  { label: 'is not', value: '!=' },
  { label: 'is one of', value: 'in' },
  { label: 'is none of', value: 'not in' },
  { label: 'matches', value: '=~', description: 'regular expression' },
  { label: 'does not match', value: '!~', description: 'regular expression' },
];

/** One condition. Its values are looked up as they are typed; one that is not listed, or a variable, can be entered. */
export function FilterEditor({ id, name, datasource, fields, filter, onChange, onRemove }: Props) {
  const options = async (typed: string) => {
    const values = await datasource.values(filter.field, typed);
    return values.map((value) => ({ label: value || '(none)', value }));
  };
  return (
    <InlineFieldRow>
      <InlineField label="Where" labelWidth={12}>
        <Select
          inputId={`${id}-field`}
          aria-label={`${name}: field`}
          width={24}
          options={fields.map((f) => ({ label: f.title ?? f.name, value: f.name }))}
          value={filter.field}
          onChange={({ value }) => value && onChange({ ...filter, field: value, values: [] })}
        />
      </InlineField>
      <Select
        inputId={`${id}-op`}
        aria-label={`${name}: comparison`}
        width={16}
        options={operators}
        value={filter.op}
        onChange={({ value }) => value && onChange({ ...filter, op: value })}
      />
      {filter.op === '=~' || filter.op === '!~' ? (
        <Input
          // It holds what is typed by itself until it is left: another filter's pattern is another input.
          key={`${filter.field} ${filter.values[0] ?? ''}`}
          aria-label={`${name}: pattern`}
          width={40}
          defaultValue={filter.values[0]}
          onBlur={(e) => onChange({ ...filter, values: e.currentTarget.value ? [e.currentTarget.value] : [] })}
        />
      ) : (
        <AsyncMultiSelect
          // The values of another field are other values.
          key={filter.field}
          inputId={`${id}-values`}
          aria-label={`${name}: values`}
          width={40}
          defaultOptions
          allowCustomValue
          loadOptions={options}
          value={filter.values.map((value) => ({ label: value || '(none)', value }))}
          onChange={(chosen: Array<SelectableValue<string>>) =>
            onChange({ ...filter, values: chosen.flatMap((o) => (o.value === undefined ? [] : [o.value])) })
          }
        />
      )}
      <IconButton name="trash-alt" aria-label={`Remove ${name.toLowerCase()}`} onClick={onRemove} />
    </InlineFieldRow>
  );
}
