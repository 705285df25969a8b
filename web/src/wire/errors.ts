// Errors of the wire, sorted by what may be concluded from them.

/** Codes after which repeating the same request unchanged cannot succeed. */
const definite = new Set(['invalid_argument', 'permission_denied', 'not_found', 'already_exists', 'failed_precondition', 'out_of_range', 'unimplemented', 'unauthenticated']);

export class WireError extends Error {
  constructor(
    /** A Connect code, or "unknown" when no answer came: it may have happened or not. */
    readonly code: string,
    message: string,
    readonly reason = '',
    readonly field = '',
    readonly retryAfterSeconds = 0,
  ) {
    super(message);
    this.name = 'WireError';
  }

  /** Refused for good: nothing changed, and asking again unchanged is in vain. */
  get definite(): boolean {
    return definite.has(this.code);
  }
}

/** No answer: the connection broke or time ran out. */
export function unknownOutcome(message: string): WireError {
  return new WireError('unknown', message, 'unknown_outcome');
}

export function asWireError(error: unknown): WireError {
  return error instanceof WireError ? error : new WireError('unknown', error instanceof Error ? error.message : String(error), 'internal');
}
