// Starts the server and browsers for the end-to-end tests. With BONGSU_URL set
// it uses a running server instead (then kill and restart are not available).
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { findChromium } from './chromium.mjs';

const axeSource = readFileSync(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8');
const binary = process.env.BONGSU_BIN ?? fileURLToPath(new URL('../../bin/bongsu', import.meta.url));
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
export const external = process.env.BONGSU_URL;

export async function browser() {
  return chromium.launch({ executablePath: findChromium(), headless: true, args });
}

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close((error) => (error ? reject(error) : resolve(port)));
    });
  });
}

export class Server {
  static async start() {
    const server = new Server();
    if (external) {
      server.url = external;
      return server;
    }
    server.data = mkdtempSync(join(tmpdir(), 'bongsu-e2e-'));
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    await server.run();
    return server;
  }

  async run() {
    this.process = spawn(binary, ['serve', '--data', this.data, '--listen', `127.0.0.1:${this.port}`], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.log = '';
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on('data', (chunk) => (this.log = (this.log + chunk).slice(-20_000)));
    const gone = new Promise((_, reject) => this.process.once('exit', (code) => reject(new Error(`the server ended with ${code}: ${this.log}`))));
    gone.catch(() => {});
    await Promise.race([gone, until(async () => (await fetch(this.url + '/readyz')).ok, 30_000, 'the server is ready')]);
  }

  /** As a power cut to the process: no warning, no goodbye. */
  async kill() {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGKILL');
    await ended;
  }

  /** Puts the data back to what it was when the copy was made, as a restored disk would. */
  restore(copy) {
    rmSync(this.data, { recursive: true, force: true });
    cpSync(copy, this.data, { recursive: true });
  }

  copy() {
    const to = mkdtempSync(join(tmpdir(), 'bongsu-e2e-copy-'));
    cpSync(this.data, to, { recursive: true });
    return to;
  }

  async stop() {
    if (external || !this.process) return;
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }
}

export async function until(check, timeoutMs = 10_000, what = 'the condition') {
  const end = Date.now() + timeoutMs;
  for (;;) {
    try {
      if (await check()) return;
    } catch {
      // Not yet.
    }
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** One person at one browser of their own. */
export class Person {
  static async arrive(chrome, server, login, name, options = {}) {
    const { width = 1280, height = 800, locale = 'ko-KR', dark = false, phone = false } = options;
    const context = await chrome.newContext({
      viewport: { width, height }, locale, timezoneId: 'Asia/Seoul', colorScheme: dark ? 'dark' : 'light', hasTouch: phone, isMobile: phone,
      deviceScaleFactor: options.scale ?? 1, serviceWorkers: options.serviceWorkers ?? 'block', permissions: [], reducedMotion: 'reduce',
    });
    const person = new Person();
    Object.assign(person, { context, login, name, server, problems: [] });
    if (options.fixedTime) await context.clock.setFixedTime(options.fixedTime);
    person.page = await person.open();
    return person;
  }

  async open() {
    const page = await this.context.newPage();
    page.on('pageerror', (error) => this.problems.push(String(error)));
    page.on('console', (message) => {
      if (/Content Security Policy|violates/.test(message.text())) this.problems.push(message.text());
    });
    await page.goto(this.server.url);
    return page;
  }

  async signUp() {
    await this.page.locator('.swap').click();
    await this.signUpHere();
  }

  /** On the sign-up form already. */
  async signUpHere(password = 'correct-horse-battery') {
    const { page } = this;
    await page.locator('input[name=username]').fill(this.login);
    await page.locator('input[name=password]').fill(password);
    await page.locator('input[name=name]').fill(this.name);
    await page.locator('form button[type=submit]').click();
    await page.locator('nav').waitFor();
  }

  async signIn(password = 'correct-horse-battery') {
    const { page } = this;
    await page.locator('input[name=username]').fill(this.login);
    await page.locator('input[name=password]').fill(password);
    await page.locator('form button[type=submit]').click();
    await page.locator('nav').waitFor();
  }

  tab(index) {
    return this.page.locator('nav li button').nth(index).click();
  }

  async befriend(login) {
    const { page } = this;
    await this.tab(0);
    await page.locator('section.list header button').click();
    await page.locator('dialog input').fill(login);
    await page.locator('dialog form button[type=submit]').click();
    await page.locator('dialog .found .primary').click();
    await page.locator('dialog').waitFor({ state: 'detached' });
  }

  async chatWith(name) {
    await this.tab(0);
    await this.page.locator('.scroll ul button.row', { hasText: name }).click();
    await this.page.locator('textarea').waitFor();
  }

  async openRoom(title) {
    await this.tab(1);
    await this.page.locator('button.room', { hasText: title }).click();
    await this.page.locator('textarea').waitFor();
  }

  async say(text) {
    await this.page.locator('textarea').fill(text);
    await this.page.locator('textarea').press('Enter');
  }

  /** A sent (not merely pending) message with this very text. */
  message(text) {
    return this.page.locator('li[data-seq]').filter({ has: this.page.locator('.text', { hasText: new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`) }) });
  }

  async sees(text, timeout = 10_000) {
    await this.message(text).first().waitFor({ timeout });
  }

  unread(text) {
    return this.message(text).locator('.meta b span').first();
  }

  /** WCAG 2 A and AA findings on what is shown now. */
  async axe(page = this.page) {
    await page.evaluate(axeSource);
    const result = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }));
    return result.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160) + ' ' + (n.any[0]?.message ?? '')).join(' | ')}`);
  }

  async leave() {
    await this.context.close();
  }
}

/** Calls the public API as anyone could with curl. */
export async function rpc(server, method, request, token) {
  const response = await fetch(`${server.url}/bongsu.edge.v1.${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}) },
    body: JSON.stringify(request),
  });
  const body = await response.json();
  if (!response.ok) throw new Error(`${method}: ${JSON.stringify(body)}`);
  return body;
}
