// One signed-in account as the screens see it.
import { SvelteMap } from 'svelte/reactivity';
import type { Device, OutboxItem, People, Room, RoomId, User, UserId } from '../domain/types';
import { matches } from '../domain/text';
import { myUnread } from '../domain/unread';
import type { Platform } from '../platform/platform';
import type { Engine, SyncEvent } from '../sync/engine';
import type { Status } from '../sync/connection';
import { Conversation } from './conversation.svelte';
import { isBotRoom, roomFace, roomTitle } from './names';
import type { Prefs } from './prefs.svelte';
import type { Router } from './router.svelte';

/** A line of the room list. */
export interface RoomLine {
  room: Room;
  title: string;
  face: string;
  bot: boolean;
  unread: number;
}

const slowAfterMs = 5_000;
/** Shorter interruptions are not worth a person's worry. */
const noticeOfflineAfterMs = 2_500;
const typingForMs = 5_000;

export type Trouble = { kind: 'offline'; since: number } | { kind: 'slow'; since: number } | { kind: 'level'; level: number };

export class Account {
  readonly rooms = new SvelteMap<RoomId, Room>();
  people = $state.raw<People>({ friends: [], blocked: [] });
  unsent = $state.raw<OutboxItem[]>([]);
  status = $state.raw<Status>({ phase: 'connecting', since: 0 });
  level = $state(0);
  me = $state.raw<User>();
  devices = $state.raw<Device[] | undefined>();
  /** Whether the list of rooms was read from the server since the start. */
  synced = $state(false);
  query = $state('');
  filter = $state<'all' | 'unread'>('all');
  conversation = $state.raw<Conversation>();
  /** Minutes pass: times in lists are formatted against this. */
  now = $state(0);
  private readonly typers = new SvelteMap<string, { roomId: RoomId; userId: UserId; stop: () => void }>();
  private readonly stopEvents: () => void;
  private stopTick: () => void = () => {};

  constructor(
    private readonly platform: Platform,
    readonly engine: Engine,
    private readonly prefs: Prefs,
    private readonly router: Router,
    readonly login: string,
  ) {
    this.now = platform.now();
    this.status = engine.status;
    for (const room of engine.rooms.values()) this.rooms.set(room.roomId, room);
    this.people = engine.people;
    this.unsent = engine.outboxItems;
    this.stopEvents = engine.events.on((event) => this.apply(event));
    this.tick();
  }

  get myId(): UserId {
    return this.engine.me;
  }

  // --- lists

  /** Rooms worth showing, newest first: a direct room that someone opened without a word is not. */
  lines: RoomLine[] = $derived.by(() => {
    const lines: RoomLine[] = [];
    for (const room of this.rooms.values()) {
      const silent = room.lastSeq <= room.myJoinedSeq;
      if (room.kind === 'direct' && silent && !room.opened && !this.unsent.some((i) => i.roomId === room.roomId)) continue;
      lines.push({ room, title: roomTitle(room, this.myId, this.prefs.words), face: roomFace(room, this.myId), bot: isBotRoom(room, this.myId), unread: myUnread(room) });
    }
    return lines.sort((a, b) => b.room.activeAt - a.room.activeAt || (a.room.roomId < b.room.roomId ? -1 : 1));
  });

  unread: number = $derived.by(() => this.lines.reduce((sum, line) => sum + line.unread, 0));
  unreadRooms: number = $derived.by(() => this.lines.filter((line) => line.unread > 0).length);

  shownLines: RoomLine[] = $derived.by(() =>
    this.lines.filter((line) => (this.filter === 'all' || line.unread > 0 || line.room.roomId === this.conversation?.roomId)
      && (matches(line.title, this.query) || Object.values(line.room.names).some((n) => matches(n, this.query) && n !== this.me?.displayName))));

  typingIn(roomId: RoomId): UserId[] {
    return [...this.typers.values()].filter((t) => t.roomId === roomId).map((t) => t.userId);
  }

  // --- trouble, told as it is

