import type { DataSourcePluginOptionsEditorProps, SelectableValue } from '@grafana/data';
import { FieldSet, InlineField, InlineSwitch, Input, RadioButtonGroup, SecretInput, TextArea } from '@grafana/ui';
import type { CaromOptions, CaromSecrets } from '../types';

export type Props = DataSourcePluginOptionsEditorProps<CaromOptions, CaromSecrets>;

const protocols: Array<SelectableValue<'native' | 'http'>> = [
  { label: 'Native', value: 'native', description: 'port 9000, with TLS 9440' },
  { label: 'HTTP', value: 'http', description: "port 8123, with TLS 8443; what carom's own engine speaks" },
];

const labelWidth = 22;
const width = 44;

/** addressMistake says what is wrong with an address, in words for who typed it; nothing if it is all right. */
export function addressMistake(address: string | undefined): string | undefined {
  if (!address) {
    return undefined; // not typed yet
  }
  if (address.includes('://') || address.includes('/')) {
    return 'Only host and port, without http:// and path, such as 127.0.0.1:8123';
  }
  const port = Number(address.match(/:(\d+)$/)?.[1]);
  return port >= 1 && port <= 65535 ? undefined : 'Give host and port, such as 127.0.0.1:8123 or clickhouse:9000';
}

/** The settings of a data source. */
export function ConfigEditor({ options, onOptionsChange }: Props) {
  const { jsonData, secureJsonData, secureJsonFields } = options;
  const set = (change: Partial<CaromOptions>) => onOptionsChange({ ...options, jsonData: { ...jsonData, ...change } });
  const setPassword = (password: string, isSet: boolean) =>
    onOptionsChange({
      ...options,
      secureJsonFields: { ...secureJsonFields, password: isSet },
      secureJsonData: { ...secureJsonData, password },
    });
  const mistake = addressMistake(jsonData.address);
  const number = (text: string) => (Number(text) > 0 ? Math.floor(Number(text)) : undefined);

  return (
    <>
      <FieldSet label="ClickHouse">
        <InlineField label="Address" labelWidth={labelWidth} invalid={Boolean(mistake)} error={mistake} required>
          <Input
            id="carom-address"
            width={width}
            value={jsonData.address ?? ''}
            placeholder="host:port"
            onChange={(e) => set({ address: e.currentTarget.value.trim() })}
          />
        </InlineField>
        <InlineField label="Protocol" labelWidth={labelWidth}>
          <RadioButtonGroup
            aria-label="Protocol"
            options={protocols}
            value={jsonData.protocol ?? 'native'}
            onChange={(protocol) => set({ protocol })}
          />
        </InlineField>
        <InlineField label="Database" labelWidth={labelWidth}>
          <Input
            id="carom-database"
            width={width}
            value={jsonData.database ?? ''}
            placeholder="carom"
            onChange={(e) => set({ database: e.currentTarget.value.trim() })}
          />
        </InlineField>
      </FieldSet>
      <FieldSet label="Who asks">
        <InlineField
          label="User"
          labelWidth={labelWidth}
          tooltip="One that only reads: carom schema roles makes the role carom_grafana, carom clickhouse has --readonly-user"
        >
          <Input
            id="carom-user"
            width={width}
            value={jsonData.user ?? ''}
            placeholder="default"
            onChange={(e) => set({ user: e.currentTarget.value.trim() })}
          />
        </InlineField>
        <InlineField
          label="Tenant"
          labelWidth={labelWidth}
          tooltip="For the user of one tenant: the builder asks tables that have rows of tenants. What the user may read is ClickHouse's to say"
        >
          <Input
            id="carom-tenant"
            width={width}
            value={jsonData.tenant ?? ''}
            placeholder="all"
            onChange={(e) => set({ tenant: e.currentTarget.value.trim() })}
          />
        </InlineField>
        <InlineField label="Password" labelWidth={labelWidth}>
          <SecretInput
            id="carom-password"
            width={width}
            isConfigured={Boolean(secureJsonFields?.password)}
            value={secureJsonData?.password ?? ''}
            placeholder="none"
            onReset={() => setPassword('', false)}
            onChange={(e) => setPassword(e.currentTarget.value, false)}
          />
        </InlineField>
      </FieldSet>
      <FieldSet label="TLS">
        <InlineField label="Encrypt" labelWidth={labelWidth}>
          <InlineSwitch
            id="carom-tls"
            value={Boolean(jsonData.tls)}
            onChange={(e) => set({ tls: e.currentTarget.checked })}
          />
        </InlineField>
        {jsonData.tls && (
          <>
            <InlineField
              label="Skip verification"
              labelWidth={labelWidth}
              tooltip="Anybody in between can read the password then; give the authority's certificate instead"
            >
              <InlineSwitch
                id="carom-tls-skip"
                value={Boolean(jsonData.tlsSkipVerify)}
                onChange={(e) => set({ tlsSkipVerify: e.currentTarget.checked })}
              />
            </InlineField>
            <InlineField label="Authority (PEM)" labelWidth={labelWidth}>
              <TextArea
                id="carom-tls-ca"
                rows={5}
                cols={width}
                value={jsonData.tlsCaCert ?? ''}
                placeholder="-----BEGIN CERTIFICATE-----"
                onChange={(e) => set({ tlsCaCert: e.currentTarget.value })}
              />
            </InlineField>
          </>
        )}
      </FieldSet>
      <FieldSet label="Limits of one query">
        <InlineField label="Rows" labelWidth={labelWidth} tooltip="A larger answer is cut, and the panel says so">
          <Input
            id="carom-max-rows"
            type="number"
            min={1}
            width={20}
            value={jsonData.maxRows ?? ''}
            placeholder="automatic"
            onChange={(e) => set({ maxRows: number(e.currentTarget.value) })}
          />
        </InlineField>
        <InlineField label="Seconds" labelWidth={labelWidth}>
          <Input
            id="carom-timeout"
            type="number"
            min={1}
            width={20}
            value={jsonData.timeoutSeconds ?? ''}
            placeholder="automatic"
            onChange={(e) => set({ timeoutSeconds: number(e.currentTarget.value) })}
          />
        </InlineField>
      </FieldSet>
    </>
  );
}
