// The page's own icons, 20 × 20, drawn with the colour of the text around them.

const PATHS = {
  chat: "M4 5.5h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H9l-4 3v-3H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1Z",
  gift: "M3.5 8h13v3h-13zM5 11h10v6H5zM10 8v9M10 8C8 8 6 7 6 5.5S8.5 3.5 10 8Zm0 0c2 0 4-1 4-2.5S11.5 3.5 10 8Z",
  like: "M10 16.5 4.3 10.8a3.7 3.7 0 0 1 5.2-5.3l.5.5.5-.5a3.7 3.7 0 0 1 5.2 5.3Z",
  join: "M8 3.5h7a1 1 0 0 1 1 1v11a1 1 0 0 1-1 1H8M3.5 10h8M9 7l3 3-3 3",
  follow:
    "M8 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM2.5 16.5c.4-3 2.7-4.5 5.5-4.5s5.1 1.5 5.5 4.5M15.5 7.5v5M13 10h5",
  share: "M11 4l5.5 5L11 14v-3c-4 0-6 1.5-7.5 4.5C4 11 6 7.5 11 7Z",
  subscribe: "m10 3 2.1 4.5 4.9.6-3.6 3.4.9 4.9-4.3-2.4-4.3 2.4.9-4.9L3 8.1l4.9-.6Z",
  emote: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM7.5 8.2v.6M12.5 8.2v.6M7 12c1.5 2 4.5 2 6 0",
  battle: "M4 4l9 9M16 4l-9 9M11 15l3-3M6 12l3 3M3.5 16.5l2.5-2.5M16.5 16.5 14 14",
  room: "M2.5 10s2.7-5 7.5-5 7.5 5 7.5 5-2.7 5-7.5 5-7.5-5-7.5-5ZM10 12.3a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6Z",
  end: "M5.5 5.5h9v9h-9z",
  connected: "M4 10.5 8.2 14.5 16 6",
  disconnected: "M5 5l10 10M15 5 5 15",
  error: "M10 3.5 17.5 16.5h-15ZM10 8.5v3.5M10 14.2v.3",
  raw: "M7 6l-4 4 4 4M13 6l4 4-4 4",
  gap: "M3 10h3.5M13.5 10H17M8.5 6.5l-1 7M12.5 6.5l-1 7",
  search: "M9 14.5a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11ZM13 13l4 4",
  pause: "M7 4.5v11M13 4.5v11",
  play: "M6.5 4.5v11l9-5.5Z",
  down: "M10 4v11M5 10.5l5 5 5-5",
  sun: "M10 13.3a3.3 3.3 0 1 0 0-6.6 3.3 3.3 0 0 0 0 6.6ZM10 2.5v1.5M10 16v1.5M2.5 10H4M16 10h1.5M4.7 4.7l1 1M14.3 14.3l1 1M15.3 4.7l-1 1M5.7 14.3l-1 1",
  moon: "M16.5 11.5A6.8 6.8 0 0 1 8.5 3.5a6.8 6.8 0 1 0 8 8Z",
  system: "M3 4.5h14v9H3zM7 16.5h6M10 13.5v3",
  keyboard: "M2.5 5.5h15v9h-15zM5.5 8.5h.1M8.5 8.5h.1M11.5 8.5h.1M14.5 8.5h.1M6.5 11.7h7",
  chevron: "M5.5 8l4.5 4.5L14.5 8",
  close: "M5 5l10 10M15 5 5 15",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path
        d={PATHS[name]}
        fill="none"
        stroke="currentColor"
        strokeWidth="1.6"
        strokeLinecap="round"
        strokeLinejoin="round"
      />
    </svg>
  );
}
