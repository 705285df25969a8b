// What rooms and people are called on this screen.
import type { Notice, Room, UserId } from '../domain/types';
import type { Words } from '../words/ko';

export function personName(room: Pick<Room, 'members' | 'names'> | undefined, userId: UserId, w: Words): string {
  return room?.members.find((m) => m.userId === userId)?.displayName || room?.names[userId] || w.unknownPerson;
}

/** Who else is in the room; for a direct room also one who left it. */
export function others(room: Room, me: UserId): { userId: UserId; name: string }[] {
  const found = room.members.filter((m) => m.userId !== me).map((m) => ({ userId: m.userId, name: m.displayName }));
  if (found.length > 0 || room.kind !== 'direct') return found;
  return Object.entries(room.names).filter(([id]) => id !== me).map(([userId, name]) => ({ userId, name }));
}

export function roomTitle(room: Room, me: UserId, w: Words): string {
  if (room.title) return room.title;
  const names = others(room, me).map((o) => o.name);
  if (names.length === 0) return room.kind === 'direct' ? w.notesToSelf : w.emptyGroup;
  const shown = names.slice(0, 4).join(', ');
  const rest = room.memberCount - 1 - Math.min(4, names.length);
  return rest > 0 ? w.namesAndMore(shown, rest) : shown;
}

/** Whose colour the room's avatar has. */
export function roomFace(room: Room, me: UserId): string {
  if (room.kind === 'group') return room.roomId;
  return others(room, me)[0]?.userId ?? me;
}

export function isBotRoom(room: Room, me: UserId): boolean {
  return room.kind === 'direct' && room.members.some((m) => m.userId !== me && m.bot);
}

export function noticeText(notice: Notice, room: Room | undefined, w: Words): string {
  const name = (id: UserId) => notice.names[id] || personName(room, id, w);
  const subjects = notice.subjectIds.filter((id) => id !== notice.actorId);
  const names = subjects.length > 5
    ? w.namesAndMore(subjects.slice(0, 4).map(name).join(', '), subjects.length - 4)
    : subjects.map(name).join(', ');
  const actor = name(notice.actorId);
  switch (notice.kind) {
    case 'created':
      return names ? w.notice.createdWith(actor, names) : w.notice.created(actor);
    case 'invited':
      return names ? w.notice.invited(actor, names) : w.notice.joined(actor);
    case 'left':
      return w.notice.left(notice.subjectIds[0] ? name(notice.subjectIds[0]) : actor);
    case 'title':
      return w.notice.title(actor, notice.title);
  }
}
