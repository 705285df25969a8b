// What the client needs from the world, so that tests can give it another one.

export interface SocketLike {
  binaryType: string;
  readonly readyState: number;
  onopen: ((e: unknown) => void) | null;
  onmessage: ((e: { data: unknown }) => void) | null;
  onclose: ((e: unknown) => void) | null;
  onerror: ((e: unknown) => void) | null;
  send(data: Uint8Array): void;
  close(): void;
}

export interface Channel {
  post(message: unknown): void;
  listen(handler: (message: unknown) => void): void;
  close(): void;
}

export interface Platform {
  /** Milliseconds since the Unix epoch. */
  now(): number;
  /** Uniform in [0, 1). */
  random(): number;
  randomBytes(n: number): Uint8Array;
  setTimer(run: () => void, ms: number): () => void;
  fetch(path: string, init: { method: string; headers: Record<string, string>; body: string; signal?: AbortSignal }): Promise<Response>;
  connect(path: string, protocol: string): SocketLike;
  /** Runs work while no other tab holds the named lock; resolves with its result. */
  exclusive<T>(name: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T>;
  channel(name: string): Channel;
  /** Whether a person is looking at this tab. */
  visible(): boolean;
  online(): boolean;
  /** Called when visible() or online() changes; returns how to stop. */
  onChange(handler: () => void): () => void;
  /** Asks that what is stored here is not thrown away when space is short. */
  persist(): Promise<boolean>;
  deviceName(): string;
}
