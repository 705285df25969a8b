// The demo's page: shows what the demo tells, four times a second, and presses
// its buttons. What it shows is counted by the demo; nothing is counted here.
import { ko, en } from './words.js';
import { drawChart } from './chart.js';
import { Tour } from './tour.js';

const $ = (id) => document.getElementById(id);
const token = document.querySelector('meta[name=demo-token]').content;
let words = (localStorage.getItem('demo-language') ?? navigator.language).startsWith('ko') ? ko : en;
let state; // the last that was told
let cards = new Map(); // by name: the node's card
let tiles = []; // by shard: { element, node, slot }

/** Seconds for people: 0.62, 12.3. */
export function seconds(ms) {
  return (ms / 1000).toFixed(ms < 9950 ? 2 : 1);
}

export async function press(what, fields = {}) {
  const response = await fetch('/demo/' + what, { method: 'POST', headers: { 'x-demo-token': token }, body: new URLSearchParams(fields) });
  if (!response.ok) {
    toast(await response.text());
    return undefined;
  }
  return response.status === 204 ? null : response.json();
}

let toastTimer;
function toast(text) {
  $('toast').textContent = text;
  $('toast').hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => ($('toast').hidden = true), 6000);
}

/** Writes text where it differs: most of what is told is what was told before. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Words

function speak() {
  document.documentElement.lang = words === ko ? 'ko' : 'en';
  document.title = words.pageTitle;
  for (const e of document.querySelectorAll('[data-w]')) put(e, words[e.dataset.w]);
  $('language').textContent = words.other;
  $('language').lang = words.otherLang;
  $('chart').setAttribute('aria-label', words.chart);
  $('tour-stop').setAttribute('aria-label', words.stop);
  if (tour.running) put($('tour').querySelector('span'), words.stop);
  shownFaults = '';
  if (state) render(state);
}

// Nodes

function card(node, index) {
  let element = cards.get(node.name);
  if (element) return element;
  element = $('node').content.firstElementChild.cloneNode(true);
  element.style.setProperty('--c', `var(--c${index})`);
  element.dataset.node = node.name;
  for (const button of element.querySelectorAll('button')) {
    button.addEventListener('click', async () => {
      button.disabled = true;
      await press('act', { do: button.dataset.do, node: node.name });
      button.disabled = false;
    });
  }
  cards.set(node.name, element);
  $('stage').append(element);
  return element;
}

function standing(node, leads) {
  if (node.dead) return node.failed ? 'crashed' : 'dead';
  if (node.frozen) return 'frozen';
  if (node.cut) return 'cut';
  if (!node.ready) return state.phase.name === 'forming' ? (node.member ? 'starting' : 'waiting') : 'catching';
  return leads > 0 ? 'leads' : 'follows';
}

const classes = ['dead', 'frozen', 'cut', 'catching', 'starting'];

function renderNode(node, index) {
  const element = card(node, index);
  const leads = state.leaders.filter((l) => l === node.name).length;
  const how = standing(node, leads);
  const look = { crashed: 'dead', waiting: 'starting' }[how] ?? how;
  for (const c of classes) element.classList.toggle(c, c === look);
  put(element.querySelector('h3 b'), node.name);
  put(element.querySelector('h3 span'), words.zone(node.zone));
  const said = words.state[how];
  put(element.querySelector('.state'), typeof said === 'function' ? said(leads) : said);
  element.querySelector('.state').title = words.conns(node.conns) + ' · ' + node.url;
  const hurt = node.dead || node.frozen || node.cut;
  const show = { kill: !node.dead, freeze: !node.dead && !node.frozen, cut: !node.dead && !node.cut && !node.frozen, heal: hurt };
  for (const button of element.querySelectorAll('button')) {
    const what = button.dataset.do;
    button.hidden = !show[what];
    if (!button.matches(':active')) button.disabled = state.phase.name !== 'talking';
    put(button.lastElementChild, words.do[what]);
    button.title = words.doLong[what];
    button.setAttribute('aria-label', `${node.name}: ${words.do[what]}`);
  }
}

/** Where things are in the stage, without the tiles' own movement. */
function place(element) {
  const a = element.getBoundingClientRect();
  const b = $('stage').getBoundingClientRect();
  return { x: a.left - b.left, y: a.top - b.top, w: a.width, h: a.height };
}

const tileStep = 24;

