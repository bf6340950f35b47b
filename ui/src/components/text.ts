// Makes text that strangers wrote fit to show. React inserts it as text nodes, so markup is inert;
// what is left are characters that hide, reorder or break what stands around them.

/** Shown at most; a chat message has 150 characters, a name 50. */
const MAX_LENGTH = 2_000;

// C0 and C1 controls; marks that change the direction of what follows; interlinear annotation,
// byte order mark, invisible tags outside of flag emoji sequences are rare enough to stay.
const CONTROLS =
  // oxlint-disable-next-line no-control-regex
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]+/g;
const LINE_BREAKS = /[\t\n\r\u2028\u2029]+/g;
const LONE_SURROGATES = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** One line of plain text: no control characters, no direction marks, bounded, trimmed. */
export function plain(text: string | null | undefined): string {
  return plainPart(text).trim();
}

/** The same for a piece of a line: the spaces at its ends stay. */
export function plainPart(text: string | null | undefined): string {
  if (!text) return "";
  const cut = text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}…` : text;
  return cut.replace(LINE_BREAKS, " ").replace(CONTROLS, "").replace(LONE_SURROGATES, "\ufffd");
}

/** `value` as indented JSON in which every character that does not print is written out. */
export function jsonText(value: unknown, maxLength = 20_000): string {
  const text = JSON.stringify(value, null, 2) ?? "";
  const cut =
    text.length > maxLength
      ? `${text.slice(0, maxLength)}\n… ${text.length - maxLength} more characters`
      : text;
  return cut.replace(CONTROLS, (run) =>
    run.replace(/[^\n]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`),
  );
}

/** `url` when it is an address that an image may come from: https, no credentials in it. */
export function imageUrl(url: string | null | undefined): string | undefined {
  if (!url || url.length > 4_096 || !URL.canParse(url)) return undefined;
  const parsed = new URL(url);
  const fit = parsed.protocol === "https:" && parsed.username === "" && parsed.password === "";
  return fit ? parsed.href : undefined;
}

/** The first letter or digit of a name, for where its picture would be. */
export function initial(name: string): string {
  return (/[\p{L}\p{N}]/u.exec(name)?.[0] ?? "?").toUpperCase();
}
