// Keyboard shortcuts and the settings that belong to them.

import type { Ref } from "react";

import { Icon } from "./Icon";
import { setPreferences, usePreferences } from "./preferences";
import { SHORTCUTS } from "./shortcuts";

export function Help({ ref }: { ref: Ref<HTMLDialogElement> }) {
  const preferences = usePreferences();
  return (
    <dialog ref={ref} className="dialog" aria-labelledby="help-title">
      <form method="dialog" className="dialog-head">
        <h2 id="help-title">Keyboard and settings</h2>
        <button className="icon-button" aria-label="Close">
          <Icon name="close" />
        </button>
      </form>
      <dl className="shortcuts">
        {SHORTCUTS.map(({ keys, does }) => (
          <div key={does}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <label className="setting">
        <input
          type="checkbox"
          checked={preferences.shortcuts}
          onChange={(event) => setPreferences({ shortcuts: event.target.checked })}
        />
        Single-key shortcuts
      </label>
      <label className="setting">
        <input
          type="checkbox"
          checked={preferences.announcements}
          onChange={(event) => setPreferences({ announcements: event.target.checked })}
        />
        Tell screen readers every 12 s what came
      </label>
    </dialog>
  );
}
