-- What was given a sequence number and is not among the events: known loss.

CREATE TABLE gaps (
    stream_id   text COLLATE "C" NOT NULL,
    from_seq_no bigint NOT NULL CHECK (from_seq_no >= 0),
    to_seq_no   bigint NOT NULL,
    reason      text COLLATE "C" NOT NULL CHECK (reason <> ''),
    lost        bigint CHECK (lost BETWEEN 1 AND to_seq_no - from_seq_no + 1),
    session_id  uuid,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, from_seq_no, to_seq_no, reason),
    CHECK (from_seq_no <= to_seq_no)
);
COMMENT ON TABLE gaps IS 'Sequence numbers that were given out and have no event, and why; only the storage writer and the functions for pruning and erasure write it.';
COMMENT ON COLUMN gaps.stream_id IS 'The room.';
COMMENT ON COLUMN gaps.from_seq_no IS 'The first number.';
COMMENT ON COLUMN gaps.to_seq_no IS 'The last number.';
COMMENT ON COLUMN gaps.reason IS 'trimmed: fell out of a Redis stream unread; pruned: older than the retention; erased: of a viewer who was erased; unknown_tail: the session ended without a goodbye, and what it received last may be lost; else the reason that ingest gave for dropping, such as spool_full.';
COMMENT ON COLUMN gaps.lost IS 'How many of the range are lost; null when unknown.';
COMMENT ON COLUMN gaps.session_id IS 'The session that told it, or that it is part of; null when it is about several.';
COMMENT ON COLUMN gaps.recorded_at IS 'When the row was written.';

-- As before, and days of the past that are found in events_default get a partition too (what
-- was received while nothing could be stored for days, on a new database), so that pruning
-- reaches them.
CREATE OR REPLACE FUNCTION ensure_event_partitions(days_ahead integer) RETURNS integer
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
    FOR day IN
        SELECT today + ahead FROM generate_series(-1, days_ahead) AS ahead
        UNION
        SELECT DISTINCT part_day FROM events_default WHERE part_day < today
        ORDER BY 1
    LOOP
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
COMMENT ON FUNCTION ensure_event_partitions(integer) IS 'Makes the partitions of events that are missing, from yesterday to so many days ahead and for days of the past that events_default holds, moves the rows of these days out of events_default, and returns how many it made.';
