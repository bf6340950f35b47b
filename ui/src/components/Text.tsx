// Text that a stranger wrote, isolated so that its direction stays its own.

import { plain } from "./text";

export function Text({ children }: { children: string | null | undefined }) {
  return <bdi>{plain(children)}</bdi>;
}
