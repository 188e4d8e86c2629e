// Builds the plugin's frontend into dist/, or with --page the page of the browser tests into page/out/.
//
// Grafana loads module.js by SystemJS as an AMD module and provides what is listed in shared. esbuild
// writes CommonJS; the banner and the footer make AMD of it.
import { cp, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const shared = [
  'react',
  'react/jsx-runtime',
  'react-dom',
  'rxjs',
  '@emotion/css',
  '@grafana/data',
  '@grafana/runtime',
  '@grafana/ui',
];

async function plugin() {
  const dist = join(root, 'dist');
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
  await mkdir(dist, { recursive: true });
  for (const name of await readdir(dist)) {
    // The backend is built apart, and a zip is one of another build.
    if (!name.startsWith('gpx_') && !name.endsWith('.zip')) {
      await rm(join(dist, name), { recursive: true });
    }
  }
  const result = await build({
    entryPoints: [join(root, 'src/module.ts')],
    outfile: join(dist, 'module.js'),
    bundle: true,
    format: 'cjs',
    target: 'es2020',
    jsx: 'automatic',
    minify: true,
    sourcemap: true,
    metafile: true,
    external: shared,
    define: { 'process.env.NODE_ENV': '"production"' },
    logLevel: 'warning',
  });
  const used = new Set();
  for (const input of Object.values(result.metafile.inputs)) {
    input.imports.filter((i) => shared.includes(i.path)).forEach((i) => used.add(i.path));
  }
  // The banner stands on one line, so that only one line is added above the ones that the source map knows.
  const names = JSON.stringify([...used].sort());
  const code = await readFile(join(dist, 'module.js'), 'utf8');
  const [body, map] = code.split('//# sourceMappingURL=');
  const sourceMap = JSON.parse(await readFile(join(dist, 'module.js.map'), 'utf8'));
  sourceMap.mappings = ';' + sourceMap.mappings;
  await writeFile(
    join(dist, 'module.js'),
    `define(${names},function(){var names=${names},given=arguments,module={exports:{}},exports=module.exports,require=function(n){return given[names.indexOf(n)]};\n` +
      `${body}return module.exports});\n//# sourceMappingURL=${map}`
  );
  await writeFile(join(dist, 'module.js.map'), JSON.stringify(sourceMap));

  const manifest = await readFile(join(root, 'src/plugin.json'), 'utf8');
  const today = new Date().toISOString().slice(0, 10);
  await writeFile(join(dist, 'plugin.json'), manifest.replaceAll('%VERSION%', version).replaceAll('%TODAY%', today));
  const readme = await readFile(join(root, 'README.md'), 'utf8');
  await writeFile(join(dist, 'README.md'), readme.replaceAll('(src/img/', '(img/'));
  for (const name of ['CHANGELOG.md', 'LICENSE']) {
    await cp(join(root, name), join(dist, name));
  }
  for (const name of ['img', 'dashboards']) {
    await cp(join(root, 'src', name), join(dist, name), { recursive: true });
  }
}

async function page() {
  const out = join(root, 'page/out');
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  await build({
    entryPoints: { page: join(root, 'page/page.tsx'), 'editor.worker': 'monaco-editor/esm/vs/editor/editor.worker.js' },
    outdir: out,
    bundle: true,
    format: 'iife',
    target: 'es2022',
    jsx: 'automatic',
    // In a module that ends with .mjs, as theirs do, esbuild takes "default" of a CommonJS package otherwise than
    // webpack, which Grafana is built with. Their CommonJS has no such doubt.
    alias: Object.fromEntries(
      ['data', 'runtime', 'ui'].map((n) => [
        `@grafana/${n}`,
        join(root, `node_modules/@grafana/${n}/dist/cjs/index.cjs`),
      ])
    ),
    loader: { '.ttf': 'file', '.svg': 'file', '.png': 'file' },
    // The page has SystemJS's define for the plugin; packages that would register with it are bundled here.
    define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis', define: 'undefined' },
    logLevel: 'warning',
  });
  await cp(join(root, 'node_modules/@grafana/ui/dist/public'), join(out, 'public'), { recursive: true });
  for (const name of ['system.min.js', 'extras/amd.min.js']) {
    await cp(join(root, 'node_modules/systemjs/dist', name), join(out, name.split('/').pop()));
  }
  await cp(join(root, 'page/index.html'), join(out, 'index.html'));
}

await (process.argv.includes('--page') ? page() : plugin());
