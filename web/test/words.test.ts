import { describe, expect, it } from 'vitest';
import { en } from '../src/words/en';
import { ko } from '../src/words/ko';

/** Every sentence by its path, with how many parameters it takes (-1 for plain text). */
function sentences(words: unknown, path = ''): Map<string, number> {
  const found = new Map<string, number>();
  if (typeof words === 'string') found.set(path, -1);
  else if (typeof words === 'function') found.set(path, words.length);
  else for (const [key, value] of Object.entries(words as object)) for (const [p, n] of sentences(value, `${path}.${key}`)) found.set(p, n);
  return found;
}

describe('the dictionaries', () => {
  it('have the same sentences with the same parameters', () => {
    expect([...sentences(en)].sort()).toEqual([...sentences(ko)].sort());
  });

  it('leave nothing in the other language, and nothing empty', () => {
    const blank = (words: unknown): string[] => [...sentences(words).keys()].filter((path) => {
      const value = path.split('.').slice(1).reduce<unknown>((o, k) => (o as Record<string, unknown>)[k], words);
      return value === '' && path !== '.levels.0';
    });
    expect(blank(ko)).toEqual([]);
    expect(blank(en)).toEqual([]);
    expect(JSON.stringify(en)).not.toMatch(/[가-힣]/);
  });
});
