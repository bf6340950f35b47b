-- Every event of every room, append-only, one partition per UTC day of reception.
--
-- The day is part of the key because a unique index of a partitioned table must hold the
-- partition column. It is derived from ingested_at, which a redelivery and a replay repeat
-- exactly, so (event_id, part_day) is as unique as event_id alone.

CREATE TABLE events (
    event_id    bytea NOT NULL CHECK (octet_length(event_id) = 32),
    part_day    date NOT NULL,
    stream_id   text COLLATE "C" NOT NULL,
    session_id  uuid NOT NULL,
    seq_no      bigint NOT NULL CHECK (seq_no >= 0),
    event_type  text COLLATE "C" NOT NULL,
    source      text COLLATE "C" NOT NULL CHECK (source IN ('live', 'replay')),
    occurred_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now(),
    user_id     text COLLATE "C",
    event       jsonb NOT NULL,
    raw         bytea NOT NULL,
    raw_format  text COLLATE "C" NOT NULL CHECK (raw_format IN ('protobuf', 'json')),
    raw_hash    bytea NOT NULL CHECK (octet_length(raw_hash) = 32),
    CONSTRAINT events_day_of_reception CHECK (part_day = (ingested_at AT TIME ZONE 'UTC')::date),
    CONSTRAINT events_once UNIQUE (event_id, part_day)
) PARTITION BY RANGE (part_day);
CREATE INDEX events_by_stream ON events (stream_id, seq_no);
CREATE INDEX events_by_session ON events (session_id, seq_no);
CREATE INDEX events_by_user ON events (user_id, ingested_at) WHERE user_id IS NOT NULL;

COMMENT ON TABLE events IS 'Every event, append-only; partitioned by part_day, one partition per day (events_YYYY_MM_DD) and events_default for days without one.';
COMMENT ON COLUMN events.event_id IS 'sha256(stream_id ":" seq_no ":" raw type), 32 bytes: the idempotency key.';
COMMENT ON COLUMN events.part_day IS 'The UTC day of ingested_at: the partition.';
COMMENT ON COLUMN events.stream_id IS 'TikTok''s room id.';
COMMENT ON COLUMN events.session_id IS 'The connection that brought it.';
COMMENT ON COLUMN events.seq_no IS 'Place in the room''s order; never repeats for a room, contiguous inside a session.';
COMMENT ON COLUMN events.event_type IS 'UnifiedEvent eventType, such as CHAT.';
COMMENT ON COLUMN events.source IS 'live: replays are shown, not stored again.';
COMMENT ON COLUMN events.occurred_at IS 'When it happened, by TikTok''s clock where the message has a time.';
COMMENT ON COLUMN events.ingested_at IS 'When we received it.';
COMMENT ON COLUMN events.stored_at IS 'When the transaction that stored it began.';
COMMENT ON COLUMN events.user_id IS 'Who did it; null where the message has no user.';
COMMENT ON COLUMN events.event IS 'The UnifiedEvent v1; absent fields are left out, never null.';
COMMENT ON COLUMN events.raw IS 'The payload as its provider delivered it: protobuf bytes, or JSON text in UTF-8.';
COMMENT ON COLUMN events.raw_format IS 'What raw holds: protobuf or json.';
COMMENT ON COLUMN events.raw_hash IS 'sha256 of raw as first stored: tells a redelivery from another message with the same id.';

-- Faster than the default on both ways; a server built without it keeps the default.
DO $$
BEGIN
    ALTER TABLE events ALTER COLUMN event SET COMPRESSION lz4, ALTER COLUMN raw SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Rows of days without a partition; the writer warns about each, ensure_event_partitions moves
-- what lies in its days.
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Runs with the owner's rights, so that a writer that may only insert can still call it.
CREATE FUNCTION ensure_event_partitions(days_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    today   date := (now() AT TIME ZONE 'UTC')::date;
    day     date;
    name    text;
    created integer := 0;
BEGIN
    IF days_ahead NOT BETWEEN 0 AND 366 THEN
        RAISE EXCEPTION 'days_ahead must be between 0 and 366, not %', days_ahead
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One at a time; the others then find the partitions made.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.ensure_event_partitions', 0));
    -- Yesterday too: what was received before midnight is stored after it.
    FOR offset_days IN -1..days_ahead LOOP
        day := today + offset_days;
        name := 'events_' || to_char(day, 'YYYY_MM_DD');
        CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
        -- No row may slip into the default partition between the move and the attach.
        LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format(
            'CREATE TABLE public.%I (LIKE public.events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION)',
            name);
        EXECUTE format(
            'WITH moved AS (DELETE FROM events_default WHERE part_day = %L RETURNING *) INSERT INTO public.%I SELECT * FROM moved',
            day, name);
        -- Not CREATE … PARTITION OF: attaching lets readers and writers of the table go on.
        EXECUTE format(
            'ALTER TABLE public.events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
            name, day, day + 1);
        created := created + 1;
    END LOOP;
    RETURN created;
END
$$;
REVOKE ALL ON FUNCTION ensure_event_partitions(integer) FROM PUBLIC;
COMMENT ON FUNCTION ensure_event_partitions(integer) IS 'Makes the partitions of events from yesterday to so many days ahead that are missing, moves rows of these days out of events_default, and returns how many it made.';

SELECT ensure_event_partitions(14);
