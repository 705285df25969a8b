// Identifiers: UUIDv7 for messages, and the shard that a room's ID names.

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';

/** A UUIDv7 from a time in ms and 10 random bytes (more are ignored). */
export function uuidv7(nowMs: number, random: Uint8Array): string {
  const bytes = new Uint8Array(16);
  let time = Math.floor(nowMs);
  for (let i = 5; i >= 0; i--) {
    bytes[i] = time % 256;
    time = Math.floor(time / 256);
  }
  bytes.set(random.subarray(0, 10), 6);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** The partition (0–4095) in an ID's text, or -1 if it is not one: the low 12 bits of its bytes 2 and 3. */
export function partition(id: string): number {
  if (id.length !== 27) return -1;
  // The low 12 bits of bytes 2 and 3 are bits 20–31; after the letter, characters 4 to 7 of the text hold bits 15–34.
  let bits = 0;
  for (let i = 4; i <= 7; i++) {
    const value = alphabet.indexOf(id[i]!);
    if (value < 0) return -1;
    bits = bits * 32 + value;
  }
  return (bits >> 3) & 0xfff;
}

/** Which of count equal ranges of partitions an ID lives in; -1 if unknown. */
export function shardOf(id: string, count: number): number {
  const p = partition(id);
  return p < 0 || count <= 0 ? -1 : Math.floor((p * count) / 4096);
}

/** How many colours avatars have; the CSS names them c0 to c9. */
const colours = 10;

/** An avatar's colour: the same for a person or room wherever it is shown. */
export function colourOf(id: string): number {
  let hash = 2166136261;
  for (let i = 0; i < id.length; i++) hash = Math.imul(hash ^ id.charCodeAt(i), 16777619);
  // IDs of one day differ little: mix before reducing.
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return ((hash ^ (hash >>> 15)) >>> 0) % colours;
}