function renderTiles() {
  const taken = new Map([...cards.keys(), ''].map((name) => [name, new Set()]));
  state.leaders.forEach((leader, shard) => {
    const tile = (tiles[shard] ??= makeTile(shard));
    const to = taken.has(leader) ? leader : '';
    if (tile.node === to && !taken.get(to).has(tile.slot)) taken.get(to).add(tile.slot);
    else tile.slot = -1;
    tile.node = to;
  });
  for (const tile of tiles) {
    if (tile.slot >= 0) continue;
    const used = taken.get(tile.node);
    tile.slot = Math.max(-1, ...used) + 1;
    used.add(tile.slot);
  }
  // Those that stayed close up.
  for (const name of taken.keys()) tiles.filter((t) => t.node === name).sort((a, b) => a.slot - b.slot).forEach((t, i) => (t.slot = i));
  const first = [...cards.values()][0];
  const last = [...cards.values()].at(-1);
  if (!first || tiles.length === 0) return;
  const lone = tiles.filter((t) => t.node === '');
  const middle = { y: (place(first).y + place(first).h + place(last).y) / 2, x: place($('stage')).w / 2 };
  for (const tile of tiles) {
    let x, y;
    if (tile.node === '') {
      x = middle.x - (lone.length * tileStep) / 2 + lone.indexOf(tile) * tileStep;
      y = middle.y + 2;
    } else {
      const shelf = place(cards.get(tile.node).querySelector('.shelf'));
      const perRow = Math.max(1, Math.floor((shelf.w + 4) / tileStep));
      x = shelf.x + (tile.slot % perRow) * tileStep;
      y = shelf.y + Math.floor(tile.slot / perRow) * tileStep;
      tile.element.style.setProperty('--c', cards.get(tile.node).style.getPropertyValue('--c'));
    }
    tile.element.classList.toggle('lone', tile.node === '');
    const at = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
    if (tile.element.style.transform !== at) tile.element.style.transform = at;
  }
  $('adrift').style.top = `${Math.round(middle.y - 22)}px`;
  $('adrift').classList.toggle('on', lone.length > 0 && state.phase.name === 'talking');
}

function makeTile(shard) {
  const element = document.createElement('i');
  element.className = 'tile';
  element.style.fontStyle = 'normal';
  element.textContent = String(shard);
  $('tiles').append(element);
  return { element, node: undefined, slot: -1 };
}

const svg = (name, attributes) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
};

let drawnLinks = '';
function renderLinks() {
  const at = state.nodes.map((n) => ({ n, p: place(cards.get(n.name)) }));
  const parts = [];
  for (let i = 0; i < at.length; i++) {
    for (let j = i + 1; j < at.length; j++) {
      const [a, b] = [at[i], at[j]];
      const cut = a.n.cut || b.n.cut;
      const down = cut || a.n.dead || b.n.dead || a.n.frozen || b.n.frozen || !a.n.member || !b.n.member;
      const [x1, y1, x2, y2] = [a.p.x + a.p.w / 2, a.p.y + a.p.h / 2, b.p.x + b.p.w / 2, b.p.y + b.p.h / 2].map(Math.round);
      // Between the cards, where the line is seen.
      const my = y1 === y2 ? y1 : Math.round((a.p.y + a.p.h + b.p.y) / 2);
      const mx = y1 === y2 ? Math.round((a.p.x + a.p.w + b.p.x) / 2) : Math.round(x1 + ((x2 - x1) * (my - y1)) / (y2 - y1));
      parts.push({ x1, y1, x2, y2, down, cut, mx, my });
    }
  }
  const key = JSON.stringify(parts);
  if (key === drawnLinks) return;
  drawnLinks = key;
  $('links').replaceChildren(...parts.flatMap((l) => {
    const line = svg('line', { x1: l.x1, y1: l.y1, x2: l.x2, y2: l.y2, class: l.down ? 'down' : '' });
    if (!l.cut) return [line];
    const g = svg('g', { class: 'snip', transform: `translate(${l.mx} ${l.my})` });
    g.append(svg('circle', { r: 9 }), svg('path', { d: 'm-3.500-3.500 7 7m0-7-7 7' }));
    return [line, g];
  }));
}

// Figures

const number = (x) => new Intl.NumberFormat().format(x);

function zero(id, value) {
  put($(id), number(value));
  $(id).parentElement.classList.toggle('bad', value > 0);
}

let shownFaults = '';

function renderFigures() {
  const { tally, figures } = state;
  put($('acked'), number(tally.acknowledged));
  put($('acked-sub'), state.phase.name === 'talking' ? words.perSecond(figures.per_second, state.bots, state.rooms) : '');
  zero('lost', tally.lost);
  zero('doubled', tally.duplicated);
  zero('holes', tally.holes);
  zero('moved', tally.moved);
  put($('checked'), tally.acknowledged === 0 ? '' : figures.oldest_ms > 2000 ? words.stuck(seconds(figures.oldest_ms)) : words.checked(tally.checked, tally.checked + tally.waiting));
  put($('s-acked'), number(tally.acknowledged));
  for (const [id, value] of [['s-lost', tally.lost], ['s-doubled', tally.duplicated]]) {
    put($(id), number(value));
    $(id).parentElement.className = value > 0 ? 'bad' : 'zero';
  }
  const fault = lastFault();
  put($('pause'), fault ? words.seconds(seconds(fault.longest_ms)) : '–');
  $('pause').parentElement.classList.toggle('none', !fault);
  put($('s-pause'), fault ? words.seconds(seconds(fault.longest_ms)) : '–');
  put($('pause-sub'), !fault ? words.pauseNone : tally.refused > 0 ? words.faultLong[fault.kind](fault.node) : words.pauseSub(words.faultLong[fault.kind](fault.node)));
  put($('p50'), figures.per_second > 0 ? words.ms(figures.p50_ms.toFixed(figures.p50_ms < 10 ? 1 : 0)) : '–');
  put($('p99'), figures.per_second > 0 ? words.ms(figures.p99_ms.toFixed(0)) : '–');
  drawChart($('chart'), state, words);
  renderFaults(figures.faults ?? []);
  if (document.activeElement !== $('rate')) $('rate').value = String(state.rate);
  put($('rate-now'), words.rateNow(Math.round(Number($('rate').value))));
  if (!auditing) put($('audit-said'), state.audits?.length ? words.auditSaid(state.audits) : '');
}

