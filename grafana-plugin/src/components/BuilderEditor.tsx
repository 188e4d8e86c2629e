import type { SelectableValue } from '@grafana/data';
import { Button, InlineField, InlineFieldRow, Input, MultiSelect, Select } from '@grafana/ui';
import type { CaromDataSource } from '../datasource';
import { breakdownsOf, changeView } from '../query';
import type { CaromQuery, FieldInfo, Filter, MetricInfo, ViewInfo } from '../types';
import { FilterEditor } from './FilterEditor';

interface Props {
  datasource: CaromDataSource;
  query: CaromQuery;
  views: ViewInfo[];
  loading: boolean;
  onChange: (query: CaromQuery) => void;
}

const asOption = (x: MetricInfo | FieldInfo): SelectableValue<string> => ({
  label: x.title ?? x.name,
  value: x.name,
  description: 'description' in x ? x.description : undefined,
});
const namesOf = (options: Array<SelectableValue<string>>) => options.flatMap((o) => (o.value ? [o.value] : []));

/** Chooses a view, its metrics, a break-down and filters. It knows no view by itself: the backend lists them. */
export function BuilderEditor({ datasource, query, views, loading, onChange }: Props) {
  const view = views.find((v) => v.name === query.view);
  const filters = query.filters ?? [];

  const setFilter = (index: number, filter: Filter | undefined) =>
    onChange({ ...query, filters: filters.flatMap((f, i) => (i !== index ? [f] : filter ? [filter] : [])) });

  const addFilter = () => {
    const field = view?.filters.find((f) => !filters.some((x) => x.field === f.name)) ?? view?.filters[0];
    if (field) {
      onChange({ ...query, filters: [...filters, { field: field.name, op: '=', values: [] }] });
    }
  };

  return (
    <>
      <InlineFieldRow>
        <InlineField label="View" labelWidth={12} tooltip={view?.description}>
          <Select
            inputId={`${query.refId}-view`}
            aria-label="View"
            width={32}
            isLoading={loading}
            options={views.map((v) => ({ label: v.title, value: v.name, description: v.description }))}
            value={query.view}
            onChange={({ value }) => {
              const next = views.find((v) => v.name === value);
              if (next) {
                onChange(changeView(query, next));
              }
            }}
          />
        </InlineField>
        {view && view.metrics.length > 0 && (
          <InlineField
            label="Show"
            labelWidth={12}
            tooltip="What to draw; nothing chosen means what the view begins with"
          >
            <MultiSelect
              inputId={`${query.refId}-metrics`}
              aria-label="Show"
              width={40}
              options={view.metrics.map(asOption)}
              value={query.metrics}
              placeholder={view.metrics
                .filter((m) => view.defaults.metrics?.includes(m.name))
                .map((m) => m.title)
                .join(', ')}
              onChange={(options) => onChange({ ...query, metrics: namesOf(options) })}
            />
          </InlineField>
        )}
        {view && view.breakdowns.length > 0 && (
          <InlineField label="By" labelWidth={8} tooltip="A series, or a row, for each value of these fields">
            <MultiSelect
              inputId={`${query.refId}-breakdown`}
              aria-label="Break down by"
              width={32}
              options={breakdownsOf(query, view).map(asOption)}
              value={query.breakdown}
              placeholder="all together"
              onChange={(options) => onChange({ ...query, breakdown: namesOf(options) })}
            />
          </InlineField>
        )}
      </InlineFieldRow>
      {filters.map((filter, index) => (
        <FilterEditor
          key={index}
          id={`${query.refId}-filter-${index}`}
          name={`Filter ${index + 1}`}
          datasource={datasource}
          fields={view?.filters ?? []}
          filter={filter}
          onChange={(next) => setFilter(index, next)}
          onRemove={() => setFilter(index, undefined)}
        />
      ))}
      <InlineFieldRow>
        {view && view.filters.length > 0 && (
          <Button variant="secondary" icon="plus" onClick={addFilter}>
            Filter
          </Button>
        )}
        {view?.searchable && (
          <InlineField label="Message or recipient" labelWidth={20}>
            <Input
              id={`${query.refId}-search`}
              width={44}
              defaultValue={query.search}
              placeholder="message id or address"
              onBlur={(e) => onChange({ ...query, search: e.currentTarget.value.trim() })}
              onKeyDown={(e) => {
                if (e.key === 'Enter') {
                  onChange({ ...query, search: e.currentTarget.value.trim() });
                }
              }}
            />
          </InlineField>
        )}
        <InlineField label="Limit" labelWidth={8} tooltip="So many series or rows at most; the largest stay">
          <Input
            key={query.limit}
            id={`${query.refId}-limit`}
            type="number"
            min={1}
            width={12}
            defaultValue={query.limit}
            placeholder="automatic"
            onBlur={(e) => {
              const limit = Math.floor(Number(e.currentTarget.value));
              onChange({ ...query, limit: limit > 0 ? limit : undefined });
            }}
          />
        </InlineField>
      </InlineFieldRow>
    </>
  );
}
