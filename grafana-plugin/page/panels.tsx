// Panels of a dashboard, drawn with Grafana's own components from what the data source answered.
import {
  applyFieldOverrides,
  createTheme,
  type DataFrame,
  type DataQueryRequest,
  type DataQueryResponse,
  type Field,
  type FieldConfigPropertyItem,
  type FieldConfigSource,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  standardFieldConfigEditorRegistry,
  type TimeRange,
  toDataFrame,
} from '@grafana/data';
import {
  BarGauge,
  BarGaugeDisplayMode,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  LegendDisplayMode,
  PanelChrome,
  Table,
  TimeSeries,
  useTheme2,
} from '@grafana/ui';
import { useEffect, useState } from 'react';
import { lastValueFrom } from 'rxjs';
import type { Panel as PanelJSON } from '../dashboards/lib';
import type { CaromDataSource } from '../src/datasource';
import type { CaromQuery } from '../src/types';

const theme = createTheme();

// What a panel may set about its fields. Grafana keeps this list in its application, not in a package.
const properties = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'thresholds', 'links'];
const custom = [
  'drawStyle',
  'lineWidth',
  'fillOpacity',
  'spanNulls',
  'showPoints',
  'stacking',
  'lineInterpolation',
  'axisSoftMin',
  'align',
  'cellOptions',
  'inspect',
];
standardFieldConfigEditorRegistry.setInit(() =>
  [
    ...properties.map((path) => ({ id: path, path, isCustom: false })),
    ...custom.map((path) => ({ id: `custom.${path}`, path, isCustom: true })),
  ].map(
    (p) =>
      ({
        ...p,
        name: p.path,
        settings: {},
        process: (value: unknown) => value,
        shouldApply: () => true,
      }) as unknown as FieldConfigPropertyItem
  )
);

/** How long the queries of a panel took and what came. */
export interface Answer {
  frames: DataFrame[];
  error?: string;
  milliseconds: number;
}

/** ask runs the queries of a panel as Grafana would. */
export async function ask(
  datasource: CaromDataSource,
  targets: CaromQuery[],
  range: TimeRange,
  width: number
): Promise<Answer> {
  const begin = performance.now();
  const span = range.to.valueOf() - range.from.valueOf();
  const request = {
    requestId: String(Math.random()),
    targets: targets.filter((t) => datasource.filterQuery(t)),
    range,
    intervalMs: Math.max(1000, Math.round(span / width)),
    interval: '',
    maxDataPoints: Math.round(width),
    scopedVars: {},
    timezone: 'utc',
    app: 'dashboard',
    startTime: Date.now(),
  } as DataQueryRequest<CaromQuery>;
  const response: DataQueryResponse = await lastValueFrom(datasource.query(request));
  const error = response.errors?.[0]?.message ?? response.error?.message;
  return { frames: response.data.map((f) => toDataFrame(f)), error, milliseconds: performance.now() - begin };
}

interface Props {
  datasource: CaromDataSource;
  panel: PanelJSON;
  range: TimeRange;
  width: number;
  height: number;
  onAnswer?: (answer: Answer) => void;
}

