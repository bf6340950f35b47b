-- Pruning that neither blocks readers of events while a day is counted, nor meets them in a circle.
--
-- Everybody takes the table before its partitions, and so does this now. A day goes in two
-- transactions: the first, a moment, takes the partition out of events and puts it under
-- pruned_events; the second counts it into gaps and drops it. A crash between the two leaves it
-- under pruned_events, where the ledger counts it and the next round finishes it.

CREATE TABLE pruned_events (
    stream_id text COLLATE "C" NOT NULL,
    seq_no    bigint NOT NULL
);
COMMENT ON TABLE pruned_events IS 'Parent (by inheritance) of days that were taken out of events and are about to be dropped; empty but for moments.';
COMMENT ON COLUMN pruned_events.stream_id IS 'The room.';
COMMENT ON COLUMN pruned_events.seq_no IS 'A number that it gave out, which is not in gaps yet.';
-- Who may read the events may ask the ledger.
DO $$
BEGIN
    GRANT SELECT ON pruned_events TO ttlc_reader;
EXCEPTION WHEN undefined_object THEN
    NULL;
END
$$;

DROP FUNCTION prune_event_partition(date);

CREATE FUNCTION detach_event_partition(first_day date) RETURNS date
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    name     text;
    day      date;
    leftover text;
BEGIN
    IF first_day > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'events of % are not of the past', first_day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One that prunes, and nobody makes a partition meanwhile.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.prune_events', 0));
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.ensure_event_partitions', 0));
    SELECT relname, to_date(substr(relname, 8), 'YYYY_MM_DD'), format('pruned_%s_%s', relname, pg_class.oid)
    INTO name, day, leftover
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass AND relname ~ '^events_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
    ORDER BY 2 LIMIT 1;
    IF name IS NULL OR day >= first_day THEN
        RETURN NULL;
    END IF;
    -- The table first, as all others: whoever has it has let go of its partitions by then.
    LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE public.events DETACH PARTITION public.%I', name);
    -- Its name is free for what may still come of that day.
    EXECUTE format('ALTER TABLE public.%I RENAME TO %I', name, leftover);
    EXECUTE format('ALTER TABLE public.%I INHERIT public.pruned_events', leftover);
    RETURN day;
END
$$;
REVOKE ALL ON FUNCTION detach_event_partition(date) FROM PUBLIC;
COMMENT ON FUNCTION detach_event_partition(date) IS 'Takes the oldest partition of a day before the given one out of events and puts it under pruned_events; returns its day, null when there is none. Commit at once: readers of events wait meanwhile.';

CREATE FUNCTION drop_pruned_events() RETURNS date
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.prune_events', 0));
    SELECT relname INTO name
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'pruned_events'::regclass
    ORDER BY 1 LIMIT 1;
    IF name IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        'INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost)
         SELECT stream_id, min(seq_no), max(seq_no), ''pruned'', count(DISTINCT seq_no)
         FROM (
            SELECT stream_id, seq_no, seq_no - dense_rank() OVER (PARTITION BY stream_id ORDER BY seq_no) AS run
            FROM public.%I
         ) AS numbered
         GROUP BY stream_id, run
         ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING', name);
    EXECUTE format('DROP TABLE public.%I', name);
    RETURN to_date(substr(name, length('pruned_events_') + 1, 10), 'YYYY_MM_DD');
END
$$;
REVOKE ALL ON FUNCTION drop_pruned_events() FROM PUBLIC;
COMMENT ON FUNCTION drop_pruned_events() IS 'Writes rows of gaps for what a day under pruned_events held, drops it, and returns the day; null when there is none.';

