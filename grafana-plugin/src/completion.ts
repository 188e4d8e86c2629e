import { type CodeEditorSuggestionItem, CodeEditorSuggestionItemKind } from '@grafana/ui';
import type { TableInfo } from './types';

/** The macros of the backend. */
export const macros = [
  { name: '$__timeFilter', insert: '$__timeFilter(time)', meaning: 'the time range, on this column' },
  { name: '$__timeInterval', insert: '$__timeInterval(time)', meaning: "this column rounded down to the panel's step" },
  { name: '$__fromTime', insert: '$__fromTime', meaning: 'begin of the time range' },
  { name: '$__toTime', insert: '$__toTime', meaning: 'end of the time range' },
  { name: '$__interval_s', insert: '$__interval_s', meaning: "the panel's step in seconds" },
  { name: '$__adhoc', insert: '$__adhoc', meaning: "the dashboard's filters, true if there are none" },
];

/** suggestions lists macros, tables and columns; a column of several tables once, with all of them in its detail. */
export function suggestions(tables: TableInfo[]): CodeEditorSuggestionItem[] {
  const columns = new Map<string, { type: string; comment: string; tables: string[] }>();
  for (const table of tables) {
    for (const { name, type, comment } of table.columns) {
      const known = columns.get(name);
      if (known) {
        known.tables.push(table.name);
      } else {
        columns.set(name, { type, comment, tables: [table.name] });
      }
    }
  }
  return [
    ...macros.map((m) => ({
      label: m.name,
      kind: CodeEditorSuggestionItemKind.Method,
      detail: m.meaning,
      insertText: m.insert,
    })),
    ...tables.map((t) => ({ label: t.name, kind: CodeEditorSuggestionItemKind.Constant, detail: t.comment })),
    ...[...columns].map(([label, c]) => ({
      label,
      kind: CodeEditorSuggestionItemKind.Field,
      detail: `${c.type}: ${c.comment}`,
      documentation: `in ${c.tables.join(', ')}`,
    })),
  ];
}
