// Between the wire's messages and the client's own nouns.
import { Notice_Kind, type Message as PbMessage, type Notice as PbNotice } from '../gen/bongsu/edge/v1/message_pb';
import type { User as PbUser } from '../gen/bongsu/edge/v1/people_pb';
import type { Position as PbPosition } from '../gen/bongsu/edge/v1/position_pb';
import { RoomKind, type Member as PbMember, type Room as PbRoom } from '../gen/bongsu/edge/v1/room_pb';
import type { Device as PbDevice } from '../gen/bongsu/edge/v1/account_pb';
import type { Device, Member, Message, Notice, NoticeKind, Position, Room, RoomId, User } from '../domain/types';

export function toMessage(m: PbMessage): Message {
  return {
    roomId: m.roomId, seq: Number(m.seq), senderId: m.senderId, clientId: m.clientId, text: m.text,
    sentAt: Number(m.sentAt), unread: m.unread, replyTo: Number(m.replyTo),
  };
}

const kinds: Partial<Record<Notice_Kind, NoticeKind>> = {
  [Notice_Kind.CREATED]: 'created',
  [Notice_Kind.INVITED]: 'invited',
  [Notice_Kind.LEFT]: 'left',
  [Notice_Kind.TITLE]: 'title',
};

/** undefined for kinds that this release does not know: they are not shown. */
export function toNotice(roomId: RoomId, n: PbNotice): Notice | undefined {
  const kind = kinds[n.kind];
  if (!kind) return undefined;
  return { roomId, afterSeq: Number(n.afterSeq), at: Number(n.at), kind, actorId: n.actorId, subjectIds: [...n.subjectIds], title: n.title, names: { ...n.displayNames } };
}

export function toUser(u: PbUser): User {
  return { userId: u.userId, login: u.login, displayName: u.displayName, bot: u.bot };
}

export function toMember(m: PbMember): Member {
  return { userId: m.userId, login: m.login, displayName: m.displayName, bot: m.bot, readSeq: Number(m.readSeq), joinedSeq: Number(m.joinedSeq) };
}

export function toRoom(r: PbRoom): Room {
  const members = r.members.map(toMember);
  return {
    roomId: r.roomId,
    kind: r.kind === RoomKind.DIRECT ? 'direct' : 'group',
    title: r.title,
    members,
    complete: members.length >= r.memberCount,
    memberCount: r.memberCount || members.length,
    lastSeq: Number(r.lastSeq),
    myReadSeq: Number(r.myReadSeq),
    myJoinedSeq: Number(r.myJoinedSeq),
    lastMessage: r.lastMessage ? toMessage(r.lastMessage) : undefined,
    version: Number(r.version),
    activeAt: Number(r.activeAt),
    names: Object.fromEntries(members.map((m) => [m.userId, m.displayName])),
  };
}

export function toPosition(p: PbPosition | undefined): Position | undefined {
  return p && { shard: p.shard, term: Number(p.term), index: Number(p.index) };
}

export function fromPosition(p: Position): { shard: number; term: bigint; index: bigint } {
  return { shard: p.shard, term: BigInt(p.term), index: BigInt(p.index) };
}

export function toDevice(d: PbDevice): Device {
  return { deviceId: d.deviceId, name: d.name, createdAt: Number(d.createdAt), lastSeenAt: Number(d.lastSeenAt), current: d.current };
}
