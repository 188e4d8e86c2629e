import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import plugin from '../src/plugin.json';
import { dashboards, fileOf } from './index';

const folder = join(__dirname, '../src/dashboards');
const all = Object.entries(dashboards);

test.each(all)('%s: the file is what the code says (npm run dashboards)', (name, dashboard) => {
  expect(readFileSync(join(folder, `${name}.json`), 'utf8')).toBe(fileOf(dashboard));
});

test('there is no other file, and the plugin brings every dashboard along', () => {
  const files = all.map(([name]) => `${name}.json`).sort();
  expect(readdirSync(folder).sort()).toEqual(files);
  expect(plugin.includes.map((i) => i.path).sort()).toEqual(files.map((f) => `dashboards/${f}`));
  expect(plugin.includes.map((i) => i.name).sort()).toEqual(all.map(([, d]) => d.title).sort());
});

test('ids, titles and places are each given once', () => {
  const uids = all.map(([, d]) => d.uid);
  expect(new Set(uids).size).toBe(uids.length);
  const wrong: string[] = [];
  for (const [name, { panels }] of all) {
    const cells = new Set<string>();
    for (const { gridPos, title } of panels) {
      if (title === '' || gridPos.x + gridPos.w > 24) {
        wrong.push(`${name}: ${title} has no title or is too wide`);
      }
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          if (cells.has(`${x},${y}`)) {
            wrong.push(`${name}: ${title} overlaps`);
          }
          cells.add(`${x},${y}`);
        }
      }
    }
    if (new Set(panels.map((p) => p.id)).size !== panels.length) {
      wrong.push(`${name}: an id is there twice`);
    }
  }
  expect(wrong).toEqual([]);
});

test('a link from one dashboard leads to one that is there, with a variable that it has', () => {
  for (const [, dashboard] of all) {
    for (const [, uid, variable] of JSON.stringify(dashboard).matchAll(/\/d\/(carom-\w+)\?var-(\w+)=/g)) {
      const other = all.find(([, d]) => d.uid === uid)?.[1];
      expect(JSON.stringify(other?.templating ?? null)).toContain(`"name":"${variable}"`);
    }
  }
});

test('every variable that a query names is on its dashboard', () => {
  const missing: string[] = [];
  for (const [name, dashboard] of all) {
    const variables = JSON.stringify(dashboard.templating);
    const queries = JSON.stringify([dashboard.panels.map((p) => p.targets ?? []), dashboard.annotations]);
    for (const [, variable] of queries.matchAll(/"\$(\w+)"/g)) {
      if (!variables.includes(`"name":"${variable}"`)) {
        missing.push(`${name}: ${variable}`);
      }
    }
  }
  expect(missing).toEqual([]);
});
