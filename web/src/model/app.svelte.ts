// The whole client: who is signed in, and how one gets in and out.
import type { OutboxItem, Session } from '../domain/types';
import type { Channel, Platform } from '../platform/platform';
import { SessionStore } from '../store/session';
import { Store } from '../store/store';
import { Auth } from '../sync/auth';
import { Connection } from '../sync/connection';
import { Engine } from '../sync/engine';
import { WireError, asWireError } from '../wire/errors';
import { Rpc } from '../wire/rpc';
import { Account } from './account.svelte';
import type { Prefs } from './prefs.svelte';
import type { Router } from './router.svelte';

export type Phase = 'starting' | 'entry' | 'expired' | 'ready' | 'noStorage';

export class App {
  phase = $state<Phase>('starting');
  account = $state.raw<Account>();
  /** Words that an ended session left on this device. */
  leftUnsent = $state.raw<OutboxItem[]>([]);
  private sessions?: SessionStore;
  private ended?: Session;
  private readonly rpc: Rpc;
  private readonly others: Channel;

  constructor(private readonly platform: Platform, readonly prefs: Prefs, readonly router: Router) {
    this.rpc = new Rpc(platform);
    this.others = platform.channel('bongsu-session');
    this.others.listen((message) => {
      if (message === 'signed out' && this.account) this.forget();
    });
  }

  async start(): Promise<void> {
    try {
      this.sessions = await SessionStore.open();
      const session = await this.sessions.get();
      if (session) await this.enter(session);
      else this.phase = 'entry';
    } catch (error) {
      console.error('this browser keeps nothing for us', error);
      this.phase = 'noStorage';
    }
  }

  async signIn(login: string, password: string): Promise<void> {
    await this.begin(await this.rpc.signIn(login, password), false);
  }

  /**
   * Signs up. When no answer came the account may exist already, so the same
   * words are tried as a sign-in before the sign-up is tried once more.
   */
  async signUp(login: string, password: string, displayName: string): Promise<void> {
    let unknown = false;
    for (let attempt = 0; ; attempt++) {
      try {
        await this.begin(await this.rpc.signUp(login, password, displayName), true);
        return;
      } catch (error) {
        const code = asWireError(error).code;
        unknown ||= code === 'unknown' || code === 'deadline_exceeded';
        if (!unknown) throw error;
        const session = await this.rpc.signIn(login, password).catch((second: unknown) => {
          // Not there (yet): only then is signing up again right.
          if (asWireError(second).code === 'unauthenticated') return undefined;
          throw second;
        });
        if (session) {
          await this.begin(session, true);
          return;
        }
        if (attempt > 0) throw error instanceof WireError ? error : asWireError(error);
      }
    }
  }

  /** Signs out here: tells the server if it can be reached, and removes this device's copy. */
  async signOut(everywhere: boolean): Promise<void> {
    const account = this.account;
    if (!account) return;
    const session = await this.sessions?.get();
    if (everywhere) await account.engine.revokeAll();
    else if (session) await account.engine.revokeDevice(session.deviceId).catch(() => {});
    await this.sessions?.clear();
    this.others.post('signed out');
    this.forget();
    await Store.delete(account.myId);
  }

  private forget(): void {
    this.leave();
    this.phase = 'entry';
  }

  /** After the server ended the session: erases what this device kept. */
  async wipe(): Promise<void> {
    if (this.ended) await Store.delete(this.ended.userId);
    this.ended = undefined;
    this.leftUnsent = [];
    this.phase = 'entry';
  }

  get endedLogin(): string {
    return this.ended?.login ?? '';
  }

  private async begin(session: Session, fresh: boolean): Promise<void> {
    await this.sessions?.put(session);
    if (fresh) {
      const store = await Store.open(session.userId);
      await store.setMeta('welcome', true);
      store.close();
    }
    await this.enter(session);
  }

  private async enter(session: Session): Promise<void> {
    if (!this.sessions) return;
    const store = await Store.open(session.userId);
    const auth = new Auth(this.platform, this.rpc, this.sessions, session);
    const engine = new Engine(this.platform, store, new Connection(this.platform, auth), session.userId);
    await engine.load();
    auth.onSignedOut = () => void this.expire(session, engine);
    this.account = new Account(this.platform, engine, this.prefs, this.router, session.login);
    await this.account.loadProfile().catch(() => {});
    engine.start();
    this.ended = undefined;
    this.leftUnsent = [];
    this.phase = 'ready';
    void this.platform.persist().catch(() => false);
  }

  private async expire(session: Session, engine: Engine): Promise<void> {
    this.ended = session;
    this.leftUnsent = engine.outboxItems;
    await this.sessions?.clear();
    this.leave();
    this.phase = 'expired';
  }

  private leave(): void {
    this.account?.stop();
    this.account = undefined;
    this.router.go({ tab: 'chats' });
  }
}
