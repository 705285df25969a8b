// People talk: what they see, through outages, in real browsers.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { after, before, beforeEach, afterEach, test } from 'node:test';
import { browser, external, Person, rpc, Server, until } from './harness.mjs';

let server;
let chrome;
let people = [];
let round = Date.now() % 1_000_000;

before(async () => {
  server = await Server.start();
  chrome = await browser();
});
after(async () => {
  await chrome?.close();
  await server?.stop();
});
beforeEach(() => round++);
afterEach(async () => {
  for (const person of people) {
    await person.leave();
    assert.deepEqual(person.problems, [], 'no page error and no breach of the content security policy');
  }
  people = [];
});

async function person(name, options) {
  const one = await Person.arrive(chrome, server, name.toLowerCase() + round, name, options);
  people.push(one);
  return one;
}

/** Two people who have each other open. */
async function pair(optionsA, optionsB) {
  const a = await person('Jimin', optionsA);
  const b = await person('Mom', optionsB);
  await a.signUp();
  await b.signUp();
  await a.befriend(b.login);
  await a.chatWith(b.name);
  await a.say('hello');
  await a.sees('hello');
  await b.openRoom(a.name);
  await b.sees('hello');
  assert.equal(await a.page.locator('li.notice').count(), 0, 'nobody is told to have been invited into a room of two');
  return { a, b };
}

async function texts(who) {
  return who.page.locator('li[data-seq] .text').allTextContents();
}

test('two people sign up, become friends and talk; unread falls; reload keeps everything', async () => {
  const a = await person('Jimin');
  const b = await person('Mom');
  await a.signUp();
  await b.signUp();
  await a.befriend(b.login);
  await a.chatWith(b.name);
  await a.say('first words');
  await a.sees('first words');
  await until(async () => (await a.unread('first words').textContent()) === '1', 5_000, 'one person has not read it');
  const line = b.page.locator('button.room', { hasText: a.name });
  await line.locator('.b').waitFor();
  assert.match(await b.page.title(), /^\(\d+\)/);
  await line.click();
  await b.sees('first words');
  await until(async () => (await a.message('first words').locator('.meta b').count()) === 0, 5_000, 'the unread mark is gone');
  await b.say('an answer');
  await a.sees('an answer');
  await until(async () => (await b.message('an answer').locator('.meta b').count()) === 0, 5_000, 'the answer is read');
  await a.page.reload();
  await a.sees('first words');
  await a.sees('an answer');
  assert.deepEqual(await texts(a), ['first words', 'an answer']);
});

test('what is written offline is shown as waiting, and sent exactly once', async () => {
  const { a, b } = await pair();
  await a.context.setOffline(true);
  await a.page.locator('.banner').waitFor({ timeout: 15_000 });
  assert.match(await a.page.locator('.banner').textContent(), /안전합니다/);
  await a.say('from the subway 1');
  await a.say('from the subway 2');
  await a.page.getByText('연결되면 보냅니다').first().waitFor();
  assert.equal(await a.message('from the subway 1').count(), 0);
  await a.page.reload().catch(() => {});
  await a.context.setOffline(false);
  await a.page.goto(a.server.url);
  await b.sees('from the subway 2', 30_000);
  await a.openRoom(b.name);
  await a.sees('from the subway 2');
  assert.deepEqual(await texts(b), ['hello', 'from the subway 1', 'from the subway 2']);
  await a.page.locator('.banner').waitFor({ state: 'detached' });
});

test('neither kill -9 nor the restart loses or doubles a word', { skip: external && 'needs its own server' }, async () => {
  const { a, b } = await pair();
  const said = ['hello'];
  for (let i = 0; i < 30; i++) {
    const text = `word ${i}`;
    said.push(text);
    await a.say(text);
    if (i % 10 === 4) {
      await server.kill();
      await a.say(`dark ${i}`);
      said.push(`dark ${i}`);
      await server.run();
    }
  }
  await b.sees(said.at(-1), 60_000);
  await a.sees(said.at(-1), 30_000);
  assert.deepEqual(await texts(b), said);
  assert.deepEqual(await texts(a), said);
  await b.page.reload();
  await b.sees(said.at(-1));
  assert.deepEqual(await texts(b), said);
});

