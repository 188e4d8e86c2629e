// What jsdom lacks and Grafana's components ask for.
require('@testing-library/jest-dom');
const { configure } = require('@testing-library/dom');
const { TextDecoder, TextEncoder } = require('util');

// By role without asking the styles of every ancestor whether it is hidden: that is most of the time here.
configure({ asyncUtilTimeout: 20000, defaultHidden: true });
Object.assign(globalThis, { TextDecoder, TextEncoder });
Object.defineProperty(globalThis, 'matchMedia', {
  writable: true,
  value: (media) => ({
    matches: false,
    media,
    onchange: null,
    addListener() {},
    removeListener() {},
    addEventListener() {},
    removeEventListener() {},
    dispatchEvent: () => false,
  }),
});
HTMLCanvasElement.prototype.getContext = () => null;
globalThis.ResizeObserver = class {
  observe() {}
  unobserve() {}
  disconnect() {}
};
globalThis.IntersectionObserver = globalThis.ResizeObserver;
