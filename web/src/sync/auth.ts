// The session's tokens: refreshed ahead of need, once for all tabs, and never
// given up because of an outage (invariant 11): only a definite
// "unauthenticated" from Refresh itself ends a session.
import type { Session } from '../domain/types';
import type { Platform } from '../platform/platform';
import type { SessionStore } from '../store/session';
import { asWireError } from '../wire/errors';
import type { Rpc } from '../wire/rpc';

/** Refreshed this long before it ends. */
const aheadMs = 60_000;

export class SignedOutError extends Error {}

export class Auth {
  /** Set when the server ended the session; the words on this device stay. */
  onSignedOut: () => void = () => {};
  /** Server's clock minus ours, ms: a wrong clock here must not make every token look stale. */
  private skewMs = 0;
  private ended = false;
  private running?: Promise<Session>;

  constructor(private readonly platform: Platform, private readonly rpc: Rpc, private readonly store: SessionStore, private session: Session) {}

  noteServerTime(serverMs: number): void {
    if (serverMs > 0) this.skewMs = serverMs - this.platform.now();
  }

  private lifeLeft(session: Session): number {
    return session.expiresAt - (this.platform.now() + this.skewMs);
  }

  /** An access token with life left, or the old one when no new one can be had now. */
  async token(): Promise<string> {
    if (this.lifeLeft(this.session) > aheadMs) return this.session.accessToken;
    try {
      return (await this.refresh()).accessToken;
    } catch (error) {
      if (error instanceof SignedOutError) throw error;
      // The server honours known devices for a while when it cannot refresh them.
      return this.session.accessToken;
    }
  }

  /** A token other than the one that was refused. */
  async renew(refused: string): Promise<string> {
    if (this.session.accessToken !== refused) return this.session.accessToken;
    return (await this.refresh(refused)).accessToken;
  }

  private refresh(refused?: string): Promise<Session> {
    this.running ??= this.platform
      .exclusive('bongsu-refresh', () => this.refreshAlone(refused))
      .finally(() => (this.running = undefined));
    return this.running;
  }

  private async refreshAlone(refused?: string): Promise<Session> {
    if (this.ended) throw new SignedOutError('signed out');
    const stored = await this.store.get();
    if (stored && stored.userId === this.session.userId) {
      const fresh = stored.accessToken !== refused && this.lifeLeft(stored) > aheadMs;
      this.session = stored;
      // Another tab was first.
      if (fresh) return stored;
    }
    try {
      const session = await this.rpc.refresh(this.session.refreshToken, this.session.login);
      // Stored before it is used: a refresh token that is lost could not be used again.
      await this.store.put(session);
      this.session = session;
      return session;
    } catch (error) {
      if (asWireError(error).code !== 'unauthenticated') throw error;
      this.ended = true;
      this.onSignedOut();
      throw new SignedOutError('signed out');
    }
  }
}
