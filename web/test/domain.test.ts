import { describe, expect, it } from 'vitest';
import { colourOf, partition, shardOf, uuidv7 } from '../src/domain/ids';
import { pieces } from '../src/domain/links';
import { denseTail, join } from '../src/domain/range';
import { rows } from '../src/domain/rows';
import { codePoints, letterOf, matches, refusal, sendsOn } from '../src/domain/text';
import { clock, longDay, shortTime } from '../src/domain/time';
import type { Member, Message, Notice, OutboxItem } from '../src/domain/types';
import { advance, mergeCursors, myUnread, unreadCounter } from '../src/domain/unread';
import { seed, seeded } from './world';

const member = (userId: string, readSeq: number, joinedSeq = 0): Member => ({ userId, login: userId, displayName: userId, bot: false, readSeq, joinedSeq });
const message = (seq: number, senderId = 'a', sentAt = 0, unread = 0): Message => ({ roomId: 'r', seq, senderId, clientId: `c${seq}`, text: `t${seq}`, sentAt, unread, replyTo: 0 });

describe('unread arithmetic', () => {
  it('counts members other than the sender who joined before and have not read', () => {
    const count = unreadCounter({ complete: true, members: [member('a', 5), member('b', 3), member('c', 0, 4), member('d', 7)] });
    expect(count(message(5, 'a'))).toBe(2); // b and c
    expect(count(message(4, 'a'))).toBe(1); // b; c joined after it
    expect(count(message(8, 'a'))).toBe(3); // everyone but a
    expect(count(message(8, 'gone'))).toBe(4); // a sender who left is not among the members
  });

  it('says what the server said while not all members are known', () => {
    expect(unreadCounter({ complete: false, members: [] })(message(1, 'a', 0, 42))).toBe(42);
  });

  it('agrees with counting one by one, and never rises as cursors grow', () => {
    const random = seeded(seed);
    for (let round = 0; round < 200; round++) {
      let members = Array.from({ length: 1 + Math.floor(random() * 12) }, (_, i) => {
        const joined = Math.floor(random() * 10);
        return member('u' + i, Math.floor(random() * 20), joined);
      });
      const m = message(1 + Math.floor(random() * 20), 'u' + Math.floor(random() * 12));
      let before = Infinity;
      for (let step = 0; step < 8; step++) {
        const naive = members.filter((x) => x.userId !== m.senderId && x.joinedSeq < m.seq && x.readSeq < m.seq).length;
        const got = unreadCounter({ complete: true, members })(m);
        expect(got, `seed ${seed}`).toBe(naive);
        expect(got, `seed ${seed}`).toBeLessThanOrEqual(before);
        before = got;
        members = advance(members, 'u' + Math.floor(random() * 12), Math.floor(random() * 25));
      }
    }
  });

  it('moves cursors only forward, however stale the news', () => {
    expect(advance([member('a', 5)], 'a', 3)[0]!.readSeq).toBe(5);
    expect(mergeCursors([member('a', 5)], [member('a', 2), member('b', 1)]).map((m) => m.readSeq)).toEqual([5, 1]);
  });

  it('counts my unread from the furthest of read, joined and wanted', () => {
    expect(myUnread({ lastSeq: 10, myReadSeq: 4, myJoinedSeq: 0 })).toBe(6);
    expect(myUnread({ lastSeq: 10, myReadSeq: 0, myJoinedSeq: 7 })).toBe(3);
    expect(myUnread({ lastSeq: 10, myReadSeq: 4, myJoinedSeq: 0, wantReadSeq: 10 })).toBe(0);
    expect(myUnread({ lastSeq: 3, myReadSeq: 4, myJoinedSeq: 0 })).toBe(0);
  });
});

describe('the cached run', () => {
  it('grows at both ends and shows holes', () => {
    expect(join(undefined, { from: 4, to: 6 })).toEqual({ kind: 'joined', range: { from: 4, to: 6 } });
    expect(join({ from: 4, to: 6 }, { from: 7, to: 7 })).toEqual({ kind: 'joined', range: { from: 4, to: 7 } });
    expect(join({ from: 4, to: 6 }, { from: 1, to: 3 })).toEqual({ kind: 'joined', range: { from: 1, to: 6 } });
    expect(join({ from: 4, to: 6 }, { from: 5, to: 5 })).toEqual({ kind: 'joined', range: { from: 4, to: 6 } });
    expect(join({ from: 4, to: 6 }, { from: 8, to: 8 })).toEqual({ kind: 'gap', after: 6 });
    expect(join({ from: 4, to: 6 }, { from: 1, to: 2 })).toEqual({ kind: 'below' });
  });

  it('keeps the dense end of a list', () => {
    expect(denseTail([1, 2, 5, 6].map((seq) => ({ seq }))).map((m) => m.seq)).toEqual([5, 6]);
    expect(denseTail([])).toEqual([]);
  });
});

