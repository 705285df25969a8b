// When to try again: full jitter, the server's hints, and a budget that keeps
// one client from adding to a storm. Pure numbers; the caller owns the timers.

export interface Backoff { baseMs: number; capMs: number }

/** Uniform between 0 and min(cap, base · 2^attempt); attempt counts from 0. */
export function fullJitter(attempt: number, b: Backoff, random: () => number): number {
  return random() * Math.min(b.capMs, b.baseMs * 2 ** Math.min(attempt, 30));
}

/** The wait after a failure: at least the server's hint, spread out by half of it more. */
export function retryDelay(attempt: number, b: Backoff, retryAfterSeconds: number, random: () => number): number {
  const jitter = fullJitter(attempt, b, random);
  if (retryAfterSeconds <= 0) return jitter;
  const hintMs = Math.min(retryAfterSeconds, 600) * 1000;
  return Math.max(jitter, hintMs * (1 + random() / 2));
}

/**
 * Retries are paid from a budget that successes refill, so that in an outage
 * a client soon asks only once in a while, whatever its number of words.
 */
export class RetryBudget {
  private tokens: number;

  constructor(private readonly max = 10, private readonly perSuccess = 0.2) {
    this.tokens = max;
  }

  success(): void {
    this.tokens = Math.min(this.max, this.tokens + this.perSuccess);
  }

  /** Whether a retry may go at its own pace; without, it waits the cap. */
  take(): boolean {
    if (this.tokens < 1) return false;
    this.tokens--;
    return true;
  }
}
