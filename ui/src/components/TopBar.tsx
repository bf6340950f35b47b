// The bar on top of every page: product, what the page puts there, theme, help.

import { useRef, type ReactNode } from "react";
import { Link } from "react-router";

import { Help } from "./Help";
import { Icon } from "./Icon";
import { nextTheme, setPreferences, usePreferences } from "./preferences";
import { useShortcuts } from "./shortcuts";
import "./components.css";

export function TopBar({ children }: { children?: ReactNode }) {
  const help = useRef<HTMLDialogElement>(null);
  const { theme } = usePreferences();
  const turn = () => setPreferences({ theme: nextTheme(theme) });
  useShortcuts({ t: turn, "?": () => help.current?.showModal() });
  const icon = theme === "system" ? "system" : theme === "dark" ? "moon" : "sun";
  return (
    <header className="topbar">
      <Link to="/" className="brand" aria-label="Live Console, start page">
        <img src="/icon.svg" width="28" height="28" alt="" />
        <span>Live Console</span>
      </Link>
      <div className="topbar-page">{children}</div>
      <div className="topbar-tools">
        <button
          type="button"
          className="icon-button"
          onClick={turn}
          aria-keyshortcuts="t"
          aria-label={`Theme: ${theme}. Switch to ${nextTheme(theme)}`}
          title={`Theme: ${theme}`}
        >
          <Icon name={icon} />
        </button>
        <button
          type="button"
          className="icon-button"
          onClick={() => help.current?.showModal()}
          aria-keyshortcuts="?"
          aria-label="Keyboard and settings"
          title="Keyboard and settings"
        >
          <Icon name="keyboard" />
        </button>
      </div>
      <Help ref={help} />
    </header>
  );
}
