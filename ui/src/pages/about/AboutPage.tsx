// What this is and what it is not.

import { Link } from "react-router";

import { TopBar } from "../../components/TopBar";

export function AboutPage() {
  return (
    <>
      <TopBar />
      <main id="main" className="prose">
        <h1>About Live Console</h1>
        <p>
          Live Console shows what happens in a TikTok LIVE room as it happens: chat, gifts, likes,
          battles and everything else the room says, each event once and in order.
        </p>
        <p>
          It is unofficial software. It is{" "}
          <strong>not affiliated with TikTok or Euler Stream</strong>, not endorsed by them, and all
          their names and marks are theirs.
        </p>
        <p>
          Names, pictures and messages come from viewers of the room and are shown as they were
          sent. Pictures are loaded from TikTok’s servers without telling them which page they are
          on. Theme and settings stay in this browser.
        </p>
        <p>
          <Link to="/">Back to the live view</Link>
        </p>
      </main>
    </>
  );
}

export function NotFoundPage() {
  return (
    <>
      <TopBar />
      <main id="main" className="prose">
        <h1>No such page</h1>
        <p>
          <Link to="/">Go to the live view</Link>
        </p>
      </main>
    </>
  );
}
