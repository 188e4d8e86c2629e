// What Grafana gives a data source: its services and settings, here as little as one data source needs. Requests go to
// the bridge.
import {
  type DataSourceInstanceSettings,
  type DataSourcePlugin,
  PluginType,
  type ScopedVars,
  type TypedVariableModel,
} from '@grafana/data';
import * as data from '@grafana/data';
import * as runtime from '@grafana/runtime';
import * as ui from '@grafana/ui';
import * as emotion from '@emotion/css';
import * as react from 'react';
import * as jsxRuntime from 'react/jsx-runtime';
import * as reactDom from 'react-dom';
import * as rxjs from 'rxjs';
import type { CaromDataSource } from '../src/datasource';
import type { CaromOptions, CaromQuery, CaromSecrets } from '../src/types';

/** Values of template variables: those of the address that begin with var-. */
export type Variables = Record<string, string[]>;

export type Plugin = DataSourcePlugin<CaromDataSource, CaromQuery, CaromOptions, CaromSecrets>;

declare const System: {
  set(id: string, module: unknown): void;
  import(id: string): Promise<{ plugin: Plugin }>;
  constructor: { prototype: { resolve(id: string, parent?: string): string } };
};

export const settings: DataSourceInstanceSettings<CaromOptions> = {
  id: 1,
  uid: 'carom',
  type: 'carom-deliverability-datasource',
  name: 'carom',
  access: 'proxy',
  readOnly: false,
  url: '',
  jsonData: {},
  meta: {
    id: 'carom-deliverability-datasource',
    name: 'carom deliverability',
    type: PluginType.datasource,
    module: '',
    baseUrl: '',
    info: {
      author: { name: 'carom' },
      description: '',
      links: [],
      logos: { small: '', large: '' },
      screenshots: [],
      updated: '',
      version: '',
    },
  },
};

/** fetchJSON asks the bridge; an answer that is a failure is thrown in the form in which Grafana throws it. */
async function fetchJSON(url: string, method = 'GET', body?: unknown): Promise<unknown> {
  const response = await fetch(url.startsWith('/') ? url : `/${url}`, {
    method,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer: unknown = await response.json();
  if (!response.ok) {
    throw { status: response.status, statusText: response.statusText, data: answer };
  }
  return answer;
}

interface Request {
  url: string;
  method?: string;
  data?: unknown;
  params?: Record<string, unknown>;
}

function send({ url, method, data: body, params }: Request): Promise<unknown> {
  const query = new URLSearchParams(
    Object.entries(params ?? {}).flatMap(([k, v]) => (v == null ? [] : [[k, String(v)]]))
  ).toString();
  return fetchJSON(query ? `${url}?${query}` : url, method, body);
}

/** setUp gives @grafana/runtime its services. */
export function setUp(variables: Variables) {
  const get = (url: string, params?: Record<string, unknown>) => send({ url, params });
  const post = (url: string, body?: unknown) => send({ url, method: 'POST', data: body });
  runtime.setBackendSrv({
    get,
    post,
    fetch: (request: Request) =>
      rxjs.from(send(request).then((answer) => ({ data: answer, status: 200, ok: true, config: request }))),
    datasourceRequest: send,
  } as unknown as runtime.BackendSrv);
  runtime.setTemplateSrv({
    getVariables: () =>
      Object.entries(variables).map(([name, value]) => ({
        name,
        current: { value },
      })) as unknown as TypedVariableModel[],
    replace: (text = '', scopedVars: ScopedVars = {}, format?: unknown) =>
      text.replace(/\$\{?(\w+)(?::\w+)?\}?/g, (whole, name: string) => {
        const value = (scopedVars[name]?.value as string[] | undefined) ?? variables[name];
        return value === undefined ? whole : typeof format === 'function' ? format(value, {}) : String(value);
      }),
    containsTemplate: (text?: string) => /\$\w+/.test(text ?? ''),
    updateTimeRange: () => undefined,
  } as unknown as runtime.TemplateSrv);
  runtime.setDataSourceSrv({
    get: () => Promise.reject(new Error('there is one data source only')),
    getList: () => [settings],
    getInstanceSettings: () => settings,
    reload: () => undefined,
    registerRuntimeDataSource: () => undefined,
  } as unknown as runtime.DataSourceSrv);
}

/** loadPlugin loads the built module.js as Grafana does, with SystemJS and the packages that Grafana provides. */
export async function loadPlugin(): Promise<Plugin> {
  const shared: Record<string, unknown> = {
    react,
    'react/jsx-runtime': jsxRuntime,
    'react-dom': reactDom,
    rxjs,
    '@emotion/css': emotion,
    '@grafana/data': data,
    '@grafana/runtime': runtime,
    '@grafana/ui': ui,
  };
  const original = System.constructor.prototype.resolve;
  System.constructor.prototype.resolve = function (id, parent) {
    return id in shared ? `package:${id}` : original.call(this, id, parent);
  };
  for (const [id, module] of Object.entries(shared)) {
    System.set(`package:${id}`, { ...(module as object), default: module, __useDefault: true });
  }
  const { plugin } = await System.import('/plugin/module.js');
  return plugin;
}
