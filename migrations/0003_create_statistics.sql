-- Numbers that follow from the events, kept up to date in the transaction that inserts these.
-- They outlive the events: pruning old partitions leaves them as they are.
--
-- A gift counts once, by the event of its streak that is final or single; the steps before it
-- and an end that comes after a time-out has closed the streak are progress and count for
-- nothing. Amounts above 10^12 in one event count as 10^12: no message can overflow a sum.
-- Rows are updated often and in place: room is left in each page.

CREATE TABLE session_stats (
    session_id   uuid NOT NULL,
    event_type   text COLLATE "C" NOT NULL,
    events       bigint NOT NULL CHECK (events > 0),
    coins        bigint NOT NULL CHECK (coins >= 0),
    gifts        bigint NOT NULL CHECK (gifts >= 0),
    likes        bigint NOT NULL CHECK (likes >= 0),
    peak_viewers bigint,
    PRIMARY KEY (session_id, event_type)
) WITH (fillfactor = 70);
COMMENT ON TABLE session_stats IS 'What happened in a session, by type of event.';
COMMENT ON COLUMN session_stats.session_id IS 'The session; replays have none.';
COMMENT ON COLUMN session_stats.event_type IS 'UnifiedEvent eventType, such as CHAT.';
COMMENT ON COLUMN session_stats.events IS 'How many events of the type were stored.';
COMMENT ON COLUMN session_stats.coins IS 'Coins of the gifts that count (streak final or single).';
COMMENT ON COLUMN session_stats.gifts IS 'Items of the gifts that count (streak final or single).';
COMMENT ON COLUMN session_stats.likes IS 'The sum of the likes of each batch.';
COMMENT ON COLUMN session_stats.peak_viewers IS 'The most viewers that a ROOM_USER event told; null without one.';

CREATE TABLE stream_minute_stats (
    stream_id    text COLLATE "C" NOT NULL,
    minute       timestamptz NOT NULL,
    event_type   text COLLATE "C" NOT NULL,
    events       bigint NOT NULL CHECK (events > 0),
    coins        bigint NOT NULL CHECK (coins >= 0),
    gifts        bigint NOT NULL CHECK (gifts >= 0),
    likes        bigint NOT NULL CHECK (likes >= 0),
    peak_viewers bigint,
    PRIMARY KEY (stream_id, minute, event_type)
) WITH (fillfactor = 70);
COMMENT ON TABLE stream_minute_stats IS 'What happened in a room in each minute, by type of event.';
COMMENT ON COLUMN stream_minute_stats.stream_id IS 'The room.';
COMMENT ON COLUMN stream_minute_stats.minute IS 'The beginning of the minute, UTC, by the time of reception (ingested_at).';
COMMENT ON COLUMN stream_minute_stats.event_type IS 'UnifiedEvent eventType, such as CHAT.';
COMMENT ON COLUMN stream_minute_stats.events IS 'How many events of the type were stored.';
COMMENT ON COLUMN stream_minute_stats.coins IS 'Coins of the gifts that count (streak final or single).';
COMMENT ON COLUMN stream_minute_stats.gifts IS 'Items of the gifts that count (streak final or single).';
COMMENT ON COLUMN stream_minute_stats.likes IS 'The sum of the likes of each batch.';
COMMENT ON COLUMN stream_minute_stats.peak_viewers IS 'The most viewers that a ROOM_USER event told; null without one.';

CREATE TABLE session_users (
    session_id    uuid NOT NULL,
    user_id       text COLLATE "C" NOT NULL,
    events        bigint NOT NULL CHECK (events > 0),
    coins         bigint NOT NULL CHECK (coins >= 0),
    gifts         bigint NOT NULL CHECK (gifts >= 0),
    likes         bigint NOT NULL CHECK (likes >= 0),
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    PRIMARY KEY (session_id, user_id)
) WITH (fillfactor = 70);
CREATE INDEX session_users_by_user ON session_users (user_id);
COMMENT ON TABLE session_users IS 'What each viewer did in a session.';
COMMENT ON COLUMN session_users.session_id IS 'The session; replays have none.';
COMMENT ON COLUMN session_users.user_id IS 'Who did it: TikTok''s number of the account.';
COMMENT ON COLUMN session_users.events IS 'How many events of the viewer were stored.';
COMMENT ON COLUMN session_users.coins IS 'Coins of the viewer''s gifts that count (streak final or single).';
COMMENT ON COLUMN session_users.gifts IS 'Items of the viewer''s gifts that count (streak final or single).';
COMMENT ON COLUMN session_users.likes IS 'The sum of the viewer''s likes.';
COMMENT ON COLUMN session_users.first_seen_at IS 'When we received the viewer''s first event of the session.';
COMMENT ON COLUMN session_users.last_seen_at IS 'When we received the viewer''s newest event of the session.';

-- What was stored before these tables existed.
CREATE TEMPORARY TABLE counted ON COMMIT DROP AS
SELECT session_id, stream_id, event_type, user_id, ingested_at,
    CASE WHEN counts THEN least((event #>> '{payload,coins,total}')::numeric, 1000000000000)::bigint ELSE 0 END AS coins,
    CASE WHEN counts THEN least((event #>> '{payload,giftCount}')::numeric, 1000000000000)::bigint ELSE 0 END AS gifts,
    CASE WHEN event_type = 'LIKE'
        THEN least((event #>> '{payload,count}')::numeric, 1000000000000)::bigint ELSE 0 END AS likes,
    CASE WHEN event_type = 'ROOM_USER'
        THEN least((event #>> '{payload,viewerCount}')::numeric, 1000000000000)::bigint END AS viewers
FROM (
    SELECT *, event_type = 'GIFT' AND event #>> '{payload,streak,state}' IN ('final', 'single') AS counts FROM events
) AS stored;
INSERT INTO session_stats
SELECT session_id, event_type, count(*), sum(coins), sum(gifts), sum(likes), max(viewers)
FROM counted GROUP BY session_id, event_type;
INSERT INTO stream_minute_stats
SELECT stream_id, date_trunc('minute', ingested_at, 'UTC'), event_type, count(*), sum(coins), sum(gifts), sum(likes), max(viewers)
FROM counted GROUP BY 1, 2, 3;
INSERT INTO session_users
SELECT session_id, user_id, count(*), sum(coins), sum(gifts), sum(likes), min(ingested_at), max(ingested_at)
FROM counted WHERE user_id IS NOT NULL GROUP BY session_id, user_id;
