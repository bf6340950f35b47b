// A battle between creators: its sides, their points, and how the points compare.

import type { Battle as BattlePayload } from "../../../api/generated/unified-event";
import { number } from "../../../components/format";
import { nameOf } from "../describe";

const RESULT_WORDS = { win: "won", lose: "lost", draw: "draw" } as const;
/** A battle has two sides, or four; more are not shown in a row. */
const MAX_SIDES = 8;

export function Battle({ title, payload }: { title: string; payload: BattlePayload }) {
  const sides = (payload.sides ?? []).slice(0, MAX_SIDES);
  const most = Math.max(1, ...sides.map((side) => side.score ?? 0));
  return (
    <div className="battle">
      <strong className="tone">{title}</strong>
      {payload.durationSeconds ? <span className="note">{payload.durationSeconds} s</span> : null}
      {sides.length > 0 && (
        <ul className="battle-sides">
          {sides.map((side) => (
            <li key={side.userId}>
              <bdi className="battle-name">{nameOf(side)}</bdi>
              {side.result && <span className="role">{RESULT_WORDS[side.result]}</span>}
              {side.score !== undefined && (
                <>
                  <meter className="hidden-visually" min={0} max={most} value={side.score}>
                    {number(side.score)}
                  </meter>
                  <span className="battle-bar" aria-hidden="true">
                    <span style={{ width: `${(100 * side.score) / most}%` }} />
                  </span>
                  <span className="battle-score">{number(side.score)}</span>
                </>
              )}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