test('words that an old disk lacks are sent again by those who said them', { skip: external && 'needs its own server' }, async () => {
  const { a, b } = await pair();
  await server.kill();
  const copy = server.copy();
  await server.run();
  await a.say('will be lost 1');
  await b.sees('will be lost 1', 30_000);
  await b.say('will be lost 2');
  await a.sees('will be lost 2', 30_000);
  await a.say('will be lost 3');
  await b.sees('will be lost 3', 30_000);
  await server.kill();
  server.restore(copy);
  rmSync(copy, { recursive: true });
  await server.run();
  // The server says when all are back: the pages show their own copies until
  // they have noticed, and drop them while they repair.
  const { accessToken } = await rpc(server, 'AccountService/SignIn', { login: a.login, password: 'correct-horse-battery', deviceName: 'witness' });
  const { rooms } = await rpc(server, 'RoomService/ListRooms', {}, accessToken);
  const { roomId } = rooms.find((r) => r.members.some((m) => m.login === b.login));
  let back;
  await until(async () => {
    const { messages } = await rpc(server, 'MessageService/List', { roomId }, accessToken);
    back = messages.map((m) => m.text);
    return back.length === 4;
  }, 40_000, 'all three are back on the server');
  for (const who of [a, b]) {
    await until(async () => JSON.stringify(await texts(who)) === JSON.stringify(back) && (await who.page.getByText('보내는 중').count()) === 0 && (await who.page.locator('.banner').count()) === 0, 40_000, 'the page shows what the server has');
  }
  assert.deepEqual((await texts(a)).toSorted(), ['hello', 'will be lost 1', 'will be lost 2', 'will be lost 3']);
  assert.deepEqual(await texts(a), await texts(b), 'in one order for both');
  const mine = (await texts(a)).filter((t) => /[13]$/.test(t));
  assert.deepEqual(mine, ['will be lost 1', 'will be lost 3'], 'each one’s words in their order');
  await b.page.reload();
  await b.sees('will be lost 3');
  assert.deepEqual(await texts(b), await texts(a));
});

test('Enter that ends a Hangul syllable does not send half of it', async () => {
  const { a, b } = await pair();
  const area = a.page.locator('textarea');
  await area.focus();
  const cdp = await a.context.newCDPSession(a.page);
  for (const text of ['ㅎ', '하', '한']) await cdp.send('Input.imeSetComposition', { text, selectionStart: 1, selectionEnd: 1 });
  await cdp.send('Input.dispatchKeyEvent', { type: 'rawKeyDown', key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 229, nativeVirtualKeyCode: 229 });
  await cdp.send('Input.dispatchKeyEvent', { type: 'keyUp', key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 229, nativeVirtualKeyCode: 229 });
  assert.equal(await area.inputValue(), '한');
  await cdp.send('Input.insertText', { text: '한' });
  for (const text of ['ㄱ', '그', '글']) await cdp.send('Input.imeSetComposition', { text, selectionStart: 1, selectionEnd: 1 });
  await cdp.send('Input.insertText', { text: '글' });
  assert.equal(await area.inputValue(), '한글');
  await area.press('Enter');
  await b.sees('한글');
  assert.equal(await area.inputValue(), '');
  assert.deepEqual(await texts(b), ['hello', '한글']);
});

test('the send button within a syllable sends the whole word and leaves nothing behind', async () => {
  const { a, b } = await pair();
  const area = a.page.locator('textarea');
  await area.focus();
  const cdp = await a.context.newCDPSession(a.page);
  await cdp.send('Input.imeSetComposition', { text: '네', selectionStart: 1, selectionEnd: 1 });
  await a.page.locator('.send').click();
  await b.sees('네');
  await a.sees('네');
  assert.equal(await area.inputValue(), '');
  assert.deepEqual(await texts(b), ['hello', '네']);
});

test('a reconnect fills what was missed', async () => {
  const { a, b } = await pair();
  await b.context.setOffline(true);
  await b.page.locator('.banner').waitFor({ timeout: 15_000 });
  const said = ['hello'];
  for (let i = 0; i < 40; i++) {
    said.push(`missed ${i}`);
    await a.say(`missed ${i}`);
  }
  await a.sees('missed 39', 20_000);
  await b.context.setOffline(false);
  await b.sees('missed 39', 30_000);
  assert.deepEqual(await texts(b), said);
});

