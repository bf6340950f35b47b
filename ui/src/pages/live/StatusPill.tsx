// The state of the connection: a word, a shape, and a sentence on request.

import type { Status } from "./status";

export function StatusPill({ status, onRetry }: { status: Status; onRetry: () => void }) {
  const waiting = status.tone === "warn" || status.tone === "bad";
  return (
    <div className={`status tone-${status.tone}`}>
      <span className={`status-dot status-${status.word.toLowerCase()}`} aria-hidden="true" />
      {/* Only the word is announced: the sentence counts seconds. */}
      <output data-testid="connection-state">{status.word}</output>
      <span className="status-detail">{status.detail}</span>
      {waiting && (
        <button type="button" className="link" onClick={onRetry}>
          Retry
        </button>
      )}
    </div>
  );
}
