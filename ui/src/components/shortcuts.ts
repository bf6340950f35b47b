// Single-key shortcuts. Not in force while text is typed, with a modifier, in an open dialog, or
// when the user has switched them off.

import { useEffect, useRef } from "react";

import { usePreferences } from "./preferences";

/** What the help shows; the handlers are where the thing is that they act on. */
export const SHORTCUTS: readonly { keys: string[]; does: string }[] = [
  { keys: ["p"], does: "Pause or resume the feed" },
  { keys: ["l"], does: "Back to live" },
  { keys: ["/"], does: "Search" },
  { keys: ["x"], does: "Clear search and type filter" },
  { keys: ["c"], does: "Choose a creator" },
  { keys: ["t"], does: "Switch theme: system, dark, light" },
  { keys: ["f"], does: "Move into the feed" },
  { keys: ["↑", "↓"], does: "In the feed: one row up or down (also k, j)" },
  { keys: ["PgUp", "PgDn"], does: "In the feed: ten rows" },
  { keys: ["Home", "End"], does: "In the feed: oldest or newest row" },
  { keys: ["Enter"], does: "In the feed: show or hide the data of a row" },
  { keys: ["Esc"], does: "In the feed: back to live. In the search: clear it" },
  { keys: ["?"], does: "This help" },
];

export function useShortcuts(handlers: Readonly<Record<string, () => void>>): void {
  const { shortcuts } = usePreferences();
  const latest = useRef(handlers);
  useEffect(() => {
    latest.current = handlers;
  });
  useEffect(() => {
    if (!shortcuts) return;
    function onKeyDown(event: KeyboardEvent) {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as Element | null;
      if (target?.closest("input, textarea, select, dialog, [contenteditable], [popover]")) return;
      const handler = latest.current[event.key];
      if (!handler) return;
      event.preventDefault();
      handler();
    }
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [shortcuts]);
}
