import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

// The service worker must know the hashed names of what it keeps for offline
// use, so it is written last, from the bundle itself.
function serviceWorker(): Plugin {
  return {
    name: 'bongsu-service-worker',
    apply: 'build',
    generateBundle(_options, bundle) {
      const files = Object.keys(bundle).filter((name) => !name.endsWith('.map')).map((name) => '/' + name);
      const list = ['/', ...files.filter((f) => f !== '/index.html'), '/manifest.webmanifest', '/icon.svg'].sort();
      const hash = createHash('sha256');
      for (const item of Object.values(bundle)) hash.update(item.type === 'chunk' ? item.code : item.source);
      const source = readFileSync(new URL('./src/platform/sw.js', import.meta.url), 'utf8')
        .replace('__VERSION__', hash.digest('hex').slice(0, 12))
        .replace('["__FILES__"]', JSON.stringify(list));
      this.emitFile({ type: 'asset', fileName: 'sw.js', source });
    },
  };
}

// dist/.keep stays so that the Go package embeds before the first build.
function keep(): Plugin {
  return {
    name: 'bongsu-keep',
    apply: 'build',
    generateBundle() {
      this.emitFile({ type: 'asset', fileName: '.keep', source: '' });
    },
  };
}

export default defineConfig(({ isSsrBuild }) => ({
  plugins: [svelte(), ...(isSsrBuild ? [] : [serviceWorker(), keep()])],
  publicDir: isSsrBuild ? false : 'public',
  build: {
    target: 'es2022',
    // No inlined data: URLs and no preload helper: the page runs under default-src 'self'.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: {
      '/bongsu.edge.v1.': process.env.BONGSU_TARGET ?? 'http://127.0.0.1:8080',
      '/v1/socket': { target: process.env.BONGSU_TARGET ?? 'http://127.0.0.1:8080', ws: true },
    },
  },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : undefined,
  test: { include: ['test/**/*.test.ts'], environment: 'node' },
}));
