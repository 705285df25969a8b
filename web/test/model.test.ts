import { beforeEach, describe, expect, it } from 'vitest';
import { App } from '../src/model/app.svelte';
import { explain, explainEntry } from '../src/model/explain';
import { noticeText, roomTitle } from '../src/model/names';
import { Prefs } from '../src/model/prefs.svelte';
import { format, parse, Router, type HistoryLike } from '../src/model/router.svelte';
import { RoomKind } from '../src/gen/bongsu/edge/v1/room_pb';
import type { Room } from '../src/domain/types';
import { WireError } from '../src/wire/errors';
import { ko } from '../src/words/ko';
import { World } from './world';

let world: World;
beforeEach(() => {
  world = new World();
});

function prefs(language = 'ko-KR', stored: Record<string, string> = {}): Prefs {
  return new Prefs({ getItem: (k) => stored[k] ?? null, setItem: (k, v) => void (stored[k] = v) }, language);
}

function history(start = ''): HistoryLike & { stack: string[] } {
  const stack = [start];
  let changed = () => {};
  return {
    stack,
    hash: () => stack[stack.length - 1]!,
    push: (hash) => void stack.push(hash),
    replace: (hash) => void (stack[stack.length - 1] = hash),
    back: () => {
      stack.pop();
      changed();
    },
    onChange: (handler) => (changed = handler),
  };
}

async function app(): Promise<App> {
  const a = new App(world.tab(), prefs(), new Router(history()));
  await a.start();
  return a;
}

describe('getting in', () => {
  it('signs in with the same words when the answer to a sign-up was lost', async () => {
    const a = await app();
    world.httpFault = (method) => (method === 'SignUp' ? 'lost' : undefined);
    await a.signUp('jimin', 'password', '지민');
    expect(a.phase).toBe('ready');
    expect([...world.server.accounts.values()].filter((x) => x.user.login === 'jimin').length).toBe(1);
    a.account!.stop();
  });

  it('signs up again when nothing had happened', async () => {
    const a = await app();
    let down = 1;
    world.httpFault = (method) => (method === 'SignUp' && down-- > 0 ? 'down' : undefined);
    await a.signUp('jimin', 'password', '지민');
    expect(a.phase).toBe('ready');
    a.account!.stop();
  });

  it('does not take over an account of another', async () => {
    world.server.addAccount('jimin', '지민', 'their password');
    const a = await app();
    await expect(a.signUp('jimin', 'password', '')).rejects.toMatchObject({ code: 'already_exists' });
    world.httpFault = (method) => (method === 'SignUp' ? 'lost' : undefined);
    await expect(a.signUp('jimin', 'password', '')).rejects.toBeInstanceOf(WireError);
    expect(a.phase).toBe('entry');
  });

  it('explains refusals in words', () => {
    expect(explainEntry(new WireError('unauthenticated', ''), 'signIn', ko)).toBe(ko.errors.wrongPassword);
    expect(explainEntry(new WireError('already_exists', ''), 'signUp', ko)).toBe(ko.errors.loginTaken);
    expect(explainEntry(new WireError('unknown', ''), 'signUp', ko)).toBe(ko.errors.unreachable);
    expect(explainEntry(new WireError('resource_exhausted', '', 'queue_full', '', 2.4), 'signIn', ko)).toContain('3초');
    expect(explain(new WireError('permission_denied', '', 'blocked'), ko)).toBe(ko.errors.blocked);
  });
});

describe('leaving', () => {
  it('keeps unsent words when the server ends the session, and erases them only when told to', async () => {
    const a = await app();
    await a.signUp('jimin', 'password', '지민');
    await world.settle();
    const other = world.server.addAccount('mom', '엄마', 'password');
    const room = world.server.room(RoomKind.DIRECT, [a.account!.myId, other.user.userId]);
    await a.account!.engine.openDirect(other.user.userId);
    world.down();
    await a.account!.engine.send(room.id, 'still here', 0);
    world.server.accounts.get(a.account!.myId)!.devices.clear();
    world.up();
    await world.advance(60_000);
    expect(a.phase).toBe('expired');
    expect(a.leftUnsent.map((i) => i.text)).toEqual(['still here']);
    await a.signIn('jimin', 'password');
    await world.advance(5_000);
    expect(room.messages.map((m) => m.text)).toEqual(['still here']);
    const tab = await app();
    expect(tab.phase).toBe('ready');
    await a.signOut(false);
    await world.settle();
    expect([a.phase, tab.phase]).toEqual(['entry', 'entry']);
    expect((await indexedDB.databases()).map((d) => d.name)).toEqual(['bongsu']);
  });
});

