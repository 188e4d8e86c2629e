import { DataSourcePlugin } from '@grafana/data';
import { ConfigEditor } from './components/ConfigEditor';
import { QueryEditor } from './components/QueryEditor';
import { CaromDataSource } from './datasource';
import type { CaromOptions, CaromQuery, CaromSecrets } from './types';

/** What Grafana loads. */
export const plugin = new DataSourcePlugin<CaromDataSource, CaromQuery, CaromOptions, CaromSecrets>(CaromDataSource)
  .setConfigEditor(ConfigEditor)
  .setQueryEditor(QueryEditor);
