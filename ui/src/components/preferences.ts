// What the user has set up in this browser: theme, single-key shortcuts, spoken summaries.
// Kept in localStorage; where that is refused (private mode) it lasts until the page is closed.

import { useSyncExternalStore } from "react";

export interface Preferences {
  theme: "system" | "light" | "dark";
  /** Single-key shortcuts; some speech input software needs them off. */
  shortcuts: boolean;
  /** A spoken summary of the feed for screen readers, every few seconds. */
  announcements: boolean;
}

const KEY = "preferences.v1";
const DEFAULTS: Preferences = { theme: "system", shortcuts: true, announcements: true };

let current = read();
const listeners = new Set<() => void>();
apply();

function read(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Preferences>;
    return {
      theme: stored.theme === "light" || stored.theme === "dark" ? stored.theme : DEFAULTS.theme,
      shortcuts: stored.shortcuts !== false,
      announcements: stored.announcements !== false,
    };
  } catch {
    return DEFAULTS;
  }
}

function apply(): void {
  if (current.theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = current.theme;
}

export function setPreferences(change: Partial<Preferences>): void {
  current = { ...current, ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(current));
  } catch {
    // Not remembered, but in force.
  }
  apply();
  for (const listener of listeners) listener();
}

/** The next theme in the toggle's round. */
export function nextTheme(theme: Preferences["theme"]): Preferences["theme"] {
  return theme === "system" ? "dark" : theme === "dark" ? "light" : "system";
}

export function usePreferences(): Preferences {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => current,
  );
}
