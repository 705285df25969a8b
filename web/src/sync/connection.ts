// Keeps one socket to the server alive: hello, heartbeat, reconnecting.
import type { Position } from '../domain/types';
import type { Event, HelloResponse } from '../gen/bongsu/edge/v1/socket_pb';
import type { Platform } from '../platform/platform';
import { fromPosition } from '../wire/convert';
import { asWireError, unknownOutcome } from '../wire/errors';
import { Socket, type CallOptions, type Method, type RequestOf, type ResponseOf } from '../wire/socket';
import { SignedOutError, type Auth } from './auth';
import { retryDelay } from './backoff';

const backoff = { baseMs: 500, capMs: 20_000 };
const helloTimeoutMs = 10_000;
const pingTimeoutMs = 5_000;

export interface Status {
  phase: 'connecting' | 'online' | 'offline';
  /** When the connection was lost (ms since the epoch); 0 while online. */
  since: number;
}

export class Connection {
  onStatus: (status: Status) => void = () => {};
  onHello: (hello: HelloResponse) => void = () => {};
  onEvent: (event: Event) => void = () => {};
  positions: () => Promise<Position[]> = async () => [];

  status: Status;
  private socket?: Socket;
  private ready = false;
  private running = false;
  private attempt = 0;
  private attempting = false;
  private stopTimer: () => void = () => {};
  private stopHeartbeat: () => void = () => {};
  private stopListening: () => void = () => {};

  constructor(private readonly platform: Platform, private readonly auth: Auth) {
    this.status = { phase: 'connecting', since: platform.now() };
  }

  start(): void {
    if (this.running) return;
    this.running = true;
    this.stopListening = this.platform.onChange(() => this.nudge());
    void this.connect();
  }

  stop(): void {
    this.running = false;
    this.stopTimer();
    this.stopListening();
    this.drop();
  }

  get online(): boolean {
    return this.ready;
  }

  call<M extends Method>(method: M, request: RequestOf<M>, options?: CallOptions): Promise<ResponseOf<M>> {
    if (!this.socket || !this.ready) return Promise.reject(unknownOutcome('not connected'));
    return this.socket.call(method, request, options);
  }

  /** The person came back or the network did: do not wait for a timer. */
  private nudge(): void {
    if (!this.running) return;
    if (!this.ready) {
      if (this.platform.online() && !this.attempting) {
        this.stopTimer();
        void this.connect();
      }
      return;
    }
    // The browser knows of no network: waiting for a timeout would only hide it.
    if (!this.platform.online()) this.socket?.close();
    else if (this.platform.visible()) void this.ping(pingTimeoutMs);
  }

  private async connect(): Promise<void> {
    if (this.attempting || !this.running) return;
    this.attempting = true;
    let retryAfter = 0;
    try {
      await this.hello();
      this.attempt = 0;
    } catch (error) {
      this.drop();
      if (error instanceof SignedOutError) this.running = false;
      retryAfter = asWireError(error).retryAfterSeconds;
    } finally {
      this.attempting = false;
    }
    if (!this.ready && this.running) this.later(retryDelay(this.attempt++, backoff, retryAfter, this.platform.random));
  }

  private async hello(): Promise<void> {
    let token = await this.auth.token();
    for (let renewed = false; ; renewed = true) {
      const socket = (this.socket = new Socket(this.platform));
      // Events may follow the answer in the same breath: listen before asking.
      const early: Event[] = [];
      socket.onEvent = (event) => early.push(event);
      socket.onClose = () => this.closed(socket);
      try {
        const positions = (await this.positions()).map(fromPosition);
        const hello = await this.withTimeout(socket, socket.call('hello', { accessToken: token, positions }, { timeoutMs: helloTimeoutMs }));
        this.auth.noteServerTime(Number(hello.serverTime));
        this.ready = true;
        this.setStatus({ phase: 'online', since: 0 });
        this.onHello(hello);
        socket.onEvent = (event) => this.receive(event);
        early.forEach((event) => this.receive(event));
        this.beat(hello.heartbeatSeconds || 30);
        return;
      } catch (error) {
        this.drop();
        if (renewed || asWireError(error).code !== 'unauthenticated') throw error;
        token = await this.auth.renew(token);
      }
    }
  }

  /** A socket that never opens would wait for the browser's own timeout, minutes long. */
  private withTimeout<T>(socket: Socket, work: Promise<T>): Promise<T> {
    const stop = this.platform.setTimer(() => socket.close(), helloTimeoutMs);
    return work.finally(stop);
  }

  private receive(event: Event): void {
    if (event.event.case === 'drain') {
      const socket = this.socket;
      this.platform.setTimer(() => socket === this.socket && socket?.close(), this.platform.random() * event.event.value.withinMs);
      return;
    }
    this.onEvent(event);
  }

  private closed(socket: Socket): void {
    if (socket !== this.socket) return;
    const wasReady = this.ready;
    this.drop();
    if (wasReady && this.running) this.later(retryDelay(this.attempt++, backoff, 0, this.platform.random));
  }

  private drop(): void {
    const socket = this.socket;
    this.socket = undefined;
    this.ready = false;
    this.stopHeartbeat();
    socket?.close();
    if (this.status.phase === 'online') this.setStatus({ phase: 'offline', since: this.platform.now() });
    else if (this.status.phase === 'connecting') this.setStatus({ phase: 'offline', since: this.status.since });
  }

  private later(ms: number): void {
    this.stopTimer();
    this.stopTimer = this.platform.setTimer(() => void this.connect(), ms);
  }

  private beat(seconds: number): void {
    const everyMs = seconds * 800;
    const tick = () => {
      const socket = this.socket;
      if (!socket) return;
      void this.ping(pingTimeoutMs);
      // A fresh token at hand makes reconnecting independent of sign-in; only those who look pay for it.
      if (this.platform.visible()) void this.auth.token().catch(() => {});
      this.stopHeartbeat = this.platform.setTimer(tick, everyMs);
    };
    this.stopHeartbeat();
    this.stopHeartbeat = this.platform.setTimer(tick, everyMs);
  }

  private async ping(timeoutMs: number): Promise<void> {
    const socket = this.socket;
    if (!socket) return;
    const asked = this.platform.now();
    try {
      await socket.call('ping', {}, { timeoutMs });
    } catch {
      // Busy is not dead: anything heard since we asked proves the line.
      if (socket === this.socket && socket.heardAt < asked) socket.close();
    }
  }

  private setStatus(status: Status): void {
    this.status = status;
    this.onStatus(status);
  }
}
