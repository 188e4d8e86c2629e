import { dirname } from 'node:path';
import type { PluginOptions } from '@grafana/plugin-e2e';
import { defineConfig, devices } from '@playwright/test';

// The tests in tests/ want a real Grafana: GRAFANA_URL=http://127.0.0.1:3000 npm run e2e. Without it they are skipped.
const grafana = process.env.GRAFANA_URL;
const signIn = `${dirname(require.resolve('@grafana/plugin-e2e'))}/auth`;
const chromium = {
  ...devices['Desktop Chrome'],
  launchOptions: { executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox'] },
};

export default defineConfig<PluginOptions>({
  testDir: './tests',
  forbidOnly: Boolean(process.env.CI),
  reporter: 'list',
  use: {
    baseURL: grafana,
    trace: 'retain-on-failure',
    provisioningRootDir: '../deploy/compose/provisioning',
    grafanaAPICredentials: {
      user: process.env.GRAFANA_USER || 'admin',
      password: process.env.GRAFANA_PASSWORD || 'admin',
    },
  },
  projects: grafana
    ? [
        { name: 'sign in', testDir: signIn, testMatch: [/.*\.js/], use: chromium },
        {
          name: 'grafana',
          use: { ...chromium, storageState: 'playwright/.auth/admin.json' },
          dependencies: ['sign in'],
        },
      ]
    : [{ name: 'grafana', use: chromium }],
});
