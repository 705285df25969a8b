// The account's rooms, history and people, kept in step with the server.
//
// Order everywhere: persist, then change memory, then emit. What events and
// answers change is applied one after the other (see serial), while requests
// may be under way at the same time.
import { uuidv7, shardOf } from '../domain/ids';
import type { Device, Member, Message, Notice, OutboxItem, People, Position, Room, RoomId, Seq, User, UserId } from '../domain/types';
import { advance, mergeCursors } from '../domain/unread';
import { Class, type Event, type HelloResponse, type ReadEvent, type RoomEvent } from '../gen/bongsu/edge/v1/socket_pb';
import type { ListResponse } from '../gen/bongsu/edge/v1/message_pb';
import type { Channel, Platform } from '../platform/platform';
import type { Added, Store } from '../store/store';
import { toDevice, toMember, toMessage, toNotice, toPosition, toRoom, toUser } from '../wire/convert';
import { WireError, asWireError } from '../wire/errors';
import { retryDelay } from './backoff';
import { Connection, type Status } from './connection';
import { Emitter } from './emitter';
import { Outbox } from './outbox';

const pageSize = 200;
const arrivingMost = pageSize;
const fillPages = 5;
const fillsAtOnce = 3;
const fillBackoff = { baseMs: 1_000, capMs: 30_000 };
const maxListedRooms = 2_000;
const typingEveryMs = 3_000;
const markEveryMs = 700;

export type SyncEvent =
  | { type: 'rooms' }
  | { type: 'room'; roomId: RoomId }
  | { type: 'messages'; roomId: RoomId; messages: Message[]; live: boolean }
  | { type: 'notices'; roomId: RoomId; notices: Notice[] }
  /** What was shown of the room may be wrong: read it again. */
  | { type: 'reset'; roomId: RoomId }
  | { type: 'outbox'; items: OutboxItem[] }
  | { type: 'typing'; roomId: RoomId; userId: UserId }
  | { type: 'people'; people: People }
  | { type: 'devices' }
  | { type: 'status'; status: Status }
  | { type: 'level'; level: number; reason: string }
  | { type: 'synced' }
  | { type: 'welcome'; roomId: RoomId };

export class Engine {
  readonly events = new Emitter<SyncEvent>();
  readonly rooms = new Map<RoomId, Room>();
  people: People = { friends: [], blocked: [] };
  outboxItems: OutboxItem[] = [];
  level = 0;
  serverVersion = '';

  private readonly outbox: Outbox;
  private readonly channel: Channel;
  private tail: Promise<void> = Promise.resolve();
  private readonly filling = new Map<RoomId, Promise<void>>();
  private readonly fetching = new Map<RoomId, Promise<Room | undefined>>();
  private readonly typedAt = new Map<RoomId, number>();
  private readonly marking = new Set<RoomId>();
  private shardCount = 16;
  private generation = 0;
  /** A run of one room's messages that waits to be kept; more of it may join. */
  private arriving?: { roomId: RoomId; messages: Message[]; position: Position | undefined };
  private active?: RoomId;
  private stopped = false;

  constructor(
    private readonly platform: Platform,
    readonly store: Store,
    private readonly connection: Connection,
    readonly me: UserId,
  ) {
    this.outbox = new Outbox(platform, store, connection, me);
    this.outbox.onAcknowledged = (message, position) => this.serial(() => this.applyMessages(message.roomId, [message], position, true));
    this.outbox.onChanged = () => void this.outboxChanged();
    this.channel = platform.channel('bongsu-' + me);
    connection.positions = () => store.positions();
    connection.onStatus = (status) => this.events.emit({ type: 'status', status });
    connection.onHello = (hello) => void this.resync(hello);
    connection.onEvent = (event) => this.receive(event);
  }

  /** Reads what this device keeps; afterwards everything can be shown. */
  async load(): Promise<void> {
    for (const room of await this.store.rooms()) this.rooms.set(room.roomId, room);
    this.people = await this.store.people();
    this.outboxItems = await this.store.outbox();
    this.shardCount = (await this.store.meta<number>('shardCount')) ?? this.shardCount;
  }

  start(): void {
    this.channel.listen((message) => {
      if (message === 'outbox') void this.outboxChanged(false);
    });
    void this.store.pruneSent(this.platform.now());
    this.outbox.start();
    this.connection.start();
  }

