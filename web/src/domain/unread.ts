// Unread arithmetic: how many have not read a message, and how many messages I
// have not read. Both only ever fall for a given message, because cursors only
// ever grow and a newcomer's joinedSeq is at least what was there.
import type { Member, Message, Room, Seq, UserId } from './types';

/** Sorted places up to which each member needs nothing more: max(read, joined). */
export function reached(members: readonly Member[]): Seq[] {
  return members.map((m) => Math.max(m.readSeq, m.joinedSeq)).sort((a, b) => a - b);
}

function countBelow(sorted: readonly Seq[], seq: Seq): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Counts the unread of messages of one room. With all members known it counts
 * their cursors, which is right however often an event repeats; without, it
 * repeats what the server last said.
 */
export function unreadCounter(room: Pick<Room, 'members' | 'complete'>): (m: Pick<Message, 'seq' | 'senderId' | 'unread'>) => number {
  if (!room.complete) return (m) => m.unread;
  const sorted = reached(room.members);
  const own = new Map(room.members.map((m) => [m.userId, Math.max(m.readSeq, m.joinedSeq)]));
  return (m) => {
    const below = countBelow(sorted, m.seq);
    const sender = own.get(m.senderId);
    return Math.max(0, below - (sender !== undefined && sender < m.seq ? 1 : 0));
  };
}

/** How many messages of the room I have not read, counting what I read here but could not tell yet. */
export function myUnread(room: Pick<Room, 'lastSeq' | 'myReadSeq' | 'myJoinedSeq' | 'wantReadSeq'>): number {
  return Math.max(0, room.lastSeq - Math.max(room.myReadSeq, room.myJoinedSeq, room.wantReadSeq ?? 0));
}

/** Moves one member's cursor forward; never back. */
export function advance(members: readonly Member[], userId: UserId, to: Seq): Member[] {
  return members.map((m) => (m.userId === userId && m.readSeq < to ? { ...m, readSeq: to } : m));
}

/** The members of fresh, none of whose cursors is behind what is already known. */
export function mergeCursors(known: readonly Member[], fresh: readonly Member[]): Member[] {
  const before = new Map(known.map((m) => [m.userId, m]));
  return fresh.map((m) => {
    const old = before.get(m.userId);
    return old && old.readSeq > m.readSeq ? { ...m, readSeq: old.readSeq } : m;
  });
}
