// From the demo to the dashboards, as the README says: bridge/demo_test.go runs the demo and says at PAGE_URL what
// has its data.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { answered, open, picture } from './browser.mjs';

const { PAGE_URL } = process.env;
const range = { from: String(Date.now() - 15 * 60_000), to: String(Date.now()) };
const large = { width: 1620, height: 1000 };

/** asked returns the columns of a query's answer by name. */
async function asked(query) {
  const answer = await fetch(`${PAGE_URL}/api/ds/query`, {
    method: 'POST',
    body: JSON.stringify({ ...range, queries: [{ refId: 'A', mode: 'builder', ...query }] }),
  });
  const [{ schema, data }] = (await answer.json()).results.A.frames;
  return Object.fromEntries(schema.fields.map((f, i) => [f.labels?.provider ?? f.name, data.values[i]]));
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
  const page = await open(t, PAGE_URL, { show: 'dashboard', name: 'loop', ...range }, large);
  const panels = await answered(page);
  await picture(page, 'demo-loop');
  assert.deepEqual(
    panels.filter((p) => p.state === 'error'),
    []
  );
  const state = Object.fromEntries(panels.map((p) => [p.panel, p.state]));
  assert.equal(state.Limit, 'data');
  const decisions = page.locator('[data-panel="Decisions with their reasons"]');
  await decisions.getByText('BACKOFF').first().waitFor();
  await decisions.getByText('gmailish').first().waitFor();

  const backoff = { field: 'rule_id', op: '=', values: ['BACKOFF'] };
  const cut = await asked({ view: 'limit_changes', format: 'table', filters: [backoff], limit: 50 });
  const last = cut.ts.length - 1;
  assert.ok(last >= 0, 'the loop did not cut the limit');
  assert.equal(cut.provider[last], 'gmailish');
  assert.ok(cut.rate_new[last] < cut.rate_old[last], `from ${cut.rate_old[last]} to ${cut.rate_new[last]}`);
  assert.match(cut.reason_text[last], /\d/);
  for (const metric of ['limit_rate', 'effective_rate']) {
    const { gmailish } = await asked({ view: 'limits', metrics: [metric], breakdown: ['provider'] });
    const seen = gmailish.filter((v) => v !== null);
    assert.ok(Math.min(...seen) <= cut.rate_new[last], `the curve of ${metric}: ${seen}`);
  }
});

test('the overview has the change, and who was deferred', async (t) => {
  const page = await open(t, PAGE_URL, { show: 'dashboard', name: 'overview', ...range }, large);
  const panels = await answered(page);
  await picture(page, 'demo-overview');
  assert.deepEqual(
    panels.filter((p) => p.state === 'error'),
    []
  );
  const changed = page.locator('[data-panel="Limits that changed"]');
  await changed.getByText('gmailish').first().waitFor();
  await changed
    .getByText(/were refusals/)
    .first()
    .waitFor();
  await page.locator('[data-panel="Deferred attempts: now and before"]').getByText('gmailish').first().waitFor();
});
