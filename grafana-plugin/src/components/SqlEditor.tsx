import { css } from '@emotion/css';
import type { GrafanaTheme2 } from '@grafana/data';
import { CodeEditor, useStyles2 } from '@grafana/ui';
import { useCallback } from 'react';
import { suggestions } from '../completion';
import type { CaromDataSource } from '../datasource';
import type { CaromQuery } from '../types';
import { useLoaded } from './useLoaded';

interface Props {
  datasource: CaromDataSource;
  query: CaromQuery;
  onChange: (query: CaromQuery) => void;
  onRunQuery: () => void;
}

/** A SELECT with macros. Ctrl+S and leaving the editor run it; tables, columns and macros are completed. */
export function SqlEditor({ datasource, query, onChange, onRunQuery }: Props) {
  const styles = useStyles2(getStyles);
  const schema = useLoaded(useCallback(() => datasource.schema(), [datasource]));
  const getSuggestions = useCallback(() => suggestions(schema.value ?? []), [schema.value]);
  const run = (sql: string) => {
    if (sql !== query.sql) {
      onChange({ ...query, sql });
    }
    onRunQuery();
  };
  return (
    <div>
      <CodeEditor
        language="sql"
        height={180}
        value={query.sql ?? ''}
        showLineNumbers
        showMiniMap={false}
        getSuggestions={getSuggestions}
        onBlur={run}
        onSave={run}
        monacoOptions={{ ariaLabel: 'SQL' }}
      />
      <div className={styles.hint}>
        SELECT only. <code>$__timeFilter(time)</code> keeps to the panel&apos;s time range,{' '}
        <code>$__timeInterval(time)</code> rounds to its step, <code>$__adhoc</code> stands for the dashboard&apos;s
        filters. Ctrl+S runs.
        {schema.error && <div role="status">Tables are not completed: {schema.error}</div>}
      </div>
    </div>
  );
}

const getStyles = (theme: GrafanaTheme2) => ({
  hint: css({
    color: theme.colors.text.secondary,
    fontSize: theme.typography.bodySmall.fontSize,
    marginTop: theme.spacing(0.5),
  }),
});
