// Language and theme: of this browser, not of the account.
import { en } from '../words/en';
import { ko, type Words } from '../words/ko';

export type Language = 'auto' | 'ko' | 'en';
export type Theme = 'auto' | 'light' | 'dark';

export interface PrefsStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

function oneOf<T extends string>(value: string | null, allowed: readonly T[], fallback: T): T {
  return allowed.includes(value as T) ? (value as T) : fallback;
}

export class Prefs {
  language = $state<Language>('auto');
  theme = $state<Theme>('auto');
  private readonly systemLanguage: string;

  constructor(private readonly storage: PrefsStorage, systemLanguage: string) {
    this.systemLanguage = systemLanguage;
    this.language = oneOf(storage.getItem('bongsu.language'), ['auto', 'ko', 'en'] as const, 'auto');
    this.theme = oneOf(storage.getItem('bongsu.theme'), ['auto', 'light', 'dark'] as const, 'auto');
  }

  /** The language in use; also the locale for times and numbers. */
  locale: 'ko' | 'en' = $derived.by(() => this.language === 'auto' ? (this.systemLanguage.toLowerCase().startsWith('ko') ? 'ko' : 'en') : this.language);

  words: Words = $derived.by(() => (this.locale === 'ko' ? ko : en));

  setLanguage(language: Language): void {
    this.language = language;
    this.storage.setItem('bongsu.language', language);
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    this.storage.setItem('bongsu.theme', theme);
  }
}
