import { beforeEach, describe, expect, it, vi } from 'vitest';
import { RoomKind } from '../src/gen/bongsu/edge/v1/room_pb';
import { shardOf } from '../src/domain/ids';
import { fullJitter, RetryBudget, retryDelay } from '../src/sync/backoff';
import { unreadCounter } from '../src/domain/unread';
import { Client, World, seed, seeded } from './world';

let world: World;
beforeEach(() => {
  world = new World();
});

async function pair() {
  const alice = await Client.open(world, 'alice');
  const bob = world.server.addAccount('bob', 'Bob', 'password');
  const room = world.server.room(RoomKind.DIRECT, [alice.id, bob.user.userId]);
  const id = await alice.engine.openDirect(bob.user.userId);
  expect(id).toBe(room.id);
  await world.settle();
  return { alice, bob: bob.user.userId, room };
}

const say = (room: Parameters<typeof world.server.say>[0], who: string, from: number, to: number) => {
  for (let i = from; i <= to; i++) world.server.say(room, who, 'm' + i);
};
const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => 'm' + (from + i));

describe('backoff', () => {
  it('is full jitter: anywhere from nothing to the doubled base, capped', () => {
    const random = seeded(seed);
    for (let attempt = 0; attempt < 40; attempt++) {
      const top = Math.min(20_000, 500 * 2 ** attempt);
      const waits = Array.from({ length: 200 }, () => fullJitter(attempt, { baseMs: 500, capMs: 20_000 }, random));
      expect(Math.max(...waits), `seed ${seed}`).toBeLessThanOrEqual(top);
      expect(Math.max(...waits), `seed ${seed}`).toBeGreaterThan(top * 0.8);
      expect(Math.min(...waits), `seed ${seed}`).toBeLessThan(top * 0.2);
    }
  });

  it('honours the server’s hint, spread out', () => {
    const random = seeded(seed);
    const waits = Array.from({ length: 100 }, () => retryDelay(0, { baseMs: 500, capMs: 20_000 }, 7, random));
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(7_000);
    expect(Math.max(...waits)).toBeLessThanOrEqual(10_500);
    expect(new Set(waits).size).toBeGreaterThan(50);
  });

  it('has a budget that only successes refill', () => {
    const budget = new RetryBudget(3, 0.5);
    expect([budget.take(), budget.take(), budget.take(), budget.take()]).toEqual([true, true, true, false]);
    budget.success();
    expect(budget.take()).toBe(false);
    budget.success();
    expect(budget.take()).toBe(true);
  });
});

