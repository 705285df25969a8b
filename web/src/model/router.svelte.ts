// Where the person is, kept in the address so that the browser's back works.

export type Tab = 'friends' | 'chats' | 'settings';

export interface Place { tab: Tab; roomId?: string }

export function parse(hash: string): Place {
  const [tab, roomId] = hash.replace(/^#\/?/, '').split('/');
  if (tab === 'friends' || tab === 'settings') return { tab };
  return roomId && /^r[0-9a-z]{26}$/.test(roomId) ? { tab: 'chats', roomId } : { tab: 'chats' };
}

export function format(place: Place): string {
  return '#/' + place.tab + (place.roomId ? '/' + place.roomId : '');
}

export interface HistoryLike {
  hash(): string;
  push(hash: string): void;
  replace(hash: string): void;
  back(): void;
  onChange(handler: () => void): void;
}

export class Router {
  place = $state.raw<Place>({ tab: 'chats' });
  /** Steps that were pushed by us and not yet gone back. */
  private depth = 0;

  constructor(private readonly history: HistoryLike) {
    this.place = parse(history.hash());
    history.onChange(() => {
      this.depth = Math.max(0, this.depth - 1);
      this.place = parse(history.hash());
    });
  }

  /** A room opens on top of the list; switching rooms or tabs replaces, so that back leads to the list. */
  go(place: Place): void {
    if (format(place) === format(this.place)) return;
    if (place.roomId && !this.place.roomId) {
      this.history.push(format(place));
      this.depth++;
    } else {
      this.history.replace(format(place));
    }
    this.place = place;
  }

  /** Out of the room, as the browser's back would. */
  up(): void {
    if (!this.place.roomId) return;
    if (this.depth > 0) this.history.back();
    else this.go({ tab: this.place.tab });
  }
}
