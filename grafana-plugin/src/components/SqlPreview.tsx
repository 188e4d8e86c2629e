import { css } from '@emotion/css';
import type { GrafanaTheme2, TimeRange } from '@grafana/data';
import { Button, ClipboardButton, useStyles2 } from '@grafana/ui';
import { useCallback, useState } from 'react';
import type { CaromDataSource } from '../datasource';
import { isComplete } from '../query';
import type { CaromQuery } from '../types';
import { useLoaded } from './useLoaded';

interface Props {
  datasource: CaromDataSource;
  query: CaromQuery;
  range?: TimeRange;
}

/** Shows on request the SQL that the builder's query runs. */
export function SqlPreview(props: Props) {
  const [open, setOpen] = useState(false);
  return (
    <div>
      <Button
        variant="secondary"
        fill="text"
        size="sm"
        icon={open ? 'angle-down' : 'angle-right'}
        aria-expanded={open}
        onClick={() => setOpen(!open)}
      >
        {open ? 'Hide SQL' : 'Show SQL'}
      </Button>
      {open && <Preview {...props} />}
    </div>
  );
}

function Preview({ datasource, query, range }: Props) {
  const styles = useStyles2(getStyles);
  // The editor makes a new query object each time it is drawn; what counts is what it says.
  const text = JSON.stringify(query);
  const load = useCallback(
    () =>
      isComplete(JSON.parse(text) as CaromQuery)
        ? datasource.preview(JSON.parse(text) as CaromQuery, range)
        : Promise.resolve('Choose a view first.'),
    [datasource, text, range]
  );
  const sql = useLoaded(load);
  if (sql.error) {
    return <div role="alert">{sql.error}</div>;
  }
  return (
    <div>
      <pre className={styles.sql} aria-label="SQL" tabIndex={0}>
        {sql.value ?? 'Loading …'}
      </pre>
      <ClipboardButton icon="copy" variant="secondary" size="sm" getText={() => sql.value ?? ''}>
        Copy
      </ClipboardButton>
    </div>
  );
}

const getStyles = (theme: GrafanaTheme2) => ({
  sql: css({
    maxHeight: theme.spacing(40),
    overflow: 'auto',
    whiteSpace: 'pre-wrap',
    marginBottom: theme.spacing(0.5),
  }),
});
