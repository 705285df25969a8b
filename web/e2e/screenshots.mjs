// Makes docs/screenshots: the built client against the server in memory, on one
// evening that never changes, so that only changes of the look change pictures.
// Needs `npm run build` before it.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { browser, Person } from './harness.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = fileURLToPath(new URL('../../docs/screenshots/', import.meta.url));
const maxBytesEach = 150 * 1024;
const maxBytesAll = 1.5 * 1024 * 1024;
const evening = Date.UTC(2021, 4, 5, 12, 52, 30);

execFileSync('npx', ['vite', 'build', '--ssr', 'test/mock.ts', '--outDir', 'node_modules/.mock', '--logLevel', 'error'], { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const chrome = await browser();

async function scene(language, work) {
  const server = spawn(process.execPath, ['node_modules/.mock/mock.js'], { cwd: root, env: { ...process.env, SCENE: language, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const url = await new Promise((resolve) => server.stdout.on('data', (chunk) => /http:\S+/.test(chunk) && resolve(/http:\S+/.exec(chunk)[0])));
    await work({ url });
  } finally {
    server.kill();
  }
}

async function shot(person, name) {
  await person.page.waitForTimeout(300);
  await person.page.screenshot({ path: out + name + '.png' });
}

const pc = { width: 1280, height: 800 };
const phone = { width: 390, height: 844, phone: true, scale: 1.5 };

async function arrive(server, language, options) {
  const person = await Person.arrive(chrome, server, 'harin', '', { ...options, locale: language === 'ko' ? 'ko-KR' : 'en-US', fixedTime: evening });
  return person;
}

/** The family's evening, up to the words that are still on their way. */
async function evenings(person, language) {
  const w = language === 'ko' ? { family: '우리 가족', reply: '네! 도착하면 바로 전화드릴게요', pending: '사진도 곧 보낼게요' } : { family: 'Our family', reply: 'Yes! I’ll call as soon as we are there', pending: 'Photos are coming' };
  await person.signIn();
  await person.openRoom(w.family);
  await person.page.locator('li[data-seq="8"]').waitFor();
  await person.page.waitForTimeout(1_000);
  return w;
}

async function send(person, text) {
  await person.page.locator('textarea').fill(text);
  await person.page.locator('.send').click();
}

for (const language of ['ko', 'en']) {
  await scene(language, async (server) => {
    const person = await arrive(server, language, { ...pc, dark: language === 'en' });
    if (language === 'ko') await shot(person, 'pc-light-ko-sign-in');
    const w = await evenings(person, language);
    if (language === 'ko') await shot(person, 'pc-light-ko-unread');
    await send(person, w.reply);
    await person.sees(w.reply);
    await send(person, w.pending);
    await person.page.clock.setFixedTime(evening + 20_000);
    await person.page.locator('.banner').waitFor({ timeout: 15_000 });
    await shot(person, `pc-${language === 'en' ? 'dark' : 'light'}-${language}-slow`);
    await person.page.locator('main header button.icon').last().click();
    if (language === 'en') await shot(person, 'pc-dark-en-room');
    await person.leave();
  });
  await scene(language, async (server) => {
    const dark = language === 'ko';
    const name = `phone-${dark ? 'dark' : 'light'}-${language}`;
    const person = await arrive(server, language, { ...phone, dark });
    await person.page.locator('.swap').click();
    await shot(person, name + '-sign-up');
    await person.page.locator('.swap').click();
    const w = await evenings(person, language);
    await send(person, w.reply);
    await person.sees(w.reply);
    await shot(person, name + '-conversation');
    await person.page.goBack();
    await shot(person, name + '-chats');
    await person.tab(0);
    if (dark) await shot(person, name + '-friends');
    await person.tab(2);
    await shot(person, name + '-settings');
    await person.leave();
  });
}
await scene('ko', async (server) => {
  const person = await arrive(server, 'ko', { ...phone, dark: false });
  const w = await evenings(person, 'ko');
  await person.context.setOffline(true);
  await person.page.clock.setFixedTime(evening + 20_000);
  await send(person, w.reply);
  await person.page.locator('.banner').waitFor({ timeout: 15_000 });
  await shot(person, 'phone-light-ko-offline');
  await person.leave();
});
await chrome.close();

let total = 0;
for (const file of readdirSync(out)) {
  const { size } = statSync(out + file);
  total += size;
  console.log(`${(size / 1024).toFixed(0).padStart(5)} KiB  ${file}`);
  if (size > maxBytesEach) throw new Error(`${file} is larger than ${maxBytesEach} bytes`);
}
console.log(`${(total / 1024).toFixed(0).padStart(5)} KiB  together`);
if (total > maxBytesAll) throw new Error('the screenshots are too large together');
