// Writes src/dashboards/*.json; `npm run dashboards` after each change here.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dashboards, fileOf } from './index';

const folder = join(process.cwd(), 'src/dashboards');
mkdirSync(folder, { recursive: true });
for (const [name, dashboard] of Object.entries(dashboards)) {
  writeFileSync(join(folder, `${name}.json`), fileOf(dashboard));
}
