// The editors and the dashboards in a browser, from a click to ClickHouse and back. bridge/browser_test.go starts what
// this needs and says where: PAGE_URL (with a history), EMPTY_URL (a schema without rows), FROM and TO (milliseconds
// since 1970); SCREENSHOTS names a folder for pictures.
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { answered, asked as ask, open as openPage, picture } from './browser.mjs';

const { PAGE_URL, EMPTY_URL, FROM, TO } = process.env;
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const open = (t, url, show, more = {}, size = undefined) => openPage(t, url, { show, to: TO, ...more }, size);

const choose = async (page, name, option) => {
  await page.getByRole('combobox', { name, exact: true }).click();
  await page.getByRole('option', { name: option }).first().click();
};

const result = (page, state) => page.locator(`[data-panel="Result"][data-state="${state}"]`);

/** serious lists what axe finds that keeps somebody from using the page; react-select's own parts are Grafana's. */
async function serious(page, selector) {
  await page.evaluate(axe);
  const found = await page.evaluate((where) => globalThis.axe.run(where, { runOnly: ['wcag2a', 'wcag2aa'] }), selector);
  return found.violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical')
    .map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 200)).join(' | ')}`);
}

test('type, choose, run, see the series', async (t) => {
  const page = await open(t, PAGE_URL, 'editor');
  await choose(page, 'Show', /^Delivered per second/);
  await choose(page, 'Break down by', /^Provider/);
  await result(page, 'data').waitFor();
  const first = (
    await (await page.request.get(`${PAGE_URL}/api/datasources/uid/carom/resources/values?field=provider`)).json()
  )[0];
  await page.getByRole('button', { name: first }).first().waitFor(); // its legend

  await page.getByRole('button', { name: 'Filter', exact: true }).click();
  await page.getByRole('combobox', { name: 'Filter 1: values' }).pressSequentially(first.slice(0, 3));
  await page.getByRole('option', { name: first, exact: true }).first().click();
  await result(page, 'data').waitFor();

  await page.getByRole('button', { name: 'Show SQL' }).click();
  const sql = page.getByLabel('SQL', { exact: true }).filter({ hasText: 'SELECT' });
  await sql.filter({ hasText: `'${first}'` }).waitFor();
  assert.match(await sql.innerText(), /FROM[\s\S]+rollup_/);
  await picture(page, 'editor-builder');
});

test('SQL: completion, a mistake in words, a table', async (t) => {
  const page = await open(t, PAGE_URL, 'editor', { query: JSON.stringify({ mode: 'sql', format: 'table', sql: ' ' }) });
  const editor = page.locator('.monaco-editor').first();
  await editor.click();
  await page.keyboard.press('Control+A');
  await page.keyboard.type('SELECT provider, sum(delivered) AS delivered FROM traffic_h');
  await page.keyboard.press('Control+Space');
  await page.locator('.suggest-widget').getByText('traffic_hour').first().waitFor();
  await picture(page, 'editor-sql');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+S');
  await result(page, 'error').waitFor();
  assert.match(await page.getByRole('alert').first().innerText(), /traffic_h/);
  await page.keyboard.type("our WHERE $__timeFilter(hour) AND provider != '' GROUP BY provider ORDER BY 2 DESC");
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+S');
  await result(page, 'data').waitFor();
});

test('a message is traced', async (t) => {
  const bounced = [{ field: 'kind', op: '=', values: ['bounced'] }];
  const [{ message_id: id }] = await asked({ view: 'events', filters: bounced, limit: 1 });
  const page = await open(t, PAGE_URL, 'editor', {
    query: JSON.stringify({ mode: 'builder', view: 'trace', format: 'table' }),
  });
  await page.getByRole('textbox', { name: 'Message or recipient' }).fill(id);
  await page.keyboard.press('Enter');
  await result(page, 'data').waitFor();
  await page.getByText('bounced').first().waitFor();
});

test('settings, health, and a mistake in the address', async (t) => {
  const page = await open(t, PAGE_URL, 'config');
  await page.getByRole('textbox', { name: /Address/ }).fill('http://clickhouse');
  await page.getByText('Only host and port').waitFor();
  await page.getByRole('textbox', { name: /Address/ }).fill('127.0.0.1:8123');
  await page.getByRole('radio', { name: 'HTTP' }).check();
  await page.getByRole('button', { name: 'Save & test' }).click();
  await page
    .getByRole('status')
    .filter({ hasText: /Last event .* ago/ })
    .waitFor();
  assert.equal(JSON.parse(await page.getByLabel('Settings').innerText()).protocol, 'http');
  await picture(page, 'settings');
});

test('the editor by keyboard alone', async (t) => {
  const page = await open(t, PAGE_URL, 'editor');
  await page.getByRole('combobox', { name: 'View', exact: true }).waitFor();
  const named = () => page.evaluate(() => document.activeElement?.getAttribute('aria-label'));
  const reached = [];
  for (let i = 0; i < 12 && (await named()) !== 'View'; i++) {
    await page.keyboard.press('Tab');
    reached.push(await named());
  }
  assert.equal(await named(), 'View', `Tab reaches ${reached}`);
  await page.keyboard.press('ArrowDown');
  await page.keyboard.type('Bounces');
  await page.keyboard.press('Enter');
  await page.getByText('Bounces by category').first().waitFor();
  await result(page, 'data').waitFor();
});

for (const theme of ['dark', 'light']) {
  test(`what axe says of the ${theme} editors`, async (t) => {
    const filters = [{ field: 'provider', op: '=', values: ['google'] }];
    const query = JSON.stringify({ mode: 'builder', view: 'deliverability', metrics: ['delivered'], filters });
    const editor = await open(t, PAGE_URL, 'editor', { theme, query });
    await editor.getByRole('combobox', { name: 'Filter 1: values' }).waitFor();
    assert.deepEqual(await serious(editor, 'section[aria-label="Query A"]'), []);
    const config = await open(t, PAGE_URL, 'config', { theme });
    await config.getByRole('textbox', { name: /Address/ }).waitFor();
    assert.deepEqual(await serious(config, 'section[aria-label="Data source"]'), []);
  });
}

const folder = new URL('../src/dashboards/', import.meta.url);
const names = (await readdir(folder)).map((f) => f.replace('.json', ''));

/** asked returns the rows of a query of the builder over all of the history. */
async function asked(query) {
  const { schema, data } = await ask(PAGE_URL, { from: FROM, to: TO }, { format: 'table', ...query });
  const names = schema.fields.map((f) => f.name);
  return data.values[0].map((_, row) => Object.fromEntries(names.map((n, i) => [n, data.values[i][row]])));
}

/** What to choose at the top of a dashboard so that each of its panels has something to show. */
async function chosen(name) {
  const first = async (query, field) => (await asked({ ...query, limit: 1 }))[0][field];
  const bounced = { view: 'events', filters: [{ field: 'kind', op: '=', values: ['bounced'] }] };
  switch (name) {
    case 'provider':
      return { 'var-provider': 'google' };
    case 'source': // the one in warm-up
      return { from: FROM, 'var-source': await first({ view: 'warmup', breakdown: ['source'] }, 'source') };
    case 'tenant':
      return { from: FROM };
    case 'job': // one that was complained of, and one with a bounce
      return {
        from: FROM,
        'var-job': [await first({ view: 'complaints', breakdown: ['job'] }, 'job'), await first(bounced, 'job')],
      };
    case 'trace':
      return { 'var-message': await first(bounced, 'message_id') };
    default:
      return {};
  }
}

for (const name of names) {
  for (const [kind, url] of [
    ['with a history', PAGE_URL],
    ['empty', EMPTY_URL],
  ]) {
    test(`dashboard ${name}, ${kind}`, async (t) => {
      const page = await open(t, url, 'dashboard', { name, ...(await chosen(name)) }, { width: 1620, height: 1000 });
      const panels = await answered(page);
      const named = (state) => panels.filter((p) => p.state === state).map((p) => `${p.panel}: ${p.error ?? ''}`);
      const slowest = panels.reduce((a, b) => (Number(a.milliseconds) > Number(b.milliseconds) ? a : b));
      t.diagnostic(`${panels.length} panels; the slowest is ${slowest.panel}: ${slowest.milliseconds} ms`);
      await picture(page, `${name}${kind === 'empty' ? '-empty' : ''}`);
      assert.deepEqual(named('error'), []);
      if (kind !== 'empty') {
        assert.deepEqual(named('empty'), []);
      }
    });
  }
}
