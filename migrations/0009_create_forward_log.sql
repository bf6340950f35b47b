-- What became of each event that the forwarder took, and what it never got to see.

CREATE TABLE forward_log (
    event_id         bytea PRIMARY KEY CHECK (octet_length(event_id) = 32),
    stream_id        text COLLATE "C" NOT NULL,
    seq_no           bigint NOT NULL CHECK (seq_no >= 0),
    session_id       uuid NOT NULL,
    event_type       text COLLATE "C" NOT NULL,
    state            text COLLATE "C" NOT NULL CHECK (state IN ('forwarded', 'rejected', 'dead_lettered')),
    reason           text COLLATE "C",
    attempts         integer NOT NULL CHECK (attempts >= 0),
    status           integer CHECK (status BETWEEN 100 AND 999),
    idempotency_key  text COLLATE "C",
    destination      text NOT NULL,
    entry            text COLLATE "C" NOT NULL,
    queued_at        timestamptz NOT NULL,
    first_attempt_at timestamptz,
    request_ms       integer CHECK (request_ms >= 0),
    settled_at       timestamptz NOT NULL,
    CHECK ((state = 'forwarded') = (reason IS NULL))
);
-- A room in its order; the retention.
CREATE INDEX forward_log_by_stream ON forward_log (stream_id, seq_no);
CREATE INDEX forward_log_by_time ON forward_log (settled_at);
COMMENT ON TABLE forward_log IS 'One row for each event that the forwarder took, written before the event is acknowledged. Replays and types that are not forwarded have none.';
COMMENT ON COLUMN forward_log.event_id IS 'The event: also its idempotency key at the destination.';
COMMENT ON COLUMN forward_log.stream_id IS 'The room.';
COMMENT ON COLUMN forward_log.seq_no IS 'Its number in the room.';
COMMENT ON COLUMN forward_log.session_id IS 'The session.';
COMMENT ON COLUMN forward_log.event_type IS 'As in the event.';
COMMENT ON COLUMN forward_log.state IS 'forwarded: the destination took it, and stays so; rejected: it refused it for good; dead_lettered: it did not take it in time. The last two are among dead_letters.';
COMMENT ON COLUMN forward_log.reason IS 'Of the dead letter; null when forwarded.';
COMMENT ON COLUMN forward_log.attempts IS 'How many requests carried it, those after a dead letter included.';
COMMENT ON COLUMN forward_log.status IS 'The HTTP status of the last answer; null when there was none.';
COMMENT ON COLUMN forward_log.idempotency_key IS 'What the last request was sent under: the event id, or of a batch the hash of its ids; null when there was none.';
COMMENT ON COLUMN forward_log.destination IS 'Scheme, host and port of the destination.';
COMMENT ON COLUMN forward_log.entry IS 'The entry that it was last read from, as stream/id.';
COMMENT ON COLUMN forward_log.queued_at IS 'When that entry was added, by Redis'' clock.';
COMMENT ON COLUMN forward_log.first_attempt_at IS 'When it was first sent; null when it never was.';
COMMENT ON COLUMN forward_log.request_ms IS 'How long the last request took.';
COMMENT ON COLUMN forward_log.settled_at IS 'When the state was reached.';

CREATE TABLE forward_gaps (
    gap_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream      text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('unread', 'pending')),
    entries     bigint NOT NULL CHECK (entries > 0),
    counted     bigint NOT NULL CHECK (counted >= 0),
    from_entry  text COLLATE "C" NOT NULL,
    to_entry    text COLLATE "C" NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream, kind, from_entry, to_entry)
);
COMMENT ON TABLE forward_gaps IS 'Entries that were trimmed before the forwarder had sent them: it was more than GROUP_MAX_LAG behind. The events are in events, by the time of the entries.';
COMMENT ON COLUMN forward_gaps.gap_id IS 'In the order in which they were found.';
COMMENT ON COLUMN forward_gaps.stream IS 'The Redis stream.';
COMMENT ON COLUMN forward_gaps.kind IS 'unread: never given to the forwarder; pending: given to it and not finished.';
COMMENT ON COLUMN forward_gaps.entries IS 'How many.';
COMMENT ON COLUMN forward_gaps.counted IS 'How many the group has ever lost unread, as Redis tells it: what is above it is the next loss.';
COMMENT ON COLUMN forward_gaps.from_entry IS 'They are after this entry (unread), or begin with it (pending). An id begins with a time in Unix milliseconds.';
COMMENT ON COLUMN forward_gaps.to_entry IS 'They are before this entry (unread), or end with it (pending).';
COMMENT ON COLUMN forward_gaps.recorded_at IS 'When it was found.';

CREATE FUNCTION prune_forward_log(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    removed bigint;
    gaps    bigint;
BEGIN
    IF before > now() THEN
        RAISE EXCEPTION '% is not of the past', before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM public.forward_log AS old WHERE old.settled_at < before;
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
REVOKE ALL ON FUNCTION prune_forward_log(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION prune_forward_log(timestamptz) IS 'Removes the rows of forward_log and forward_gaps of before that time, and returns how many.';

-- As before, and for these tables too.
CREATE OR REPLACE FUNCTION grant_rights() RETURNS text[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    role    text;
    missing text[] := '{}';
BEGIN
    FOREACH role IN ARRAY ARRAY['ttlc_reader', 'ttlc_writer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION
                -- Somebody made it at the same moment.
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    missing := missing || role;
                    CONTINUE;
            END;
        END IF;
        -- So that the migrating user may take it on; who may not grant it may have it already.
        IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', role);
            EXCEPTION WHEN insufficient_privilege THEN NULL;
            END;
        END IF;
    END LOOP;
    IF 'ttlc_reader' <> ALL (missing) THEN
        GRANT SELECT ON creators, streams, sessions, users, events, session_stats, stream_minute_stats,
            session_users, gaps, dead_letters, forward_log, forward_gaps TO ttlc_reader;
    END IF;
    IF 'ttlc_writer' <> ALL (missing) THEN
        GRANT SELECT, INSERT ON events, gaps, forward_gaps TO ttlc_writer;
        GRANT SELECT, INSERT, UPDATE ON creators, streams, sessions, users, session_stats, stream_minute_stats,
            session_users, dead_letters, forward_log TO ttlc_writer;
        GRANT EXECUTE ON FUNCTION ensure_event_partitions(integer) TO ttlc_writer;
    END IF;
    RETURN missing;
END
$$;
