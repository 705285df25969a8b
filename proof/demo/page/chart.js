// The chart: bars of what was sent, a line of the longest wait, on a scale of
// powers of ten, and a mark where something was done to a node.

const spanMs = 90_000;
const top = 20;
const levels = [[10, '10 ms'], [100, '100 ms'], [1000, '1 s'], [10_000, '10 s']];

/** 0 at 3 ms and below, 1 at 20 s. */
const height = (ms) => Math.min(1, Math.max(0, (Math.log10(Math.max(ms, 1)) - Math.log10(3)) / (Math.log10(20_000) - Math.log10(3))));

export function drawChart(canvas, state, words) {
  const { width, height: tall } = canvas.getBoundingClientRect();
  if (width < 10 || tall < 10) return;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(tall * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(tall * scale);
  }
  const c = canvas.getContext('2d');
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, width, tall);
  const bottom = tall - 2;
  const right = width - 48;
  const x = (at) => right - ((state.now - at) / spanMs) * right;
  const y = (ms) => bottom - height(ms) * (bottom - top);
  const font = getComputedStyle(document.body).fontFamily;

  c.font = `11px ${font}`;
  c.textBaseline = 'middle';
  for (const [ms, label] of levels) {
    c.strokeStyle = colour('--line');
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(0, Math.round(y(ms)) + 0.5);
    c.lineTo(right, Math.round(y(ms)) + 0.5);
    c.stroke();
    c.fillStyle = colour('--faint');
    c.textAlign = 'left';
    c.fillText(label, right + 6, y(ms));
  }

  // The last half second is still being filled.
  const buckets = state.figures.buckets.filter((b) => b.at + 500 <= state.now);
  const most = Math.max(8, ...buckets.map((b) => b.n));
  const step = (500 / spanMs) * right;
  c.fillStyle = colour('--faint');
  c.globalAlpha = 0.22;
  for (const b of buckets) {
    const h = (b.n / most) * (bottom - top) * 0.5;
    if (h > 0) c.fillRect(x(b.at), bottom - h, Math.max(1, step - 1), h);
  }
  c.globalAlpha = 1;

  // A label that would stand on another is left out, a heal's before a fault's,
  // an old one's before a new one's; its line stays.
  const marks = (state.figures.faults ?? []).filter((f) => state.now - f.at < spanMs).reverse();
  const taken = [];
  for (const f of [...marks.filter((m) => m.kind !== 'heal'), ...marks.filter((m) => m.kind === 'heal')]) {
    const at = Math.round(x(f.at)) + 0.5;
    c.strokeStyle = c.fillStyle = colour(f.kind === 'heal' ? '--ok' : '--danger');
    c.lineWidth = 1;
    c.setLineDash([2, 3]);
    c.beginPath();
    c.moveTo(at, top - 6);
    c.lineTo(at, bottom);
    c.stroke();
    c.setLineDash([]);
    const label = `${f.node} ${words.fault[f.kind]}`;
    c.font = `600 11px ${font}`;
    const wide = c.measureText(label).width;
    const from = Math.min(Math.max(0, at - wide / 2), right - wide);
    if (taken.some(([a, b]) => from < b + 8 && from + wide > a - 8)) continue;
    taken.push([from, from + wide]);
    c.textAlign = 'left';
    c.fillText(label, from, 7);
  }

  c.beginPath();
  let drawing = false;
  for (const b of buckets) {
    if (b.n === 0) {
      drawing = false;
      continue;
    }
    const px = x(b.at) + step / 2;
    if (drawing) c.lineTo(px, y(b.ms));
    else c.moveTo(px, y(b.ms));
    drawing = true;
  }
  c.strokeStyle = colour('--ember');
  c.lineWidth = 2;
  c.lineJoin = 'round';
  c.stroke();
}
