// The room in view: a window onto its history, what is being written, and how
// far was read. The window holds a bounded part of the cached run; scrolling
// moves it.
import type { Message, Notice, Room, RoomId, Seq } from '../domain/types';
import type { Platform } from '../platform/platform';
import type { Engine, SyncEvent } from '../sync/engine';

const pageSize = 60;
const maxWindow = 240;
const draftEveryMs = 400;
const maxPagesToQuoted = 30;

export class Conversation {
  messages = $state.raw<Message[]>([]);
  notices = $state.raw<Notice[]>([]);
  /** Nothing is known yet, not even from this device. */
  loading = $state(true);
  loadingOlder = $state(false);
  /** Older messages exist but cannot be had while disconnected. */
  olderUnavailable = $state(false);
  /** Whether the window ends with the newest message. */
  atNewest = $state(true);
  /** Messages that came while the window was elsewhere or scrolled up. */
  missed = $state(0);
  draft = $state('');
  replyTo = $state.raw<Message>();
  /** Where "read up to here" stands: fixed when the room was opened. */
  readLine = $state<Seq>();
  /** The newest live message of someone else, for those who listen instead of look. */
  announced = $state.raw<Message>();

  private closed = false;
  private draftTimer: () => void = () => {};
  private readonly stop: () => void;
  private moving: Promise<void> = Promise.resolve();

  constructor(private readonly platform: Platform, private readonly engine: Engine, readonly roomId: RoomId) {
    this.stop = engine.events.on((event) => this.apply(event));
    void this.open();
  }

  private get room(): Room | undefined {
    return this.engine.rooms.get(this.roomId);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.stop();
    this.draftTimer();
    void this.engine.store.setDraft(this.roomId, this.draft).catch(() => {});
    this.engine.closeRoom(this.roomId);
  }

  // --- writing

  write(text: string): void {
    this.draft = text;
    if (text.trim() !== '') this.engine.typing(this.roomId);
    this.draftTimer();
    this.draftTimer = this.platform.setTimer(() => void this.engine.store.setDraft(this.roomId, text).catch(() => {}), draftEveryMs);
  }

  async send(): Promise<void> {
    const text = this.draft;
    const replyTo = this.replyTo?.seq ?? 0;
    this.draft = '';
    this.replyTo = undefined;
    this.readLine = undefined;
    this.draftTimer();
    try {
      await this.engine.send(this.roomId, text, replyTo);
    } catch (error) {
      // Not written down: it must not vanish from the screen either.
      this.draft = text;
      throw error;
    }
    await this.engine.store.setDraft(this.roomId, '');
    if (!this.atNewest) await this.toNewest();
  }

  // --- reading

  /** The person has seen the newest message that is shown. */
  seen(): void {
    if (!this.atNewest) return;
    this.missed = 0;
    const last = this.messages[this.messages.length - 1];
    if (last && this.platform.visible()) void this.engine.markRead(this.roomId, last.seq);
  }

  hasOlder: boolean = $derived.by(() => {
    const first = this.messages[0];
    return first !== undefined && first.seq > (this.room?.myJoinedSeq ?? 0) + 1;
  });

  async loadOlder(): Promise<void> {
    const before = this.messages[0];
    if (!before || !this.hasOlder || this.loadingOlder) return;
    this.loadingOlder = true;
    try {
      // The network is waited for outside of the queue: new messages must not stand behind it.
      if (await this.engine.older(this.roomId, before.seq)) await this.showOlder();
      this.olderUnavailable = false;
    } catch {
      this.olderUnavailable = true;
    } finally {
      this.loadingOlder = false;
    }
  }

  private showOlder(): Promise<void> {
    return this.move(async () => {
      const first = this.messages[0];
      if (!first) return;
      const from = Math.max(this.room?.range?.from ?? first.seq, first.seq - pageSize);
      const older = await this.engine.store.messages(this.roomId, from, first.seq - 1);
      const messages = [...older, ...this.messages];
      const cut = messages.length > maxWindow;
      await this.display(cut ? messages.slice(0, maxWindow) : messages);
      if (cut) this.atNewest = false;
    });
  }

  loadNewer(): Promise<void> {
    return this.move(async () => {
      const last = this.messages[this.messages.length - 1];
      const to = this.room?.range?.to ?? 0;
      if (!last || this.atNewest) return;
      const newer = await this.engine.store.messages(this.roomId, last.seq + 1, Math.min(to, last.seq + pageSize));
      await this.display([...this.messages, ...newer].slice(-maxWindow));
      const end = this.messages[this.messages.length - 1]?.seq ?? 0;
      if (end >= (this.room?.range?.to ?? 0)) this.atNewest = true;
    });
  }

  toNewest(): Promise<void> {
    return this.move(() => this.showNewest());
  }