test('the echo friend is there from the start and answers', async () => {
  const a = await person('Solo');
  await a.signUp();
  const line = a.page.locator('button.room', { hasText: '메아리' });
  await line.waitFor({ timeout: 15_000 });
  await line.click();
  await a.page.locator('li[data-seq]').first().waitFor();
  await a.say('anyone there?');
  await until(async () => (await a.page.locator('li[data-seq]:not(.mine) .text', { hasText: 'anyone there?' }).count()) > 0, 15_000, 'the echo');
});

test('a group is made, grows, is renamed and left; everyone sees the notices', async () => {
  const { a, b } = await pair();
  const c = await person('Dad');
  await c.signUp();
  await a.befriend(c.login);
  await a.tab(1);
  await a.page.locator('section.list header button').click();
  await a.page.locator('dialog input.input').fill('우리 가족');
  await a.page.locator('dialog label', { hasText: b.name }).locator('input').check();
  await a.page.locator('dialog footer .primary').click();
  await a.page.locator('main h2', { hasText: '우리 가족' }).waitFor();
  await a.say('family!');
  await b.openRoom('우리 가족');
  await b.sees('family!');
  assert.equal(await a.page.locator('.notice').count(), 1);

  await a.page.locator('main header button[title="방 정보"]').click();
  await a.page.locator('dialog .acts button').first().click();
  await a.page.locator('dialog label', { hasText: c.name }).locator('input').check();
  await a.page.locator('dialog footer .primary').click();
  await a.page.locator('dialog h3', { hasText: '3' }).waitFor();
  await a.page.keyboard.press('Escape');
  await b.page.locator('.notice', { hasText: 'Dad' }).waitFor();
  await a.say('welcome');
  await c.openRoom('우리 가족');
  await c.sees('welcome');
  assert.deepEqual(await texts(c), ['welcome'], 'a newcomer sees what is said from then on');

  await b.page.locator('main header button[title="방 정보"]').click();
  await b.page.locator('dialog .acts button').nth(1).click();
  await b.page.locator('dialog input').fill('새 이름');
  await b.page.locator('dialog footer .primary').click();
  await a.page.locator('main h2', { hasText: '새 이름' }).waitFor();
  await b.page.locator('dialog .danger').click();
  await b.page.locator('dialog footer .danger').click();
  await b.page.locator('button.room', { hasText: '새 이름' }).waitFor({ state: 'detached' });
  await a.page.locator('.notice', { hasText: 'Mom 님이 나갔습니다' }).waitFor();
  await until(async () => /2명/.test(await a.page.locator('main header small').textContent()), 5_000, 'two members are left');
});

test('a reply quotes, and leads back to what it quotes', async () => {
  const { a, b } = await pair();
  await b.message('hello').hover();
  await b.message('hello').locator('.tools button').first().click();
  await b.page.locator('.reply').waitFor();
  await b.say('to that I say');
  await a.sees('to that I say');
  const quote = a.message('to that I say').locator('.bub button');
  assert.match(await quote.textContent(), /hello/);
  await quote.click();
  await a.page.locator('li.flash', { hasText: 'hello' }).waitFor();
});

