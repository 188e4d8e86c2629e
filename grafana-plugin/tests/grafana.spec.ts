// What only a real Grafana shows: provisioning, each dashboard, the editor in a panel and in Explore, alert rules,
// variables. deploy/compose starts such a Grafana; GRAFANA_URL says where it is.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@grafana/plugin-e2e';
import type { CaromOptions, CaromSecrets } from '../src/types';

test.skip(!process.env.GRAFANA_URL, 'needs a Grafana with the plugin: set GRAFANA_URL (see deploy/compose)');

const folder = join(__dirname, '../src/dashboards');
const dashboards = readdirSync(folder).map(
  (file) => JSON.parse(readFileSync(join(folder, file), 'utf8')) as { uid: string; title: string }
);
const provisioned = { fileName: 'carom.yaml', name: 'carom' };

test('the provisioned data source is there and healthy', async ({
  readProvisionedDataSource,
  gotoDataSourceConfigPage,
}) => {
  const source = await readProvisionedDataSource<CaromOptions, CaromSecrets>(provisioned);
  expect(source.type).toBe('carom-deliverability-datasource');
  const page = await gotoDataSourceConfigPage(source.uid);
  await expect(page.saveAndTest()).toBeOK();
  await expect(page).toHaveAlert('success');
});

test('an address where nobody listens is said in words, and no secret', async ({
  createDataSourceConfigPage,
  page,
}) => {
  const config = await createDataSourceConfigPage({ type: 'carom-deliverability-datasource' });
  await page.getByLabel('Address').fill('127.0.0.1:1');
  await page.getByLabel('Password').fill('not-to-be-shown');
  await expect(config.saveAndTest()).not.toBeOK();
  await expect(config).toHaveAlert('error');
  await expect(page.getByText('not-to-be-shown')).toHaveCount(0);
});

for (const { uid, title } of dashboards) {
  test(`${title} has no panel with an error`, async ({ gotoDashboardPage, page }) => {
    const failed: string[] = [];
    page.on('response', async (response) => {
      if (response.url().includes('/api/ds/query') && !response.ok()) {
        failed.push(await response.text());
      }
    });
    await gotoDashboardPage({ uid });
    await expect(page.getByTestId(/^data-testid Panel header /).first()).toBeVisible();
    await page.waitForLoadState('networkidle');
    await expect(page.getByTestId('data-testid Panel status error')).toHaveCount(0);
    expect(failed).toEqual([]);
  });
}

test('a panel: choose a view, break down, see the series', async ({
  panelEditPage,
  readProvisionedDataSource,
  page,
}) => {
  const source = await readProvisionedDataSource(provisioned);
  await panelEditPage.datasource.set(source.name);
  const row = panelEditPage.getQueryEditorRow('A');
  const choose = async (name: string, option: RegExp) => {
    await row.getByRole('combobox', { name, exact: true }).click();
    await page.getByRole('option', { name: option }).first().click();
  };
  await choose('View', /^Deliverability/);
  await choose('Show', /^Delivered per second/);
  await choose('Break down by', /^Provider/);
  await expect(panelEditPage.refreshPanel()).toBeOK();
  await expect(panelEditPage.panel.getErrorIcon()).not.toBeVisible();
  await row.getByRole('button', { name: 'Show SQL' }).click();
  await expect(row.getByLabel('SQL', { exact: true }).last()).toContainText('SELECT');
});

test('a panel: SQL as a table', async ({ panelEditPage, readProvisionedDataSource, page }) => {
  const source = await readProvisionedDataSource(provisioned);
  await panelEditPage.datasource.set(source.name);
  await panelEditPage.setVisualization('Table');
  const row = panelEditPage.getQueryEditorRow('A');
  await row.getByText('SQL', { exact: true }).first().click();
  await row.locator('.monaco-editor').first().click();
  await page.keyboard.press('ControlOrMeta+A');
  await page.keyboard.type('SELECT 1 + 1 AS two');
  await page.keyboard.press('ControlOrMeta+S');
  await expect(panelEditPage.refreshPanel()).toBeOK();
  await expect(panelEditPage.panel.fieldNames).toContainText(['two']);
});

test('Explore shows events as logs', async ({ explorePage, readProvisionedDataSource, page }) => {
  const source = await readProvisionedDataSource(provisioned);
  await explorePage.datasource.set(source.name);
  const row = explorePage.getQueryEditorRow('A');
  await row.getByRole('combobox', { name: 'View', exact: true }).click();
  await page
    .getByRole('option', { name: /^Events/ })
    .first()
    .click();
  await expect(explorePage.runQuery()).toBeOK();
});

test('a variable lists the values of a field', async ({ variableEditPage, readProvisionedDataSource, page }) => {
  const source = await readProvisionedDataSource(provisioned);
  await variableEditPage.setVariableType('Query');
  await variableEditPage.datasource.set(source.name);
  const answered = page.waitForResponse((r) => r.url().includes('/resources/values') && r.ok());
  await page.getByRole('combobox', { name: 'Field', exact: true }).click();
  await page.getByRole('option', { name: 'Provider', exact: true }).click();
  await variableEditPage.runQuery();
  await answered;
});

test('what is chosen at the top of a dashboard is in its queries', async ({ gotoDashboardPage, page }) => {
  const asked = page.waitForRequest(
    (r) => r.url().includes('/api/ds/query') && (r.postData() ?? '').includes('"field":"provider","op":"in"')
  );
  const chosen = new URLSearchParams([
    ['var-provider', 'google'],
    ['var-provider', 'yahoo'],
  ]);
  await gotoDashboardPage({ uid: 'carom-overview', queryParams: chosen });
  expect((await asked).postData()).toContain('"values":["google","yahoo"]');
});

test('annotations come from the view of that name', async ({ annotationEditPage, readProvisionedDataSource }) => {
  const source = await readProvisionedDataSource(provisioned);
  await annotationEditPage.datasource.set(source.name);
  await expect(annotationEditPage.runQuery()).toBeOK();
});

test('every provisioned alert rule is evaluated without an error', async ({ request }) => {
  await expect
    .poll(
      async () => {
        const answer = await request.get('/api/prometheus/grafana/api/v1/rules');
        const { data } = (await answer.json()) as {
          data: {
            groups: Array<{ name: string; rules: Array<{ name: string; health: string; lastEvaluation: string }> }>;
          };
        };
        const rules = data.groups.filter((g) => g.name === 'carom').flatMap((g) => g.rules);
        const done = rules.filter((r) => !r.lastEvaluation.startsWith('0001') && r.health !== 'error');
        return rules.length > 0 && done.length === rules.length ? 'all' : JSON.stringify(rules);
      },
      { timeout: 180_000, intervals: [5_000] }
    )
    .toBe('all');
});