  stop(): void {
    this.stopped = true;
    this.outbox.stop();
    this.connection.stop();
    this.channel.close();
    this.store.close();
  }

  get status(): Status {
    return this.connection.status;
  }

  // --- asked by people: messages

  /** Writes a message down for sending; it is safe once this resolves. */
  async send(roomId: RoomId, text: string, replyTo: Seq): Promise<OutboxItem> {
    const now = this.platform.now();
    const clientId = uuidv7(now, this.platform.randomBytes(10));
    const item = await this.store.enqueue({ clientId, roomId, text, replyTo, createdAt: now, state: 'pending' });
    await this.outboxChanged();
    return item;
  }

  async retry(item: OutboxItem): Promise<void> {
    await this.store.setOutboxState(item.order, 'pending');
    await this.outboxChanged();
  }

  /** Only words that failed for good may be dropped: others may already be on their way. */
  async drop(item: OutboxItem): Promise<void> {
    if (item.state !== 'failed') return;
    await this.store.dropUnsent(item.order);
    await this.outboxChanged();
  }

  /** Notes how far was read; the server is told soon, and again until it knows. */
  async markRead(roomId: RoomId, seq: Seq): Promise<void> {
    const room = this.rooms.get(roomId);
    if (!room || seq <= Math.max(room.myReadSeq, room.wantReadSeq ?? 0)) return;
    await this.changeRoom(roomId, (r) => ({ ...r, wantReadSeq: Math.max(r.wantReadSeq ?? 0, seq) }));
    if (this.marking.has(roomId)) return;
    this.marking.add(roomId);
    this.platform.setTimer(() => {
      this.marking.delete(roomId);
      void this.tellRead(roomId);
    }, markEveryMs);
  }

  typing(roomId: RoomId): void {
    const now = this.platform.now();
    if (!this.connection.online || now - (this.typedAt.get(roomId) ?? -typingEveryMs) < typingEveryMs) return;
    this.typedAt.set(roomId, now);
    this.connection.call('typing', { roomId }, { class: Class.TYPING }).catch(() => {});
  }

  // --- asked by people: history

  /** A room comes into view: all its members, and its newest messages, are wanted. */
  async openRoom(roomId: RoomId): Promise<void> {
    this.active = roomId;
    if (!this.connection.online) return;
    const room = await this.fetchRoom(roomId);
    if (room) await this.fill(roomId);
  }

  closeRoom(roomId: RoomId): void {
    if (this.active === roomId) this.active = undefined;
  }

  /**
   * Makes the messages just before seq available in the store, from the server
   * if need be. False when there are none; throws when they cannot be had now.
   */
  async older(roomId: RoomId, before: Seq): Promise<boolean> {
    const room = this.rooms.get(roomId);
    if (!room || before <= room.myJoinedSeq + 1) return false;
    if (room.range && room.range.from < before) return true;
    const page = await this.connection.call('list', { roomId, beforeSeq: BigInt(before), limit: 100 }, { class: Class.HISTORY });
    return this.serial(async () => {
      if (page.messages.length === 0) return false;
      await this.keepPage(roomId, page);
      return true;
    });
  }

  // --- asked by people: rooms and people

  async openDirect(userId: UserId): Promise<RoomId> {
    // The room of two may be known already: then it opens offline too.
    for (const room of this.rooms.values()) {
      if (room.kind !== 'direct' || !room.complete) continue;
      const others = room.members.filter((m) => m.userId !== this.me);
      if (userId === this.me ? others.length === 0 && room.memberCount === 1 && !Object.keys(room.names).some((id) => id !== this.me) : others.some((m) => m.userId === userId)) {
        await this.changeRoom(room.roomId, (r) => ({ ...r, opened: true }));
        return room.roomId;
      }
    }
    const answer = await this.connection.call('openDirect', { userId });
    return this.adopt(toRoom(answer.room!), toPosition(answer.position), true);
  }

  async createGroup(title: string, userIds: UserId[], clientId: string): Promise<RoomId> {
    const answer = await this.connection.call('createGroup', { title, userIds, clientId });
    return this.adopt(toRoom(answer.room!), toPosition(answer.position), true);
  }

  newClientId(): string {
    return uuidv7(this.platform.now(), this.platform.randomBytes(10));
  }

  async invite(roomId: RoomId, userIds: UserId[]): Promise<void> {
    const answer = await this.connection.call('invite', { roomId, userIds });
    await this.adopt(toRoom(answer.room!), toPosition(answer.position));
  }

