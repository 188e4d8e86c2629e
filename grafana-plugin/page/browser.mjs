// What the browser tests share: the browser, the page of a server, and pictures in the folder SCREENSHOTS.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { chromium } from 'playwright-core';

const { SCREENSHOTS = '' } = process.env;
const patience = 120_000; // bounds a mistake; nothing is measured by it

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu'],
  });
  if (SCREENSHOTS) {
    await mkdir(SCREENSHOTS, { recursive: true });
  }
});
after(() => browser?.close());

const pages = new Map();

/** load opens the page of a server once; a test shows what it needs with it. */
async function load(url) {
  const page = await browser.newPage();
  page.setDefaultTimeout(patience);
  page.thrown = [];
  page.on('pageerror', (e) => page.thrown.push(e.message));
  await page.goto(`${url}/?show=config`);
  await page.waitForFunction(() => globalThis.show);
  return page;
}

/** open shows something and fails the test for what the page throws. */
export async function open(t, url, shown, size = { width: 1240, height: 900 }) {
  if (!pages.has(url)) {
    pages.set(url, await load(url));
  }
  const page = pages.get(url);
  t.after(() => assert.deepEqual(page.thrown.splice(0), []));
  await page.setViewportSize(size);
  const address = new URLSearchParams();
  for (const [key, value] of Object.entries(shown)) {
    [value].flat().forEach((v) => address.append(key, v));
  }
  await page.evaluate((search) => globalThis.show(search), address.toString());
  return page;
}

export async function picture(page, name) {
  if (SCREENSHOTS) {
    await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
  }
}

/** asked returns the frame that answers a query of the builder. */
export async function asked(url, range, query) {
  const answer = await fetch(`${url}/api/ds/query`, {
    method: 'POST',
    body: JSON.stringify({ ...range, queries: [{ refId: 'A', mode: 'builder', ...query }] }),
  });
  return (await answer.json()).results.A.frames[0];
}

/** answered waits for the panels of a dashboard and returns what each says of itself. */
export async function answered(page) {
  const asking = Number(await page.locator('[data-asking]').getAttribute('data-asking'));
  await page.locator(`[data-answers="${asking}"]`).waitFor();
  return page.locator('[data-panel]').evaluateAll((all) => all.map((e) => ({ ...e.dataset })));
}
