// How the feed itself is doing: for whoever wonders whether something is missing.

import { useEffect, useState } from "react";

import { duration, number } from "../../components/format";
import type { FeedHealth, LiveFeed } from "../../api/live";
import { CAPACITY, type FeedTotals } from "./feed";

export function Diagnostics({ live, totals }: { live: LiveFeed; totals: FeedTotals | undefined }) {
  const [health, setHealth] = useState<FeedHealth>({ ...live.health });
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const look = () => {
      setHealth({ ...live.health });
      setNow(Date.now());
    };
    look();
    const timer = setInterval(look, 1_000);
    return () => clearInterval(timer);
  }, [live]);

  const { lastHeartbeatAt } = health;
  const rows: [string, string][] = [
    ["Events received", number(totals?.count ?? 0)],
    ["Rows kept", `${number(totals?.held ?? 0)} of ${number(CAPACITY)}`],
    ["Repeats dropped", number(health.repeats)],
    ["Unreadable messages", number(health.malformed)],
    ["Gaps", number(health.gaps)],
    ["Connections made", number(health.connections)],
    ["Last heartbeat", lastHeartbeatAt ? `${duration(now - lastHeartbeatAt)} ago` : "none yet"],
  ];
  return (
    <details className="panel diagnostics">
      <summary>
        <h2>Feed diagnostics</h2>
      </summary>
      <dl>
        {rows.map(([label, value]) => (
          <div key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {health.lastError && <p className="diagnostics-error">Last error: {health.lastError}</p>}
    </details>
  );
}
