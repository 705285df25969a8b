// Everything one account keeps on this device: rooms, history, unsent words.
//
// Every method that changes something is one transaction, because several tabs
// write the same database: what must agree is read and written together.
import { deleteDB, openDB, type DBSchema, type IDBPDatabase, type IDBPTransaction } from 'idb';
import { denseTail, join } from '../domain/range';
import type { Message, Notice, OutboxItem, People, Position, Range, Room, RoomId, SentItem, Seq, UserId } from '../domain/types';

interface Schema extends DBSchema {
  meta: { key: string; value: unknown };
  positions: { key: number; value: Position };
  rooms: { key: RoomId; value: Room };
  messages: { key: [RoomId, Seq]; value: Message };
  notices: { key: [RoomId, Seq, number, string, string]; value: Notice };
  outbox: { key: number; value: OutboxItem; indexes: { clientId: string } };
  sent: { key: string; value: SentItem; indexes: { ackedAt: number } };
  drafts: { key: RoomId; value: string };
}

type Write = IDBPTransaction<Schema, ('rooms' | 'messages' | 'notices' | 'outbox' | 'sent' | 'positions')[], 'readwrite'>;

const keepSentMs = 48 * 3_600_000;
const keepSentItems = 5_000;
const roomStores: ('rooms' | 'messages' | 'notices' | 'outbox' | 'sent' | 'positions')[] = ['rooms', 'messages', 'notices', 'outbox', 'sent', 'positions'];

export interface Batch {
  roomId: RoomId;
  /** Ascending seq; only the dense end is kept. */
  messages: readonly Message[];
  notices: readonly Notice[];
  position?: Position;
  /** Forget what was cached of the room: the batch is its newest page. */
  reset?: boolean;
  now: number;
}

export interface Added {
  range: Range | undefined;
  /** Set when the batch does not touch the run: ask for what comes after this seq. */
  gapAfter?: Seq;
  /** client IDs of own words that were unsent until now. */
  settled: string[];
}

function databaseName(userId: UserId): string {
  return 'bongsu-' + userId;
}

function newer(a: Position, b: Position | undefined): boolean {
  return !b || a.term > b.term || (a.term === b.term && a.index > b.index);
}

function roomKeys(roomId: RoomId, from: Seq = 0, to: Seq = Number.MAX_SAFE_INTEGER): IDBKeyRange {
  return IDBKeyRange.bound([roomId, from], [roomId, to]);
}

function noticeKeys(roomId: RoomId, from: Seq, to: Seq): IDBKeyRange {
  return IDBKeyRange.bound([roomId, from], [roomId, to, []]);
}

export class Store {
  private constructor(private readonly db: IDBPDatabase<Schema>, readonly userId: UserId) {}

  static async open(userId: UserId): Promise<Store> {
    const db: IDBPDatabase<Schema> = await openDB<Schema>(databaseName(userId), 1, {
      upgrade(db) {
        db.createObjectStore('meta');
        db.createObjectStore('positions', { keyPath: 'shard' });
        db.createObjectStore('rooms', { keyPath: 'roomId' });
        db.createObjectStore('messages', { keyPath: ['roomId', 'seq'] });
        // A day may hold several notices after one message: time, kind and actor tell them apart.
        db.createObjectStore('notices', { keyPath: ['roomId', 'afterSeq', 'at', 'kind', 'actorId'] });
        // The key that IndexedDB counts up is the order of words, over all tabs and restarts.
        db.createObjectStore('outbox', { keyPath: 'order', autoIncrement: true }).createIndex('clientId', 'clientId', { unique: true });
        db.createObjectStore('sent', { keyPath: 'clientId' }).createIndex('ackedAt', 'ackedAt');
        db.createObjectStore('drafts');
      },
      blocking() {
        db.close();
      },
    });
    return new Store(db, userId);
  }

  static delete(userId: UserId): Promise<void> {
    return deleteDB(databaseName(userId));
  }

  close(): void {
    this.db.close();
  }

  // --- small values

  async meta<T>(key: string): Promise<T | undefined> {
    return (await this.db.get('meta', key)) as T | undefined;
  }

