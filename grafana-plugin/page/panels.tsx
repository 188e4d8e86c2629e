// Panels of a dashboard, drawn with Grafana's own components from what the data source answered.
import {
  applyFieldOverrides,
  type DataFrame,
  type DataQueryRequest,
  type DataQueryResponse,
  dateTime,
  type Field,
  type FieldConfigPropertyItem,
  type FieldConfigSource,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  type GrafanaTheme2,
  rangeUtil,
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
  PanelChrome,
  Table,
  TimeSeries,
  useTheme2,
  type VizLegendOptions,
} from '@grafana/ui';
import { memo, useEffect, useMemo, useState } from 'react';
import { lastValueFrom } from 'rxjs';
import type { Panel as PanelJSON } from '../dashboards/lib';
import type { CaromDataSource } from '../src/datasource';
import type { CaromQuery } from '../src/types';

// What a panel may set about its fields. Grafana keeps this list in its application, not in a package.
const properties = [
  'unit',
  'min',
  'max',
  'decimals',
  'displayName',
  'noValue',
  'mappings',
  'color',
  'thresholds',
  'links',
];
const custom = [
  'drawStyle',
  'lineWidth',
  'fillOpacity',
  'spanNulls',
  'showPoints',
  'pointSize',
  'stacking',
  'lineInterpolation',
  'axisSoftMin',
  'align',
  'cellOptions',
  'inspect',
  'width',
  'minWidth',
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
  width: number,
  shortest: number
): Promise<Answer> {
  const begin = performance.now();
  const span = range.to.valueOf() - range.from.valueOf();
  const request = {
    requestId: String(Math.random()),
    targets: targets.filter((t) => datasource.filterQuery(t)),
    range,
    intervalMs: Math.max(1000, shortest, Math.round(span / width)),
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

/** The time range of a panel, which may be the last days whatever the dashboard shows, or lie earlier. */
function rangeOf({ timeFrom, timeShift }: PanelJSON, range: TimeRange): TimeRange {
  const length = (text: unknown) => (typeof text === 'string' ? rangeUtil.intervalToMs(text) : 0);
  const end = range.to.valueOf() - length(timeShift);
  const to = dateTime(end);
  const from = dateTime(end - (length(timeFrom) || range.to.valueOf() - range.from.valueOf()));
  return { from, to, raw: { from, to } };
}

interface Props {
  datasource: CaromDataSource;
  panel: PanelJSON;
  range: TimeRange;
  width: number;
  height: number;
  onAnswer?: (answer: Answer) => void;
}

/** One panel with its data, drawn again only when they change. data-state says how it went, for the tests. */
export const Panel = memo(function Panel({ datasource, panel, range: dashboard, width, height, onAnswer }: Props) {
  const range = rangeOf(panel, dashboard);
  const [answer, setAnswer] = useState<Answer>();
  const shortest = typeof panel.interval === 'string' ? rangeUtil.intervalToMs(panel.interval) : 0;
  const text = JSON.stringify(panel.targets ?? []);
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  useEffect(() => {
    let current = true;
    const targets = JSON.parse(text) as CaromQuery[];
    if (targets.length === 0) {
      return;
    }
    const own = targets.map((t) => ({ ...t, datasource: undefined }));
    ask(datasource, own, range, width, shortest)
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
  }, [datasource, text, from, to, width, shortest]);
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
});

/** The frames as a panel shows them: with units, colours and names. */
function shown(raw: DataFrame[], panel: PanelJSON, theme: GrafanaTheme2): DataFrame[] {
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
  return frames;
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
  const theme = useTheme2();
  const frames = useMemo(() => shown(raw, panel, theme), [raw, panel, theme]);
  if (!frames.some((f) => f.length > 0)) {
    return <p style={{ padding: 8 }}>No data</p>;
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
          legend={(panel.options as { legend: VizLegendOptions }).legend}
        />
      );
    case 'table':
      return <Table data={frames[0]} width={width} height={height} />;
    case 'stat':
    case 'bargauge': {
      const values = valuesOf(frames[0], theme);
      if (panel.type === 'stat') {
        return (
          <BigValue
            value={values[0]}
            width={width}
            height={height}
            theme={theme}
            colorMode={(panel.options as { colorMode: BigValueColorMode }).colorMode}
            graphMode={BigValueGraphMode.None}
          />
        );
      }
      const most = Math.max(1, ...values.map((v) => v.numeric));
      const longest = (texts: string[]) => texts.reduce((a, b) => (a.length < b.length ? b : a), '');
      const widest = { title: longest(values.map((v) => v.title)), text: longest(values.map((v) => v.text)) };
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
              alignmentFactors={widest}
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
function valuesOf(frame: DataFrame, theme: GrafanaTheme2) {
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
