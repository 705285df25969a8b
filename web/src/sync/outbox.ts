// Sends what was written, exactly once each: in order within a room, under the
// client ID it was stored with, until the server acknowledges or refuses it.
//
// Of all tabs of an account only the one that holds the lock sends. The others
// write to the shared store and poke; should two ever send, the client ID makes
// the second a repetition that changes nothing.
import type { Message, OutboxItem, Position, RoomId, UserId } from '../domain/types';
import { Class } from '../gen/bongsu/edge/v1/socket_pb';
import type { Platform } from '../platform/platform';
import { toMessage, toPosition } from '../wire/convert';
import { asWireError, unknownOutcome } from '../wire/errors';
import { RetryBudget, retryDelay } from './backoff';
import type { Connection } from './connection';

const backoff = { baseMs: 800, capMs: 30_000 };
const sendTimeoutMs = 10_000;
const maxLanes = 4;

interface Lane {
  busy: boolean;
  attempt: number;
  /** Stops the timer that wakes the lane; undefined when it may send at once. */
  waiting?: () => void;
}

export interface OutboxStore {
  outbox(): Promise<OutboxItem[]>;
  setOutboxState(order: number, state: OutboxItem['state'], reason?: string): Promise<void>;
}

export class Outbox {
  /** An acknowledged message, to be persisted before anything else is sent to its room. */
  onAcknowledged: (message: Message, position: Position | undefined) => Promise<void> = async () => {};
  onChanged: () => void = () => {};

  private readonly lanes = new Map<RoomId, Lane>();
  private readonly budget = new RetryBudget();
  private leading = false;
  private pumping = false;
  private again = false;
  private readonly abort = new AbortController();
  private release: () => void = () => {};

  constructor(
    private readonly platform: Platform,
    private readonly store: OutboxStore,
    private readonly connection: Pick<Connection, 'call' | 'online'>,
    private readonly userId: UserId,
  ) {}

  /** Waits, for as long as it takes, to be the tab that sends. */
  start(): void {
    const lead = () =>
      new Promise<void>((resolve) => {
        this.release = resolve;
        this.leading = true;
        this.pump();
      });
    this.platform.exclusive('bongsu-outbox-' + this.userId, lead, this.abort.signal).catch(() => {});
  }

  stop(): void {
    this.leading = false;
    this.abort.abort();
    for (const lane of this.lanes.values()) lane.waiting?.();
    this.release();
  }

  /** The connection is back: words that waited for their turn may go. */
  reconnected(): void {
    for (const lane of this.lanes.values()) {
      lane.waiting?.();
      lane.waiting = undefined;
      lane.attempt = 0;
    }
    this.pump();
  }

  /** Something may be ready to go. Cheap; may be called at any time. */
  pump(): void {
    if (!this.leading) return;
    if (this.pumping) {
      this.again = true;
      return;
    }
    this.pumping = true;
    void this.pumpOnce().finally(() => {
      this.pumping = false;
      if (this.again) {
        this.again = false;
        this.pump();
      }
    });
  }

  private async pumpOnce(): Promise<void> {
    if (!this.connection.online) return;
    const heads = new Map<RoomId, OutboxItem>();
    for (const item of await this.store.outbox()) {
      if (item.state === 'pending' && !heads.has(item.roomId)) heads.set(item.roomId, item);
    }
    let busy = [...this.lanes.values()].filter((lane) => lane.busy).length;
    for (const [roomId, item] of heads) {
      if (busy >= maxLanes) return;
      let lane = this.lanes.get(roomId);
      if (!lane) this.lanes.set(roomId, (lane = { busy: false, attempt: 0 }));
      if (lane.busy || lane.waiting) continue;
      lane.busy = true;
      busy++;
      void this.send(item, lane);
    }
  }

  private async send(item: OutboxItem, lane: Lane): Promise<void> {
    try {
      const answer = await this.connection.call(
        'send',
        { roomId: item.roomId, clientId: item.clientId, text: item.text, replyTo: BigInt(item.replyTo) },
        { timeoutMs: sendTimeoutMs, class: Class.SEND },
      );
      if (!answer.message) throw unknownOutcome('acknowledged without a message');
      await this.onAcknowledged(toMessage(answer.message), toPosition(answer.position));
      lane.attempt = 0;
      this.budget.success();
    } catch (error) {
      await this.failed(item, lane, error);
    }
    lane.busy = false;
    this.onChanged();
    this.pump();
  }

  private async failed(item: OutboxItem, lane: Lane, error: unknown): Promise<void> {
    const wire = asWireError(error);
    // A session that ended is not the word's fault: it waits for the next sign-in.
    if (wire.definite && wire.code !== 'unauthenticated') {
      await this.store.setOutboxState(item.order, 'failed', wire.reason || wire.code).catch(() => {});
      return;
    }
    const paced = this.budget.take();
    const attempt = paced ? lane.attempt++ : 30;
    const delay = retryDelay(attempt, backoff, wire.retryAfterSeconds, this.platform.random);
    lane.waiting = this.platform.setTimer(() => {
      lane.waiting = undefined;
      this.pump();
    }, delay);
  }
}
