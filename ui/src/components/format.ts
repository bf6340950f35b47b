// Numbers and times in the reader's locale. Formatters are made once: making one is slow.

const whole = new Intl.NumberFormat();
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const dateAndTime = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
});

export function number(value: number): string {
  return whole.format(value);
}

/** `12.3K` from 10,000 on. */
export function shortNumber(value: number): string {
  return value < 10_000 ? whole.format(value) : compact.format(value);
}

/** `15:04:05`, or nothing when it is no time. */
export function timeOfDay(timestamp: string): string {
  const ms = Date.parse(timestamp);
  return Number.isFinite(ms) ? clock.format(ms) : "";
}

export function fullTime(timestamp: string): string {
  const ms = Date.parse(timestamp);
  return Number.isFinite(ms) ? dateAndTime.format(ms) : timestamp;
}

/** `5 s`, `3 min`, `2 h`, `4 d`. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`;
}