test('a long history is paged in while the place being read stays', { skip: external && 'needs the RPC' }, async () => {
  const { a, b } = await pair();
  const session = await rpc(server, 'AccountService/SignIn', { login: a.login, password: 'correct-horse-battery', deviceName: 'script' });
  const { rooms } = await rpc(server, 'RoomService/ListRooms', {}, session.accessToken);
  const room = rooms.find((r) => r.lastMessage?.text === 'hello');
  for (let i = 0; i < 400; i++) await rpc(server, 'MessageService/Send', { roomId: room.roomId, clientId: randomUUID(), text: `line ${i}` + (i % 7 === 0 ? '\nand a second line' : '') }, session.accessToken);
  await until(async () => (await b.page.locator('li[data-seq="401"]').count()) === 1, 20_000, 'the newest line');
  // A new device has nothing cached: everything comes from the server.
  const again = await person('Again');
  again.login = b.login;
  await again.signIn();
  await again.openRoom(a.name);
  await again.page.locator('li[data-seq="401"]').waitFor();
  const view = again.page.locator('.view');
  await view.hover();
  for (let i = 0; i < 12; i++) {
    const before = await again.page.evaluate(() => {
      const view = document.querySelector('.view');
      view.scrollTop = 500;
      const top = view.getBoundingClientRect().top;
      const row = [...view.querySelectorAll('li[data-seq]')].find((r) => r.getBoundingClientRect().top >= top);
      return { seq: row.dataset.seq, y: row.getBoundingClientRect().top, first: Number(view.querySelector('li[data-seq]').dataset.seq) };
    });
    if (before.first === 1) break;
    await until(async () => again.page.evaluate((first) => Number(document.querySelector('li[data-seq]').dataset.seq) < first, before.first), 10_000, 'older lines');
    // What counts is what is painted: look after a frame.
    await again.page.evaluate(() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted))));
    const y = await again.page.evaluate((seq) => document.querySelector(`li[data-seq="${seq}"]`).getBoundingClientRect().top, before.seq);
    assert.ok(Math.abs(y - before.y) < 2, `line ${before.seq} moved from ${before.y} to ${y}`);
  }
  assert.equal(await again.page.evaluate(() => document.querySelector('li[data-seq]').dataset.seq), '1');
  assert.ok((await again.page.locator('li[data-seq]').count()) <= 300, 'the page holds a bounded part of the history');
  await again.page.locator('.jump').click();
  await again.page.locator('li[data-seq="401"]').waitFor();
});

test('the app opens offline with its history', async () => {
  const a = await person('Pilot', { serviceWorkers: 'allow' });
  await a.signUp();
  await a.page.locator('button.room', { hasText: '메아리' }).waitFor({ timeout: 15_000 });
  await a.openRoom('메아리');
  await a.page.locator('li[data-seq]').first().waitFor();
  await a.page.evaluate(() => navigator.serviceWorker.ready);
  await until(() => a.page.evaluate(() => caches.keys().then((k) => k.length > 0)), 10_000, 'the shell is kept');
  await a.context.setOffline(true);
  await a.page.reload();
  await a.page.locator('li[data-seq]').first().waitFor();
  await a.page.locator('.banner').waitFor();
  await a.say('written in the air');
  await a.page.getByText('연결되면 보냅니다').waitFor();
  await a.context.setOffline(false);
  await a.sees('written in the air', 30_000);
});

test('signing out elsewhere ends the session and keeps unsent words', async () => {
  const { a } = await pair();
  const other = await person('Other');
  other.login = a.login;
  await other.signIn();
  await a.context.setOffline(true);
  await a.page.locator('.banner').waitFor({ timeout: 15_000 });
  await a.say('not yet sent');
  await other.tab(2);
  await other.page.locator('.line .quiet').first().click();
  await other.page.locator('dialog footer .danger').click();
  await other.page.locator('dialog').waitFor({ state: 'detached' });
  await a.context.setOffline(false);
  await a.page.locator('.expired').waitFor({ timeout: 30_000 });
  assert.match(await a.page.locator('.expired').textContent(), /not yet sent/);
  await a.page.locator('input[name=password]').fill('correct-horse-battery');
  await a.page.locator('form button[type=submit]').click();
  await a.openRoom('Mom');
  await a.sees('not yet sent', 20_000);
});

test('two tabs show the same and send once', async () => {
  const { a, b } = await pair();
  const second = await a.open();
  await second.locator('button.room', { hasText: b.name }).click();
  await second.locator('textarea').fill('from the second tab');
  await second.locator('textarea').press('Enter');
  await b.sees('from the second tab');
  await a.sees('from the second tab');
  await second.locator('li[data-seq]', { hasText: 'from the second tab' }).waitFor();
  assert.deepEqual(await texts(b), ['hello', 'from the second tab']);
});