describe('the outbox', () => {
  it('sends in order and settles what was acknowledged', async () => {
    const { alice, room } = await pair();
    for (let i = 1; i <= 5; i++) await alice.engine.send(room.id, 'm' + i, 0);
    await world.settle();
    expect(room.messages.map((m) => m.text)).toEqual(numbers(1, 5));
    expect(await alice.pending()).toEqual([]);
    expect(await alice.texts(room.id)).toEqual(numbers(1, 5));
  });

  it('has written a word down before anything is sent', async () => {
    const { alice, room } = await pair();
    world.down();
    await alice.engine.send(room.id, 'kept', 0);
    expect(await alice.pending()).toEqual(['kept']);
    expect(room.messages.length).toBe(0);
    world.up();
    await world.advance(60_000);
    expect(room.messages.map((m) => m.text)).toEqual(['kept']);
    expect(await alice.pending()).toEqual([]);
  });

  it('repeats with the same client ID when the answer was lost, and shows one message', async () => {
    const { alice, room } = await pair();
    let lose = 3;
    world.server.fault = (method) => (method === 'send' && lose-- > 0 ? 'drop' : undefined);
    // The event is lost with the answer: only the repetition can settle it.
    const publish = vi.spyOn(world.server, 'publish').mockImplementation(() => {});
    await alice.engine.send(room.id, 'once', 0);
    await alice.engine.send(room.id, 'then', 0);
    await world.advance(200_000);
    publish.mockRestore();
    expect(world.server.arrivals.length).toBeGreaterThan(2);
    expect(new Set(world.server.arrivals).size).toBe(2);
    expect(room.messages.map((m) => m.text)).toEqual(['once', 'then']);
    expect(await alice.texts(room.id)).toEqual(['once', 'then']);
    expect(await alice.pending()).toEqual([]);
  });

  it('stays pending on unavailable, honours the hint, and keeps the order behind it', async () => {
    const { alice, room } = await pair();
    const at: number[] = [];
    let refuse = 2;
    world.server.fault = (method) => {
      if (method !== 'send') return undefined;
      at.push(world.clock);
      return refuse-- > 0 ? { code: 'unavailable', reason: 'room_stopped', retryAfterSeconds: 5 } : undefined;
    };
    await alice.engine.send(room.id, 'm1', 0);
    await alice.engine.send(room.id, 'm2', 0);
    await world.settle();
    expect(await alice.pending()).toEqual(['m1', 'm2']);
    await world.advance(60_000);
    expect(room.messages.map((m) => m.text)).toEqual(['m1', 'm2']);
    expect(at[1]! - at[0]!).toBeGreaterThanOrEqual(5_000);
    expect(at[2]! - at[1]!).toBeGreaterThanOrEqual(5_000);
  });

  it('fails on a definite refusal, says why, lets the next one pass, and can retry or drop', async () => {
    const { alice, room } = await pair();
    let refusing = true;
    world.server.fault = (method, frame) => (refusing && method === 'send' && frame.request.case === 'send' && frame.request.value.text === 'bad' ? { code: 'permission_denied', reason: 'blocked' } : undefined);
    await alice.engine.send(room.id, 'bad', 0);
    await alice.engine.send(room.id, 'good', 0);
    await world.advance(1_000);
    expect(room.messages.map((m) => m.text)).toEqual(['good']);
    const failed = await alice.engine.store.outbox();
    expect(failed.map((i) => [i.text, i.state, i.reason])).toEqual([['bad', 'failed', 'blocked']]);
    refusing = false;
    await alice.engine.retry(failed[0]!);
    await world.advance(1_000);
    expect(room.messages.map((m) => m.text)).toEqual(['good', 'bad']);
    expect(await alice.engine.store.outbox()).toEqual([]);
  });

  it('never drops a word that may already be on its way', async () => {
    const { alice, room } = await pair();
    world.server.fault = (method) => (method === 'send' ? 'ignore' : undefined);
    const item = await alice.engine.send(room.id, 'perhaps', 0);
    await alice.engine.drop(item);
    expect(await alice.pending()).toEqual(['perhaps']);
  });

  it('survives the end of the tab and goes on in the next', async () => {
    const { alice, room } = await pair();
    world.down();
    await alice.engine.send(room.id, 'later', 0);
    alice.engine.stop();
    world.up();
    const again = await Client.open(world, 'alice');
    await world.advance(5_000);
    expect(room.messages.map((m) => m.text)).toEqual(['later']);
    expect(await again.pending()).toEqual([]);
  });

  it('is sent by one tab for all, and every tab sees it settle', async () => {
    const { alice, room } = await pair();
    const second = await Client.open(world, 'alice');
    await second.engine.send(room.id, 'from the second tab', 0);
    await alice.engine.send(room.id, 'from the first', 0);
    await world.advance(1_000);
    expect(world.server.arrivals.length).toBe(2);
    expect(room.messages.map((m) => m.text)).toEqual(['from the second tab', 'from the first']);
    expect(alice.engine.outboxItems).toEqual([]);
    expect(second.engine.outboxItems).toEqual([]);
    alice.engine.stop();
    await second.engine.send(room.id, 'the second leads now', 0);
    await world.advance(1_000);
    expect(room.messages.length).toBe(3);
  });
});