  async setMeta(key: string, value: unknown): Promise<void> {
    await this.db.put('meta', value, key);
  }

  async people(): Promise<People> {
    return (await this.meta<People>('people')) ?? { friends: [], blocked: [] };
  }

  drafts(roomId: RoomId): Promise<string | undefined> {
    return this.db.get('drafts', roomId);
  }

  async setDraft(roomId: RoomId, text: string): Promise<void> {
    if (text) await this.db.put('drafts', text, roomId);
    else await this.db.delete('drafts', roomId);
  }

  // --- rooms

  rooms(): Promise<Room[]> {
    return this.db.getAll('rooms');
  }

  /** Changes a room from what is stored now; change may return undefined to leave it. */
  async updateRoom(roomId: RoomId, change: (old: Room | undefined) => Room | undefined): Promise<Room | undefined> {
    const tx = this.db.transaction('rooms', 'readwrite');
    const old = await tx.store.get(roomId);
    const room = change(old);
    if (room) await tx.store.put({ ...room, range: old?.range });
    await tx.done;
    return room && { ...room, range: old?.range };
  }

  async removeRoom(roomId: RoomId): Promise<void> {
    const tx = this.db.transaction(['rooms', 'messages', 'notices', 'drafts'], 'readwrite');
    await Promise.all([
      tx.objectStore('rooms').delete(roomId),
      tx.objectStore('messages').delete(roomKeys(roomId)),
      tx.objectStore('notices').delete(noticeKeys(roomId, 0, Number.MAX_SAFE_INTEGER)),
      tx.objectStore('drafts').delete(roomId),
      tx.done,
    ]);
  }

  // --- history

  /** Messages of the cached run, both ends included, ascending. */
  messages(roomId: RoomId, from: Seq, to: Seq): Promise<Message[]> {
    return from > to ? Promise.resolve([]) : this.db.getAll('messages', roomKeys(roomId, from, to));
  }

  message(roomId: RoomId, seq: Seq): Promise<Message | undefined> {
    return this.db.get('messages', [roomId, seq]);
  }

  notices(roomId: RoomId, from: Seq, to: Seq): Promise<Notice[]> {
    return from > to ? Promise.resolve([]) : this.db.getAll('notices', noticeKeys(roomId, from, to));
  }

  /** Keeps a batch of a known room, and settles the own words in it. */
  async add(batch: Batch): Promise<Added> {
    const tx = this.db.transaction(roomStores, 'readwrite');
    const settled = await this.settle(tx, batch);
    if (batch.position) await this.raisePosition(tx, batch.position);
    const rooms = tx.objectStore('rooms');
    const room = await rooms.get(batch.roomId);
    if (!room) {
      await tx.done;
      return { range: undefined, settled };
    }
    if (batch.reset) await this.forget(tx, room, 0);
    for (const notice of batch.notices) await tx.objectStore('notices').put(notice);
    const dense = denseTail(batch.messages);
    const first = dense[0];
    if (!first) {
      await tx.done;
      return { range: room.range, settled };
    }
    const joined = join(room.range, { from: first.seq, to: dense[dense.length - 1]!.seq });
    if (joined.kind === 'joined') {
      for (const message of dense) await tx.objectStore('messages').put(message);
      room.range = joined.range;
      await rooms.put(room);
    }
    await tx.done;
    return { range: room.range, settled, gapAfter: joined.kind === 'gap' ? joined.after : undefined };
  }

  /** Forgets the cached messages above seq: the server does not have them. */
  async forgetAbove(roomId: RoomId, seq: Seq): Promise<void> {
    const tx = this.db.transaction(roomStores, 'readwrite');
    const room = await tx.objectStore('rooms').get(roomId);
    if (room) {
      await this.forget(tx, room, seq);
      await tx.objectStore('rooms').put(room);
    }
    await tx.done;
  }

  private async forget(tx: Write, room: Room, above: Seq): Promise<void> {
    await tx.objectStore('messages').delete(roomKeys(room.roomId, above + 1));
    room.range = room.range && room.range.from <= above ? { from: room.range.from, to: Math.min(room.range.to, above) } : undefined;
  }