  async setTitle(roomId: RoomId, title: string): Promise<void> {
    const answer = await this.connection.call('setTitle', { roomId, title });
    await this.adopt(toRoom(answer.room!), toPosition(answer.position));
  }

  async leave(roomId: RoomId): Promise<void> {
    await this.connection.call('leave', { roomId });
    await this.serial(() => this.removeRoom(roomId));
  }

  async find(login: string): Promise<User> {
    const answer = await this.connection.call('find', { login: login.trim().toLowerCase() });
    return toUser(answer.user!);
  }

  async addFriend(userId: UserId): Promise<void> {
    await this.connection.call('addFriend', { userId });
    await this.refreshPeople();
  }

  async removeFriend(userId: UserId): Promise<void> {
    await this.connection.call('removeFriend', { userId });
    await this.refreshPeople();
  }

  async block(userId: UserId): Promise<void> {
    await this.connection.call('block', { userId });
    await this.refreshPeople();
  }

  async unblock(userId: UserId): Promise<void> {
    await this.connection.call('unblock', { userId });
    await this.refreshPeople();
  }

  async profile(): Promise<User | undefined> {
    const answer = await this.connection.call('getMe', {});
    if (!answer.user) return undefined;
    const user = toUser(answer.user);
    await this.store.setMeta('me', user);
    return user;
  }

  async devices(): Promise<Device[]> {
    return (await this.connection.call('listDevices', {})).devices.map(toDevice);
  }

  async revokeDevice(deviceId: string): Promise<void> {
    await this.connection.call('revokeDevice', { deviceId });
  }

  async revokeAll(): Promise<void> {
    await this.connection.call('revokeDevice', { all: true });
  }

  // --- keeping in step

  /** Applies work after everything that came before it, whatever it awaits. */
  private serial<T>(work: () => Promise<T>): Promise<T> {
    const result = this.tail.then(work);
    this.tail = result.then(() => {}, (error: unknown) => {
      if (!this.stopped) console.error('sync step failed', error);
    });
    return result;
  }

  private async resync(hello: HelloResponse): Promise<void> {
    const generation = ++this.generation;
    this.serverVersion = hello.serverVersion;
    this.setLevel(hello.level, '');
    if (hello.shardCount > 0 && hello.shardCount !== this.shardCount) {
      this.shardCount = hello.shardCount;
      await this.store.setMeta('shardCount', hello.shardCount);
    }
    if (hello.lost.length > 0) await this.store.noteLost(hello.lost.map((p) => p.shard));
    try {
      const owed = await this.store.owedRepairs();
      if (owed.length > 0) await this.repair(owed);
      // Words need no history: they go while the rest is read.
      this.outbox.reconnected();
      await this.listRooms();
      await this.refreshPeople();
      await this.welcome();
    } catch (error) {
      if (this.stopped || generation !== this.generation || !this.connection.online) return;
      const hint = error instanceof WireError ? error.retryAfterSeconds : 0;
      // Connected but not answered: try again rather than show old rooms as new.
      this.platform.setTimer(() => {
        if (generation === this.generation && this.connection.online) void this.resync({ ...hello, lost: [] });
      }, Math.max(hint * 1000, 1_000) * (1 + this.platform.random()));
    }
  }

  private async listRooms(): Promise<void> {
    const answer = await this.connection.call('listRooms', {}, { class: Class.RESUME, timeoutMs: 20_000 });
    const fresh = answer.rooms.map(toRoom);
    const stale: RoomId[] = [];
    await this.serial(async () => {
      for (const room of fresh) {
        const old = this.rooms.get(room.roomId);
        if (!old?.range || room.lastSeq > old.range.to || room.version > old.version) stale.push(room.roomId);
        await this.mergeRoom(room);
      }
    });
    if (fresh.length < maxListedRooms) await this.askAboutUnlisted(new Set(fresh.map((r) => r.roomId)));
    this.events.emit({ type: 'rooms' });
    this.events.emit({ type: 'synced' });
    stale.sort((a, b) => Number(b === this.active) - Number(a === this.active));
    await this.fillAll(stale);
    if (this.active) await this.fetchRoom(this.active);
    for (const room of this.rooms.values()) if ((room.wantReadSeq ?? 0) > room.myReadSeq) await this.tellRead(room.roomId);
  }