describe('keeping in step', () => {
  it('takes live messages in order and counts unread', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 3);
    await world.settle();
    expect(await alice.texts(room.id)).toEqual(numbers(1, 3));
    expect(alice.engine.rooms.get(room.id)).toMatchObject({ lastSeq: 3, myReadSeq: 0 });
    await alice.engine.markRead(room.id, 3);
    await world.advance(2_000);
    expect(room.members.get(alice.id)!.read).toBe(3);
    expect(alice.engine.rooms.get(room.id)!.myReadSeq).toBe(3);
  });

  it('keeps asking for what is missing when the server cannot say it yet', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 2);
    await world.settle();
    const publish = vi.spyOn(world.server, 'publish').mockImplementation(() => {});
    say(room, bob, 3, 3);
    publish.mockRestore();
    let busy = 3;
    world.server.fault = (method) => (method === 'list' && busy-- > 0 ? { code: 'resource_exhausted', reason: 'queue_full', retryAfterSeconds: 1 } : undefined);
    say(room, bob, 4, 4);
    await world.settle();
    expect(await alice.texts(room.id)).toEqual(numbers(1, 2));
    await world.advance(30_000);
    expect(await alice.texts(room.id)).toEqual(numbers(1, 4));
  });

  it('keeps a room that the list does not name yet, and forgets one that refuses us', async () => {
    const { alice, bob } = await pair();
    const group = await alice.engine.createGroup('new', [bob], alice.engine.newClientId());
    const gone = await alice.engine.createGroup('gone', [bob], alice.engine.newClientId());
    await world.settle();
    const answer = world.server.answer.bind(world.server);
    vi.spyOn(world.server, 'answer').mockImplementation((me, frame, session) => {
      const body = answer(me, frame, session);
      if (body.case === 'listRooms') body.value.rooms = [];
      return body;
    });
    world.server.rooms.get(gone)!.members.delete(alice.id);
    world.server.cut();
    await world.advance(30_000);
    expect([alice.engine.rooms.has(group), alice.engine.rooms.has(gone)]).toEqual([true, false]);
  });

  it('does not take an old message of someone for proof of what they have read', async () => {
    const { alice, bob } = await pair();
    const room = world.server.room(RoomKind.GROUP, [bob, alice.id], 'G');
    say(room, alice.id, 1, 3);
    world.server.say(room, bob, 'without reading');
    room.members.get(bob)!.read = 3;
    world.server.cut();
    await world.advance(30_000);
    await alice.engine.openRoom(room.id);
    await world.settle();
    expect(alice.engine.rooms.get(room.id)!.members.find((m) => m.userId === bob)!.readSeq).toBe(3);
  });

  it('keeps a flood of live messages together, whole and in order', async () => {
    const { alice, bob, room } = await pair();
    const add = vi.spyOn(alice.engine.store, 'add');
    say(room, bob, 1, 450);
    await world.settle(3_000);
    expect(await alice.texts(room.id)).toEqual(numbers(1, 450));
    expect(alice.engine.rooms.get(room.id)).toMatchObject({ lastSeq: 450, myReadSeq: 0 });
    expect(add.mock.calls.length).toBeLessThan(10);
    for (const [batch] of add.mock.calls) expect(batch.messages.length).toBeLessThanOrEqual(200);
  });

  it('asks for what is missing when a number is skipped', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 2);
    await world.settle();
    const publish = vi.spyOn(world.server, 'publish').mockImplementation(() => {});
    say(room, bob, 3, 5);
    publish.mockRestore();
    say(room, bob, 6, 6);
    await world.settle();
    expect(await alice.texts(room.id)).toEqual(numbers(1, 6));
  });

  it('fills the gap after a time without connection', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 2);
    await world.settle();
    world.down();
    say(room, bob, 3, 40);
    await world.advance(10_000);
    expect(alice.engine.status.phase).toBe('offline');
    world.up();
    await world.advance(40_000);
    expect(alice.engine.status.phase).toBe('online');
    expect(await alice.texts(room.id)).toEqual(numbers(1, 40));
  });

  it('starts from the newest page when too much was missed, and pages back on demand', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 2);
    await world.settle();
    world.down();
    say(room, bob, 3, 1_500);
    world.up();
    await world.advance(40_000);
    await world.settle(6_000);
    const texts = await alice.texts(room.id);
    expect(texts).toEqual(numbers(1_451, 1_500));
    expect(await alice.engine.older(room.id, 1_451)).toBe(true);
    expect(await alice.texts(room.id)).toEqual(numbers(1_351, 1_500));
  });

  it('shows the history it keeps before, and without, any connection', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 3);
    await world.settle();
    alice.engine.stop();
    world.down();
    const again = await Client.open(world, 'alice');
    expect(again.engine.status.phase).not.toBe('online');
    expect(await again.texts(room.id)).toEqual(numbers(1, 3));
  });

  it('lets the unread of a message fall as others read, and does not count a repeated event twice', async () => {
    const { alice, bob, room } = await pair();
    await alice.engine.openRoom(room.id);
    await alice.engine.send(room.id, 'hello', 0);
    await world.settle();
    const unread = () => unreadCounter(alice.engine.rooms.get(room.id)!)({ seq: 1, senderId: alice.id, unread: 1 });
    expect(unread()).toBe(1);
    world.server.read(room, bob, 1);
    await world.settle();
    expect(unread()).toBe(0);
    world.server.publish(room, { case: 'read', value: { roomId: room.id, changes: [{ userId: bob, fromSeq: 0n, toSeq: 1n }] } });
    await world.settle();
    expect(unread()).toBe(0);
  });

  it('tells how far was read once it can, also after a restart', async () => {
    const { alice, bob, room } = await pair();
    say(room, bob, 1, 4);
    await world.settle();
    world.down();
    await alice.engine.markRead(room.id, 4);
    await world.advance(5_000);
    alice.engine.stop();
    world.up();
    await Client.open(world, 'alice');
    await world.advance(5_000);
    expect(room.members.get(alice.id)!.read).toBe(4);
  });

  it('follows members coming, going and renaming, and forgets a room that was left', async () => {
    const { alice, bob } = await pair();
    const group = await alice.engine.createGroup('A', [bob], alice.engine.newClientId());
    const room = world.server.rooms.get(group)!;
    await alice.engine.setTitle(group, 'B');
    await world.settle();
    expect(alice.engine.rooms.get(group)).toMatchObject({ title: 'B', memberCount: 2 });
    expect((await alice.engine.store.notices(group, 0, 99)).map((n) => n.kind)).toEqual(['created', 'title']);
    await alice.engine.leave(group);
    await world.settle();
    expect(alice.engine.rooms.has(group)).toBe(false);
    expect(room.members.has(alice.id)).toBe(false);
  });

  it('starts the run anew after leaving and coming back', async () => {
    const { alice, bob } = await pair();
    const room = world.server.room(RoomKind.GROUP, [bob, alice.id], 'G');
    say(room, bob, 1, 3);
    await world.settle();
    world.down();
    room.members.delete(alice.id);
    say(room, bob, 4, 6);
    room.members.set(alice.id, { read: 0, joined: 6 });
    room.version += 2;
    say(room, bob, 7, 8);
    world.up();
    await world.advance(40_000);
    expect(await alice.texts(room.id)).toEqual(numbers(7, 8));
  });

  it('reconnects within the time that drain allows', async () => {
    const { alice } = await pair();
    const before = world.server.sessions.values().next().value;
    before!.event({ case: 'drain', value: { withinMs: 3_000 } });
    await world.advance(8_000);
    expect(alice.engine.status.phase).toBe('online');
    expect(world.server.sessions.has(before!)).toBe(false);
  });

  it('opens the room of the bot after a sign-up, once', async () => {
    world.server.addAccount('echo', 'Echo', '', true);
    const alice = await Client.open(world, 'alice');
    alice.engine.stop();
    const { Store } = await import('../src/store/store');
    const store = await Store.open(alice.id);
    await store.setMeta('welcome', true);
    store.close();
    const again = await Client.open(world, 'alice');
    await world.advance(2_000);
    expect(again.heard.filter((e) => e.type === 'welcome').length).toBe(1);
    const room = [...again.engine.rooms.values()][0]!;
    expect(room.lastMessage?.text).toContain('안녕하세요');
    expect(await again.engine.store.meta('welcome')).toBe(false);
  });
});