test('on a phone: list, conversation, back; in English', async () => {
  const phone = { phone: true, width: 390, height: 844, locale: 'en-US', dark: true };
  const { a, b } = await pair({ locale: 'en-US' }, phone);
  await b.page.locator('textarea').fill('typed with thumbs');
  await b.page.locator('.send').click();
  await a.sees('typed with thumbs');
  assert.equal(await b.page.locator('section.list').isVisible(), false);
  await b.page.goBack();
  await b.page.locator('button.room', { hasText: a.name }).waitFor();
  assert.equal(await b.page.locator('textarea').isVisible(), false);
  await b.page.locator('button.room', { hasText: a.name }).click();
  await b.page.locator('main header .back').click();
  await b.page.locator('nav').waitFor();
  assert.equal((await b.page.locator('nav button').first().textContent()).trim(), 'Friends');
  const small = await b.page.evaluate(() => [...document.querySelectorAll('button, input, select, a')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.height < 44 || box.width < 44) && getComputedStyle(e).visibility !== 'hidden' && !(e.tagName === 'INPUT' && e.closest('.search, label'));
  }).map((e) => e.outerHTML.slice(0, 120)));
  assert.deepEqual(small, [], 'everything to tap is at least 44 px');
});

test('the keyboard reaches everything: search, rooms by arrows, messages, Esc', async () => {
  const { a, b } = await pair();
  await a.page.locator('.search input').focus();
  await a.page.keyboard.press('ArrowDown');
  await until(() => a.page.evaluate(() => document.activeElement?.classList.contains('room')), 3_000, 'a room has focus');
  const before = await a.page.evaluate(() => document.activeElement.textContent);
  await a.page.keyboard.press('ArrowDown');
  assert.notEqual(await a.page.evaluate(() => document.activeElement.textContent), before);
  await a.page.keyboard.press('ArrowUp');
  await a.page.keyboard.press('Enter');
  await a.page.locator('.view').focus();
  await a.page.keyboard.press('ArrowUp');
  assert.equal(await a.page.evaluate(() => document.activeElement.dataset.seq !== undefined), true);
  await a.page.keyboard.press('Enter');
  await a.page.locator('dialog').waitFor();
  await a.page.keyboard.press('Escape');
  await a.page.locator('dialog').waitFor({ state: 'detached' });
  await a.page.keyboard.press('Escape');
  await a.page.locator('textarea').waitFor({ state: 'detached' });
  assert.ok(b);
});

for (const dark of [false, true]) {
  test(`every screen is clean by axe, ${dark ? 'dark' : 'light'}`, async () => {
    const a = await person('Axe', { dark });
    assert.deepEqual(await a.axe(), [], 'sign-in');
    await a.page.locator('.swap').click();
    await a.page.locator('input[name=username]').fill('!');
    await a.page.locator('input[name=password]').fill('short');
    await a.page.locator('form button[type=submit]').click();
    assert.deepEqual(await a.axe(), [], 'sign-up with an error');
    await a.signUpHere();
    await a.page.locator('button.room').first().waitFor({ timeout: 15_000 });
    assert.deepEqual(await a.axe(), [], 'rooms');
    await a.page.locator('button.room').first().click();
    await a.page.locator('li[data-seq]').first().waitFor();
    await a.say('https://example.com and words');
    await a.sees('https://example.com and words');
    assert.deepEqual(await a.axe(), [], 'conversation');
    await a.page.locator('main header button[title="방 정보"]').click();
    assert.deepEqual(await a.axe(), [], 'room info');
    await a.page.keyboard.press('Escape');
    await a.tab(0);
    assert.deepEqual(await a.axe(), [], 'friends');
    await a.page.locator('section.list header button').click();
    assert.deepEqual(await a.axe(), [], 'add a friend');
    await a.page.keyboard.press('Escape');
    await a.tab(1);
    await a.page.locator('section.list header button').click();
    assert.deepEqual(await a.axe(), [], 'new group');
    await a.page.keyboard.press('Escape');
    await a.tab(2);
    await a.page.locator('.line b').first().waitFor();
    assert.deepEqual(await a.axe(), [], 'settings');
    await a.context.setOffline(true);
    await a.page.locator('.banner').waitFor({ timeout: 15_000 });
    await a.say('waiting');
    assert.deepEqual(await a.axe(), [], 'disconnected');
  });
}