describe('ids', () => {
  it('reads the partition as internal/id writes it (golden)', () => {
    expect(partition('u003hnf31c9hp8sb6cxm6jtkbdg')).toBe(0xabc);
    expect(shardOf('u003hnf31c9hp8sb6cxm6jtkbdg', 16)).toBe(10);
    expect(partition('u')).toBe(-1);
    expect(shardOf('not an id', 16)).toBe(-1);
  });

  it('makes UUIDs of version 7 that sort by time', () => {
    const random = new Uint8Array(10).fill(0xff);
    const a = uuidv7(1_700_000_000_000, random);
    expect(a).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(a.startsWith('018bcfe5-6800')).toBe(true);
    expect(uuidv7(1_700_000_000_001, new Uint8Array(10)) > a).toBe(true);
  });

  it('spreads colours over near IDs', () => {
    const seen = new Set(Array.from({ length: 40 }, (_, i) => colourOf('u003hnf31c9hp8sb6cxm6jtkb' + i)));
    expect(seen.size).toBeGreaterThan(6);
  });
});

describe('text', () => {
  it('finds names by initial consonants, by syllables being typed, and across spaces', () => {
    expect(matches('우리 가족', 'ㅇㄹ')).toBe(true);
    expect(matches('우리 가족', 'ㄹㄱㅈ')).toBe(true);
    expect(matches('우리 가족', '우리가')).toBe(true);
    expect(matches('김지민', '지미')).toBe(true);
    expect(matches('김지민', 'ㅈ민')).toBe(true);
    expect(matches('김지민', 'ㅁㅈ')).toBe(false);
    expect(matches('Operations', 'OPER')).toBe(true);
    expect(matches('까치', 'ㄱ')).toBe(false);
    expect(matches('아무나', '')).toBe(true);
    expect(matches('가'.normalize('NFD'), 'ㄱ')).toBe(true);
  });

  it('counts code points and refuses what the server would', () => {
    expect(codePoints('가😀')).toBe(2);
    expect(refusal(' \n ')).toBe('empty');
    expect(refusal('😀'.repeat(10_000))).toBeUndefined();
    expect(refusal('가'.repeat(10_000))).toBeUndefined();
    expect(refusal('a'.repeat(10_001))).toBe('too_long');
  });

  it('takes one letter for an avatar, whole', () => {
    expect(letterOf('지민')).toBe('지');
    expect(letterOf('jimin')).toBe('J');
    expect(letterOf('😀a')).toBe('😀');
    expect(letterOf('  ')).toBe('·');
  });

  it('does not send on an Enter that only ends a syllable', () => {
    const enter = { key: 'Enter', shiftKey: false, isComposing: false, keyCode: 13 };
    expect(sendsOn(enter)).toBe(true);
    expect(sendsOn({ ...enter, isComposing: true })).toBe(false);
    expect(sendsOn({ ...enter, keyCode: 229 })).toBe(false);
    expect(sendsOn({ ...enter, shiftKey: true })).toBe(false);
    expect(sendsOn({ ...enter, key: 'a' })).toBe(false);
  });

  it('links addresses and nothing else, losing no character', () => {
    const text = '보기 https://example.com/a?b=1, (http://x.kr/(가)) javascript:alert(1) 끝.';
    const found = pieces(text);
    expect(found.map((p) => p.text).join('')).toBe(text);
    expect(found.filter((p) => p.href).map((p) => p.href)).toEqual(['https://example.com/a?b=1', 'http://x.kr/(가)']);
  });
});

