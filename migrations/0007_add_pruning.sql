-- Retention: what is older goes, the statistics stay, without the viewers' ids.
--
-- Nobody but the owner may call these: the storage writer's role can't remove an event.

-- The oldest partition whose day is before first_day, with a row of gaps for each run of numbers
-- that it held.
CREATE FUNCTION prune_event_partition(first_day date) RETURNS date
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    name text;
    day  date;
BEGIN
    IF first_day > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'events of % are not of the past', first_day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Nobody makes a partition meanwhile.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.ensure_event_partitions', 0));
    SELECT relname, to_date(substr(relname, 8), 'YYYY_MM_DD') INTO name, day
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass AND relname ~ '^events_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
    ORDER BY 2 LIMIT 1;
    IF name IS NULL OR day >= first_day THEN
        RETURN NULL;
    END IF;
    -- Nothing is added to it between the count and the end.
    EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE', name);
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
    RETURN day;
END
$$;
REVOKE ALL ON FUNCTION prune_event_partition(date) FROM PUBLIC;
COMMENT ON FUNCTION prune_event_partition(date) IS 'Drops the oldest partition of events of a day before the given one, leaves rows of gaps for what it held, and returns its day; null when there is none.';

-- The pads are those of HMAC-SHA256 under the operator's key: the key itself is not told.
CREATE FUNCTION prune_viewers(before timestamptz, inner_pad bytea, outer_pad bytea,
    OUT users bigint, OUT session_users bigint, OUT dead_letters bigint)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF before > now() THEN
        RAISE EXCEPTION '% is not of the past', before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM public.users AS old WHERE old.last_seen_at < before;
    GET DIAGNOSTICS users = ROW_COUNT;
    WITH old AS (
        DELETE FROM public.session_users AS viewer
        WHERE viewer.last_seen_at < before AND viewer.user_id NOT LIKE 'hmac:%'
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
        DELETE FROM public.dead_letters AS letter WHERE letter.failed_at < before RETURNING letter.*
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
REVOKE ALL ON FUNCTION prune_viewers(timestamptz, bytea, bytea) FROM PUBLIC;
COMMENT ON FUNCTION prune_viewers(timestamptz, bytea, bytea) IS 'Removes users and dead letters of before that time, puts an HMAC in place of the user_id of older session_users, and returns how many of each.';
COMMENT ON COLUMN session_users.user_id IS 'Who did it: TikTok''s number of the account; after the retention hmac: and the HMAC-SHA256 of it in hexadecimal.';
