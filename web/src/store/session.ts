// Who is signed in on this device, shared by all tabs.
import { openDB, type DBSchema, type IDBPDatabase } from 'idb';
import type { Session } from '../domain/types';

interface Schema extends DBSchema {
  session: { key: string; value: Session };
}

const current = 'current';

export class SessionStore {
  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  static async open(name = 'bongsu'): Promise<SessionStore> {
    return new SessionStore(await openDB<Schema>(name, 1, {
      upgrade(db) {
        db.createObjectStore('session');
      },
    }));
  }

  get(): Promise<Session | undefined> {
    return this.db.get('session', current);
  }

  async put(session: Session): Promise<void> {
    await this.db.put('session', session, current);
  }

  async clear(): Promise<void> {
    await this.db.delete('session', current);
  }
}