-- As before, and what is under pruned_events is accounted for.
CREATE OR REPLACE FUNCTION unaccounted(room text)
RETURNS TABLE (session_id uuid, from_seq_no bigint, to_seq_no bigint)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    WITH covered AS (
        SELECT seq_no AS first, seq_no AS last FROM events WHERE stream_id = room
        UNION ALL
        SELECT seq_no, seq_no FROM pruned_events WHERE stream_id = room
        UNION ALL
        SELECT seq_no, seq_no FROM dead_letters WHERE stream_id = room AND seq_no IS NOT NULL
        UNION ALL
        SELECT gaps.from_seq_no, gaps.to_seq_no FROM gaps WHERE stream_id = room
    ), reached AS (
        SELECT first, max(last) OVER (ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS last
        FROM covered
    ), holes AS (
        SELECT last + 1 AS first, first - 1 AS last FROM reached WHERE first > last + 1
    )
    SELECT sessions.session_id, greatest(holes.first, sessions.first_seq_no), least(holes.last, sessions.last_seq_no)
    FROM holes JOIN sessions ON sessions.stream_id = room AND sessions.source = 'live'
        AND holes.first <= sessions.last_seq_no AND holes.last >= sessions.first_seq_no
    ORDER BY 2
$$;

-- As before, and the table is taken before its default partition.
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
        -- What attaching takes later, which stops neither readers nor writers.
        LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE;
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

-- As before, and a row that somebody is changing now is left for the next round, not waited for:
-- the writer takes rows in another order.
CREATE OR REPLACE FUNCTION prune_viewers(before timestamptz, inner_pad bytea, outer_pad bytea,
    OUT users bigint, OUT session_users bigint, OUT dead_letters bigint)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF before > now() THEN
        RAISE EXCEPTION '% is not of the past', before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One that prunes.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.prune_viewers', 0));
    DELETE FROM public.users AS gone WHERE gone.user_id IN (
        SELECT old.user_id FROM public.users AS old WHERE old.last_seen_at < before FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS users = ROW_COUNT;
    WITH old AS (
        DELETE FROM public.session_users AS viewer
        WHERE (viewer.session_id, viewer.user_id) IN (
            SELECT known.session_id, known.user_id FROM public.session_users AS known
            -- The row of those who were erased keeps its name: it is of nobody.
            WHERE known.last_seen_at < before AND known.user_id NOT LIKE 'hmac:%' AND known.user_id <> 'erased'
            FOR UPDATE SKIP LOCKED)
        RETURNING viewer.*
    )
    INSERT INTO public.session_users AS known
    SELECT old.session_id,
        'hmac:' || encode(sha256(outer_pad || sha256(inner_pad || convert_to(old.user_id, 'UTF8'))), 'hex'),
        old.events, old.coins, old.gifts, old.likes, old.first_seen_at, old.last_seen_at
    FROM old
    ON CONFLICT (session_id, user_id) DO UPDATE SET
        events = known.events + excluded.events,
        coins = known.coins + excluded.coins,
        gifts = known.gifts + excluded.gifts,
        likes = known.likes + excluded.likes,
        first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at);
    GET DIAGNOSTICS session_users = ROW_COUNT;
    WITH old AS (
        DELETE FROM public.dead_letters AS letter
        WHERE letter.dead_letter_id IN (
            SELECT open.dead_letter_id FROM public.dead_letters AS open
            WHERE open.failed_at < before FOR UPDATE SKIP LOCKED)
        RETURNING letter.*
    ), noted AS (
        -- Numbers that have no event; those that have one were put back and stored.
        INSERT INTO public.gaps (stream_id, from_seq_no, to_seq_no, reason, lost)
        SELECT DISTINCT old.stream_id, old.seq_no, old.seq_no, 'pruned', 1
        FROM old
        WHERE old.stream_id IS NOT NULL AND old.seq_no IS NOT NULL AND NOT EXISTS (
            SELECT FROM public.events AS event WHERE event.stream_id = old.stream_id AND event.seq_no = old.seq_no)
        ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
    )
    SELECT count(*) INTO dead_letters FROM old;
END
$$;

-- As before, without waiting for a row that the forwarder is changing now.
CREATE OR REPLACE FUNCTION prune_forward_log(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    removed bigint;
    gaps    bigint;
BEGIN
    IF before > now() THEN
        RAISE EXCEPTION '% is not of the past', before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM public.forward_log AS gone WHERE gone.event_id IN (
        SELECT old.event_id FROM public.forward_log AS old WHERE old.settled_at < before FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    -- The last one of a stream says from where the next loss is counted.
    DELETE FROM public.forward_gaps AS old
    WHERE old.recorded_at < before
        AND old.gap_id < (SELECT max(last.gap_id) FROM public.forward_gaps AS last
            WHERE last.stream = old.stream AND last.kind = old.kind);
    GET DIAGNOSTICS gaps = ROW_COUNT;
    RETURN removed + gaps;
END
$$;