/** One panel with its data. data-state says how it went, for the tests. */
export function Panel({ datasource, panel, range, width, height, onAnswer }: Props) {
  const [answer, setAnswer] = useState<Answer>();
  const text = JSON.stringify(panel.targets ?? []);
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  useEffect(() => {
    let current = true;
    const targets = JSON.parse(text) as CaromQuery[];
    const own = targets.map((t) => ({ ...t, datasource: undefined }));
    ask(datasource, own, range, width)
      .catch((e: unknown) => ({ frames: [], error: e instanceof Error ? e.message : String(e), milliseconds: 0 }))
      .then((a) => {
        if (current) {
          setAnswer(a);
          onAnswer?.(a);
        }
      });
    return () => {
      current = false;
    };
    // The range is new at every drawing; its ends are not.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [datasource, text, from, to, width]);
  const rows = answer?.frames.reduce((n, f) => n + f.length, 0) ?? 0;
  const state =
    panel.targets === undefined ? 'text' : !answer ? 'loading' : answer.error ? 'error' : rows ? 'data' : 'empty';
  return (
    <div
      data-panel={panel.title}
      data-state={state}
      data-milliseconds={Math.round(answer?.milliseconds ?? 0)}
      data-error={answer?.error}
    >
      <PanelChrome title={panel.title} width={width} height={height} padding="none">
        {(innerWidth, innerHeight) => {
          if (panel.type === 'text') {
            return (
              <p style={{ padding: 8 }}>
                {String((panel.options as { content: string }).content).replace(/\*\*/g, '')}
              </p>
            );
          }
          if (!answer) {
            return <p>Loading …</p>;
          }
          if (answer.error) {
            return <p role="alert">{answer.error}</p>;
          }
          return <Body panel={panel} frames={answer.frames} range={range} width={innerWidth} height={innerHeight} />;
        }}
      </PanelChrome>
    </div>
  );
}

function Body({
  panel,
  frames: raw,
  range,
  width,
  height,
}: {
  panel: PanelJSON;
  frames: DataFrame[];
  range: TimeRange;
  width: number;
  height: number;
}) {
  const { isDark } = useTheme2();
  void isDark; // drawn again when the theme changes
  const frames = applyFieldOverrides({
    data: raw,
    fieldConfig: (panel.fieldConfig ?? { defaults: {}, overrides: [] }) as FieldConfigSource,
    replaceVariables: (s) => s,
    theme,
    timeZone: 'utc',
  });
  for (const frame of frames) {
    for (const field of frame.fields) {
      field.state = { ...field.state, displayName: getFieldDisplayName(field, frame, frames) };
    }
  }
  if (!frames.some((f) => f.length > 0)) {
    return <p style={{ padding: 8 }}>{panel.type === 'stat' ? 'no data' : 'No data'}</p>;
  }
  switch (panel.type) {
    case 'timeseries':
      return (
        <TimeSeries
          frames={frames}
          timeRange={range}
          timeZone="utc"
          width={width}
          height={height}
          legend={{ displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] }}
        />
      );
    case 'table':
      return <Table data={frames[0]} width={width} height={height} />;
    case 'stat':
    case 'bargauge': {
      const values = valuesOf(frames[0]);
      if (panel.type === 'stat') {
        return (
          <BigValue
            value={values[0]}
            width={width}
            height={height}
            theme={theme}
            colorMode={BigValueColorMode.Value}
            graphMode={BigValueGraphMode.None}
          />
        );
      }
      const most = Math.max(1, ...values.map((v) => v.numeric));
      return (
        <div style={{ overflow: 'auto', height }}>
          {values.map((value) => (
            <BarGauge
              key={value.title}
              value={value}
              field={{ ...frames[0].fields[1].config, min: 0, max: most }}
              width={width - 12}
              height={26}
              theme={theme}
              displayMode={BarGaugeDisplayMode.Basic}
              orientation={'horizontal' as never}
            />
          ))}
        </div>
      );
    }
    case 'logs':
      return <LogList frame={frames[0]} height={height} />;
    default:
      return <p role="alert">No component for a panel of type {panel.type}.</p>;
  }
}

/** The numbers of a table, each with the texts of its row as its title. */
function valuesOf(frame: DataFrame) {
  const number = frame.fields.find((f) => f.type === FieldType.number) ?? frame.fields[0];
  const texts = frame.fields.filter((f) => f.type === FieldType.string);
  const display = number.display ?? getDisplayProcessor({ field: number, theme });
  return Array.from(number.values, (value, i) => ({
    ...display(value),
    title: texts.map((f: Field) => String(f.values[i])).join(' '),
  }));
}

function LogList({ frame, height }: { frame: DataFrame; height: number }) {
  const field = (name: string) => frame.fields.find((f) => f.name === name);
  const time = field('timestamp');
  const body = field('body');
  return (
    <ul style={{ height, overflow: 'auto', fontFamily: 'monospace', fontSize: 12, listStyle: 'none', margin: 8 }}>
      {Array.from({ length: frame.length }, (_, i) => (
        <li key={i}>
          {new Date(Number(time?.values[i])).toISOString()} {String(body?.values[i])}
        </li>
      ))}
    </ul>
  );
}
