// The client's own nouns, free of wire and storage: plain numbers for what the
// wire calls uint64 (a room would need 9e15 messages to outgrow them).

export type UserId = string;
export type RoomId = string;
export type Seq = number;

export interface Position { shard: number; term: number; index: number }

export interface User { userId: UserId; login: string; displayName: string; bot: boolean }

export interface Member extends User { readSeq: Seq; joinedSeq: Seq }

export interface Message {
  roomId: RoomId;
  seq: Seq;
  senderId: UserId;
  clientId: string;
  text: string;
  /** Milliseconds since the Unix epoch. */
  sentAt: number;
  /** As the server counted it when it told us; see domain/unread for the living number. */
  unread: number;
  /** 0 for none. */
  replyTo: Seq;
}

export type NoticeKind = 'created' | 'invited' | 'left' | 'title';

export interface Notice {
  roomId: RoomId;
  /** Stands after this message. */
  afterSeq: Seq;
  at: number;
  kind: NoticeKind;
  actorId: UserId;
  subjectIds: UserId[];
  title: string;
  names: Record<UserId, string>;
}

/** A contiguous run of cached messages, both ends included. */
export interface Range { from: Seq; to: Seq }

export interface Room {
  roomId: RoomId;
  kind: 'direct' | 'group';
  title: string;
  members: Member[];
  /** Whether members are all of them: only then can unread be counted here. */
  complete: boolean;
  memberCount: number;
  lastSeq: Seq;
  myReadSeq: Seq;
  myJoinedSeq: Seq;
  lastMessage?: Message;
  version: number;
  activeAt: number;
  /** Names of everyone who was ever seen here, so that leavers keep one. */
  names: Record<UserId, string>;
  /** Opened by a person on this device: shown even without messages. */
  opened?: boolean;
  /** How far was read here; sent until the server has it. */
  wantReadSeq?: Seq;
  /** The run of messages that this device keeps. */
  range?: Range;
}

export interface OutboxItem {
  clientId: string;
  roomId: RoomId;
  text: string;
  replyTo: Seq;
  createdAt: number;
  /** Place among unsent words; grows, so that a room's words keep their order. */
  order: number;
  state: 'pending' | 'failed';
  /** Why it failed, a word of the server's. */
  reason?: string;
}

/** An own message that was acknowledged, kept a while in case the server loses its tail. */
export interface SentItem {
  clientId: string;
  roomId: RoomId;
  seq: Seq;
  text: string;
  replyTo: Seq;
  createdAt: number;
  order: number;
  ackedAt: number;
}

export interface Session {
  userId: UserId;
  deviceId: string;
  accessToken: string;
  refreshToken: string;
  /** When accessToken ends, ms since the epoch, by the server's clock. */
  expiresAt: number;
  login: string;
}

export interface Device { deviceId: string; name: string; createdAt: number; lastSeenAt: number; current: boolean }

export interface People { friends: User[]; blocked: User[] }