export function lastFault() {
  return (state?.figures.faults ?? []).findLast((f) => f.kind !== 'heal');
}

function renderFaults(faults) {
  const key = JSON.stringify(faults);
  $('nofaults').hidden = faults.length > 0;
  if (key === shownFaults) return;
  shownFaults = key;
  $('faults').replaceChildren(...faults.slice(-30).reverse().map((f) => {
    const li = document.createElement('li');
    const time = document.createElement('time');
    time.textContent = new Date(f.at).toLocaleTimeString('en-GB');
    const who = document.createElement('b');
    who.textContent = f.node;
    who.style.setProperty('--c', cards.get(f.node)?.style.getPropertyValue('--c') ?? '');
    const what = document.createElement('span');
    what.textContent = words.fault[f.kind];
    const waited = document.createElement('span');
    waited.className = 'w';
    waited.textContent = f.kind === 'heal' ? '' : words.waited(seconds(f.longest_ms));
    li.append(time, who, what, waited);
    return li;
  }));
}

// The client

function renderVeil() {
  const { phase } = state;
  const on = phase.name === 'forming' || phase.name === 'people';
  $('veil').hidden = !on;
  if (!on) {
    if (!$('client').src) $('client').src = '/';
    return;
  }
  const said = words.phase[phase.name];
  put($('veil-said'), typeof said === 'function' ? said(phase.done, phase.total) : said);
  const members = state.nodes.filter((n) => n.ready).length;
  $('veil-bar').value = phase.name === 'people' ? phase.done / Math.max(1, phase.total) : members / state.nodes.length / 2;
}

function render(told) {
  state = told;
  state.leaders ??= [];
  state.nodes.forEach(renderNode);
  renderLinks();
  renderTiles();
  renderFigures();
  renderVeil();
  $('tour').disabled = state.phase.name !== 'talking' && !tour.running;
  $('audit').disabled = auditing || state.phase.name !== 'talking';
}

// Buttons

let auditing = false;
export async function audit() {
  auditing = true;
  put($('audit-said'), words.auditing);
  const said = await press('audit');
  auditing = false;
  return said;
}

const tour = new Tour({
  words: () => words, state: () => state, press, audit, lastFault, seconds,
  show(caption) {
    $('caption').hidden = caption === undefined;
    put($('tour').querySelector('span'), caption === undefined ? words.showMe : words.stop);
    $('tour').querySelector('svg').toggleAttribute('hidden', caption !== undefined);
    if (caption === undefined) {
      for (const c of cards.values()) c.classList.remove('spot');
      return;
    }
    put($('caption-text'), caption.text);
    for (const [name, c] of cards) c.classList.toggle('spot', name === caption.node);
    $('steps').style.setProperty('--t', `${caption.seconds}s`);
    $('steps').replaceChildren(...Array.from({ length: caption.of }, (_, i) => {
      const e = document.createElement('i');
      e.className = i < caption.step ? 'done' : i === caption.step ? 'now' : '';
      return e;
    }));
  },
});

$('tour').addEventListener('click', () => (tour.running ? tour.stop() : tour.start()));
$('tour-stop').addEventListener('click', () => tour.stop());
$('audit').addEventListener('click', audit);
$('language').addEventListener('click', () => {
  words = words === ko ? en : ko;
  localStorage.setItem('demo-language', words === ko ? 'ko' : 'en');
  speak();
});
let rateTimer;
$('rate').addEventListener('input', () => {
  put($('rate-now'), words.rateNow(Number($('rate').value)));
  clearTimeout(rateTimer);
  rateTimer = setTimeout(() => press('rate', { per_second: $('rate').value }), 150);
});
$('rate').addEventListener('change', () => $('rate').blur());
for (const button of document.querySelectorAll('.tabs button')) {
  button.addEventListener('click', () => {
    document.body.dataset.tab = button.dataset.tab;
    for (const other of document.querySelectorAll('.tabs button')) other.setAttribute('aria-pressed', String(other === button));
    drawnLinks = '';
    if (state) render(state);
  });
}
addEventListener('resize', () => {
  drawnLinks = '';
  if (state) render(state);
});

// News

speak();
const news = new EventSource('/demo/events');
let gone;
news.onmessage = (e) => {
  clearTimeout(gone);
  gone = undefined;
  render(JSON.parse(e.data));
};
news.onerror = () => {
  gone ??= setTimeout(() => toast(words.gone), 2000);
};
