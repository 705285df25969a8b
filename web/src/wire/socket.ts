// One WebSocket: requests with answers, and events. It knows frames and
// nothing of what they mean; it never reconnects (sync/connection does).
import { create, fromBinary, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import { ClientFrameSchema, ServerFrameSchema, type Class, type Event, type ServerFrame } from '../gen/bongsu/edge/v1/socket_pb';
import type { Platform, SocketLike } from '../platform/platform';
import { WireError, unknownOutcome } from './errors';

export const path = '/v1/socket';
export const protocol = 'bongsu.v1';
const maxPending = 256;

type RequestInit = Exclude<NonNullable<MessageInitShape<typeof ClientFrameSchema>['request']>, { case: undefined }>;
export type Method = NonNullable<RequestInit['case']>;
export type RequestOf<M extends Method> = Extract<RequestInit, { case: M }>['value'];
type Body = ServerFrame['body'];
export type ResponseOf<M extends Method> = Extract<Body, { case: M }> extends { value: infer V } ? V : never;

export interface CallOptions { timeoutMs?: number; class?: Class }

interface Pending {
  method: Method;
  resolve(value: never): void;
  reject(error: WireError): void;
  stop(): void;
}

export class Socket {
  onEvent: (event: Event) => void = () => {};
  onClose: () => void = () => {};
  /** When the last frame came, ms since the epoch. */
  heardAt: number;

  private readonly socket: SocketLike;
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private open = false;
  private closed = false;
  private readonly opened: Promise<void>;

  constructor(private readonly platform: Platform) {
    this.heardAt = platform.now();
    this.socket = platform.connect(path, protocol);
    this.socket.binaryType = 'arraybuffer';
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.open = true;
        resolve();
      };
      this.socket.onclose = () => {
        reject(unknownOutcome('the connection closed'));
        this.finish();
      };
    });
    this.opened.catch(() => {});
    this.socket.onerror = () => {};
    this.socket.onmessage = (e) => this.receive(e.data);
  }

  /** Asks and waits; rejects with a WireError, of code "unknown" when no answer came. */
  async call<M extends Method>(method: M, request: RequestOf<M>, options: CallOptions = {}): Promise<ResponseOf<M>> {
    const timeoutMs = options.timeoutMs ?? 10_000;
    if (!this.open && !this.closed) await this.opened;
    if (this.closed) throw unknownOutcome('the connection is closed');
    if (this.pending.size >= maxPending) throw new WireError('resource_exhausted', 'too many requests under way', 'client_busy', '', 1);
    const id = this.nextId++;
    const frame = create(ClientFrameSchema, { id, deadlineMs: timeoutMs, class: options.class, request: { case: method, value: request } as RequestInit });
    return new Promise<ResponseOf<M>>((resolve, reject) => {
      const stop = this.platform.setTimer(() => {
        this.pending.delete(id);
        reject(unknownOutcome(`${method} was not answered within ${timeoutMs} ms`));
      }, timeoutMs + 500);
      this.pending.set(id, { method, resolve, reject, stop });
      this.socket.send(toBinary(ClientFrameSchema, frame));
    });
  }

  close(): void {
    if (this.closed) return;
    this.socket.close();
    // The browser may wait long for the other end's close; we do not.
    this.finish();
  }

  private receive(data: unknown): void {
    if (this.closed) return;
    this.heardAt = this.platform.now();
    let frame: ServerFrame;
    try {
      frame = fromBinary(ServerFrameSchema, new Uint8Array(data as ArrayBuffer));
    } catch {
      // A frame we cannot read may be an event we would miss: start over.
      this.close();
      return;
    }
    if (frame.body.case === 'event') {
      this.onEvent(frame.body.value);
      return;
    }
    const waiting = this.pending.get(frame.id);
    if (!waiting) return;
    this.pending.delete(frame.id);
    waiting.stop();
    if (frame.body.case === 'error') {
      const { code, message, info } = frame.body.value;
      waiting.reject(new WireError(code, message, info?.reason, info?.field, info?.retryAfterSeconds));
    } else if (frame.body.case === waiting.method) {
      waiting.resolve(frame.body.value as never);
    } else {
      waiting.reject(unknownOutcome(`answer of another kind: ${frame.body.case}`));
    }
  }

  private finish(): void {
    if (this.closed) return;
    this.closed = true;
    for (const waiting of this.pending.values()) {
      waiting.stop();
      waiting.reject(unknownOutcome('the connection closed'));
    }
    this.pending.clear();
    this.onClose();
  }
}
