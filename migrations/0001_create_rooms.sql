-- Who is watched and what we know of each room: small tables that the storage writer keeps
-- up to date in the transaction that inserts the events.
--
-- No foreign keys: several writers insert in any order, and events outlive none of these rows.
-- Times are merged with greatest and least, so the result does not depend on that order.
-- Ids are text (they exceed 2^53) with collation "C": compared by bytes, the same everywhere.

CREATE TABLE creators (
    username     text COLLATE "C" PRIMARY KEY CHECK (username <> ''),
    user_id      text COLLATE "C",
    display_name text,
    state        text NOT NULL DEFAULT 'tracked' CHECK (state IN ('tracked', 'untracked')),
    added_by     text NOT NULL DEFAULT 'config',
    added_at     timestamptz NOT NULL DEFAULT now(),
    connected_at timestamptz
);
COMMENT ON TABLE creators IS 'The creators we watch; a row appears when we first connect to one.';
COMMENT ON COLUMN creators.username IS 'The @name without the @, as TikTok spells it.';
COMMENT ON COLUMN creators.user_id IS 'TikTok''s number of the account; null until TikTok told it.';
COMMENT ON COLUMN creators.display_name IS 'The shown name, the newest known; null when unknown.';
COMMENT ON COLUMN creators.state IS 'tracked: we wait for the creator''s broadcasts; untracked: no longer.';
COMMENT ON COLUMN creators.added_by IS 'Who asked for it: config (the environment) or the name of an API token.';
COMMENT ON COLUMN creators.added_at IS 'When the row was made.';
COMMENT ON COLUMN creators.connected_at IS 'When we last connected to a room of the creator; null when never.';

CREATE TABLE streams (
    stream_id       text COLLATE "C" PRIMARY KEY,
    username        text COLLATE "C",
    title           text,
    owner_user_id   text COLLATE "C",
    owner_name      text,
    started_at      timestamptz,
    first_event_at  timestamptz NOT NULL,
    last_event_at   timestamptz NOT NULL,
    connected_at    timestamptz,
    disconnected_at timestamptz,
    ended_at        timestamptz,
    end_reason      text,
    status          text NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN ended_at IS NOT NULL THEN 'ended'
            WHEN disconnected_at IS NOT NULL THEN 'interrupted'
            ELSE 'live'
        END
    ) STORED,
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
-- Lists, newest first, and the rooms of a creator.
CREATE INDEX streams_by_first_event ON streams (first_event_at, stream_id);
CREATE INDEX streams_by_username ON streams (username, first_event_at);
COMMENT ON TABLE streams IS 'One row per broadcast (TikTok room).';
COMMENT ON COLUMN streams.stream_id IS 'TikTok''s room id: new for every broadcast.';
COMMENT ON COLUMN streams.username IS 'The creator''s @name; null until a lifecycle event told it.';
COMMENT ON COLUMN streams.title IS 'The title of the broadcast, the newest known; null when unknown.';
COMMENT ON COLUMN streams.owner_user_id IS 'TikTok''s number of the creator''s account; null when unknown.';
COMMENT ON COLUMN streams.owner_name IS 'The creator''s shown name, the newest known; null when unknown.';
COMMENT ON COLUMN streams.started_at IS 'When the broadcast began, as TikTok says; null when it did not say.';
COMMENT ON COLUMN streams.first_event_at IS 'When we received the first event; never changes once all events are stored: lists are in this order.';
COMMENT ON COLUMN streams.last_event_at IS 'When we received the newest event.';
COMMENT ON COLUMN streams.connected_at IS 'When we last connected to the room; null when never seen.';
COMMENT ON COLUMN streams.disconnected_at IS 'When the last connection was lost, or could not be made; null while connected.';
COMMENT ON COLUMN streams.ended_at IS 'When we learned that the broadcast is over; null while it may go on.';
COMMENT ON COLUMN streams.end_reason IS 'creator: ended by the creator; moderation: ended by TikTok; offline: found to be over; superseded: the creator''s next broadcast began and no end was seen. Null while ended_at is.';
COMMENT ON COLUMN streams.status IS 'Follows from the times: live, interrupted (connection lost, end unknown) or ended.';

CREATE TABLE sessions (
    session_id    uuid PRIMARY KEY,
    stream_id     text COLLATE "C" NOT NULL,
    source        text NOT NULL CHECK (source IN ('live', 'replay')),
    replay_of     uuid,
    provider      text,
    first_seq_no  bigint,
    last_seq_no   bigint,
    started_at    timestamptz NOT NULL,
    last_event_at timestamptz NOT NULL,
    ended_at      timestamptz,
    end_reason    text,
    close_code    integer,
    event_count   bigint NOT NULL DEFAULT 0 CHECK (event_count >= 0),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CHECK (replay_of IS NULL OR source = 'replay')
);
-- Lists, newest first, and the sessions of a room.
CREATE INDEX sessions_by_start ON sessions (started_at, session_id);
CREATE INDEX sessions_by_stream ON sessions (stream_id, started_at);
COMMENT ON TABLE sessions IS 'One row per connection to a room, and one per replay.';
COMMENT ON COLUMN sessions.session_id IS 'uuid v7 given at connect, reconnect or replay start.';
COMMENT ON COLUMN sessions.stream_id IS 'The room.';
COMMENT ON COLUMN sessions.source IS 'live or replay.';
COMMENT ON COLUMN sessions.replay_of IS 'For a replay, the session it shows again; its events are that session''s.';
COMMENT ON COLUMN sessions.provider IS 'Who delivers: direct or euler; null until a lifecycle event told it, and for a replay.';
COMMENT ON COLUMN sessions.first_seq_no IS 'The smallest sequence number stored; null for a replay, which stores no events.';
COMMENT ON COLUMN sessions.last_seq_no IS 'The largest sequence number stored; null for a replay.';
COMMENT ON COLUMN sessions.started_at IS 'When we received its first event; for a replay, when its first event was shown.';
COMMENT ON COLUMN sessions.last_event_at IS 'When we received its newest event; for a replay, when that was shown.';
COMMENT ON COLUMN sessions.ended_at IS 'When the connection ended; null while it lasts.';
COMMENT ON COLUMN sessions.end_reason IS 'The reason of the DISCONNECTED or ERROR event that ended it (such as stream_end, closed, silent), or lost: the creator has a newer session and this one never said goodbye. Null while ended_at is.';
COMMENT ON COLUMN sessions.close_code IS 'The WebSocket close code, when there was one.';
COMMENT ON COLUMN sessions.event_count IS 'How many events of it are stored; 0 for a replay.';

CREATE TABLE users (
    user_id       text COLLATE "C" PRIMARY KEY,
    username      text COLLATE "C",
    display_name  text,
    avatar_url    text,
    profile_at    timestamptz,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL
);
COMMENT ON TABLE users IS 'Accounts that did something in a room we watched, with their current names.';
COMMENT ON COLUMN users.user_id IS 'TikTok''s number of the account: stays the same when names change.';
COMMENT ON COLUMN users.username IS 'The @name, the newest known; null when no event had it.';
COMMENT ON COLUMN users.display_name IS 'The shown name, the newest known; null when no event had it.';
COMMENT ON COLUMN users.avatar_url IS 'A picture, the newest known; such addresses expire.';
COMMENT ON COLUMN users.profile_at IS 'When we received the newest event that had a name or a picture.';
COMMENT ON COLUMN users.first_seen_at IS 'When we received the account''s first event.';
COMMENT ON COLUMN users.last_seen_at IS 'When we received the account''s newest event.';
