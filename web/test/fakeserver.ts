// A server in memory that keeps to the protos: for tests of the client and for
// looking at it before the real one runs. It is no model of the real rules
// beyond what the client must cope with, and has faults on demand.
import { create, fromBinary, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import { NoticeSchema, Notice_Kind, MessageSchema, type Message, type Notice } from '../src/gen/bongsu/edge/v1/message_pb';
import { MemberSchema, RoomKind, RoomSchema, type Member, type Room } from '../src/gen/bongsu/edge/v1/room_pb';
import { ClientFrameSchema, EventSchema, ServerFrameSchema, type ClientFrame, type ServerFrame } from '../src/gen/bongsu/edge/v1/socket_pb';
import { UserSchema, type User } from '../src/gen/bongsu/edge/v1/people_pb';

export interface Refusal { code: string; reason?: string; field?: string; retryAfterSeconds?: number }

class Refused extends Error {
  constructor(readonly refusal: Refusal) {
    super(refusal.reason ?? refusal.code);
  }
}

interface Account { user: User; password: string; friends: string[]; blocked: string[]; devices: Map<string, string> }
interface RoomState { id: string; kind: RoomKind; title: string; members: Map<string, { read: number; joined: number }>; messages: Message[]; notices: Notice[]; version: number; activeAt: number }

export interface Wire { send(bytes: Uint8Array): void; close(): void }

type Body = Exclude<NonNullable<MessageInitShape<typeof ServerFrameSchema>['body']>, { case: undefined }>;

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';

export class FakeServer {
  readonly accounts = new Map<string, Account>();
  readonly rooms = new Map<string, RoomState>();
  readonly sessions = new Set<FakeSession>();
  /** client IDs of every send that arrived, in order, repeats included. */
  readonly arrivals: string[] = [];
  /** Asked before each request: a refusal to give, "drop" for no answer after doing it, "ignore" for neither. */
  fault: (method: string, frame: ClientFrame) => Refusal | 'drop' | 'ignore' | undefined = () => undefined;
  /** Positions presented in hello that are to be called lost. */
  lostShards = new Set<number>();
  index = 0;
  refreshes = 0;
  tokenLifeMs = 300_000;
  private counter = 0;

  constructor(private readonly now: () => number) {}

  time(): number {
    return this.now();
  }

  id(kind: 'u' | 'r' | 'd'): string {
    let n = ++this.counter;
    let tail = '';
    for (let i = 0; i < 20; i++) {
      tail = alphabet[n % 32] + tail;
      n = Math.floor(n / 32);
    }
    return kind + '003' + alphabet[kind === 'u' ? 2 : 4] + alphabet[this.counter % 32] + '0' + tail;
  }

  // --- the three calls over HTTP

  http(method: string, request: Record<string, string>): { status: number; body: unknown } {
    const login = (request.login ?? '').toLowerCase();
    const error = (status: number, code: string) => ({ status, body: { code, message: code } });
    if (method === 'SignUp') {
      if (this.byLogin(login)) return error(409, 'already_exists');
      const account = this.addAccount(login, request.displayName || login, request.password ?? '');
      return { status: 200, body: this.session(account, this.id('d'), request.deviceName) };
    }
    if (method === 'SignIn') {
      const account = this.byLogin(login);
      if (!account || account.password !== request.password) return error(401, 'unauthenticated');
      return { status: 200, body: this.session(account, this.id('d'), request.deviceName) };
    }
    this.refreshes++;
    const [userId, deviceId] = (request.refreshToken ?? '').split('/');
    const account = this.accounts.get(userId ?? '');
    if (!account?.devices.has(deviceId ?? '')) return error(401, 'unauthenticated');
    return { status: 200, body: this.session(account, deviceId) };
  }

  addAccount(login: string, displayName: string, password: string, bot = false): Account {
    const account: Account = { user: create(UserSchema, { userId: this.id('u'), login, displayName, bot }), password, friends: [], blocked: [], devices: new Map() };
    for (const other of this.accounts.values()) if (other.user.bot) account.friends.push(other.user.userId);
    this.accounts.set(account.user.userId, account);
    return account;
  }

  session(account: Account, deviceId = this.id('d'), name = account.devices.get(deviceId) ?? ''): Record<string, string> {
    account.devices.set(deviceId, name);
    const expiresAt = String(this.now() + this.tokenLifeMs);
    return { userId: account.user.userId, deviceId, accessToken: `${account.user.userId}/${deviceId}/${++this.counter}`, refreshToken: `${account.user.userId}/${deviceId}`, expiresAt };
  }

  byLogin(login: string): Account | undefined {
    return [...this.accounts.values()].find((a) => a.user.login === login);
  }

  // --- rooms

  room(kind: RoomKind, memberIds: string[], title = '', actor = memberIds[0]!): RoomState {
    const room: RoomState = { id: this.id('r'), kind, title, members: new Map(), messages: [], notices: [], version: 1, activeAt: this.now() };
    for (const id of memberIds) room.members.set(id, { read: 0, joined: 0 });
    this.rooms.set(room.id, room);
    if (kind === RoomKind.GROUP) this.note(room, Notice_Kind.CREATED, actor, memberIds, title);
    return room;
  }

  private note(room: RoomState, kind: Notice_Kind, actorId: string, subjectIds: string[], title = ''): Notice {
    const names = Object.fromEntries([actorId, ...subjectIds].map((id) => [id, this.accounts.get(id)?.user.displayName ?? '']));
    const notice = create(NoticeSchema, { afterSeq: BigInt(room.messages.length), at: BigInt(this.now()), kind, actorId, subjectIds, title, displayNames: names });
    room.notices.push(notice);
    return notice;
  }

  members(room: RoomState): Member[] {
    return [...room.members].map(([id, m]) => {
      const user = this.accounts.get(id)!.user;
      return create(MemberSchema, { userId: id, displayName: user.displayName, login: user.login, bot: user.bot, readSeq: BigInt(m.read), joinedSeq: BigInt(m.joined) });
    });
  }

  toRoom(room: RoomState, me: string, all = true): Room {
    const mine = room.members.get(me)!;
    const members = this.members(room);
    return create(RoomSchema, {
      roomId: room.id, kind: room.kind, title: room.title, members: all ? members : members.slice(0, 10), lastSeq: BigInt(room.messages.length),
      myReadSeq: BigInt(mine.read), unread: BigInt(room.messages.length - Math.max(mine.read, mine.joined)), lastMessage: room.messages[room.messages.length - 1],
      memberCount: room.members.size, version: BigInt(room.version), activeAt: BigInt(room.activeAt), myJoinedSeq: BigInt(mine.joined),
    });
  }

  /** Says something as someone, as if from another device. */
  say(room: RoomState, senderId: string, text: string, clientId = this.uuid(), replyTo = 0, at = this.now()): Message {
    const old = room.messages.find((m) => m.senderId === senderId && m.clientId === clientId);
    if (old) return old;
    const seq = room.messages.length + 1;
    const message = create(MessageSchema, { roomId: room.id, seq: BigInt(seq), senderId, clientId, text, sentAt: BigInt(at), unread: room.members.size - 1, replyTo: BigInt(replyTo) });
    room.messages.push(message);
    room.activeAt = at;
    const mine = room.members.get(senderId)!;
    if (Math.max(mine.read, mine.joined) === seq - 1) mine.read = seq;
    this.publish(room, { case: 'message', value: { message, position: this.position() } });
    return message;
  }

  read(room: RoomState, userId: string, seq: number): void {
    const member = room.members.get(userId)!;
    if (seq <= member.read) return;
    const from = member.read;
    member.read = seq;
    this.publish(room, { case: 'read', value: { roomId: room.id, changes: [{ userId, fromSeq: BigInt(from), toSeq: BigInt(seq) }] } });
  }

  uuid(): string {
    return `00000000-0000-7000-8000-${String(++this.counter).padStart(12, '0')}`;
  }

  position() {
    return { shard: 3, term: 1n, index: BigInt(++this.index) };
  }

  publish(room: RoomState, event: MessageInitShape<typeof EventSchema>['event'], extra: string[] = []): void {
    for (const session of this.sessions) if (session.userId && (room.members.has(session.userId) || extra.includes(session.userId))) session.event(event);
  }

  connect(wire: Wire): FakeSession {
    const session = new FakeSession(this, wire);
    this.sessions.add(session);
    return session;
  }

  /** Cuts every connection, as a killed server would. */
  cut(): void {
    for (const session of [...this.sessions]) session.close();
  }

  // --- requests

  answer(me: string, frame: ClientFrame, session: FakeSession): Body {
    const { case: method, value: q } = frame.request;
    const refuse = (code: string, reason = code): never => {
      throw new Refused({ code, reason });
    };
    const roomOf = (id: string): RoomState => {
      const room = this.rooms.get(id) ?? refuse('not_found', 'room_unknown');
      if (!room.members.has(me)) refuse('permission_denied', 'not_a_member');
      return room;
    };
    const account = this.accounts.get(me)!;
    switch (method) {
      case 'ping': return { case: 'ping', value: { serverTime: BigInt(this.now()) } };
      case 'send': {
        this.arrivals.push(q.clientId);
        const room = roomOf(q.roomId);
        if (room.kind === RoomKind.DIRECT) for (const id of room.members.keys()) if (this.accounts.get(id)!.blocked.includes(me)) refuse('permission_denied', 'blocked');
        const message = this.say(room, me, q.text, q.clientId, Number(q.replyTo));
        const bot = [...room.members.keys()].map((id) => this.accounts.get(id)!).find((a) => a.user.bot);
        if (bot && room.kind === RoomKind.DIRECT) {
          this.read(room, bot.user.userId, Number(message.seq));
          this.say(room, bot.user.userId, q.text);
        }
        return { case: 'send', value: { message, position: this.position() } };
      }
      case 'list': {
        const room = roomOf(q.roomId);
        const joined = room.members.get(me)!.joined;
        const limit = q.limit || 50;
        let messages = room.messages.filter((m) => Number(m.seq) > joined);
        let hasMore: boolean;
        if (q.afterSeq !== undefined) {
          messages = messages.filter((m) => m.seq > q.afterSeq!);
          hasMore = messages.length > limit;
          messages = messages.slice(0, limit);
        } else {
          if (q.beforeSeq > 0n) messages = messages.filter((m) => m.seq < q.beforeSeq);
          hasMore = messages.length > limit;
          messages = messages.slice(-limit);
        }
        const from = messages[0] ? messages[0].seq : (q.afterSeq ?? 0n) + 1n;
        const to = messages.length ? messages[messages.length - 1]!.seq : BigInt(room.messages.length);
        const notices = room.notices.filter((n) => (n.afterSeq >= from || from === 1n) && n.afterSeq <= to);
        return { case: 'list', value: { messages, hasMore, notices, lastSeq: BigInt(room.messages.length) } };
      }
      case 'markRead': {
        const room = roomOf(q.roomId);
        if (Number(q.seq) > room.messages.length) refuse('invalid_argument', 'seq_too_high');
        this.read(room, me, Number(q.seq));
        return { case: 'markRead', value: {} };
      }
      case 'typing': {
        const room = roomOf(q.roomId);
        this.publish(room, { case: 'typing', value: { roomId: room.id, userId: me } });
        return { case: 'typing', value: {} };
      }
      case 'openDirect': {
        const pair = [...new Set([me, q.userId])];
        if (!this.accounts.has(q.userId)) refuse('not_found', 'user_unknown');
        let room = [...this.rooms.values()].find((r) => r.kind === RoomKind.DIRECT && r.members.size === pair.length && pair.every((id) => r.members.has(id)));
        if (!room) {
          room = this.room(RoomKind.DIRECT, pair);
          const other = this.accounts.get(q.userId)!;
          if (other.user.bot) this.say(room, q.userId, '안녕하세요! 무엇이든 말해 보세요.');
        }
        return { case: 'openDirect', value: { room: this.toRoom(room, me), position: this.position() } };
      }
      case 'createGroup': {
        const room = this.room(RoomKind.GROUP, [me, ...q.userIds], q.title, me);
        this.roomEvent(room, room.notices[0]!, this.members(room), []);
        return { case: 'createGroup', value: { room: this.toRoom(room, me), position: this.position() } };
      }
      case 'getRoom': return { case: 'getRoom', value: { room: this.toRoom(roomOf(q.roomId), me) } };
      case 'listRooms': {
        const rooms = [...this.rooms.values()].filter((r) => r.members.has(me)).sort((a, b) => b.activeAt - a.activeAt);
        return { case: 'listRooms', value: { rooms: rooms.map((r) => this.toRoom(r, me, false)) } };
      }
      case 'invite': {
        const room = roomOf(q.roomId);
        const fresh = q.userIds.filter((id) => !room.members.has(id));
        for (const id of fresh) room.members.set(id, { read: 0, joined: room.messages.length });
        room.version++;
        this.roomEvent(room, this.note(room, Notice_Kind.INVITED, me, fresh), this.members(room).filter((m) => fresh.includes(m.userId)), []);
        return { case: 'invite', value: { room: this.toRoom(room, me), position: this.position() } };
      }
      case 'leave': {
        const room = roomOf(q.roomId);
        room.members.delete(me);
        room.version++;
        this.roomEvent(room, this.note(room, Notice_Kind.LEFT, me, [me]), [], [me]);
        return { case: 'leave', value: {} };
      }
      case 'setTitle': {
        const room = roomOf(q.roomId);
        room.title = q.title;
        room.version++;
        this.roomEvent(room, this.note(room, Notice_Kind.TITLE, me, [], q.title), [], []);
        return { case: 'setTitle', value: { room: this.toRoom(room, me), position: this.position() } };
      }
      case 'find': return { case: 'find', value: { user: (this.byLogin(q.login) ?? refuse('not_found', 'user_unknown')).user } };
      case 'addFriend': {
        if (!account.friends.includes(q.userId)) account.friends.push(q.userId);
        return { case: 'addFriend', value: { user: this.accounts.get(q.userId)!.user } };
      }
      case 'removeFriend': account.friends = account.friends.filter((id) => id !== q.userId); return { case: 'removeFriend', value: {} };
      case 'listFriends': {
        const users = (ids: string[]) => ids.map((id) => this.accounts.get(id)!.user);
        return { case: 'listFriends', value: { friends: users(account.friends), blocked: users(account.blocked) } };
      }
      case 'block': account.blocked.push(q.userId); return { case: 'block', value: {} };
      case 'unblock': account.blocked = account.blocked.filter((id) => id !== q.userId); return { case: 'unblock', value: {} };
      case 'listDevices': return { case: 'listDevices', value: { devices: [...account.devices].map(([deviceId, name]) => ({ deviceId, name, createdAt: BigInt(this.now()), lastSeenAt: BigInt(this.now()), current: deviceId === session.deviceId })) } };
      case 'revokeDevice': {
        const gone = q.all ? [...account.devices.keys()] : [q.deviceId];
        for (const id of gone) account.devices.delete(id);
        for (const s of [...this.sessions]) if (gone.includes(s.deviceId)) queueMicrotask(() => s.close());
        return { case: 'revokeDevice', value: {} };
      }
      case 'getMe': return { case: 'getMe', value: { user: account.user } };
      default: return refuse('unimplemented');
    }
  }

  private roomEvent(room: RoomState, notice: Notice, joined: Member[], left: string[]): void {
    this.publish(room, { case: 'room', value: { roomId: room.id, kind: room.kind, title: room.title, version: BigInt(room.version), lastSeq: BigInt(room.messages.length), notice, joined, leftUserIds: left, memberCount: room.members.size } }, left);
  }
}

export class FakeSession {
  userId = '';
  deviceId = '';

  constructor(private readonly server: FakeServer, private readonly wire: Wire) {}

  receive(bytes: Uint8Array): void {
    const frame = fromBinary(ClientFrameSchema, bytes);
    const method = frame.request.case ?? '';
    const fault = this.server.fault(method, frame);
    if (fault === 'ignore') return;
    if (fault && fault !== 'drop') return this.refuse(frame.id, fault);
    try {
      const body = frame.request.case === 'hello' ? this.hello(frame.request.value) : this.userId ? this.server.answer(this.userId, frame, this) : undefined;
      if (!body) return this.refuse(frame.id, { code: 'unauthenticated' });
      if (fault !== 'drop') this.frame({ id: frame.id, body });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.refuse(frame.id, error.refusal);
    }
  }

  private hello(q: Extract<ClientFrame['request'], { case: 'hello' }>['value']): Body | undefined {
    const [userId, deviceId] = q.accessToken.split('/');
    if (!this.server.accounts.get(userId ?? '')?.devices.has(deviceId ?? '')) return undefined;
    this.userId = userId!;
    this.deviceId = deviceId!;
    const lost = q.positions.filter((p) => this.server.lostShards.has(p.shard));
    return { case: 'hello', value: { userId, deviceId, serverTime: BigInt(this.server.time()), heartbeatSeconds: 30, lost, serverVersion: '', shardCount: 16 } };
  }

  event(event: MessageInitShape<typeof EventSchema>['event']): void {
    this.frame({ id: 0, body: { case: 'event', value: { event } } });
  }

  close(): void {
    this.server.sessions.delete(this);
    this.wire.close();
  }

  private refuse(id: number, r: Refusal): void {
    this.frame({ id, body: { case: 'error', value: { code: r.code, message: r.code, info: { reason: r.reason ?? '', field: r.field ?? '', retryAfterSeconds: r.retryAfterSeconds ?? 0 } } } });
  }

  private frame(frame: MessageInitShape<typeof ServerFrameSchema>): void {
    this.wire.send(toBinary(ServerFrameSchema, create(ServerFrameSchema, frame) as ServerFrame));
  }
}
