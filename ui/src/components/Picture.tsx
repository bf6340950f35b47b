// A picture from an address that a stranger chose: https only, no referrer, loaded late, and a
// letter or an icon in its place when there is none or it fails.
//
// In a fast feed a row is on screen for a moment: a picture is asked for only when its place has
// stayed for a while, so that ten thousand rows a minute are not ten thousand requests.

import { useEffect, useState, type ReactNode } from "react";

import { imageUrl } from "./text";

const LINGER_MS = 300;
const REMEMBERED = 2_000;

const loaded = new Set<string>();
const failed = new Set<string>();

function remember(set: Set<string>, url: string): void {
  if (set.size >= REMEMBERED) set.clear();
  set.add(url);
}

export function Picture(props: {
  src: string | null | undefined;
  /** Empty: it says nothing that the text beside it does not say. */
  alt: string;
  size: number;
  className?: string;
  fallback: ReactNode;
}) {
  const url = imageUrl(props.src);
  // Another address in the same place starts anew.
  return <Loading key={url} {...props} url={url} />;
}

function Loading(props: {
  url: string | undefined;
  alt: string;
  size: number;
  className?: string;
  fallback: ReactNode;
}) {
  const { url } = props;
  const [state, setState] = useState<"waiting" | "wanted" | "shown" | "failed">(() => {
    if (url === undefined || failed.has(url)) return "failed";
    return loaded.has(url) ? "shown" : "waiting";
  });
  useEffect(() => {
    if (state !== "waiting") return;
    const timer = setTimeout(() => setState("wanted"), LINGER_MS);
    return () => clearTimeout(timer);
  }, [state]);

  const wanted = url !== undefined && (state === "wanted" || state === "shown");
  return (
    <span className={`picture ${props.className ?? ""}`}>
      {state !== "shown" && props.fallback}
      {wanted && (
        <img
          src={url}
          alt={props.alt}
          width={props.size}
          height={props.size}
          loading="lazy"
          decoding="async"
          referrerPolicy="no-referrer"
          draggable={false}
          hidden={state !== "shown"}
          onLoad={() => {
            remember(loaded, url);
            setState("shown");
          }}
          onError={() => {
            remember(failed, url);
            setState("failed");
          }}
        />
      )}
    </span>
  );
}
