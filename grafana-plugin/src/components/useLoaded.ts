import { useEffect, useState } from 'react';

/** What came of a load: nothing yet, a value, or a sentence about what went wrong. */
export interface Loaded<T> {
  value?: T;
  error?: string;
  loading: boolean;
}

/** useLoaded runs load when it changes and keeps the answer of the last one; load must be stable (useCallback). */
export function useLoaded<T>(load: () => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Loaded<T>>({ loading: true });
  useEffect(() => {
    let current = true;
    setState((before) => ({ ...before, loading: true }));
    load().then(
      (value) => current && setState({ value, loading: false }),
      (error: unknown) => current && setState({ error: messageOf(error), loading: false })
    );
    return () => {
      current = false;
    };
  }, [load]);
  return state;
}

/** messageOf returns the words of an error; Grafana puts those of the backend under data. */
export function messageOf(error: unknown): string {
  if (typeof error === 'object' && error !== null) {
    const { data, message, statusText } = error as {
      data?: { message?: string; error?: string };
      message?: string;
      statusText?: string;
    };
    return data?.error ?? data?.message ?? message ?? statusText ?? 'unknown error';
  }
  return String(error);
}
