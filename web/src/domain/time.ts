// Times as people read them, in their language and their zone.

const formats = new Map<string, Intl.DateTimeFormat>();

function format(locale: string, zone: string | undefined, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = locale + (zone ?? '') + JSON.stringify(options);
  let f = formats.get(key);
  if (!f) formats.set(key, (f = new Intl.DateTimeFormat(locale, { ...options, timeZone: zone })));
  return f;
}

/** A number that is the same for two instants exactly when they are on the same day. */
export function dayOf(ms: number, zone?: string): string {
  return format('en-CA', zone, { year: 'numeric', month: '2-digit', day: '2-digit' }).format(ms);
}

export function minuteOf(ms: number): number {
  return Math.floor(ms / 60_000);
}

/** 오후 9:52 · 9:52 PM */
export function clock(ms: number, locale: string, zone?: string): string {
  if (!locale.startsWith('ko')) return format(locale, zone, { hour: 'numeric', minute: '2-digit' }).format(ms);
  // Browsers disagree on whether Korean says 오후 9:52 or PM 9:52.
  const parts = format('en-US', zone, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).formatToParts(ms);
  const part = (type: string) => parts.find((p) => p.type === type)?.value ?? '';
  const hour = Number(part('hour'));
  return `${hour < 12 ? '오전' : '오후'} ${hour % 12 || 12}:${part('minute')}`;
}

/** 2021년 5월 5일 수요일 */
export function longDay(ms: number, locale: string, zone?: string): string {
  return format(locale, zone, { dateStyle: 'full' }).format(ms);
}

/** For a list: the time today, "yesterday", the day this year, the date before. */
export function shortTime(ms: number, now: number, locale: string, zone?: string): string {
  const day = dayOf(ms, zone);
  if (day === dayOf(now, zone)) return clock(ms, locale, zone);
  if (day === dayOf(now - 86_400_000, zone)) {
    return new Intl.RelativeTimeFormat(locale, { numeric: 'auto' }).format(-1, 'day');
  }
  if (day.slice(0, 4) === dayOf(now, zone).slice(0, 4)) return format(locale, zone, { month: locale.startsWith('ko') ? 'long' : 'short', day: 'numeric' }).format(ms);
  return format(locale, zone, { year: 'numeric', month: 'numeric', day: 'numeric' }).format(ms);
}

/** For devices: the day and the time. */
export function dayAndTime(ms: number, locale: string, zone?: string): string {
  return `${format(locale, zone, { dateStyle: 'medium' }).format(ms)} ${clock(ms, locale, zone)}`;
}