describe('the list of rooms', () => {
  it('hides silent direct rooms that someone else opened, finds by initials, counts unread', async () => {
    const a = await app();
    await a.signUp('jimin', 'password', '지민');
    await world.settle();
    const me = a.account!.myId;
    const mom = world.server.addAccount('mom', '엄마', 'password').user.userId;
    const dad = world.server.addAccount('dad', '아빠', 'password').user.userId;
    const talk = world.server.room(RoomKind.DIRECT, [mom, me]);
    world.server.room(RoomKind.DIRECT, [dad, me]);
    world.server.say(talk, mom, '밥 먹었니');
    world.server.cut();
    await world.advance(60_000);
    const account = a.account!;
    expect(account.lines.map((l) => [l.title, l.unread])).toEqual([['엄마', 1]]);
    expect(account.unread).toBe(1);
    account.query = 'ㅇㅁ';
    expect(account.shownLines.length).toBe(1);
    account.query = 'ㅇㅃ';
    expect(account.shownLines.length).toBe(0);
    account.stop();
  });

  it('says since when it is disconnected, and only once it matters', async () => {
    const a = await app();
    await a.signUp('jimin', 'password', '지민');
    await world.settle();
    const account = a.account!;
    expect(account.trouble).toBeUndefined();
    const at = world.clock;
    world.down();
    await world.advance(1_000);
    expect(account.trouble).toBeUndefined();
    await world.advance(10_000);
    expect(account.trouble).toEqual({ kind: 'offline', since: at });
    world.up();
    await world.advance(60_000);
    expect(account.trouble).toBeUndefined();
    account.stop();
  });
});

describe('names', () => {
  const base: Room = { roomId: 'r', kind: 'direct', title: '', members: [], complete: true, memberCount: 0, lastSeq: 0, myReadSeq: 0, myJoinedSeq: 0, version: 1, activeAt: 0, names: {} };
  const member = (userId: string, displayName: string) => ({ userId, displayName, login: userId, bot: false, readSeq: 0, joinedSeq: 0 });

  it('call rooms by the others, by the leaver, by oneself', () => {
    expect(roomTitle({ ...base, members: [member('me', '나'), member('a', '엄마')], memberCount: 2 }, 'me', ko)).toBe('엄마');
    expect(roomTitle({ ...base, members: [member('me', '나')], memberCount: 1, names: { me: '나', a: '엄마' } }, 'me', ko)).toBe('엄마');
    expect(roomTitle({ ...base, members: [member('me', '나')], memberCount: 1, names: { me: '나' } }, 'me', ko)).toBe(ko.notesToSelf);
    const many = ['a', 'b', 'c', 'd', 'e'].map((id) => member(id, id));
    expect(roomTitle({ ...base, kind: 'group', members: [member('me', '나'), ...many], memberCount: 12 }, 'me', ko)).toBe('a, b, c, d 외 7명');
  });

  it('tell notices with the names of leavers', () => {
    const notice = { roomId: 'r', afterSeq: 0, at: 0, kind: 'invited' as const, actorId: 'a', subjectIds: ['b', 'c'], title: '', names: { a: '엄마', b: '아빠', c: '동생' } };
    expect(noticeText(notice, undefined, ko)).toBe('엄마 님이 아빠, 동생 님을 초대했습니다.');
    expect(noticeText({ ...notice, kind: 'left', subjectIds: ['b'] }, undefined, ko)).toBe('아빠 님이 나갔습니다.');
  });
});

describe('places', () => {
  it('round-trip through the address, and nonsense leads to the list', () => {
    const room = { tab: 'chats' as const, roomId: 'r003j6vep86zabfbt1c90bzkhy8' };
    expect(parse(format(room))).toEqual(room);
    expect(parse('#/chats/<script>')).toEqual({ tab: 'chats' });
    expect(parse('')).toEqual({ tab: 'chats' });
  });

  it('let back lead from any room to the list, once', () => {
    const h = history('#/chats');
    const router = new Router(h);
    router.go({ tab: 'chats', roomId: 'r003j6vep86zabfbt1c90bzkhy8' });
    router.go({ tab: 'chats', roomId: 'r003jc14sfht3mvsm6bj9z7h2w0' });
    expect(h.stack.length).toBe(2);
    router.up();
    expect(router.place).toEqual({ tab: 'chats' });
    const direct = new Router(history('#/chats/r003j6vep86zabfbt1c90bzkhy8'));
    direct.up();
    expect(direct.place).toEqual({ tab: 'chats' });
  });
});

describe('preferences', () => {
  it('follow the system until told otherwise, and survive nonsense in storage', () => {
    expect(prefs('en-GB').locale).toBe('en');
    expect(prefs('ko').locale).toBe('ko');
    const stored = { 'bongsu.language': 'xx', 'bongsu.theme': 'dark' };
    const p = prefs('ko', stored);
    expect([p.language, p.theme]).toEqual(['auto', 'dark']);
    p.setLanguage('en');
    expect(p.locale).toBe('en');
    expect(p.words.send).toBe('Send');
    expect(stored['bongsu.language']).toBe('en');
  });
});
