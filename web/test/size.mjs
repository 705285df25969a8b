// Fails when what a first visit downloads, compressed, is more than the budget.
import { readdirSync, readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const budgetBytes = 100 * 1024;
const dist = new URL('../dist/', import.meta.url);
const initial = ['index.html', ...readdirSync(new URL('assets/', dist)).filter((f) => /\.(js|css)$/.test(f)).map((f) => 'assets/' + f), 'icon.svg', 'manifest.webmanifest'];
let total = 0;
for (const name of initial) {
  const bytes = gzipSync(readFileSync(new URL(name, dist)), { level: 9 }).length;
  total += bytes;
  console.log(`${(bytes / 1024).toFixed(1).padStart(7)} KiB  ${name}`);
}
console.log(`${(total / 1024).toFixed(1).padStart(7)} KiB  of ${budgetBytes / 1024} KiB`);
if (total > budgetBytes) {
  console.error('the initial download is over its budget');
  process.exit(1);
}