describe('a lost tail (invariant 6)', () => {
  async function lose() {
    const { alice, bob, room } = await pair();
    // The fake names shard 3 in its positions; give the room an ID that lives there.
    const shard = shardOf(room.id, 16);
    world.server.position = () => ({ shard, term: 1n, index: BigInt(++world.server.index) });
    say(room, bob, 1, 2);
    await alice.engine.send(room.id, 'mine 3', 0);
    await world.settle();
    say(room, bob, 4, 4);
    await alice.engine.send(room.id, 'mine 5', 0);
    await world.settle();
    expect(await alice.texts(room.id)).toEqual(['m1', 'm2', 'mine 3', 'm4', 'mine 5']);
    const ids = room.messages.map((m) => m.clientId);
    // The disk loses everything after seq 2; meanwhile someone else writes on.
    world.down();
    room.messages.splice(2);
    for (const member of room.members.values()) member.read = Math.min(member.read, 2);
    world.server.say(room, bob, 'other 3');
    world.server.lostShards.add(shard);
    return { alice, bob, room, ids, shard };
  }

  it('is repaired: what the server lacks is forgotten, own words are sent again under their old IDs, in order', async () => {
    const { alice, room, ids } = await lose();
    world.up();
    await world.advance(60_000);
    expect(room.messages.map((m) => m.text)).toEqual(['m1', 'm2', 'other 3', 'mine 3', 'mine 5']);
    expect(room.messages.slice(3).map((m) => m.clientId)).toEqual([ids[2], ids[4]]);
    expect(await alice.texts(room.id)).toEqual(['m1', 'm2', 'other 3', 'mine 3', 'mine 5']);
    expect(alice.engine.rooms.get(room.id)!.lastSeq).toBe(5);
    expect(await alice.pending()).toEqual([]);
    expect(await alice.engine.store.owedRepairs()).toEqual([]);
  });

  it('is repaired by the next start when the first one is cut short', async () => {
    const { alice, room } = await lose();
    world.up();
    world.server.fault = (method) => (method === 'list' ? { code: 'unavailable' } : undefined);
    await world.advance(5_000);
    alice.engine.stop();
    // The position is not presented any more; the debt is remembered.
    world.server.lostShards.clear();
    world.server.fault = () => undefined;
    const again = await Client.open(world, 'alice');
    await world.advance(60_000);
    expect(await again.texts(room.id)).toEqual(['m1', 'm2', 'other 3', 'mine 3', 'mine 5']);
  });

  it('leaves rooms of other shards alone', async () => {
    const { alice, bob, room, shard } = await lose();
    let other = world.server.room(RoomKind.GROUP, [bob, alice.id], 'elsewhere');
    while (shardOf(other.id, 16) === shard) other = world.server.room(RoomKind.GROUP, [bob, alice.id], 'elsewhere');
    say(other, bob, 1, 2);
    world.up();
    await world.advance(60_000);
    expect(await alice.texts(other.id)).toEqual(['m1', 'm2']);
    expect(room.messages.length).toBe(5);
  });
});