  /**
   * A room that was just made may not be in the list yet (lists follow rooms
   * with a delay), so only the room's own refusal removes it here.
   */
  private async askAboutUnlisted(listed: ReadonlySet<RoomId>): Promise<void> {
    for (const roomId of [...this.rooms.keys()].filter((id) => !listed.has(id))) {
      if ((await this.fetchRoom(roomId)) === undefined) await this.serial(() => this.removeRoom(roomId));
    }
  }

  private async fillAll(roomIds: readonly RoomId[]): Promise<void> {
    const queue = [...roomIds];
    const worker = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) await this.fill(next);
    };
    await Promise.all(Array.from({ length: fillsAtOnce }, worker));
  }

  /** Reads what the run of a room lacks at its end. */
  private fill(roomId: RoomId): Promise<void> {
    const running = this.filling.get(roomId);
    if (running) return running;
    const work = this.fillNow(roomId).finally(() => this.filling.delete(roomId));
    this.filling.set(roomId, work);
    return work;
  }

  /** Fills in the background, trying again while connected: a hole must not stay until the next message. */
  private fillSoon(roomId: RoomId, attempt = 0): void {
    this.fill(roomId).catch((error: unknown) => {
      const wire = asWireError(error);
      if (this.stopped || wire.definite || !this.connection.online) return;
      this.platform.setTimer(() => this.fillSoon(roomId, attempt + 1), retryDelay(attempt, fillBackoff, wire.retryAfterSeconds, this.platform.random));
    });
  }

  private async fillNow(roomId: RoomId): Promise<void> {
    for (let page = 0; page < fillPages; page++) {
      const range = this.rooms.get(roomId)?.range;
      if (!range) break;
      const answer = await this.connection.call('list', { roomId, afterSeq: BigInt(range.to), limit: pageSize }, { class: Class.RESUME });
      const first = answer.messages[0];
      // Members who left and came back do not get what was said between: the run starts anew.
      if (first && Number(first.seq) !== range.to + 1) break;
      await this.serial(() => this.keepPage(roomId, answer));
      if (!answer.hasMore) return;
    }
    // Nothing kept yet, or far behind: start from the newest page; what is between comes when scrolled to.
    const newest = await this.connection.call('list', { roomId, limit: 50 }, { class: Class.RESUME });
    await this.serial(() => this.keepPage(roomId, newest, true));
    this.events.emit({ type: 'reset', roomId });
  }

  private async keepPage(roomId: RoomId, page: ListResponse, reset = false): Promise<void> {
    const messages = page.messages.map(toMessage);
    const notices = page.notices.map((n) => toNotice(roomId, n)).filter((n) => n !== undefined);
    const added = await this.store.add({ roomId, messages, notices, reset, now: this.platform.now() });
    await this.remember(roomId, messages, notices, added, false);
  }

  private async applyMessages(roomId: RoomId, messages: Message[], position: Position | undefined, live: boolean): Promise<void> {
    if (!this.rooms.has(roomId)) {
      const room = await this.fetchRoomNow(roomId).catch((error: unknown) => {
        if (!asWireError(error).definite) this.listSoon();
        return undefined;
      });
      if (!room && messages.every((m) => m.senderId !== this.me)) return;
    }
    const added = await this.store.add({ roomId, messages, notices: [], position, now: this.platform.now() });
    await this.remember(roomId, messages, [], added, live);
    if (added.gapAfter !== undefined || !added.range) this.fillSoon(roomId);
  }

  /** After persisting: memory, then news. */
  private async remember(roomId: RoomId, messages: Message[], notices: Notice[], added: Added, live: boolean): Promise<void> {
    const room = this.rooms.get(roomId);
    if (room) {
      let next: Room = { ...room, range: added.range };
      for (const message of messages) next = withMessage(next, message, this.me, live);
      for (const notice of notices) next.names = { ...notice.names, ...next.names };
      this.rooms.set(roomId, next);
      await this.store.updateRoom(roomId, () => next);
      this.events.emit({ type: 'room', roomId });
    }
    const from = added.range?.from ?? Infinity;
    const to = added.range?.to ?? -Infinity;
    const kept = messages.filter((m) => m.seq >= from && m.seq <= to);
    if (kept.length > 0) this.events.emit({ type: 'messages', roomId, messages: kept, live });
    if (notices.length > 0) this.events.emit({ type: 'notices', roomId, notices });
    // Last, so that a word is never neither unsent nor sent on the screen.
    if (added.settled.length > 0) await this.outboxChanged();
  }

  private fetchRoom(roomId: RoomId): Promise<Room | undefined> {
    const running = this.fetching.get(roomId);
    if (running) return running;
    const work = this.connection
      .call('getRoom', { roomId }, { class: Class.RESUME })
      .then((answer) => this.serial(() => this.mergeRoom(toRoom(answer.room!))))
      .catch((error: unknown) => {
        // Not ours (any more) is an answer; anything else is a reason to ask later.
        if (error instanceof WireError && (error.code === 'not_found' || error.code === 'permission_denied')) return undefined;
        throw error;
      })
      .finally(() => this.fetching.delete(roomId));
    this.fetching.set(roomId, work);
    return work;
  }

  /** As fetchRoom, from within a serial step. */
  private async fetchRoomNow(roomId: RoomId): Promise<Room | undefined> {
    const answer = await this.connection.call('getRoom', { roomId }, { class: Class.RESUME });
    return this.mergeRoom(toRoom(answer.room!));
  }

  private async adopt(room: Room, position: Position | undefined, opened = false): Promise<RoomId> {
    await this.serial(async () => {
      if (position) await this.store.add({ roomId: room.roomId, messages: [], notices: [], position, now: this.platform.now() });
      await this.mergeRoom(opened ? { ...room, opened } : room);
    });
    this.fillSoon(room.roomId);
    return room.roomId;
  }

  private async changeRoom(roomId: RoomId, change: (room: Room) => Room): Promise<Room | undefined> {
    return this.serial(async () => {
      const old = this.rooms.get(roomId);
      if (!old) return undefined;
      return this.putRoom(change(old));
    });
  }

  private async putRoom(room: Room): Promise<Room> {
    const stored = await this.store.updateRoom(room.roomId, () => room);
    const next = stored ?? room;
    this.rooms.set(room.roomId, next);
    this.events.emit({ type: 'room', roomId: room.roomId });
    return next;
  }

  private mergeRoom(fresh: Room): Promise<Room> {
    return this.putRoom(mergeRooms(this.rooms.get(fresh.roomId), fresh));
  }

  private async removeRoom(roomId: RoomId): Promise<void> {
    if (!this.rooms.has(roomId)) return;
    await this.store.removeRoom(roomId);
    this.rooms.delete(roomId);
    this.events.emit({ type: 'rooms' });
  }

  private async tellRead(roomId: RoomId): Promise<void> {
    const room = this.rooms.get(roomId);
    const seq = room?.wantReadSeq ?? 0;
    if (!room || seq <= room.myReadSeq || !this.connection.online) return;
    try {
      await this.connection.call('markRead', { roomId, seq: BigInt(seq) }, { class: Class.RECEIPT });
      await this.changeRoom(roomId, (r) => ({ ...r, myReadSeq: Math.max(r.myReadSeq, seq), members: advance(r.members, this.me, seq) }));
    } catch (error) {
      // Refused for good (as after a lost tail): the wish is void. Otherwise the next sync tells it.
      if (error instanceof WireError && error.definite) await this.changeRoom(roomId, (r) => ({ ...r, wantReadSeq: undefined }));
    }
  }

  private async outboxChanged(tellOthers = true): Promise<void> {
    if (this.stopped) return;
    this.outboxItems = await this.store.outbox();
    if (tellOthers) this.channel.post('outbox');
    this.events.emit({ type: 'outbox', items: this.outboxItems });
    this.outbox.pump();
  }

  private async refreshPeople(): Promise<void> {
    const answer = await this.connection.call('listFriends', {});
    const people = { friends: answer.friends.map(toUser), blocked: answer.blocked.map(toUser) };
    await this.store.setMeta('people', people);
    this.people = people;
    this.events.emit({ type: 'people', people });
  }

  /** After a sign-up: opens the rooms of the bots that came with the account, so that they can say hello. */
  private async welcome(): Promise<void> {
    if (!(await this.store.meta<boolean>('welcome'))) return;
    for (const friend of this.people.friends.filter((f) => f.bot)) {
      const roomId = await this.openDirect(friend.userId);
      this.events.emit({ type: 'welcome', roomId });
    }
    await this.store.setMeta('welcome', false);
  }

  // --- what the server says by itself

  private receive(event: Event): void {
    const { case: kind, value } = event.event;
    if (kind !== 'message') this.arriving = undefined; // what comes after it is applied after it
    switch (kind) {
      case 'message':
        if (value.message) this.arrive(toMessage(value.message), toPosition(value.position));
        break;
      case 'read':
        void this.serial(() => this.applyRead(value));
        break;
      case 'room':
        void this.serial(() => this.applyRoom(value));
        break;
      case 'typing':
        this.events.emit({ type: 'typing', roomId: value.roomId, userId: value.userId });
        break;
      case 'level':
        this.setLevel(value.level, value.reason);
        break;
      case 'lag':
        void this.listRooms().catch(() => {});
        break;
      case 'people':
        void this.refreshPeople().catch(() => {});
        this.events.emit({ type: 'devices' });
        break;
    }
  }

  /**
   * Messages that come while others are being kept wait together: kept one by one, at
   * two transactions and one drawing each, a busy room would be minutes behind.
   */
  private arrive(message: Message, position: Position | undefined): void {
    const last = this.arriving;
    if (last && last.roomId === message.roomId && last.messages.at(-1)!.seq + 1 === message.seq && last.messages.length < arrivingMost) {
      last.messages.push(message);
      last.position = position ?? last.position;
      return;
    }
    const run = { roomId: message.roomId, messages: [message], position };
    this.arriving = run;
    void this.serial(() => {
      if (this.arriving === run) this.arriving = undefined;
      return this.applyMessages(run.roomId, run.messages, run.position, true);
    });
  }

  private setLevel(level: number, reason: string): void {
    this.level = level;
    this.events.emit({ type: 'level', level, reason });
  }

  private listSoon(): void {
    this.platform.setTimer(() => {
      if (this.connection.online) void this.listRooms().catch(() => {});
    }, 1_000 + this.platform.random() * 2_000);
  }

  private async applyRead(event: ReadEvent): Promise<void> {
    const room = this.rooms.get(event.roomId);
    if (!room) return;
    let next = room;
    for (const change of event.changes) {
      const to = Number(change.toSeq);
      next = { ...next, members: advance(next.members, change.userId, to) };
      if (change.userId === this.me) next.myReadSeq = Math.max(next.myReadSeq, to);
    }
    await this.putRoom(next);
  }

  private async applyRoom(event: RoomEvent): Promise<void> {
    if (event.leftUserIds.includes(this.me)) return this.removeRoom(event.roomId);
    const old = this.rooms.get(event.roomId);
    const version = Number(event.version);
    if (!old || version > old.version + 1) {
      await this.fetchRoomNow(event.roomId).catch(() => undefined);
    } else if (version === old.version + 1) {
      await this.putRoom(withChange(old, event));
    }
    const notice = event.notice && toNotice(event.roomId, event.notice);
    if (!notice || !this.rooms.has(event.roomId)) return;
    const added = await this.store.add({ roomId: event.roomId, messages: [], notices: [notice], now: this.platform.now() });
    await this.remember(event.roomId, [], [notice], added, true);
  }

  // --- repair after the server lost the end of a shard (invariant 6)

  /**
   * For the rooms of these shards: forgets cached messages that the server does
   * not have, and puts own acknowledged ones back into the outbox. Sending one
   * that the server does have again changes nothing.
   */
  private async repair(shards: readonly number[]): Promise<void> {
    const concerned = [...this.rooms.keys()].filter((id) => shards.includes(shardOf(id, this.shardCount)));
    for (const roomId of concerned) {
      const agreed = await this.lastAgreed(roomId);
      await this.serial(async () => {
        await this.store.forgetAbove(roomId, agreed.seq);
        const room = this.rooms.get(roomId);
        if (!room) return;
        const range = room.range && room.range.from <= agreed.seq ? { from: room.range.from, to: Math.min(room.range.to, agreed.seq) } : undefined;
        const next: Room = {
          ...room, range, lastSeq: agreed.lastSeq, lastMessage: undefined, complete: false,
          myReadSeq: Math.min(room.myReadSeq, agreed.lastSeq), wantReadSeq: undefined,
          members: room.members.map((m) => ({ ...m, readSeq: Math.min(m.readSeq, agreed.lastSeq) })), version: 0,
        };
        this.rooms.set(roomId, next);
        await this.store.updateRoom(roomId, () => next);
      });
      this.events.emit({ type: 'reset', roomId });
    }
    await this.store.resend(new Set(concerned));
    await this.store.repaired(shards);
    await this.outboxChanged();
  }

  /** The highest cached seq at which the server has the same message, looking back from its newest. */
  private async lastAgreed(roomId: RoomId): Promise<{ seq: Seq; lastSeq: Seq }> {
    let before = 0;
    let lastSeq = -1;
    try {
      for (;;) {
        const page = await this.connection.call('list', { roomId, beforeSeq: BigInt(before), limit: pageSize }, { class: Class.RESUME });
        if (lastSeq < 0) lastSeq = Number(page.lastSeq);
        for (const pb of [...page.messages].reverse()) {
          const theirs = toMessage(pb);
          const ours = await this.store.message(roomId, theirs.seq);
          if (ours && ours.clientId === theirs.clientId && ours.senderId === theirs.senderId) return { seq: theirs.seq, lastSeq };
        }
        const first = page.messages[0];
        const from = this.rooms.get(roomId)?.range?.from ?? Infinity;
        if (!first || !page.hasMore || Number(first.seq) <= from) return { seq: 0, lastSeq };
        before = Number(first.seq);
      }
    } catch (error) {
      // The room itself is among what was lost.
      if (error instanceof WireError && (error.code === 'not_found' || error.code === 'permission_denied')) return { seq: 0, lastSeq: 0 };
      throw error;
    }
  }
}

