// Refusals in words: by reason first, then by code.
import { asWireError } from '../wire/errors';
import type { Words } from '../words/ko';

export function explainReason(reason: string, w: Words): string {
  const e = w.errors;
  switch (reason) {
    case 'login_taken': return e.loginTaken;
    case 'login_invalid': case 'bad_login': return e.loginInvalid;
    case 'password_invalid': case 'password_too_short': case 'password_too_long': case 'bad_password': return e.passwordInvalid;
    case 'display_name_invalid': case 'display_name_too_long': case 'bad_display_name': return e.nameInvalid;
    case 'user_unknown': return e.userUnknown;
    case 'not_a_member': return e.notMember;
    case 'blocked': return e.blocked;
    case 'bad_credentials': return e.wrongPassword;
    case 'blocked_by_invitee': return e.blockedByInvitee;
    case 'you_blocked': return e.youBlocked;
    case 'text_too_long': case 'title_too_long': case 'bad_title': case 'message_too_large': return e.tooLong;
    case 'room_unknown': case 'not_found': return e.roomGone;
    case 'room_stopped': case 'disk_full': case 'queue_full': case 'store_fenced': case 'shard_damaged': case 'not_owner': return e.serverTrouble;
    case 'unknown_outcome': case 'unavailable': return e.unreachable;
    default: return reason.startsWith('too_many') || reason.endsWith('_full') ? e.limit : e.other(reason);
  }
}

export function explain(error: unknown, w: Words): string {
  const wire = asWireError(error);
  if (wire.code === 'unknown' || wire.code === 'unavailable' || wire.code === 'deadline_exceeded') return w.errors.offlineAction;
  if (wire.code === 'resource_exhausted' && wire.retryAfterSeconds > 0) return w.errors.busyFor(Math.ceil(wire.retryAfterSeconds));
  return explainReason(wire.reason || wire.code, w);
}

/** For the screens before there is an account. */
export function explainEntry(error: unknown, mode: 'signIn' | 'signUp', w: Words): string {
  const wire = asWireError(error);
  switch (wire.code) {
    case 'unauthenticated': return w.errors.wrongPassword;
    case 'already_exists': return w.errors.loginTaken;
    case 'resource_exhausted': return wire.retryAfterSeconds > 0 ? w.errors.busyFor(Math.ceil(wire.retryAfterSeconds)) : w.errors.busy;
    case 'invalid_argument':
      if (wire.field === 'password') return mode === 'signUp' ? w.errors.passwordInvalid : w.errors.wrongPassword;
      if (wire.field === 'displayName') return w.errors.nameInvalid;
      if (wire.field === 'login') return mode === 'signUp' ? w.errors.loginInvalid : w.errors.wrongPassword;
      return explainReason(wire.reason || wire.code, w);
    case 'unknown': case 'unavailable': case 'deadline_exceeded': return w.errors.unreachable;
    default: return explainReason(wire.reason || wire.code, w);
  }
}
