import { expect, test } from "vitest";

import { imageUrl, initial, jsonText, plain } from "./text";

test.each([
  ["ordinary", "hello, Zoë 🌸 مرحبا ゆき", "hello, Zoë 🌸 مرحبا ゆき"],
  ["direction overrides", "\u202egnp.exe\u202c", "gnp.exe"],
  ["isolates and marks", "a\u2066b\u2069\u200e\u200f\u061cc", "abc"],
  ["controls", "a\u0000b\u001b[31mc\u0085d", "ab[31mcd"],
  ["line breaks", "a\r\n\tb\u2028c", "a b c"],
  ["half a surrogate pair", "a\ud83cb", "a\ufffdb"],
  ["joined emoji stay joined", "👩‍👩‍👧", "👩‍👩‍👧"],
  ["only what is invisible", " \u200f\ufeff ", ""],
])("%s", (_, dirty, clean) => expect(plain(dirty)).toBe(clean));

test("what is absent is empty", () => {
  expect(plain(undefined)).toBe("");
  expect(plain(null)).toBe("");
});

test("length is bounded", () => {
  expect(plain("x".repeat(100_000))).toHaveLength(2_001);
});

test("markup stays text", () => {
  expect(plain("<img src=x onerror=alert(1)>")).toBe("<img src=x onerror=alert(1)>");
});

test("JSON shows what does not print, keeps its lines, and is bounded", () => {
  expect(jsonText({ a: "\u202ex" })).toBe('{\n  "a": "\\u202ex"\n}');
  expect(jsonText({ a: "y".repeat(100) }, 50)).toContain("more characters");
});

test.each([
  ["https://p16.tiktokcdn.com/a.webp?x=1", true],
  ["http://p16.tiktokcdn.com/a.webp", false],
  ["javascript:alert(1)", false],
  ["data:image/svg+xml,<svg/>", false],
  ["//p16.tiktokcdn.com/a.webp", false],
  ["https://user:secret@host/a.webp", false],
  ["blob:https://x/1", false],
  ["nonsense", false],
  ["", false],
  [undefined, false],
  [`https://host/${"a".repeat(5_000)}`, false],
])("image address %s: %s", (url, fit) => {
  expect(imageUrl(url) !== undefined).toBe(fit);
});

test("the letter in place of a picture", () => {
  expect(initial("✨zoe")).toBe("Z");
  expect(initial("مريم")).toBe("م");
  expect(initial("🌸🌸")).toBe("?");
});
