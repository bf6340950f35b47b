-- What no stage could process: copied from ttlc:dlq, looked at and put back from here.

CREATE TABLE dead_letters (
    dead_letter_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter_key       bytea NOT NULL UNIQUE CHECK (octet_length(letter_key) = 32),
    stage            text COLLATE "C" NOT NULL,
    reason           text COLLATE "C" NOT NULL,
    error            text NOT NULL,
    payload          text NOT NULL,
    redacted         boolean NOT NULL,
    stream_id        text COLLATE "C",
    seq_no           bigint,
    session_id       uuid,
    target           text COLLATE "C" CHECK (target IN ('raw', 'events', 'actions')),
    attempts         integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    first_failed_at  timestamptz NOT NULL,
    failed_at        timestamptz NOT NULL,
    entries          text[] COLLATE "C" NOT NULL,
    state            text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'redriving', 'redriven')),
    redrives         integer NOT NULL DEFAULT 0 CHECK (redrives >= 0),
    redriving_at     timestamptz,
    redriven_at      timestamptz,
    redriven_by      text,
    redriven_entry   text,
    CHECK (state <> 'redriven' OR redriven_at IS NOT NULL),
    CHECK (state = 'open' OR (redriving_at IS NOT NULL AND redriven_by IS NOT NULL AND target IS NOT NULL))
);
-- Lists by state, newest first; the ledger of a room; what is still to be put back.
CREATE INDEX dead_letters_by_state ON dead_letters (state, dead_letter_id);
CREATE INDEX dead_letters_by_stream ON dead_letters (stream_id, seq_no) WHERE stream_id IS NOT NULL;
CREATE INDEX dead_letters_by_failure ON dead_letters (failed_at);
COMMENT ON TABLE dead_letters IS 'Entries that no stage could process, each once, with what became of them.';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'In the order in which they were copied.';
COMMENT ON COLUMN dead_letters.letter_key IS 'sha256 of the stage and the original entry: the same entry failing again is the same letter.';
COMMENT ON COLUMN dead_letters.stage IS 'Who gave up: ingest, normalizer, storage, forwarder or actions.';
COMMENT ON COLUMN dead_letters.reason IS 'The category, such as PARSE_ERROR or id_collision.';
COMMENT ON COLUMN dead_letters.error IS 'What was wrong the last time, free of secrets.';
COMMENT ON COLUMN dead_letters.payload IS 'The original entry: all its fields as a JSON object; for ingest the frame.';
COMMENT ON COLUMN dead_letters.redacted IS 'Whether a secret was taken out of the payload.';
COMMENT ON COLUMN dead_letters.stream_id IS 'The room, where the entry says it.';
COMMENT ON COLUMN dead_letters.seq_no IS 'Its number in the room, where the entry says it.';
COMMENT ON COLUMN dead_letters.session_id IS 'The session, where the entry says it.';
COMMENT ON COLUMN dead_letters.target IS 'The stream that it can be put back to: raw, events or actions; null when it is no entry of a stream.';
COMMENT ON COLUMN dead_letters.attempts IS 'How often it became a dead letter.';
COMMENT ON COLUMN dead_letters.first_failed_at IS 'When it failed first.';
COMMENT ON COLUMN dead_letters.failed_at IS 'When it failed last.';
COMMENT ON COLUMN dead_letters.entries IS 'The entries of ttlc:dlq that it was copied from, as stream/id: each counts once.';
COMMENT ON COLUMN dead_letters.state IS 'open: nobody has dealt with it; redriving: it is being put back; redriven: it was put back, and has not failed since.';
COMMENT ON COLUMN dead_letters.redrives IS 'How often it was put back, or is being.';
COMMENT ON COLUMN dead_letters.redriving_at IS 'When somebody last asked to put it back.';
COMMENT ON COLUMN dead_letters.redriven_at IS 'When it was last put back.';
COMMENT ON COLUMN dead_letters.redriven_by IS 'Who last asked for it.';
COMMENT ON COLUMN dead_letters.redriven_entry IS 'The entry that it became then, as stream/id.';
