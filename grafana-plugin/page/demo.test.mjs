// From the demo to the dashboards, as the README says: bridge/demo_test.go runs the demo and says at PAGE_URL what
// has its data.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answered, asked, open, picture } from './browser.mjs';

const { PAGE_URL } = process.env;
const range = { from: String(Date.now() - 15 * 60_000), to: String(Date.now()) };

/** columns returns the columns of a query's answer by name. */
async function columns(query) {
  const { schema, data } = await asked(PAGE_URL, range, query);
  return Object.fromEntries(schema.fields.map((f, i) => [f.labels?.provider ?? f.name, data.values[i]]));
}

/** dashboard shows a dashboard, of which no panel may fail, and returns the page and the states of the panels. */
async function dashboard(t, name) {
  const page = await open(t, PAGE_URL, { show: 'dashboard', name, ...range }, { width: 1620, height: 1000 });
  const panels = await answered(page);
  await picture(page, `demo-${name}`);
  assert.deepEqual(
    panels.filter((p) => p.state === 'error'),
    []
  );
  return { page, state: Object.fromEntries(panels.map((p) => [p.panel, p.state])) };
}

test('Save & test says how fresh the data are', async (t) => {
  const page = await open(t, PAGE_URL, { show: 'config' });
  await page.getByRole('button', { name: 'Save & test' }).click();
  await page
    .getByRole('status')
    .filter({ hasText: /Last event .* ago from 1 node; schema \d+/ })
    .waitFor();
});

test('the cut and the decision are on the dashboard of the loop', async (t) => {
  const { page, state } = await dashboard(t, 'loop');
  assert.equal(state.Limit, 'data');
  const decisions = page.locator('[data-panel="Decisions with their reasons"]');
  await decisions.getByText('BACKOFF').first().waitFor();
  await decisions.getByText('gmailish').first().waitFor();

  const backoff = { field: 'rule_id', op: '=', values: ['BACKOFF'] };
  const cut = await columns({ view: 'limit_changes', format: 'table', filters: [backoff], limit: 50 });
  const last = cut.ts.length - 1;
  assert.ok(last >= 0, 'the loop did not cut the limit');
  assert.equal(cut.provider[last], 'gmailish');
  assert.ok(cut.rate_new[last] < cut.rate_old[last], `from ${cut.rate_old[last]} to ${cut.rate_new[last]}`);
  assert.match(cut.reason_text[last], /\d/);
  for (const metric of ['limit_rate', 'effective_rate']) {
    const { gmailish } = await columns({ view: 'limits', metrics: [metric], breakdown: ['provider'] });
    const seen = gmailish.filter((v) => v !== null);
    assert.ok(Math.min(...seen) <= cut.rate_new[last], `the curve of ${metric}: ${seen}`);
  }
});

test('the overview has the change, and who was deferred', async (t) => {
  const { page } = await dashboard(t, 'overview');
  const changed = page.locator('[data-panel="Limits that changed"]');
  await changed.getByText('gmailish').first().waitFor();
  await changed
    .getByText(/were refusals/)
    .first()
    .waitFor();
  await page.locator('[data-panel="Deferred attempts: now and before"]').getByText('gmailish').first().waitFor();
});
