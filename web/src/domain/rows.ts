// What a conversation shows, from what is known: a pure arrangement of days,
// notices, messages and unsent words into rows.
import { dayOf, minuteOf } from './time';
import type { Message, Notice, OutboxItem, Seq, UserId } from './types';

export type Row =
  | { kind: 'day'; key: string; at: number }
  | { kind: 'notice'; key: string; notice: Notice }
  | { kind: 'read'; key: string }
  | { kind: 'message'; key: string; message: Message; mine: boolean; first: boolean; last: boolean }
  | { kind: 'unsent'; key: string; item: OutboxItem; first: boolean };

export interface RowInput {
  messages: readonly Message[];
  notices: readonly Notice[];
  unsent: readonly OutboxItem[];
  me: UserId;
  /** The line "read up to here" stands after this message; undefined for none. */
  readLine?: Seq;
  /** There are older messages than these: whether the first begins a group is not known. */
  hasOlder?: boolean;
  zone?: string;
}

function noticeKey(n: Notice): string {
  return `n${n.afterSeq}-${n.at}-${n.kind}-${n.subjectIds.join('.')}`;
}

export function rows(input: RowInput): Row[] {
  const out: Row[] = [];
  let day = '';
  let previous: Message | undefined;
  let lineDrawn = input.readLine === undefined;
  let n = 0;
  const dayRow = (at: number) => {
    const d = dayOf(at, input.zone);
    if (d === day) return;
    day = d;
    previous = undefined;
    out.push({ kind: 'day', key: 'd' + d, at });
  };
  const noticesUpTo = (before: Seq) => {
    for (; n < input.notices.length && input.notices[n]!.afterSeq < before; n++) {
      const notice = input.notices[n]!;
      dayRow(notice.at);
      previous = undefined;
      out.push({ kind: 'notice', key: noticeKey(notice), notice });
    }
  };
  for (let i = 0; i < input.messages.length; i++) {
    const message = input.messages[i]!;
    noticesUpTo(message.seq);
    dayRow(message.sentAt);
    if (!lineDrawn && message.seq > input.readLine!) {
      lineDrawn = true;
      previous = undefined;
      out.push({ kind: 'read', key: 'read' });
    }
    const next = input.messages[i + 1];
    const nextNotice = input.notices[n];
    const sameAsPrevious = previous !== undefined && previous.senderId === message.senderId && minuteOf(previous.sentAt) === minuteOf(message.sentAt);
    const sameAsNext = next !== undefined && next.senderId === message.senderId && minuteOf(next.sentAt) === minuteOf(message.sentAt)
      && !(nextNotice && nextNotice.afterSeq === message.seq)
      && !(!lineDrawn && next.seq > input.readLine!);
    const mine = message.senderId === input.me;
    // Taken for the middle of a group until what is before it is here: a row that
    // shrank then, above what is being read, would move it.
    const first = !sameAsPrevious && !(i === 0 && input.hasOlder);
    // An own message keeps its key from unsent to sent; others choose their client IDs freely, so theirs are no keys.
    out.push({ kind: 'message', key: mine ? 'm' + message.clientId : 's' + message.seq, message, mine, first, last: !sameAsNext });
    previous = message;
  }
  noticesUpTo(Infinity);
  // News of a message may overtake the news that its unsent self is settled, as when another tab sent it.
  const arrived = new Set(input.messages.filter((m) => m.senderId === input.me).map((m) => m.clientId));
  input.unsent.filter((item) => !arrived.has(item.clientId)).forEach((item, i) => {
    dayRow(item.createdAt);
    out.push({ kind: 'unsent', key: 'm' + item.clientId, item, first: i === 0 && previous?.senderId !== input.me });
  });
  return out;
}
