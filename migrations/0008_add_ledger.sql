-- The ledger: every number that a session gave out is an event, a dead letter or a known loss.

CREATE FUNCTION unaccounted(room text)
RETURNS TABLE (session_id uuid, from_seq_no bigint, to_seq_no bigint)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    WITH covered AS (
        SELECT seq_no AS first, seq_no AS last FROM events WHERE stream_id = room
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
COMMENT ON FUNCTION unaccounted(text) IS 'The numbers inside the sessions of a room that are neither events nor dead letters nor in gaps: empty when nothing is under way and nothing was lost unnoticed.';

-- A session that never said goodbye may have received up to 100 ms more than its spool had on
-- disk: 16 numbers a millisecond at most. It counts when its last event has been stored for an
-- hour: by then nothing of it is under way any more, also when a backlog of old events is stored.
CREATE FUNCTION record_unknown_tails() RETURNS bigint
LANGUAGE sql SET search_path = public, pg_temp AS $$
    WITH tails AS (
        INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, session_id)
        SELECT stream_id, last_seq_no + 1, least(last_seq_no + 1600, next - 1), 'unknown_tail', session_id
        FROM (
            SELECT *, lead(first_seq_no) OVER (PARTITION BY stream_id ORDER BY first_seq_no) AS next
            FROM sessions WHERE source = 'live'
        ) AS live
        WHERE end_reason = 'lost' AND ended_at > now() - interval '7 days' AND (next IS NULL OR next > last_seq_no + 1)
            AND EXISTS (
                SELECT FROM events
                WHERE events.session_id = live.session_id AND events.seq_no = live.last_seq_no
                    AND events.stored_at < now() - interval '1 hour')
        ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) FROM tails
$$;
COMMENT ON FUNCTION record_unknown_tails() IS 'Adds rows of gaps for sessions that never said goodbye, and returns how many.';
