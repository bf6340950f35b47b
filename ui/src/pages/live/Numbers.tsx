// The numbers of the stream: watching now, likes, coins, pace; and the room's own ranking.

import { number, plural, shortNumber } from "../../components/format";
import { Icon, type IconName } from "../../components/Icon";
import { Picture } from "../../components/Picture";
import { initial } from "../../components/text";
import { nameOf } from "./describe";
import type { FeedTotals } from "./feed";

const TOP = 5;

export function Numbers({ totals }: { totals: FeedTotals | undefined }) {
  return (
    <dl className="numbers" aria-label="Numbers of this stream">
      <Tile icon="room" tone="accent" label="Viewers now" value={totals?.viewers} />
      <Tile icon="like" tone="like" label="Likes" value={totals?.likes} />
      <Tile
        icon="gift"
        tone="gift"
        label="Coins"
        value={totals?.coins}
        note={totals ? plural(totals.gifts, "gift") : ""}
      />
      <Tile icon="chat" tone="good" label="Events/min" value={totals?.eventsPerMinute} />
    </dl>
  );
}

function Tile(props: {
  icon: IconName;
  tone: string;
  label: string;
  value: number | undefined;
  note?: string;
}) {
  const { value } = props;
  return (
    <div className={`tile tone-${props.tone}`}>
      <dt>
        <Icon name={props.icon} size={15} />
        {props.label}
      </dt>
      <dd>
        <span className="tile-value" title={value === undefined ? undefined : number(value)}>
          {value === undefined ? <span aria-label="not known yet">–</span> : shortNumber(value)}
        </span>
        {props.note && <span className="tile-note">{props.note}</span>}
      </dd>
    </div>
  );
}

export function TopViewers({ totals }: { totals: FeedTotals | undefined }) {
  // Two thirds of the entries are an id and nothing else: those say nothing to a reader.
  const top = (totals?.topViewers ?? [])
    .filter((viewer) => viewer.displayName || viewer.username)
    .toSorted((a, b) => a.rank - b.rank)
    .slice(0, TOP);
  if (top.length === 0) return null;
  return (
    <section className="panel" aria-labelledby="top-viewers">
      <h2 id="top-viewers">Top viewers</h2>
      <ol className="top">
        {top.map((viewer) => (
          <li key={`${viewer.rank} ${viewer.userId}`}>
            <span className="top-rank">{viewer.rank}</span>
            <Picture
              src={viewer.avatarUrl}
              alt=""
              size={28}
              className="avatar avatar-small"
              fallback={
                <span className="avatar-letter" aria-hidden="true">
                  {initial(nameOf(viewer))}
                </span>
              }
            />
            <bdi className="top-name">{nameOf(viewer)}</bdi>
            <span className="top-coins">{plural(viewer.coins, "coin")}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}
