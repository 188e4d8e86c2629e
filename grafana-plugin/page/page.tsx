// The page of the browser tests and of the screenshots. Its address says what it shows:
//   /?show=editor&query={…}          the query editor with a panel below
//   /?show=config                    the settings with "Save & test"
//   /?show=dashboard&name=overview   a dashboard, with var-NAME=VALUE for its variables
// from and to (milliseconds since 1970) set the time range; without from it is the dashboard's own, or six hours.
// show(address) shows another one without loading it all again.
import { createTheme, type DataSourceSettings, dateTime, rangeUtil, ThemeContext, type TimeRange } from '@grafana/data';
import { config } from '@grafana/runtime';
import { Button, GlobalStyles, PortalContainer } from '@grafana/ui';
import { useCallback, useMemo, useState } from 'react';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import { dashboards } from '../dashboards/index';
import type { Panel as PanelJSON } from '../dashboards/lib';
import type { CaromDataSource } from '../src/datasource';
import type { CaromOptions, CaromQuery, CaromSecrets } from '../src/types';
import { loadPlugin, type Plugin, settings, setUp, type Variables } from './host';
import { Panel } from './panels';

declare global {
  var show: (search: string) => void;
}

let address = new URLSearchParams(location.search);

function rangeOf(): TimeRange {
  let to = dateTime(Number(address.get('to')) || Date.now());
  const [own, days] = (dashboards[address.get('name') ?? '']?.time.from.replace('now-', '') ?? '6h').split('/');
  if (days && !address.get('from')) {
    to = dateTime(to.valueOf() - (to.valueOf() % rangeUtil.intervalToMs('1d')) - 1);
  }
  const from = dateTime(Number(address.get('from')) || to.valueOf() + (days ? 1 : 0) - rangeUtil.intervalToMs(own));
  return { from, to, raw: { from, to } };
}

/** The values of the dashboard's variables; one without a value in the address is All, or empty. */
function variablesOf(): Variables {
  const variables: Variables = {};
  for (const v of dashboards[address.get('name') ?? '']?.templating ? list(address.get('name')!) : []) {
    variables[v.name] = v.includeAll ? ['$__all'] : [''];
  }
  for (const [key, value] of address) {
    if (key.startsWith('var-')) {
      variables[key.slice(4)] = address.getAll(key).length > 1 ? address.getAll(key) : [value];
    }
  }
  return variables;
}

const list = (name: string) =>
  (dashboards[name].templating as { list: Array<{ name: string; includeAll?: boolean; type: string }> }).list.filter(
    (v) => v.type === 'query' || v.type === 'textbox'
  );

function Editor({ plugin, datasource, range }: { plugin: Plugin; datasource: CaromDataSource; range: TimeRange }) {
  const Component = plugin.components.QueryEditor!;
  const start = address.get('query');
  const [query, setQuery] = useState<CaromQuery>({
    refId: 'A',
    ...(start ? (JSON.parse(start) as object) : datasource.getDefaultQuery()),
  } as CaromQuery);
  const [runs, setRuns] = useState(0);
  const panel: PanelJSON = {
    id: 1,
    title: 'Result',
    type: query.format === 'timeseries' ? 'timeseries' : query.format,
    gridPos: { x: 0, y: 0, w: 24, h: 8 },
    targets: [query as never],
    options: { legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] } },
    fieldConfig: {
      defaults: { color: { mode: 'palette-classic' }, custom: { fillOpacity: 8, lineWidth: 1 } },
      overrides: [],
    },
  };
  return (
    <>
      <section aria-label="Query A" style={{ padding: 8 }}>
        <Component
          datasource={datasource}
          query={query}
          range={range}
          onChange={setQuery}
          onRunQuery={() => setRuns((n) => n + 1)}
        />
      </section>
      <output aria-label="Runs">{runs}</output>
      <Panel datasource={datasource} panel={panel} range={range} width={1200} height={380} />
    </>
  );
}

function Config({ plugin }: { plugin: Plugin }) {
  const Component = plugin.components.ConfigEditor!;
  const [options, setOptions] = useState({
    jsonData: {},
    secureJsonFields: {},
  } as DataSourceSettings<CaromOptions, CaromSecrets>);
  const [result, setResult] = useState('');
  return (
    <div style={{ padding: 8, maxWidth: 800 }}>
      <section aria-label="Data source">
        <Component options={options} onOptionsChange={(next) => setOptions(next as typeof options)} />
      </section>
      <Button
        onClick={async () => {
          const health = await fetch('/api/datasources/uid/carom/health');
          setResult(((await health.json()) as { message: string }).message);
        }}
      >
        Save &amp; test
      </Button>
      <p role="status">{result}</p>
      <output aria-label="Settings">{JSON.stringify(options.jsonData)}</output>
    </div>
  );
}

function DashboardView({ datasource, range }: { datasource: CaromDataSource; range: TimeRange }) {
  const dashboard = dashboards[address.get('name')!];
  const [cell, rowHeight] = [1600 / 24, 38];
  const [count, setCount] = useState(0);
  const answered = useCallback(() => setCount((n) => n + 1), []);
  const asking = dashboard.panels.filter((p) => p.targets).length;
  const bottom = Math.max(...dashboard.panels.map((p) => p.gridPos.y + p.gridPos.h));
  return (
    <div
      data-answers={count}
      data-asking={asking}
      style={{ position: 'relative', width: 1600, height: bottom * rowHeight }}
    >
      {dashboard.panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const place = { position: 'absolute', left: x * cell + 4, top: y * rowHeight + 4 } as const;
        return (
          <div key={panel.id} style={place}>
            {panel.type === 'row' ? (
              <h2 style={{ fontSize: 16 }}>{panel.title}</h2>
            ) : (
              <Panel
                datasource={datasource}
                panel={panel}
                range={range}
                width={w * cell - 8}
                height={h * rowHeight - 8}
                onAnswer={answered}
              />
            )}
          </div>
        );
      })}
    </div>
  );
}

const themeOf = () => createTheme({ colors: { mode: address.get('theme') === 'light' ? 'light' : 'dark' } });

function Page({ plugin }: { plugin: Plugin }) {
  const theme = useMemo(themeOf, []);
  const datasource = useMemo(() => new plugin.DataSourceClass(settings), [plugin]);
  const range = useMemo(rangeOf, []);
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      {address.get('show') === 'config' ? (
        <Config plugin={plugin} />
      ) : address.get('show') === 'dashboard' ? (
        <DashboardView datasource={datasource} range={range} />
      ) : (
        <Editor plugin={plugin} datasource={datasource} range={range} />
      )}
    </ThemeContext.Provider>
  );
}

// Grafana's components look for their icons and fonts here.
Object.assign(window, {
  __grafana_public_path__: '/public/',
  MonacoEnvironment: { getWorker: () => new Worker('/editor.worker.js') },
});
config.bootData = { user: {}, settings: {}, navTree: [] } as unknown as typeof config.bootData;
loadPlugin().then(
  (plugin) => {
    const root = createRoot(document.getElementById('root')!);
    let shown = 0;
    globalThis.show = (search) => {
      address = new URLSearchParams(search);
      setUp(variablesOf());
      flushSync(() => root.render(<Page key={++shown} plugin={plugin} />));
    };
    globalThis.show(location.search);
  },
  (error: unknown) => {
    document.getElementById('root')!.textContent = `The plugin was not loaded: ${String(error)}`;
  }
);
