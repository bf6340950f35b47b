-- All reasons of gaps by name; and pruning leaves alone what is nobody's.

COMMENT ON COLUMN gaps.reason IS 'Told by ingest: spool_full (its spool was full), spool_damaged (a record in it was), orphaned (its room was another daemon''s for too long), repeat (published under other numbers too; nothing is lost), redis_lost (Redis lost what it had accepted, and the spool had it no more). Found by storage: trimmed (fell out of a stream unread; also what Redis lost unnoticed), unknown_tail (the session ended without a goodbye, and what it received last may be lost). By functions: pruned (older than the retention), erased (of a viewer who was erased).';

-- As before, and the row of those who were erased keeps its name: it is of nobody.
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
