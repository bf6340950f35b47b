// Made-up UnifiedEvents of every type, the same for the same seed: for tests, the benchmark and
// development without the server. Shaped like what rooms really send; all people are invented.

import { createHash } from "node:crypto";

const PEOPLE = [
  ["6800000000000000001", "alice", "Alice 🌸"],
  ["6800000000000000002", "bob_b", "Bob"],
  ["6800000000000000003", "mariam", "مريم"],
  ["6800000000000000004", "yuki", "ゆき"],
  ["6800000000000000005", "noor.live", "Noor ✨"],
  ["6800000000000000006", "x_long", "A name that goes on for rather a long while, as some do"],
  ["6800000000000000007", "dmitri", "Дмитрий"],
  ["6800000000000000008", "bidi", "\u202eevil name\u202c"],
  ["6800000000000000009", "zoe", "zoë"],
  ["6800000000000000010", "han", "한솔"],
];
const MESSAGES = [
  "hello from Berlin",
  "😂😂😂",
  "how long are you live today?",
  "مرحبا بالجميع",
  "that was so good, play it again please",
  "first time here, love the vibe. I found you through a friend who never stops talking about it",
  "<b>not bold</b> & <script>alert(1)</script>",
  "おはようございます！",
  "W",
  "can you say hi to my sister, she is watching with me",
];
const GIFTS = [
  ["5655", "Rose", 1],
  ["5487", "Finger Heart", 5],
  ["6064", "GG", 1],
  ["7934", "Heart Me", 1],
  ["5879", "Doughnut", 30],
  ["8913", "Rosa", 10],
];
const RAW_TYPES = [
  "WebcastGoalUpdateMessage",
  "WebcastLinkLayerMessage",
  "WebcastRankUpdateMessage",
  "WebcastEnvelopeMessage",
];

/** The eventId of the contract. */
export function eventId(streamId, seqNo, type) {
  return createHash("sha256").update(`${streamId}:${seqNo}:${type}`).digest("hex");
}

/** A maker of events of one stream: `next()` gives one after the other. */
export class EventMaker {
  #streamId;
  #sessionId;
  #seqNo;
  #state;
  #likes = 4_000;
  #viewers = 812;
  #streaks = new Map();
  #battle = 0;

  constructor({ streamId, seed = 1, firstSeqNo = Date.now() * 16 }) {
    this.#streamId = streamId;
    this.#sessionId = `0198c0de-0000-7000-8000-${String(seed).padStart(12, "0")}`;
    this.#seqNo = firstSeqNo;
    this.#state = seed >>> 0 || 1;
  }

