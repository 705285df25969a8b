// The platform of a real browser.
import type { Platform } from './platform';

function deviceName(): string {
  const agent = navigator.userAgent;
  const system = /Android/.test(agent) ? 'Android' : /iPhone|iPad/.test(agent) ? 'iOS' : /Windows/.test(agent) ? 'Windows' : /Mac OS X/.test(agent) ? 'macOS' : /Linux/.test(agent) ? 'Linux' : '';
  const browser = /Edg\//.test(agent) ? 'Edge' : /Whale\//.test(agent) ? 'Whale' : /SamsungBrowser/.test(agent) ? 'Samsung Internet' : /Firefox\//.test(agent) ? 'Firefox' : /Chrome\//.test(agent) ? 'Chrome' : /Safari\//.test(agent) ? 'Safari' : 'Web';
  return [browser, system].filter(Boolean).join(' · ');
}

export const browser: Platform = {
  now: () => Date.now(),
  random: () => Math.random(),
  randomBytes: (n) => crypto.getRandomValues(new Uint8Array(n)),
  setTimer(run, ms) {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
  fetch: (path, init) => fetch(path, { ...init, cache: 'no-store', credentials: 'omit' }),
  connect(path, protocol) {
    const url = new URL(path, location.href);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return new WebSocket(url, protocol) as unknown as ReturnType<Platform['connect']>;
  },
  exclusive(name, work, signal) {
    // Web Locks exist only in secure contexts; plain http on a home network has
    // one tab's order at least, and idempotent sends make the rest harmless.
    if (!navigator.locks) return work();
    return navigator.locks.request(name, signal ? { signal } : {}, work);
  },
  channel(name) {
    const channel = new BroadcastChannel(name);
    return {
      post: (message) => channel.postMessage(message),
      listen: (handler) => (channel.onmessage = (e) => handler(e.data)),
      close: () => channel.close(),
    };
  },
  visible: () => document.visibilityState === 'visible',
  online: () => navigator.onLine,
  onChange(handler) {
    const targets: [EventTarget, string][] = [[document, 'visibilitychange'], [window, 'online'], [window, 'offline'], [window, 'focus'], [window, 'pageshow']];
    for (const [target, event] of targets) target.addEventListener(event, handler);
    return () => targets.forEach(([target, event]) => target.removeEventListener(event, handler));
  },
  persist: async () => (await navigator.storage?.persist?.()) ?? false,
  deviceName,
};
