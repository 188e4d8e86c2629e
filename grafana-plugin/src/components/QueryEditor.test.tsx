import { render, screen, waitFor } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { useState } from 'react';
import { fakeDataSource } from '../testing';
import type { CaromQuery } from '../types';
import { QueryEditor } from './QueryEditor';

// Monaco does not run in jsdom; the browser tests use the real one.
jest.mock('@grafana/ui', () => ({
  ...jest.requireActual('@grafana/ui'),
  CodeEditor: ({ value, onBlur }: { value: string; onBlur: (text: string) => void }) => (
    <textarea aria-label="SQL" defaultValue={value} onBlur={(e) => onBlur(e.currentTarget.value)} />
  ),
}));

/** Draws the editor as Grafana does: what it changes comes back to it. */
function show(query: Partial<CaromQuery>, datasource = fakeDataSource()) {
  const seen: CaromQuery[] = [];
  const run = jest.fn();
  function Panel() {
    const [current, setCurrent] = useState<CaromQuery>({ refId: 'A', ...query } as CaromQuery);
    const change = (next: CaromQuery) => {
      seen.push(next);
      setCurrent(next);
    };
    return <QueryEditor datasource={datasource} query={current} onChange={change} onRunQuery={run} />;
  }
  render(<Panel />);
  return { user: userEvent.setup({ delay: null }), seen, run, datasource, last: () => seen[seen.length - 1] };
}

const choose = async (user: ReturnType<typeof userEvent.setup>, name: string, option: string) => {
  await user.click(await screen.findByRole('combobox', { name }));
  await user.click(await screen.findByText(option));
};

describe('builder', () => {
  it('lists the views of the backend and runs what is chosen', async () => {
    const { user, last, run } = show({});
    await choose(user, 'View', 'Message trace');
    expect(last()).toMatchObject({ view: 'trace', format: 'table', metrics: [] });
    expect(run).toHaveBeenCalled();
    expect(screen.getByRole('textbox', { name: 'Message or recipient' })).toBeVisible();
  });

  it('chooses metrics and a break-down', async () => {
    const { user, last } = show({});
    await choose(user, 'Show', 'Delivered');
    await choose(user, 'Break down by', 'Provider');
    expect(last()).toMatchObject({ metrics: ['delivered'], breakdown: ['provider'] });
  });

  it('adds a filter, looks its values up and removes it', async () => {
    const { user, last, datasource } = show({});
    await user.click(await screen.findByRole('button', { name: 'Filter' }));
    await user.type(await screen.findByRole('combobox', { name: 'Filter 1: values' }), 'goo');
    await user.click(await screen.findByText('google'));
    expect(datasource.values).toHaveBeenLastCalledWith('provider', 'goo');
    expect(last().filters).toEqual([{ field: 'provider', op: '=', values: ['google'] }]);
    await user.click(screen.getByRole('button', { name: 'Remove filter 1' }));
    expect(last().filters).toEqual([]);
  });

  it('takes a search and a limit when the field is left', async () => {
    const { user, last } = show({ view: 'trace', format: 'table' });
    await user.type(await screen.findByRole('textbox', { name: 'Message or recipient' }), ' bo@b.test {Enter}');
    expect(last().search).toBe('bo@b.test');
    await user.type(screen.getByRole('spinbutton', { name: 'Limit' }), '20');
    await user.tab();
    expect(last().limit).toBe(20);
  });

  it('shows the SQL on request', async () => {
    const { user } = show({});
    await user.click(await screen.findByRole('button', { name: 'Show SQL' }));
    expect(await screen.findByLabelText('SQL', { selector: 'pre' })).toHaveTextContent('FROM rollup_1m');
    await user.click(screen.getByRole('button', { name: 'Hide SQL' }));
    expect(screen.queryByLabelText('SQL', { selector: 'pre' })).not.toBeInTheDocument();
  });

  it('keeps the pattern of the second filter when the first is removed', async () => {
    const { user, last } = show({
      view: 'deliverability',
      filters: [
        { field: 'tenant', op: '=~', values: ['^a'] },
        { field: 'tenant', op: '=~', values: ['^b'] },
      ],
    });
    await user.click(await screen.findByRole('button', { name: 'Remove filter 1' }));
    expect(last().filters).toEqual([{ field: 'tenant', op: '=~', values: ['^b'] }]);
    expect(screen.getByRole('textbox', { name: 'Filter 1: pattern' })).toHaveValue('^b');
  });

  it('says why the views cannot be listed', async () => {
    const refused = Promise.reject({ data: { message: 'ClickHouse refuses the password' } });
    show({}, fakeDataSource({ views: () => refused }));
    expect(await screen.findByText('ClickHouse refuses the password')).toBeVisible();
  });
});

describe('SQL', () => {
  it('begins with what the builder made and runs when it is left', async () => {
    const { user, last, run, datasource } = show({});
    await screen.findByRole('combobox', { name: 'Show' });
    await user.click(screen.getByRole('radio', { name: 'SQL' }));
    const toEdit = true; // one statement, with macros for the time range
    expect(datasource.preview).toHaveBeenCalledWith(
      expect.objectContaining({ view: 'deliverability' }),
      undefined,
      toEdit
    );
    await waitFor(() => expect(last()).toMatchObject({ mode: 'sql', sql: 'SELECT sum(delivered)\nFROM rollup_1m' }));
    run.mockClear();
    const editor = await screen.findByRole('textbox', { name: 'SQL' });
    await user.clear(editor);
    await user.type(editor, 'SELECT 2');
    await user.tab();
    expect(last().sql).toBe('SELECT 2');
    expect(run).toHaveBeenCalledTimes(1);
  });

  it('opens all the same if the builder has no SQL yet', async () => {
    const preview = () => Promise.reject(new Error('choose a metric'));
    const { user, last } = show({}, fakeDataSource({ preview }));
    await screen.findByRole('combobox', { name: 'Show' });
    await user.click(screen.getByRole('radio', { name: 'SQL' }));
    expect(await screen.findByText('choose a metric')).toBeVisible();
    expect(last().mode).toBe('sql');
  });
});