  trouble: Trouble | undefined = $derived.by(() => {
    if (this.status.phase !== 'online') {
      return this.now - this.status.since >= noticeOfflineAfterMs ? { kind: 'offline', since: this.status.since } : undefined;
    }
    if (this.level > 0) return { kind: 'level', level: this.level };
    const oldest = this.unsent.find((item) => item.state === 'pending');
    if (oldest && this.now - oldest.createdAt >= slowAfterMs) return { kind: 'slow', since: oldest.createdAt };
    return undefined;
  });

  pending: number = $derived.by(() => this.unsent.filter((item) => item.state === 'pending').length);

  // --- what people do

  openRoom(roomId: RoomId): void {
    this.router.go({ tab: 'chats', roomId });
  }

  async openDirect(userId: UserId): Promise<void> {
    this.openRoom(await this.engine.openDirect(userId));
  }

  /** Follows the address: the conversation in view is the one it names. */
  show(roomId: RoomId | undefined): void {
    if (roomId === this.conversation?.roomId) return;
    this.conversation?.close();
    this.conversation = roomId ? new Conversation(this.platform, this.engine, roomId) : undefined;
  }

  async loadDevices(): Promise<void> {
    this.devices = await this.engine.devices();
  }

  isFriend(userId: UserId): boolean {
    return this.people.friends.some((f) => f.userId === userId);
  }

  isBlocked(userId: UserId): boolean {
    return this.people.blocked.some((f) => f.userId === userId);
  }

  async loadProfile(): Promise<void> {
    this.me ??= await this.engine.store.meta<User>('me');
    if (this.engine.status.phase === 'online') this.me = (await this.engine.profile()) ?? this.me;
  }

  stop(): void {
    this.conversation?.close();
    this.stopEvents();
    this.stopTick();
    for (const typer of this.typers.values()) typer.stop();
    this.engine.stop();
  }

  // --- news

  private apply(event: SyncEvent): void {
    switch (event.type) {
      case 'rooms':
        for (const id of [...this.rooms.keys()]) if (!this.engine.rooms.has(id)) this.forget(id);
        break;
      case 'room': {
        const room = this.engine.rooms.get(event.roomId);
        if (room) this.rooms.set(room.roomId, room);
        break;
      }
      case 'outbox':
        this.unsent = event.items;
        break;
      case 'people':
        this.people = event.people;
        break;
      case 'status':
        this.status = event.status;
        // Who was typing when the line broke is not known to type still.
        if (event.status.phase !== 'online') for (const key of [...this.typers.keys()]) this.stopTyping(key);
        if (event.status.phase === 'online') void this.loadProfile().catch(() => {});
        break;
      case 'level':
        this.level = event.level;
        break;
      case 'synced':
        this.synced = true;
        break;
      case 'devices':
        if (this.devices) void this.loadDevices().catch(() => {});
        break;
      case 'typing':
        this.typed(event.roomId, event.userId);
        break;
      case 'messages':
        for (const message of event.messages) if (event.live) this.stopTyping(message.roomId + message.senderId);
        break;
    }
    this.now = this.platform.now();
  }

  private forget(roomId: RoomId): void {
    this.rooms.delete(roomId);
    if (this.router.place.roomId === roomId) this.router.go({ tab: 'chats' });
  }

  private typed(roomId: RoomId, userId: UserId): void {
    if (userId === this.myId) return;
    const key = roomId + userId;
    this.typers.get(key)?.stop();
    const stop = this.platform.setTimer(() => this.typers.delete(key), typingForMs);
    this.typers.set(key, { roomId, userId, stop });
  }

  private stopTyping(key: string): void {
    this.typers.get(key)?.stop();
    this.typers.delete(key);
  }

  private tick(): void {
    this.now = this.platform.now();
    // Quicker only while something is being waited for.
    const waiting = this.status.phase !== 'online' || this.pending > 0;
    this.stopTick = this.platform.setTimer(() => this.tick(), waiting ? 1_000 : 5_000);
  }
}
