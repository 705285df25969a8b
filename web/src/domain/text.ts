// Text as people count and search it: code points, Korean initial consonants.

export const maxCodePoints = 10_000;
export const maxBytes = 40_000;

export function codePoints(text: string): number {
  let n = 0;
  for (const _ of text) n++;
  return n;
}

/** Why a text cannot be sent, or undefined. */
export function refusal(text: string): 'empty' | 'too_long' | undefined {
  if (text.trim() === '') return 'empty';
  // Only texts that could be too long are counted in full.
  if (text.length > maxCodePoints && codePoints(text) > maxCodePoints) return 'too_long';
  if (text.length * 3 > maxBytes && new TextEncoder().encode(text).length > maxBytes) return 'too_long';
  return undefined;
}

const initials = ['ㄱ', 'ㄲ', 'ㄴ', 'ㄷ', 'ㄸ', 'ㄹ', 'ㅁ', 'ㅂ', 'ㅃ', 'ㅅ', 'ㅆ', 'ㅇ', 'ㅈ', 'ㅉ', 'ㅊ', 'ㅋ', 'ㅌ', 'ㅍ', 'ㅎ'];
const firstSyllable = 0xac00;
const lastSyllable = 0xd7a3;
const perInitial = 588;
const perVowel = 28;

function matchesChar(wanted: string, have: string): boolean {
  if (wanted === have) return true;
  const code = have.charCodeAt(0);
  if (code < firstSyllable || code > lastSyllable) return false;
  const offset = code - firstSyllable;
  if (initials[Math.floor(offset / perInitial)] === wanted) return true;
  // A syllable still being typed (김 while 김 becomes 기 + ㅁ…) matches those it may become: 기 finds 김.
  const want = wanted.charCodeAt(0);
  if (want < firstSyllable || want > lastSyllable || (want - firstSyllable) % perVowel !== 0) return false;
  return Math.floor((want - firstSyllable) / perVowel) === Math.floor(offset / perVowel);
}

/** Whether name contains query, where a lone initial consonant stands for any syllable that begins with it. */
export function matches(name: string, query: string): boolean {
  const wanted = [...query.normalize('NFC').toLowerCase().replace(/\s+/g, '')];
  if (wanted.length === 0) return true;
  const have = [...name.normalize('NFC').toLowerCase().replace(/\s+/g, '')];
  for (let at = 0; at + wanted.length <= have.length; at++) {
    if (wanted.every((w, i) => matchesChar(w, have[at + i]!))) return true;
  }
  return false;
}

/** The one letter an avatar shows. */
export function letterOf(name: string): string {
  const first = [...name.trim()][0];
  return first ? first.toUpperCase() : '·';
}

/**
 * Whether a key press sends. While an input method composes (Hangul, kana, …)
 * Enter only ends the syllable: browsers say isComposing, some only keyCode 229.
 */
export function sendsOn(e: { key: string; shiftKey: boolean; ctrlKey?: boolean; altKey?: boolean; metaKey?: boolean; isComposing: boolean; keyCode: number }): boolean {
  return e.key === 'Enter' && !e.shiftKey && !e.altKey && !e.isComposing && e.keyCode !== 229;
}