  private async raisePosition(tx: Write, position: Position): Promise<void> {
    const positions = tx.objectStore('positions');
    if (newer(position, await positions.get(position.shard))) await positions.put(position);
  }

  private async settle(tx: Write, batch: Batch): Promise<string[]> {
    const settled: string[] = [];
    const outbox = tx.objectStore('outbox');
    for (const message of batch.messages) {
      if (message.senderId !== this.userId) continue;
      const item = await outbox.index('clientId').get(message.clientId);
      if (!item || item.roomId !== message.roomId) continue;
      await outbox.delete(item.order);
      await tx.objectStore('sent').put({
        clientId: item.clientId, roomId: item.roomId, seq: message.seq, text: item.text, replyTo: item.replyTo,
        createdAt: item.createdAt, order: item.order, ackedAt: batch.now,
      });
      settled.push(item.clientId);
    }
    return settled;
  }

  // --- unsent words

  /** All unsent words, in order. */
  outbox(): Promise<OutboxItem[]> {
    return this.db.getAll('outbox');
  }

  async enqueue(item: Omit<OutboxItem, 'order'>): Promise<OutboxItem> {
    const order = await this.db.add('outbox', item as OutboxItem);
    return { ...item, order };
  }

  async setOutboxState(order: number, state: OutboxItem['state'], reason?: string): Promise<void> {
    const tx = this.db.transaction('outbox', 'readwrite');
    const item = await tx.store.get(order);
    // Settled meanwhile: nothing is left to say about it.
    if (item) await tx.store.put({ ...item, state, reason });
    await tx.done;
  }

  async dropUnsent(order: number): Promise<void> {
    await this.db.delete('outbox', order);
  }

  async pruneSent(now: number): Promise<void> {
    const tx = this.db.transaction('sent', 'readwrite');
    let excess = (await tx.store.count()) - keepSentItems;
    for (let c = await tx.store.index('ackedAt').openCursor(); c; c = await c.continue()) {
      if (c.value.ackedAt > now - keepSentMs && excess <= 0) break;
      await c.delete();
      excess--;
    }
    await tx.done;
  }

  // --- positions and their loss

  positions(): Promise<Position[]> {
    return this.db.getAll('positions');
  }

  /**
   * Notes that the server lost the ends of these shards: their positions are
   * forgotten and the repair is owed until repaired() — also after a crash.
   */
  async noteLost(shards: readonly number[]): Promise<void> {
    const tx = this.db.transaction(['positions', 'meta'], 'readwrite');
    const owed = new Set(((await tx.objectStore('meta').get('repair')) as number[] | undefined) ?? []);
    for (const shard of shards) {
      owed.add(shard);
      await tx.objectStore('positions').delete(shard);
    }
    await tx.objectStore('meta').put([...owed], 'repair');
    await tx.done;
  }

  async owedRepairs(): Promise<number[]> {
    return (await this.meta<number[]>('repair')) ?? [];
  }

  async repaired(shards: readonly number[]): Promise<void> {
    const tx = this.db.transaction('meta', 'readwrite');
    const owed = ((await tx.store.get('repair')) as number[] | undefined) ?? [];
    await tx.store.put(owed.filter((s) => !shards.includes(s)), 'repair');
    await tx.done;
  }

  /** Own acknowledged messages of these rooms go back to the outbox, under their old client IDs and in their old order. */
  async resend(rooms: ReadonlySet<RoomId>): Promise<number> {
    const tx = this.db.transaction(['sent', 'outbox'], 'readwrite');
    let count = 0;
    for (const item of await tx.objectStore('sent').getAll()) {
      if (!rooms.has(item.roomId)) continue;
      const { seq: _seq, ackedAt: _ackedAt, ...unsent } = item;
      await tx.objectStore('outbox').put({ ...unsent, state: 'pending' });
      await tx.objectStore('sent').delete(item.clientId);
      count++;
    }
    await tx.done;
    return count;
  }
}