  /** Brings a message into the window; false if it cannot be had. */
  async toMessage(seq: Seq): Promise<boolean> {
    if (this.messages.some((m) => m.seq === seq)) return true;
    let found = false;
    await this.move(async () => {
      for (let page = 0; page < maxPagesToQuoted; page++) {
        const from = this.room?.range?.from ?? Infinity;
        if (from <= seq) break;
        if (!(await this.engine.older(this.roomId, from).catch(() => false))) return;
      }
      const range = this.room?.range;
      if (!range || seq < range.from || seq > range.to) return;
      const to = Math.min(range.to, seq + pageSize);
      await this.display(await this.engine.store.messages(this.roomId, Math.max(range.from, seq - pageSize), to));
      this.atNewest = to === range.to;
      found = this.messages.some((m) => m.seq === seq);
    });
    return found;
  }

  async quoted(seq: Seq): Promise<Message | undefined> {
    return this.messages.find((m) => m.seq === seq) ?? this.engine.store.message(this.roomId, seq);
  }

  // --- inside

  private async open(): Promise<void> {
    const room = this.room;
    const read = Math.max(room?.myReadSeq ?? 0, room?.myJoinedSeq ?? 0, room?.wantReadSeq ?? 0);
    // A first visit to a room has nothing that was read before.
    if (room && room.lastSeq > read && read > room.myJoinedSeq) this.readLine = read;
    const draft = await this.engine.store.drafts(this.roomId).catch(() => undefined);
    if (draft && this.draft === '') this.draft = draft;
    await this.move(() => this.showNewest());
    if (this.messages.length > 0) this.loading = false;
    try {
      await this.engine.openRoom(this.roomId);
    } catch {
      // Disconnected: what this device keeps is shown, the next sync brings the rest.
    }
    this.loading = false;
  }

  private async showNewest(): Promise<void> {
    const range = this.room?.range;
    if (range) {
      const unread = this.readLine === undefined ? 0 : range.to - this.readLine;
      const from = Math.max(range.from, range.to - Math.min(Math.max(pageSize, unread + 20), maxWindow) + 1);
      await this.display(await this.engine.store.messages(this.roomId, from, range.to));
    }
    this.atNewest = true;
    this.missed = 0;
  }

  private async display(messages: Message[]): Promise<void> {
    const first = messages[0];
    const last = messages[messages.length - 1];
    // A notice before the first message belongs to the part above, unless that is the beginning.
    const from = first ? (first.seq <= (this.room?.myJoinedSeq ?? 0) + 1 ? 0 : first.seq) : 0;
    const notices = await this.engine.store.notices(this.roomId, from, last && !this.endsRun(last.seq) ? last.seq - 1 : Number.MAX_SAFE_INTEGER);
    if (this.closed) return;
    this.messages = messages;
    this.notices = sortNotices(notices);
  }

  private endsRun(seq: Seq): boolean {
    return seq >= (this.room?.range?.to ?? seq);
  }

  /** Moves of the window happen one after the other. */
  private move(work: () => Promise<void>): Promise<void> {
    this.moving = this.moving.then(work).catch((error: unknown) => {
      if (!this.closed) console.error('moving the window failed', error);
    });
    return this.moving;
  }

  private apply(event: SyncEvent): void {
    if (!('roomId' in event) || event.roomId !== this.roomId || this.closed) return;
    if (event.type === 'messages') void this.move(() => this.arrived(event.messages, event.live));
    else if (event.type === 'notices') void this.move(async () => this.noticed(event.notices));
    else if (event.type === 'reset') void this.move(() => this.showNewest());
  }

  private async arrived(messages: Message[], live: boolean): Promise<void> {
    const end = this.messages[this.messages.length - 1]?.seq ?? 0;
    const fresh = messages.filter((m) => m.seq > end);
    const mine = this.engine.me;
    if (fresh.length === 0) return;
    const fromOthers = fresh.filter((m) => m.senderId !== mine);
    this.missed += fromOthers.length;
    if (live && fromOthers.length > 0) this.announced = fromOthers[fromOthers.length - 1];
    if (!this.atNewest) return;
    if (this.messages.length === 0 || fresh[0]!.seq === end + 1) {
      const next = [...this.messages, ...fresh];
      this.messages = next.length > maxWindow + pageSize ? next.slice(-maxWindow) : next;
      this.loading = false;
    } else {
      await this.showNewest();
    }
  }

  private noticed(notices: Notice[]): void {
    const first = this.messages[0]?.seq ?? 0;
    const known = new Set(this.notices.map(noticeId));
    const fresh = notices.filter((n) => n.afterSeq >= first - 1 && !known.has(noticeId(n)));
    if (fresh.length > 0 && this.atNewest) this.notices = sortNotices([...this.notices, ...fresh]);
  }
}

function noticeId(n: Notice): string {
  return `${n.afterSeq}/${n.at}/${n.kind}/${n.actorId}`;
}

function sortNotices(notices: Notice[]): Notice[] {
  return [...notices].sort((a, b) => a.afterSeq - b.afterSeq || a.at - b.at);
}