describe('times', () => {
  const zone = 'Asia/Seoul';
  const now = Date.UTC(2021, 4, 5, 12, 52); // 21:52 in Seoul
  it('reads as people say it', () => {
    expect(clock(now, 'ko', zone)).toBe('오후 9:52');
    expect(clock(now, 'en', zone).replace(/\u202f/g, ' ')).toBe('9:52 PM');
    expect(longDay(now, 'ko', zone)).toBe('2021년 5월 5일 수요일');
    expect(shortTime(now, now, 'ko', zone)).toBe('오후 9:52');
    expect(shortTime(now - 22 * 3_600_000, now, 'ko', zone)).toBe('어제');
    expect(shortTime(now - 22 * 3_600_000, now, 'en', zone)).toBe('yesterday');
    expect(shortTime(Date.UTC(2021, 4, 3), now, 'ko', zone)).toBe('5월 3일');
    expect(shortTime(Date.UTC(2021, 4, 3), now, 'en', zone)).toBe('May 3');
    expect(shortTime(Date.UTC(2020, 11, 30), now, 'ko', zone)).toBe('2020. 12. 30.');
  });
});

describe('rows of a conversation', () => {
  const at = Date.UTC(2021, 4, 5, 3, 0);
  const notice = (afterSeq: number, when: number): Notice => ({ roomId: 'r', afterSeq, at: when, kind: 'left', actorId: 'b', subjectIds: ['b'], title: '', names: {} });
  const unsent: OutboxItem = { clientId: 'x', roomId: 'r', text: 'later', replyTo: 0, createdAt: at + 200_000, order: 1, state: 'pending' };

  it('groups by sender and minute, splits at days, notices and the read line', () => {
    const got = rows({
      messages: [message(1, 'a', at), message(2, 'a', at + 1000), message(3, 'a', at + 61_000), message(4, 'b', at + 61_500), message(5, 'b', at + 61_600), message(6, 'b', at + 61_700), message(7, 'b', at + 86_400_000)],
      notices: [notice(4, at + 61_550)], unsent: [], me: 'a', readLine: 5, zone: 'Asia/Seoul',
    });
    expect(got.map((r) => (r.kind === 'message' ? `${r.message.seq}${r.first ? 'f' : ''}${r.last ? 'l' : ''}` : r.kind))).toEqual(
      ['day', '1f', '2l', '3fl', '4fl', 'notice', '5fl', 'read', '6fl', 'day', '7fl']);
  });

  it('draws the read line once, above the first unread', () => {
    const got = rows({ messages: [message(1, 'b', at), message(2, 'b', at), message(3, 'b', at)], notices: [], unsent: [], me: 'a', readLine: 1 });
    expect(got.filter((r) => r.kind === 'read').length).toBe(1);
    expect(got.findIndex((r) => r.kind === 'read')).toBe(2);
  });

  it('shows a word once while the news that it was sent overtakes the news that it is settled', () => {
    const got = rows({ messages: [{ ...message(9, 'a', at), clientId: 'x' }], notices: [], unsent: [unsent], me: 'a' });
    expect(got.map((r) => r.kind)).toEqual(['day', 'message']);
  });

  it('keeps the key of an own message from unsent to sent, and never takes others’ client IDs for keys', () => {
    const before = rows({ messages: [], notices: [], unsent: [unsent], me: 'a' }).find((r) => r.kind === 'unsent')!;
    const after = rows({ messages: [{ ...message(9, 'a', at), clientId: 'x' }], notices: [], unsent: [], me: 'a' }).find((r) => r.kind === 'message')!;
    expect(after.key).toBe(before.key);
    const keys = rows({ messages: [message(1, 'b', at), { ...message(2, 'c', at), clientId: 'c1' }], notices: [], unsent: [], me: 'a' }).map((r) => r.key);
    expect(new Set(keys).size).toBe(keys.length);
  });
});

describe('the oldest row of a part of the history', () => {
  it('begins no group while what is before it is unknown, so that it keeps its shape when older rows come', () => {
    const firsts = (from: number, hasOlder: boolean) => rows({ messages: [1, 2, 3, 4].slice(from).map((seq) => message(seq)), notices: [], unsent: [], me: 'me', hasOlder })
      .flatMap((r) => (r.kind === 'message' ? [[r.message.seq, r.first] as const] : []));
    expect(firsts(2, true)).toEqual([[3, false], [4, false]]);
    expect(firsts(0, false)).toEqual([[1, true], [2, false], [3, false], [4, false]]);
  });
});
