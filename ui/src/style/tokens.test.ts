// @vitest-environment node
// Every text colour is readable on every ground it stands on, in both themes (WCAG 2.2 AA).

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

const css = readFileSync(new URL("tokens.css", import.meta.url), "utf8");
const colours = new Map(
  [...css.matchAll(/--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)/g)].map(
    ([, name, light, dark]) => [name, { light: light as string, dark: dark as string }],
  ),
);

const TEXTS = ["text", "muted", "accent", "good", "warn", "bad"];
const KINDS = ["gift", "like", "follow", "share", "subscribe", "emote", "battle"];
const PAIRS: [text: string, ground: string, ratio: number][] = [
  ...TEXTS.flatMap((text) => ["bg", "surface", "hover"].map((on) => [text, on, 4.5] as const)),
  ...KINDS.flatMap((text) => ["surface", "hover"].map((on) => [text, on, 4.5] as const)),
  ["text", "raised", 4.5],
  ["muted", "raised", 4.5],
  ["text", "gift-soft", 4.5],
  ["muted", "gift-soft", 4.5],
  ["gift", "gift-soft", 4.5],
  ["subscribe", "subscribe-soft", 4.5],
  ["text", "accent-soft", 4.5],
  ["muted", "accent-soft", 4.5],
  ["accent", "accent-soft", 4.5],
  ["on-accent", "accent", 4.5],
  // Borders of controls and the focus ring are no text.
  ["line-strong", "surface", 3],
  ["line-strong", "bg", 3],
].map(([text, ground, ratio]) => [String(text), String(ground), Number(ratio)]);

describe.each(["light", "dark"] as const)("%s", (theme) => {
  test.each(PAIRS)("%s on %s", (text, ground, ratio) => {
    const [front, back] = [colours.get(text)?.[theme], colours.get(ground)?.[theme]];
    if (!front || !back) throw new Error(`no such colour: ${text} or ${ground}`);
    expect(contrast(front, back)).toBeGreaterThanOrEqual(ratio);
  });
});

function contrast(a: string, b: string): number {
  const [light, dark] = [luminance(a), luminance(b)].toSorted((x, y) => y - x) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
