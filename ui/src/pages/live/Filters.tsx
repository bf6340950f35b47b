// Which events the list shows: a chip per type with its count, and a text search.

import { useEffect, useState, type Ref } from "react";

import { EVENT_TYPES, type EventType } from "../../api/event";
import { number, shortNumber } from "../../components/format";
import { Icon } from "../../components/Icon";
import type { Filter } from "./filter";
import { KINDS } from "./kinds";

/** How long after the last key the search runs, in ms. */
const SEARCH_DELAY = 150;

export function Search({
  value,
  onChange,
  ref,
}: {
  value: string;
  onChange: (text: string) => void;
  ref: Ref<HTMLInputElement>;
}) {
  const [text, setText] = useState(value);
  const [seen, setSeen] = useState(value);
  if (seen !== value) {
    // The address changed under us: back, forward, or the filter was cleared.
    setSeen(value);
    setText(value);
  }
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => onChange(text), SEARCH_DELAY);
    return () => clearTimeout(timer);
  }, [text, value, onChange]);

  return (
    <search className="search">
      <Icon name="search" size={16} />
      <input
        ref={ref}
        type="search"
        aria-label="Search events by message, name, gift or raw type"
        aria-keyshortcuts="/"
        placeholder="Search messages, names, gifts"
        autoComplete="off"
        spellCheck={false}
        maxLength={200}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          if (text === "") event.currentTarget.blur();
          setText("");
        }}
      />
    </search>
  );
}

export function TypeChips(props: {
  filter: Filter;
  counts: Readonly<Record<EventType, number>>;
  onChange: (types: ReadonlySet<EventType>) => void;
}) {
  const { filter, counts, onChange } = props;
  const toggle = (type: EventType) => {
    const types = new Set(filter.types);
    if (!types.delete(type)) types.add(type);
    onChange(types);
  };
  return (
    <fieldset className="chips" aria-label="Event types to show">
      <button
        type="button"
        className="chip"
        aria-pressed={filter.types.size === 0}
        onClick={() => onChange(new Set())}
      >
        All
      </button>
      {EVENT_TYPES.map((type) => (
        <button
          key={type}
          type="button"
          className={`chip tone-${KINDS[type].tone}`}
          aria-pressed={filter.types.has(type)}
          aria-label={`${KINDS[type].label}, ${number(counts[type])}`}
          onClick={() => toggle(type)}
        >
          <Icon name={KINDS[type].icon} size={14} />
          {KINDS[type].label}
          <span className="chip-count">{shortNumber(counts[type])}</span>
        </button>
      ))}
    </fieldset>
  );
}
