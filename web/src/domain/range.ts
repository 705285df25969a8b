// What of a room is cached: one contiguous run of sequence numbers. Because
// numbers are dense, a batch either touches the run or shows a hole.
import type { Range, Seq } from './types';

export type Joined =
  | { kind: 'joined'; range: Range }
  /** Something between the run and the batch is missing. */
  | { kind: 'gap'; after: Seq }
  /** The batch lies before the run without touching it. */
  | { kind: 'below' };

/** Joins a batch (dense, both ends included) to the run. */
export function join(range: Range | undefined, batch: Range): Joined {
  if (!range) return { kind: 'joined', range: batch };
  if (batch.from > range.to + 1) return { kind: 'gap', after: range.to };
  if (batch.to < range.from - 1) return { kind: 'below' };
  return { kind: 'joined', range: { from: Math.min(range.from, batch.from), to: Math.max(range.to, batch.to) } };
}

/** The part of a list of ascending seqs, from its end, that has no hole. */
export function denseTail<T extends { seq: Seq }>(messages: readonly T[]): T[] {
  let start = messages.length - 1;
  while (start > 0 && messages[start - 1]!.seq === messages[start]!.seq - 1) start--;
  return messages.slice(Math.max(0, start));
}