describe('tokens', () => {
  it('never sign out because of an outage, whatever it looks like', async () => {
    const { alice } = await pair();
    let out = 0;
    alice.auth.onSignedOut = () => out++;
    world.server.tokenLifeMs = 120_000;
    world.httpFault = () => 'down';
    world.down();
    await world.advance(3_600_000);
    expect(out).toBe(0);
    world.httpFault = () => undefined;
    world.up();
    await world.advance(60_000);
    expect(out).toBe(0);
    expect(alice.engine.status.phase).toBe('online');
  });

  it('survive a refresh whose answer was lost', async () => {
    const { alice } = await pair();
    await world.advance(400_000);
    let lose = 1;
    world.httpFault = (method) => (method === 'Refresh' && lose-- > 0 ? 'lost' : undefined);
    world.server.cut();
    await world.advance(60_000);
    expect(alice.engine.status.phase).toBe('online');
  });

  it('are refreshed ahead of need while someone looks, and left alone otherwise', async () => {
    await pair();
    await world.advance(290_000);
    expect(world.server.refreshes).toBe(1);
    world.visible = false;
    await world.advance(900_000);
    expect(world.server.refreshes).toBe(1);
  });

  it('are judged by the server’s clock when ours is wrong', async () => {
    const { alice } = await pair();
    const behind = world.server as unknown as { now: () => number };
    behind.now = () => world.clock - 3_600_000;
    await world.advance(400_000);
    world.server.cut();
    await world.advance(60_000);
    const before = world.server.refreshes;
    await world.advance(120_000);
    expect(alice.engine.status.phase).toBe('online');
    expect(world.server.refreshes).toBe(before);
  });

  it('are refreshed once for all tabs', async () => {
    const { alice } = await pair();
    const second = await Client.open(world, 'alice');
    world.visible = false;
    await world.advance(400_000);
    const before = world.server.refreshes;
    world.server.cut();
    await world.advance(60_000);
    expect(alice.engine.status.phase).toBe('online');
    expect(second.engine.status.phase).toBe('online');
    expect(world.server.refreshes - before).toBe(1);
  });

  it('end the session when, and only when, Refresh says so', async () => {
    const { alice, room } = await pair();
    let out = 0;
    alice.auth.onSignedOut = () => out++;
    await alice.engine.send(room.id, 'sent', 0);
    await world.settle();
    world.server.accounts.get(alice.id)!.devices.clear();
    world.server.cut();
    await alice.engine.send(room.id, 'unsent', 0);
    await world.advance(60_000);
    expect(out).toBe(1);
    expect(await alice.pending()).toEqual(['unsent']);
  });
});
