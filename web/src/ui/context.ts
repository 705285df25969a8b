// What every component may ask for: the preferences, and the account in view.
import { getContext, setContext } from 'svelte';
import type { Account } from '../model/account.svelte';
import type { App } from '../model/app.svelte';
import type { Prefs } from '../model/prefs.svelte';
import { Toasts } from './toasts.svelte';

const appKey = Symbol('app');
const accountKey = Symbol('account');
const toastsKey = Symbol('toasts');

export function provideApp(app: App): Toasts {
  setContext(appKey, app);
  return setContext(toastsKey, new Toasts());
}

export function useApp(): App {
  return getContext<App>(appKey);
}

export function usePrefs(): Prefs {
  return useApp().prefs;
}

export function provideAccount(account: Account): void {
  setContext(accountKey, account);
}

export function useAccount(): Account {
  return getContext<Account>(accountKey);
}

export function useToasts(): Toasts {
  return getContext<Toasts>(toastsKey);
}