  /**
   * An event around `payload`; `payload.rawType` names the message.
   *
   * @param {string} eventType
   * @param {{ rawType: string, [field: string]: unknown }} payload
   * @param {{ user?: object | null, at?: number }} options
   * @returns {any} for tests to use as the event type they asked for
   */
  event(eventType, payload, { user, at = Date.now() } = {}) {
    const seqNo = this.#seqNo++;
    return {
      schemaVersion: "unified-event.v1",
      eventId: eventId(this.#streamId, seqNo, payload.rawType),
      eventType,
      source: "live",
      streamId: this.#streamId,
      sessionId: this.#sessionId,
      seqNo,
      timestamp: new Date(at - 300).toISOString(),
      ingestedAt: new Date(at).toISOString(),
      ...(user ? { user } : {}),
      payload,
    };
  }

  connected(extra = {}) {
    return this.event("CONNECTED", {
      rawType: "ControlEvent.CONNECTED",
      provider: "direct",
      attempt: 1,
      reason: "start",
      ...extra,
    });
  }

  end() {
    return this.event("STREAM_END", { rawType: "WebcastControlMessage", action: 3 });
  }

  next(at) {
    const dice = this.#random(100);
    const user = this.#user();
    const made = (type, rawType, payload, who = user) =>
      this.event(type, { rawType, ...payload }, { user: who ?? undefined, at });
    if (dice < 38) return this.#chat(made);
    if (dice < 58) {
      const count = 1 + this.#random(15);
      this.#likes += count;
      return made("LIKE", "WebcastLikeMessage", { count, total: this.#likes });
    }
    if (dice < 74) {
      return made("JOIN", "WebcastMemberMessage", { memberCount: this.#viewers, action: 1 });
    }
    if (dice < 84) return this.#gift(made, user);
    if (dice < 87) return made("FOLLOW", "WebcastSocialMessage", { followCount: 10_234 });
    if (dice < 89) return made("SHARE", "WebcastSocialMessage", { shareCount: 77 });
    if (dice < 90) {
      return made("SUBSCRIBE", "WebcastSubNotifyMessage", { months: 3, type: "autoRenew" });
    }
    if (dice < 91) {
      return made("EMOTE", "WebcastEmoteChatMessage", { emotes: [{ emoteId: "71" }] });
    }
    if (dice < 93) return this.#scores(made);
    if (dice < 96) return this.#roomUser(made);
    const rawType = RAW_TYPES[this.#random(RAW_TYPES.length)];
    return made("RAW", rawType, { raw: "CAESBAgBEAE=", decoded: { goal: 5 } }, null);
  }

  #chat(made) {
    const message = MESSAGES[this.#random(MESSAGES.length)];
    const emotes =
      this.#random(8) === 0
        ? [{ emoteId: "70", imageUrl: "https://emote.invalid/70.webp", position: message.length }]
        : [];
    return made("CHAT", "WebcastChatMessage", {
      message,
      language: "en",
      ...(emotes.length > 0 ? { emotes } : {}),
    });
  }

  /** Streaks: a few in progress, then the final one. */
  #gift(made, user) {
    const [giftId, giftName, unit] = GIFTS[this.#random(GIFTS.length)];
    const key = `${user.userId}:${giftId}`;
    const before = this.#streaks.get(key) ?? 0;
    const single = unit >= 10;
    const giftCount = single ? 1 : before + 1 + this.#random(4);
    const state = single ? "single" : giftCount > 12 ? "final" : "progress";
    if (state === "progress") this.#streaks.set(key, giftCount);
    else this.#streaks.delete(key);
    return made("GIFT", "WebcastGiftMessage", {
      giftId,
      giftName,
      giftCount,
      coins: { unit, total: unit * giftCount },
      imageUrl: `https://gift.invalid/${giftId}.webp`,
      streak: { id: key, state, inferred: false },
    });
  }

  #scores(made) {
    this.#battle += 40 + this.#random(300);
    return made(
      "BATTLE",
      "WebcastLinkMicArmies",
      {
        kind: "armies",
        battleId: "7286184332472634144",
        status: "scores",
        sides: [
          { userId: "77001", displayName: "Host", score: this.#battle },
          { userId: "77002", displayName: "Guest Star 🎩", score: 900 },
        ],
      },
      null,
    );
  }

  #roomUser(made) {
    this.#viewers = Math.max(20, this.#viewers + this.#random(41) - 20);
    return made(
      "ROOM_USER",
      "WebcastRoomUserSeqMessage",
      {
        viewerCount: this.#viewers,
        totalViewers: 15_400,
        topViewers: PEOPLE.slice(0, 5).map(([userId, username, displayName], i) => ({
          userId,
          username,
          displayName,
          rank: i + 1,
          coins: 4_000 - i * 700,
        })),
      },
      null,
    );
  }

  #user() {
    const [userId, username, displayName] = PEOPLE[this.#random(PEOPLE.length)];
    return {
      userId,
      username,
      displayName,
      avatarUrl: `https://avatar.invalid/${userId}.webp`,
      roles: {
        moderator: userId.endsWith("2"),
        subscriber: userId.endsWith("4"),
        follower: true,
        topGifter: userId.endsWith("5"),
        anchor: false,
      },
    };
  }

  /** xorshift: the same run for the same seed. */
  #random(below) {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state % below;
  }
}
