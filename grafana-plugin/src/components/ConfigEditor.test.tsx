import type { DataSourceSettings } from '@grafana/data';
import { render, screen } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { useState } from 'react';
import type { CaromOptions, CaromSecrets } from '../types';
import { addressMistake, ConfigEditor } from './ConfigEditor';

type Settings = DataSourceSettings<CaromOptions, CaromSecrets>;

function show(change: Partial<Settings> = {}) {
  let last = { jsonData: {}, secureJsonFields: {}, ...change } as Settings;
  function Page() {
    const [options, setOptions] = useState(last);
    return (
      <ConfigEditor
        options={options}
        onOptionsChange={(next) => {
          last = next;
          setOptions(next);
        }}
      />
    );
  }
  render(<Page />);
  return { user: userEvent.setup({ delay: null }), last: () => last };
}

test('every setting can be made, by its name', async () => {
  const { user, last } = show();
  await user.type(screen.getByRole('textbox', { name: /Address/ }), '127.0.0.1:8123');
  await user.click(screen.getByRole('radio', { name: 'HTTP' }));
  await user.type(screen.getByRole('textbox', { name: 'Database' }), 'carom');
  await user.type(screen.getByLabelText('User'), 'grafana');
  await user.type(screen.getByRole('textbox', { name: 'Tenant' }), 'acme');
  await user.type(screen.getByLabelText('Password'), 's3cret');
  await user.type(screen.getByRole('spinbutton', { name: 'Rows' }), '5000');
  await user.type(screen.getByRole('spinbutton', { name: 'Seconds' }), '20');
  await user.click(screen.getByRole('switch', { name: 'Encrypt' }));
  await user.type(screen.getByRole('textbox', { name: 'Authority (PEM)' }), 'PEM');
  expect(last()).toMatchObject({
    jsonData: {
      address: '127.0.0.1:8123',
      protocol: 'http',
      database: 'carom',
      user: 'grafana',
      tenant: 'acme',
      maxRows: 5000,
      timeoutSeconds: 20,
      tls: true,
      tlsCaCert: 'PEM',
    },
    secureJsonData: { password: 's3cret' },
  });
  expect(JSON.stringify(last().jsonData)).not.toContain('s3cret');
});

test('a stored password is not shown, and can be taken back', async () => {
  const { user, last } = show({ secureJsonFields: { password: true } });
  expect(screen.getByLabelText('Password')).toBeDisabled();
  await user.click(screen.getByRole('button', { name: 'Reset' }));
  expect(last().secureJsonFields.password).toBe(false);
  expect(screen.getByLabelText('Password')).toBeEnabled();
});

test.each([
  [undefined, undefined],
  ['', undefined],
  ['127.0.0.1:8123', undefined],
  ['[::1]:9000', undefined],
  ['clickhouse:9000', undefined],
  ['clickhouse', /Give host and port/],
  ['clickhouse:0', /Give host and port/],
  ['clickhouse:99999', /Give host and port/],
  ['http://clickhouse:8123', /without http/],
])('address %s', (address, want) => {
  const got = addressMistake(address);
  if (want) {
    expect(got).toMatch(want);
  } else {
    expect(got).toBeUndefined();
  }
});
