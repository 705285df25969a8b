// Wiring: the browser's platform, the model, the screen.
import { mount } from 'svelte';
import './app.css';
import { App } from './model/app.svelte';
import { Prefs } from './model/prefs.svelte';
import { Router } from './model/router.svelte';
import { browser } from './platform/browser';
import Root from './routes/Root.svelte';

const prefs = new Prefs(localStorage, navigator.language);
const router = new Router({
  hash: () => location.hash,
  push: (hash) => history.pushState(null, '', hash),
  replace: (hash) => history.replaceState(null, '', hash),
  back: () => history.back(),
  onChange: (handler) => window.addEventListener('popstate', handler),
});
const app = new App(browser, prefs, router);
mount(Root, { target: document.getElementById('app')!, props: { app } });
void app.start();

if (import.meta.env.PROD && 'serviceWorker' in navigator) {
  void navigator.serviceWorker.register('/sw.js').catch(() => {
    // Without it everything works, only not from a cold start offline.
  });
}
