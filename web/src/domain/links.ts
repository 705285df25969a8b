// Finds web addresses in text, so that they can be shown as links without markup.

export type Piece = { text: string; href?: string };

const address = /https?:\/\/[^\s<>"'「」『』“”‘’]+/gi;
/** Closing marks and sentence ends that follow an address rather than belong to it. */
const trailing = /[.,;:!?)\]}…]+$/;

export function pieces(text: string): Piece[] {
  const out: Piece[] = [];
  let at = 0;
  for (const match of text.matchAll(address)) {
    const raw = match[0];
    const kept = raw.replace(trailing, (end) => (end.startsWith(')') && raw.includes('(') ? ')' : ''));
    if (!URL.canParse(kept)) continue;
    if (match.index > at) out.push({ text: text.slice(at, match.index) });
    out.push({ text: kept, href: kept });
    at = match.index + kept.length;
  }
  if (at < text.length) out.push({ text: text.slice(at) });
  return out;
}
