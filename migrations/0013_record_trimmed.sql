-- Loss in Redis: found by the numbers that are missing, recorded once.

CREATE FUNCTION unaccounted(room text, since bigint, until bigint)
RETURNS TABLE (session_id uuid, from_seq_no bigint, to_seq_no bigint)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    -- From the event before the range to the one behind it: what is missing is missing between two.
    WITH edges AS MATERIALIZED (
        SELECT coalesce((SELECT max(seq_no) FROM events WHERE stream_id = room AND seq_no < since), since) AS low,
            coalesce((SELECT min(seq_no) FROM events WHERE stream_id = room AND seq_no > until), until) AS high
    ), covered AS (
        SELECT seq_no AS first, seq_no AS last FROM events
        WHERE stream_id = room AND seq_no BETWEEN (SELECT low FROM edges) AND (SELECT high FROM edges)
        UNION ALL
        SELECT seq_no, seq_no FROM dead_letters
        WHERE stream_id = room AND seq_no BETWEEN (SELECT low FROM edges) AND (SELECT high FROM edges)
        UNION ALL
        SELECT gaps.from_seq_no, gaps.to_seq_no FROM gaps
        WHERE stream_id = room AND gaps.to_seq_no >= (SELECT low FROM edges)
            AND gaps.from_seq_no <= (SELECT high FROM edges)
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
COMMENT ON FUNCTION unaccounted(text, bigint, bigint) IS 'The same between two numbers, from the event before them to the event behind them.';

CREATE FUNCTION record_trimmed(room text, first bigint, last bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    recorded bigint;
BEGIN
    -- One at a time; the next one sees what this one wrote.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.record_trimmed.' || room, 0));
    WITH holes AS (
        SELECT hole.session_id, greatest(hole.from_seq_no, first) AS from_seq_no, least(hole.to_seq_no, last) AS to_seq_no
        FROM unaccounted(room, first, last) AS hole
        WHERE hole.from_seq_no <= last AND hole.to_seq_no >= first
    ), written AS (
        INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost, session_id)
        SELECT room, from_seq_no, to_seq_no, 'trimmed', to_seq_no - from_seq_no + 1, session_id FROM holes
        ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
        RETURNING lost
    )
    SELECT coalesce(sum(lost), 0) INTO recorded FROM written;
    RETURN recorded;
END
$$;
COMMENT ON FUNCTION record_trimmed(text, bigint, bigint) IS 'Adds rows of gaps for the numbers of a room between two that nothing accounts for, and returns how many numbers.';
