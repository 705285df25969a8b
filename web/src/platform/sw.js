// The service worker: keeps the app shell so that the client opens offline.
// It never answers for the API or the socket, and keeps no messages: those are
// the page's, in IndexedDB.
const version = '__VERSION__';
const cacheName = 'bongsu-shell-' + version;
const files = ["__FILES__"];
const navigationTimeoutMs = 3000;

self.addEventListener('install', (event) => {
  event.waitUntil(
    caches.open(cacheName).then((cache) => cache.addAll(files)).then(() => self.skipWaiting()),
  );
});

self.addEventListener('activate', (event) => {
  event.waitUntil(
    caches.keys()
      .then((names) => Promise.all(names.filter((n) => n.startsWith('bongsu-shell-') && n !== cacheName).map((n) => caches.delete(n))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener('fetch', (event) => {
  const request = event.request;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== self.location.origin) return;
  if (request.mode === 'navigate') {
    if (url.pathname === '/') event.respondWith(page());
    return;
  }
  if (files.includes(url.pathname)) event.respondWith(shell(request));
});

async function shell(request) {
  const cached = await caches.match(request, { cacheName });
  return cached ?? fetch(request);
}

// The page comes from the network while that is quick and well, so that a new
// release arrives; a server in trouble must not keep people from their history.
async function page() {
  const cached = await caches.match('/', { cacheName });
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), navigationTimeoutMs);
  try {
    const fresh = await fetch('/', { signal: cached ? abort.signal : undefined });
    if (fresh.ok || !cached) return fresh;
    return cached;
  } catch (error) {
    if (cached) return cached;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
