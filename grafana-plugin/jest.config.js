// Packages of Grafana's that are ES modules only, with what they pull in; jest runs CommonJS.
const esModules = [
  '@grafana/schema',
  '@wojtekmaj',
  'd3',
  'd3-[a-z]+',
  'delaunator',
  'get-user-locale',
  'internmap',
  'marked',
  'memoize',
  'mimic-function',
  'ol',
  'react-calendar',
  'react-colorful',
  'robust-predicates',
  'rxjs',
  'uuid',
];

process.env.TZ = 'UTC'; // times in tests are the same everywhere

module.exports = {
  testTimeout: 60000, // a slow machine; nothing waits by the clock
  testEnvironment: 'jest-environment-jsdom',
  testMatch: ['<rootDir>/{src,dashboards,scripts}/**/*.test.{ts,tsx}'],
  setupFilesAfterEnv: ['<rootDir>/jest-setup.js'],
  moduleNameMapper: {
    '\\.(css|scss|svg|png)$': '<rootDir>/scripts/empty.js',
    'react-inlinesvg': '<rootDir>/scripts/empty.js',
    '^monaco-editor$': '<rootDir>/scripts/empty.js',
  },
  transform: {
    '^.+\\.(mjs|[tj]sx?)$': [
      '@swc/jest',
      { jsc: { parser: { syntax: 'typescript', tsx: true }, transform: { react: { runtime: 'automatic' } }, target: 'es2022' } },
    ],
  },
  transformIgnorePatterns: [`node_modules/(?!.*(${esModules.join('|')})/.*)`],
};
