// A world for tests: its own clock and randomness, tabs that share a browser,
// and a server in memory. Real time passes only for IndexedDB's own turns.
import 'fake-indexeddb/auto';
import { IDBFactory } from 'fake-indexeddb';
import type { Session } from '../src/domain/types';
import type { Channel, Platform, SocketLike } from '../src/platform/platform';
import { SessionStore } from '../src/store/session';
import { Store } from '../src/store/store';
import { Auth } from '../src/sync/auth';
import { Connection } from '../src/sync/connection';
import { Engine, type SyncEvent } from '../src/sync/engine';
import { Rpc } from '../src/wire/rpc';
import { FakeServer } from './fakeserver';

/** The seed of this run; BONGSU_SEED replays one. */
export const seed = Number(process.env.BONGSU_SEED ?? Math.floor(Math.random() * 2 ** 31));

export function seeded(start: number): () => number {
  let a = start >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

interface Timer { at: number; run: () => void; order: number }

export class World {
  clock = 1_700_000_000_000;
  readonly server = new FakeServer(() => this.clock);
  serverUp = true;
  visible = true;
  httpFault: (method: string) => 'down' | 'lost' | undefined = () => undefined;
  readonly random = seeded(seed);
  private timers: Timer[] = [];
  private order = 0;
  private readonly locks = new Map<string, Promise<unknown>>();
  private readonly channels = new Map<string, Set<(m: unknown) => void>>();

  constructor() {
    globalThis.indexedDB = new IDBFactory();
  }

  /** Lets everything that needs no time happen; a long chain of store writes takes more turns. */
  async settle(turns = 100): Promise<void> {
    for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  async advance(ms: number): Promise<void> {
    const end = this.clock + ms;
    await this.settle();
    for (;;) {
      const next = this.timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at || a.order - b.order)[0];
      if (!next) break;
      this.timers = this.timers.filter((t) => t !== next);
      this.clock = Math.max(this.clock, next.at);
      next.run();
      await this.settle();
    }
    this.clock = end;
  }

  /** Cuts everyone off; the server does not answer until up(). */
  down(): void {
    this.serverUp = false;
    this.server.cut();
  }

  up(): void {
    this.serverUp = true;
  }

  tab(): Platform {
    return {
      now: () => this.clock,
      random: this.random,
      randomBytes: (n) => Uint8Array.from({ length: n }, () => Math.floor(this.random() * 256)),
      setTimer: (run, ms) => {
        const timer = { at: this.clock + Math.ceil(ms), run, order: this.order++ };
        this.timers.push(timer);
        return () => (this.timers = this.timers.filter((t) => t !== timer));
      },
      fetch: async (path, init) => {
        const method = path.split('/').pop()!;
        const fault = this.httpFault(method);
        if (!this.serverUp || fault === 'down') throw new TypeError('network');
        const answer = this.server.http(method, JSON.parse(init.body) as Record<string, string>);
        if (fault === 'lost') throw new TypeError('network');
        return new Response(JSON.stringify(answer.body), { status: answer.status });
      },
      connect: () => this.socket(),
      exclusive: (name, work, signal) => this.exclusive(name, work, signal),
      channel: (name) => this.channel(name),
      visible: () => this.visible,
      online: () => true,
      onChange: () => () => {},
      persist: async () => true,
      deviceName: () => 'Test',
    };
  }

  private socket(): SocketLike {
    const socket: SocketLike = { binaryType: '', readyState: 0, onopen: null, onmessage: null, onclose: null, onerror: null, send: () => {}, close: () => {} };
    let closed = false;
    const close = () => {
      if (closed) return;
      closed = true;
      queueMicrotask(() => socket.onclose?.({}));
    };
    if (!this.serverUp) {
      queueMicrotask(close);
      return socket;
    }
    const session = this.server.connect({
      send: (bytes) => queueMicrotask(() => !closed && socket.onmessage?.({ data: bytes.slice().buffer })),
      close,
    });
    socket.send = (data) => queueMicrotask(() => !closed && session.receive(data));
    socket.close = () => {
      this.server.sessions.delete(session);
      close();
    };
    queueMicrotask(() => socket.onopen?.({}));
    return socket;
  }

  private exclusive<T>(name: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.locks.get(name) ?? Promise.resolve();
    const mine = before.then(() => {
      if (signal?.aborted) throw new Error('aborted');
      return work();
    });
    this.locks.set(name, mine.catch(() => {}));
    return mine;
  }

  private channel(name: string): Channel {
    const all = this.channels.get(name) ?? new Set();
    this.channels.set(name, all);
    let mine: ((m: unknown) => void) | undefined;
    return {
      post: (message) => all.forEach((listener) => listener !== mine && queueMicrotask(() => listener(message))),
      listen: (handler) => all.add((mine = handler)),
      close: () => mine && all.delete(mine),
    };
  }
}

/** One tab of a signed-in person. */
export class Client {
  readonly heard: SyncEvent[] = [];

  private constructor(readonly world: World, readonly engine: Engine, readonly session: Session, readonly auth: Auth) {
    engine.events.on((event) => this.heard.push(event));
  }

  static async open(world: World, login: string, password = 'password'): Promise<Client> {
    const platform = world.tab();
    const rpc = new Rpc(platform);
    const sessions = await SessionStore.open('bongsu-session-of-' + login);
    let session = await sessions.get();
    if (!session) {
      session = world.server.byLogin(login) ? await rpc.signIn(login, password) : await rpc.signUp(login, password, login);
      await sessions.put(session);
    }
    const auth = new Auth(platform, rpc, sessions, session);
    const engine = new Engine(platform, await Store.open(session.userId), new Connection(platform, auth), session.userId);
    await engine.load();
    const client = new Client(world, engine, session, auth);
    engine.start();
    await world.settle();
    return client;
  }

  get id(): string {
    return this.session.userId;
  }

  /** Texts of the cached run of a room, in order. */
  async texts(roomId: string): Promise<string[]> {
    const range = this.engine.rooms.get(roomId)?.range;
    return range ? (await this.engine.store.messages(roomId, range.from, range.to)).map((m) => m.text) : [];
  }

  async pending(): Promise<string[]> {
    return (await this.engine.store.outbox()).filter((i) => i.state === 'pending').map((i) => i.text);
  }
}