/** A room after one more message: newest, activity, and the sender's own cursor. */
export function withMessage(room: Room, message: Message, me: UserId, live: boolean): Room {
  const newest = message.seq >= (room.lastMessage?.seq ?? 0);
  const sender = room.members.find((m) => m.userId === message.senderId);
  // Sending reads what stood before it, but only if all of that was read then:
  // of a message from the past, today's cursor says nothing about that.
  const follows = (cursor: Seq) => live && message.seq > room.lastSeq && cursor === message.seq - 1;
  return {
    ...room,
    lastSeq: Math.max(room.lastSeq, message.seq),
    lastMessage: newest ? message : room.lastMessage,
    activeAt: newest ? Math.max(room.activeAt, message.sentAt) : room.activeAt,
    myReadSeq: message.senderId === me && follows(Math.max(room.myReadSeq, room.myJoinedSeq)) ? message.seq : room.myReadSeq,
    members: sender && follows(Math.max(sender.readSeq, sender.joinedSeq)) ? advance(room.members, sender.userId, message.seq) : room.members,
  };
}

/** What is known of a room and what the server just said of it, neither going back. */
export function mergeRooms(old: Room | undefined, fresh: Room): Room {
  if (!old) return fresh;
  const same = fresh.version === old.version;
  const keepOld = (!fresh.complete && old.complete && same) || fresh.version < old.version;
  const members: Member[] = keepOld ? mergeCursors(fresh.members, old.members) : mergeCursors(old.members, fresh.members);
  const wanted = old.wantReadSeq !== undefined && old.wantReadSeq > fresh.myReadSeq ? old.wantReadSeq : undefined;
  const newest = (fresh.lastMessage?.seq ?? 0) >= (old.lastMessage?.seq ?? 0) ? fresh.lastMessage : old.lastMessage;
  return {
    ...(fresh.version < old.version ? { ...fresh, title: old.title, memberCount: old.memberCount, version: old.version } : fresh),
    members,
    complete: keepOld ? old.complete : fresh.complete,
    lastSeq: Math.max(old.lastSeq, fresh.lastSeq),
    myReadSeq: Math.max(old.myReadSeq, fresh.myReadSeq),
    myJoinedSeq: Math.max(old.myJoinedSeq, fresh.myJoinedSeq),
    lastMessage: newest ?? old.lastMessage,
    activeAt: Math.max(old.activeAt, fresh.activeAt),
    names: { ...old.names, ...fresh.names },
    opened: fresh.opened ?? old.opened,
    wantReadSeq: wanted,
    range: old.range,
  };
}

/** A room after a change of its members or title. */
export function withChange(room: Room, event: RoomEvent): Room {
  const joined = event.joined.map(toMember);
  const gone = new Set([...event.leftUserIds, ...joined.map((m) => m.userId)]);
  const members = [...room.members.filter((m) => !gone.has(m.userId)), ...joined];
  return {
    ...room,
    title: event.title,
    version: Number(event.version),
    memberCount: event.memberCount || members.length,
    members,
    names: { ...room.names, ...Object.fromEntries(joined.map((m) => [m.userId, m.displayName])) },
    lastSeq: Math.max(room.lastSeq, Number(event.lastSeq)),
  };
}
