-- Erasure: a viewer goes everywhere, and a tombstone keeps what comes late from bringing them back.
--
-- erase_user() does a bounded part of the work and is called until finished_at is there: the
-- tombstone first, then the viewer's own events, what we keep about the viewer, dead letters, and
-- then all other events, a few thousand at a time. Each call is a transaction, and where the next
-- one begins is in it: a crash loses the part that was under way, and the next call does it again.
-- The tombstone is committed before anything is removed, while no writer is in the middle of a
-- batch; from then on the writers drop what is of the viewer, so one pass is enough. It finishes
-- what a round of retention left: a day that is under pruned_events is not searched, it is dropped.

CREATE TABLE erased_users (
    user_hash     bytea PRIMARY KEY CHECK (octet_length(user_hash) = 32),
    erased_at     timestamptz NOT NULL,
    change_no     bigint NOT NULL UNIQUE,
    traces        jsonb NOT NULL DEFAULT '[]',
    search        jsonb,
    events        bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    rewritten     bigint NOT NULL DEFAULT 0 CHECK (rewritten >= 0),
    session_users bigint NOT NULL DEFAULT 0 CHECK (session_users >= 0),
    dead_letters  bigint NOT NULL DEFAULT 0 CHECK (dead_letters >= 0),
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    CHECK ((search IS NULL) = (finished_at IS NOT NULL))
);
COMMENT ON TABLE erased_users IS 'Tombstones: viewers who were erased, by a hash. What was received of them or happened up to erased_at is not stored again; what they do later is new.';
COMMENT ON COLUMN erased_users.user_hash IS 'sha256 of ttlc.erased: and the user id. Not the id, so that the list names nobody; not keyed, so that it can be checked against any copy of the data, also one that is restored years later.';
COMMENT ON COLUMN erased_users.erased_at IS 'Events up to here are erased, by the earlier of their two times.';
COMMENT ON COLUMN erased_users.change_no IS 'Rises with each change of the list: who has the highest has all.';
COMMENT ON COLUMN erased_users.traces IS 'How to know the id, the names and the pictures again in what comes late, without having them: of each its kind, its length in bytes, a rolling hash to find candidates and the sha256 that decides.';
COMMENT ON COLUMN erased_users.search IS 'While the work goes on: what is searched for, and how far. Null when it is done.';
COMMENT ON COLUMN erased_users.events IS 'Events of the viewer that were removed.';
COMMENT ON COLUMN erased_users.rewritten IS 'Events of others that named the viewer, and no longer do.';
COMMENT ON COLUMN erased_users.session_users IS 'Sessions in which the viewer''s numbers became those of erased.';
COMMENT ON COLUMN erased_users.dead_letters IS 'Dead letters that held something of the viewer and were removed.';
COMMENT ON COLUMN erased_users.requested_at IS 'When it was first asked for.';
COMMENT ON COLUMN erased_users.finished_at IS 'When the database was done; null while it is not.';
COMMENT ON COLUMN session_users.user_id IS 'Who did it: TikTok''s number of the account; after the retention hmac: and the HMAC-SHA256 of it in hexadecimal; erased for all who were erased, together.';

-- An event of somebody else that held something of an erased viewer has no raw data any more: it
-- cannot be edited. Its hash stays, so that the same message is known again.
ALTER TABLE events ALTER COLUMN raw DROP NOT NULL;
COMMENT ON COLUMN events.raw IS 'The payload as its provider delivered it: protobuf bytes, or JSON text in UTF-8. Null when it held something of a viewer who was erased: such an event is not replayed.';

CREATE FUNCTION erased_hash(viewer text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT sha256(convert_to('ttlc.erased:' || viewer, 'UTF8'))
$$;
COMMENT ON FUNCTION erased_hash(text) IS 'What erased_users keeps of a user id.';

-- A trace: what knows some bytes again without having them. The rolling hash is
-- h = (h * 257 + byte) mod (2^31 - 1), over bytes in lower case where it is of a text.
CREATE FUNCTION erasure_trace(kind text, wanted bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    roll bigint := 0;
BEGIN
    FOR place IN 0 .. octet_length(wanted) - 1 LOOP
        roll := (roll * 257 + get_byte(wanted, place)) % 2147483647;
    END LOOP;
    RETURN jsonb_build_object('kind', kind, 'bytes', octet_length(wanted), 'roll', roll,
        'hash', encode(sha256(wanted), 'hex'));
END
$$;
COMMENT ON FUNCTION erasure_trace(text, bytea) IS 'What knows these bytes again without having them.';

-- The number as protobuf writes it. Below four bytes it would be found everywhere.
CREATE FUNCTION erasure_varint(number numeric) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    bytes bytea := '';
    rest  numeric := number;
BEGIN
    IF number >= 18446744073709551616 OR number < 2097152 THEN
        RETURN NULL;
    END IF;
    WHILE rest >= 128 LOOP
        bytes := bytes || set_byte('\x00', 0, (128 + rest % 128)::integer);
        rest := div(rest, 128);
    END LOOP;
    RETURN bytes || set_byte('\x00', 0, rest::integer);
END
$$;
COMMENT ON FUNCTION erasure_varint(numeric) IS 'A user id as protobuf writes it; null for one that is too short to be searched for.';

-- What is searched for, as {kind, text}: id (no digit beside it), word (no letter, digit or _
-- beside it), at (a word that is too short or too common to mean the viewer, behind an @), plain.
-- A shown name or a picture that other accounts have too tells nobody apart: such a name counts
-- behind an @ only, such a picture not at all; beside the id both go with it.
CREATE FUNCTION erasure_words(viewer text, names text[]) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    WITH known AS (
        SELECT username, display_name, avatar_url, NULL AS sec_uid FROM public.users WHERE user_id = viewer
        UNION
        SELECT event #>> '{user,username}', event #>> '{user,displayName}', event #>> '{user,avatarUrl}',
            event #>> '{user,secUid}'
        FROM public.events WHERE user_id = viewer
    ), words AS (
        SELECT 'id' AS kind, viewer AS word WHERE length(viewer) >= 6
        UNION
        SELECT CASE WHEN length(name) >= 4 THEN 'word' ELSE 'at' END, name
        FROM (SELECT username FROM known UNION SELECT unnest(names)) AS handles (name)
        UNION
        SELECT CASE WHEN length(display_name) < 4 OR EXISTS (
                SELECT FROM public.users WHERE users.display_name = known.display_name AND users.user_id <> viewer)
            THEN 'at' ELSE 'word' END, display_name
        FROM known
        UNION
        -- The same picture comes from several hosts, in several sizes, with other signatures.
        SELECT 'plain', picture
        FROM (SELECT substring(avatar_url FROM '^https?://[^/]+/([^?~]+)') FROM known) AS pictures (picture)
        WHERE length(picture) >= 8 AND NOT EXISTS (
            SELECT FROM public.users WHERE users.user_id <> viewer AND strpos(users.avatar_url, picture) > 0)
        UNION
        SELECT 'plain', sec_uid FROM known WHERE length(sec_uid) >= 16
    )
    SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_object('kind', kind, 'text', btrim(word))), '[]')
    FROM words WHERE btrim(word) <> ''
$$;
COMMENT ON FUNCTION erasure_words(text, text[]) IS 'What a viewer is known by: from users, their events, and the given names.';

-- The same as one regular expression; for the text of a jsonb value written as JSON writes it.
CREATE FUNCTION erasure_pattern(words jsonb, as_json boolean) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(
        CASE kind
            WHEN 'id' THEN '(?<![0-9])' || word || '(?![0-9])'
            WHEN 'plain' THEN word
            WHEN 'at' THEN '@' || word || CASE WHEN word ~ '[A-Za-z0-9_]$' THEN '(?![A-Za-z0-9_])' ELSE '' END
            ELSE CASE WHEN word ~ '^[A-Za-z0-9_]' THEN '(?<![A-Za-z0-9_])' ELSE '' END || word
                || CASE WHEN word ~ '[A-Za-z0-9_]$' THEN '(?![A-Za-z0-9_])' ELSE '' END
        END, '|' ORDER BY length(word) DESC, word)
    FROM (
        SELECT one ->> 'kind' AS kind, regexp_replace(
            CASE WHEN as_json THEN substr((one -> 'text')::text, 2, length((one -> 'text')::text) - 2) ELSE one ->> 'text' END,
            '([^A-Za-z0-9_\u0080-\uffff])', '\\\1', 'g') AS word
        FROM jsonb_array_elements(words) AS one
    ) AS escaped
$$;
COMMENT ON FUNCTION erasure_pattern(jsonb, boolean) IS 'A regular expression for what is searched for.';

-- Whether bytes hold something of it. texts are in lower case and as encode(…, 'escape') writes them.
CREATE FUNCTION erasure_in_raw(raw bytea, raw_format text, numbers bytea[], texts text[], json_pattern text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    number  bytea;
    wanted  text;
    escaped text;
BEGIN
    IF raw IS NULL THEN
        RETURN false;
    END IF;
    FOREACH number IN ARRAY numbers LOOP
        IF position(number IN raw) > 0 THEN
            RETURN true;
        END IF;
    END LOOP;
    escaped := lower(encode(raw, 'escape') COLLATE "C");
    FOREACH wanted IN ARRAY texts LOOP
        IF strpos(escaped, wanted) > 0 THEN
            RETURN true;
        END IF;
    END LOOP;
    IF raw_format = 'json' THEN
        BEGIN
            -- JSON may write any character as an escape.
            RETURN coalesce(convert_from(raw, 'UTF8')::jsonb::text ~* json_pattern, false);
        EXCEPTION WHEN data_exception THEN
            RETURN false;
        END;
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION erasure_in_raw(bytea, text, bytea[], text[], text) IS 'Whether raw data holds something of what is searched for.';

-- Whether a dead letter does: its fields are texts, JSON in a text, or base64. A frame of ingest
-- may be compressed, and is not looked into: it counts as one that does.
CREATE FUNCTION erasure_in_letter(payload text, viewer text, numbers bytea[], texts text[], pattern text, json_pattern text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    field record;
BEGIN
    IF payload ~* pattern OR payload ~* json_pattern THEN
        RETURN true;
    END IF;
    FOR field IN SELECT key, value FROM jsonb_each_text(payload::jsonb) LOOP
        IF field.key = 'frame' THEN
            RETURN true;
        ELSIF field.value ~ '^\s*[{[]' THEN
            IF strpos(field.value, '"' || viewer || '"') > 0
                OR public.erasure_in_raw(convert_to(field.value, 'UTF8'), 'json', numbers, texts, json_pattern) THEN
                RETURN true;
            END IF;
        ELSIF length(field.value) >= 8 AND field.value ~ '^[A-Za-z0-9+/]+=*$' THEN
            BEGIN
                IF public.erasure_in_raw(decode(field.value, 'base64'), 'protobuf', numbers, texts, json_pattern) THEN
                    RETURN true;
                END IF;
            EXCEPTION WHEN data_exception THEN
                NULL;
            END;
        END IF;
    END LOOP;
    RETURN false;
EXCEPTION WHEN data_exception THEN
    -- No object of texts: the words were looked for above.
    RETURN false;
END
$$;
COMMENT ON FUNCTION erasure_in_letter(text, text, bytea[], text[], text, text) IS 'Whether a dead letter holds something of what is searched for.';

-- A value of an event without the viewer. An object that has the viewer's id is about the viewer:
-- all its texts go. Elsewhere what names the viewer goes.
CREATE FUNCTION erasure_scrub(value jsonb, viewer text, pattern text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    about boolean;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        about := NOT value ? 'rawType' AND EXISTS (
            SELECT FROM jsonb_each_text(value) AS member
            WHERE member.value = viewer AND (length(viewer) >= 6 OR lower(member.key) LIKE '%user%id'));
        RETURN coalesce((
            SELECT jsonb_object_agg(coalesce(regexp_replace(member.key, pattern, '[erased]', 'gi'), member.key),
                CASE
                    WHEN member.key = 'rawType' THEN member.value
                    WHEN about AND jsonb_typeof(member.value) = 'string'
                        AND member.key NOT IN ('result', 'teamId', 'type', 'kind', 'status') THEN '"[erased]"'
                    ELSE public.erasure_scrub(member.value, viewer, pattern)
                END)
            FROM jsonb_each(value) AS member), '{}');
    WHEN 'array' THEN
        RETURN coalesce((
            SELECT jsonb_agg(public.erasure_scrub(item.value, viewer, pattern) ORDER BY item.place)
            FROM jsonb_array_elements(value) WITH ORDINALITY AS item (value, place)), '[]');
    WHEN 'string' THEN
        RETURN to_jsonb(coalesce(regexp_replace(value #>> '{}', pattern, '[erased]', 'gi'), value #>> '{}'));
    WHEN 'number' THEN
        RETURN CASE WHEN length(viewer) >= 6 AND value #>> '{}' = viewer THEN '0' ELSE value END;
    ELSE
        RETURN value;
    END CASE;
END
$$;
COMMENT ON FUNCTION erasure_scrub(jsonb, text, text) IS 'A value of an event without what is searched for.';

CREATE FUNCTION erase_user(viewer text, names text[] DEFAULT '{}', until timestamptz DEFAULT NULL,
    pseudonym text DEFAULT NULL, at_most integer DEFAULT 5000)
RETURNS erased_users
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '5s' SET jit = off AS $$
#variable_conflict use_column
DECLARE
    one          erased_users;
    wanted       bytea;
    found_words  jsonb;
    number       bytea;
    numbers      bytea[] := '{}';
    texts        text[] := '{}';
    pattern      text;
    json_pattern text;
    done         bigint;
    seen         session_users;
    kept         record;
    last         record;
    event_row    record;
    clean        jsonb;
    tally        bigint := 0;
    counted      bigint := 0;
    letters      bigint := 0;
BEGIN
    IF viewer IS NULL OR viewer !~ '^[0-9]{1,20}$' THEN
        RAISE EXCEPTION 'a user id is TikTok''s number of the account: 1 to 20 digits'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF until > now() THEN
        RAISE EXCEPTION '% is not of the past', until USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF at_most NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'at_most must be between 1 and 100000, not %', at_most
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    wanted := erased_hash(viewer);
    -- One at a time for each viewer.
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.erase_user:' || encode(wanted, 'hex'), 0));
    SELECT * INTO one FROM erased_users AS known WHERE known.user_hash = wanted;

    -- The tombstone.
    IF one.user_hash IS NULL OR one.search IS NULL OR one.search ->> 'phase' = 'find' THEN
        found_words := erasure_words(viewer, names);
        number := erasure_varint(viewer::numeric);
        -- Not while a writer is in the middle of a batch: it has looked at the list, or it waits
        -- here and will.
        PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.erased_users', 0));
        INSERT INTO erased_users AS known (user_hash, erased_at, change_no, traces, search)
        SELECT wanted, coalesce(until, clock_timestamp()),
            (SELECT coalesce(max(change_no), 0) + 1 FROM erased_users),
            (SELECT coalesce(jsonb_agg(trace), '[]') FROM (
                SELECT erasure_trace(word ->> 'kind', convert_to(
                    CASE WHEN word ->> 'kind' = 'at' THEN '@' ELSE '' END
                        || lower((word ->> 'text') COLLATE "C"), 'UTF8')) AS trace
                FROM jsonb_array_elements(found_words) AS word
                UNION ALL
                SELECT erasure_trace('bytes', number) WHERE number IS NOT NULL
            ) AS traces),
            jsonb_build_object('viewer', viewer, 'words', found_words, 'pseudonym', pseudonym, 'phase', 'own')
        ON CONFLICT (user_hash) DO UPDATE SET
            erased_at = greatest(known.erased_at, excluded.erased_at),
            change_no = excluded.change_no,
            traces = (SELECT jsonb_agg(DISTINCT trace)
                FROM jsonb_array_elements(known.traces || excluded.traces) AS trace),
            search = excluded.search,
            finished_at = NULL
        RETURNING * INTO one;
        RETURN one;
    END IF;

    -- The viewer's own events.
    IF one.search ->> 'phase' = 'own' THEN
        WITH gone AS (
            DELETE FROM events AS event USING (
                SELECT event_id, part_day FROM events
                WHERE user_id = viewer AND least(occurred_at, ingested_at) <= one.erased_at
                LIMIT at_most
            ) AS own
            WHERE event.event_id = own.event_id AND event.part_day = own.part_day
            RETURNING event.stream_id, event.seq_no
        ), noted AS (
            INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost)
            SELECT stream_id, min(seq_no), max(seq_no), 'erased', count(DISTINCT seq_no)
            FROM (
                SELECT stream_id, seq_no, seq_no - dense_rank() OVER (PARTITION BY stream_id ORDER BY seq_no) AS run
                FROM gone
            ) AS numbered
            GROUP BY stream_id, run
            ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
        )
        SELECT count(*) INTO done FROM gone;
        UPDATE erased_users AS known SET
            events = known.events + done,
            search = CASE WHEN done < at_most THEN jsonb_set(known.search, '{phase}', '"profile"') ELSE known.search END
        WHERE known.user_hash = wanted RETURNING * INTO one;
        RETURN one;
    END IF;

    -- How to find the viewer elsewhere.
    found_words := one.search -> 'words';
    pattern := erasure_pattern(found_words, false);
    json_pattern := erasure_pattern(found_words, true);
    number := erasure_varint(viewer::numeric);
    IF number IS NOT NULL THEN
        numbers := ARRAY[number];
    END IF;
    SELECT coalesce(array_agg(DISTINCT lower(encode(convert_to(
            CASE WHEN word ->> 'kind' = 'at' THEN '@' ELSE '' END || (word ->> 'text'), 'UTF8'), 'escape') COLLATE "C")), '{}')
        INTO texts FROM jsonb_array_elements(found_words) AS word;

    -- What we keep about the viewer, and dead letters. Own events are gone: what is there now
    -- is of somebody who came back.
    IF one.search ->> 'phase' = 'profile' THEN
        FOR seen IN
            SELECT * FROM session_users
            WHERE user_id = viewer OR user_id = one.search ->> 'pseudonym'
            ORDER BY session_id, user_id FOR UPDATE
        LOOP
            SELECT count(*) AS events, coalesce(sum(coins), 0) AS coins, coalesce(sum(gifts), 0) AS gifts,
                coalesce(sum(likes), 0) AS likes, min(ingested_at) AS first, max(ingested_at) AS last
            INTO kept
            FROM (
                SELECT ingested_at,
                    CASE WHEN counts THEN least((event #>> '{payload,coins,total}')::numeric, 1000000000000) ELSE 0 END AS coins,
                    CASE WHEN counts THEN least((event #>> '{payload,giftCount}')::numeric, 1000000000000) ELSE 0 END AS gifts,
                    CASE WHEN event_type = 'LIKE'
                        THEN least((event #>> '{payload,count}')::numeric, 1000000000000) ELSE 0 END AS likes
                FROM (
                    SELECT *, event_type = 'GIFT' AND event #>> '{payload,streak,state}' IN ('final', 'single') AS counts
                    FROM events WHERE session_id = seen.session_id AND user_id = seen.user_id
                ) AS later
            ) AS amounts;
            CONTINUE WHEN kept.events >= seen.events;
            tally := tally + 1;
            INSERT INTO session_users AS known VALUES (seen.session_id, 'erased', seen.events - kept.events,
                greatest(seen.coins - kept.coins, 0), greatest(seen.gifts - kept.gifts, 0),
                greatest(seen.likes - kept.likes, 0), seen.first_seen_at, least(seen.last_seen_at, one.erased_at))
            ON CONFLICT (session_id, user_id) DO UPDATE SET
                events = known.events + excluded.events,
                coins = known.coins + excluded.coins,
                gifts = known.gifts + excluded.gifts,
                likes = known.likes + excluded.likes,
                first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
                last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at);
            IF kept.events = 0 THEN
                DELETE FROM session_users AS old WHERE old.session_id = seen.session_id AND old.user_id = seen.user_id;
            ELSE
                UPDATE session_users AS old SET events = kept.events, coins = kept.coins, gifts = kept.gifts,
                    likes = kept.likes, first_seen_at = kept.first, last_seen_at = kept.last
                WHERE old.session_id = seen.session_id AND old.user_id = seen.user_id;
            END IF;
        END LOOP;

        PERFORM FROM users WHERE user_id = viewer FOR UPDATE;
        SELECT min(ingested_at) AS first INTO kept FROM events WHERE user_id = viewer;
        DELETE FROM users WHERE user_id = viewer AND kept.first IS NULL;
        UPDATE users SET first_seen_at = kept.first WHERE user_id = viewer;
        DELETE FROM creators
        WHERE user_id = viewer OR username IN (
            SELECT word ->> 'text' FROM jsonb_array_elements(found_words) AS word WHERE user_id IS NULL);
        UPDATE streams SET owner_user_id = NULL, owner_name = NULL, username = NULL WHERE owner_user_id = viewer;
        UPDATE streams SET title = regexp_replace(title, pattern, '[erased]', 'gi') WHERE title ~* pattern;

        WITH old AS (
            DELETE FROM dead_letters AS letter
            WHERE letter.first_failed_at <= one.erased_at
                AND erasure_in_letter(letter.payload, viewer, numbers, texts, pattern, json_pattern)
            RETURNING letter.stream_id, letter.seq_no
        ), noted AS (
            -- Numbers that have no event; those that have one are accounted for.
            INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost)
            SELECT DISTINCT old.stream_id, old.seq_no, old.seq_no, 'erased', 1
            FROM old
            WHERE old.stream_id IS NOT NULL AND old.seq_no IS NOT NULL AND NOT EXISTS (
                SELECT FROM events AS event WHERE event.stream_id = old.stream_id AND event.seq_no = old.seq_no)
            ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
        ), told AS (
            -- They will not be sent.
            UPDATE forward_log AS log SET state = 'rejected', reason = 'erased'
            FROM old WHERE log.stream_id = old.stream_id AND log.seq_no = old.seq_no AND log.state = 'dead_lettered'
        )
        SELECT count(*) INTO letters FROM old;
        UPDATE erased_users AS known SET
            session_users = known.session_users + tally,
            dead_letters = known.dead_letters + letters,
            search = jsonb_set(known.search, '{phase}', '"others"')
        WHERE known.user_hash = wanted RETURNING * INTO one;
        RETURN one;
    END IF;

    -- All other events, in the order of an index.
    SELECT stream_id, seq_no, event_id INTO last FROM (
        SELECT stream_id, seq_no, event_id FROM events
        WHERE (stream_id, seq_no, event_id) > (coalesce(one.search ->> 'stream_id', ''),
            coalesce((one.search ->> 'seq_no')::bigint, -1), coalesce(decode(one.search ->> 'event_id', 'hex'), ''))
        ORDER BY stream_id, seq_no, event_id LIMIT at_most
    ) AS part ORDER BY stream_id DESC, seq_no DESC, event_id DESC LIMIT 1;
    IF last.event_id IS NULL THEN
        -- Days that were taken out of events and not dropped yet, also while this went on: they were
        -- about to go, and go now, one a call.
        IF drop_pruned_events() IS NOT NULL THEN
            RETURN one;
        END IF;
        UPDATE erased_users AS known SET search = NULL, finished_at = clock_timestamp()
        WHERE known.user_hash = wanted RETURNING * INTO one;
        RETURN one;
    END IF;
    FOR event_row IN
        SELECT event_id, part_day, event, event_type, raw IS NOT NULL AND erasure_in_raw(raw, raw_format, numbers, texts, json_pattern) AS in_raw
        FROM events
        WHERE (stream_id, seq_no, event_id) > (coalesce(one.search ->> 'stream_id', ''),
                coalesce((one.search ->> 'seq_no')::bigint, -1), coalesce(decode(one.search ->> 'event_id', 'hex'), ''))
            AND (stream_id, seq_no, event_id) <= (last.stream_id, last.seq_no, last.event_id)
            AND least(occurred_at, ingested_at) <= one.erased_at
            AND (event::text ~* json_pattern OR strpos(event::text, '"' || viewer || '"') > 0
                OR erasure_in_raw(raw, raw_format, numbers, texts, json_pattern))
    LOOP
        clean := event_row.event || jsonb_build_object('payload',
            erasure_scrub(event_row.event -> 'payload', viewer, pattern));
        IF clean ? 'user' THEN
            clean := clean || jsonb_build_object('user', erasure_scrub(clean -> 'user', viewer, pattern));
        END IF;
        CONTINUE WHEN clean = event_row.event AND NOT event_row.in_raw;
        -- What could not be decoded is in the event a second time.
        IF jsonb_typeof(clean #> '{payload,raw}') = 'string' THEN
            clean := jsonb_set(clean, '{payload,raw}', '"[erased]"');
        END IF;
        UPDATE events AS event SET event = clean, raw = NULL
        WHERE event.event_id = event_row.event_id AND event.part_day = event_row.part_day;
        tally := tally + 1;
    END LOOP;
    UPDATE erased_users AS known SET
        rewritten = known.rewritten + tally,
        search = known.search || jsonb_build_object('stream_id', last.stream_id, 'seq_no', last.seq_no,
            'event_id', encode(last.event_id, 'hex'))
    WHERE known.user_hash = wanted RETURNING * INTO one;
    RETURN one;
END
$$;
COMMENT ON FUNCTION erase_user(text, text[], timestamptz, text, integer) IS 'Erases a viewer, by names too if some are not among users and events, up to a time (now), in the statistics also under a pseudonym. Does a part of the work, at most so many events, and returns how far it is: to be called until finished_at is there. Called again after that it begins anew.';

-- A database that was restored from a copy lacks the tombstones that are younger than the copy. They
-- come back from a list that was kept elsewhere, without their user ids: whose they are is found by
-- hashing the ids that the database has.
CREATE FUNCTION restore_tombstone(hash bytea, until timestamptz, known_traces jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
    IF until > now() OR jsonb_typeof(known_traces) <> 'array' THEN
        RAISE EXCEPTION 'no tombstone' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.erased_users', 0));
    INSERT INTO erased_users AS known (user_hash, erased_at, change_no, traces, search)
    SELECT hash, until, (SELECT coalesce(max(change_no), 0) + 1 FROM erased_users), known_traces, '{"phase": "find"}'
    ON CONFLICT (user_hash) DO UPDATE SET
        erased_at = greatest(known.erased_at, excluded.erased_at), change_no = excluded.change_no,
        search = excluded.search, finished_at = NULL
    WHERE known.search IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION restore_tombstone(bytea, timestamptz, jsonb) IS 'Adds a tombstone from a list that was kept elsewhere, or opens one that is there; its viewer is to be found and erased again then.';

-- The ids that a restored tombstone may be of, wherever an id is written: the heaviest question of
-- all, asked after a restore only.
CREATE FUNCTION find_erased() RETURNS TABLE (viewer text, until timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp SET jit = off AS $$
    WITH ids AS (
        SELECT user_id AS id FROM users
        UNION SELECT user_id FROM session_users
        UNION SELECT user_id FROM creators
        UNION SELECT owner_user_id FROM streams
        UNION SELECT user_id FROM events
        UNION SELECT found[1] FROM events, regexp_matches(event::text, '(?<![0-9])([0-9]{1,20})(?![0-9])', 'g') AS found
        UNION SELECT found[1] FROM dead_letters, regexp_matches(payload, '(?<![0-9])([0-9]{1,20})(?![0-9])', 'g') AS found
    )
    SELECT id, erased_at FROM ids JOIN erased_users ON user_hash = erased_hash(id)
    WHERE search ->> 'phase' = 'find' AND id ~ '^[0-9]{1,20}$' ORDER BY id
$$;
COMMENT ON FUNCTION find_erased() IS 'Which user ids the tombstones have that came back from a list.';

-- One of whom nothing is here: nothing is to be done.
CREATE FUNCTION settle_tombstones(hashes bytea[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH settled AS (
        UPDATE erased_users SET search = NULL, finished_at = clock_timestamp()
        WHERE search ->> 'phase' = 'find' AND user_hash = ANY (hashes) RETURNING 1
    )
    SELECT count(*) FROM settled
$$;
COMMENT ON FUNCTION settle_tombstones(bytea[]) IS 'Closes tombstones that came back from a list and of whose viewers nothing was found.';

-- For whoever finishes what somebody else began: unlike erase_user() it never begins anew.
CREATE FUNCTION continue_erasure(hash bytea, at_most integer DEFAULT 5000) RETURNS erased_users
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    one erased_users;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('ttlc.erase_user:' || encode(hash, 'hex'), 0));
    SELECT * INTO one FROM erased_users AS known WHERE known.user_hash = hash;
    IF one.search ? 'viewer' THEN
        one := erase_user(one.search ->> 'viewer', at_most => at_most);
    END IF;
    RETURN one;
END
$$;
COMMENT ON FUNCTION continue_erasure(bytea, integer) IS 'Does the next part of an erasure that goes on, and returns how far it is; null when there is no such tombstone.';

REVOKE ALL ON FUNCTION erased_hash(text), erasure_trace(text, bytea), erasure_varint(numeric), erasure_words(text, text[]),
    erasure_pattern(jsonb, boolean), erasure_in_raw(bytea, text, bytea[], text[], text),
    erasure_in_letter(text, text, bytea[], text[], text, text), erasure_scrub(jsonb, text, text),
    erase_user(text, text[], timestamptz, text, integer), restore_tombstone(bytea, timestamptz, jsonb), find_erased(),
    settle_tombstones(bytea[]), continue_erasure(bytea, integer) FROM PUBLIC;

-- As before, and for erasure: through the function only. What is searched for is told to nobody else.
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
            session_users, gaps, dead_letters, forward_log, forward_gaps, pruned_events TO ttlc_reader;
        GRANT SELECT (user_hash, erased_at, change_no, traces, events, rewritten, session_users, dead_letters,
            requested_at, finished_at) ON erased_users TO ttlc_reader;
    END IF;
    IF 'ttlc_writer' <> ALL (missing) THEN
        GRANT SELECT, INSERT ON events, gaps, forward_gaps TO ttlc_writer;
        GRANT SELECT, INSERT, UPDATE ON creators, streams, sessions, users, session_stats, stream_minute_stats,
            session_users, dead_letters, forward_log TO ttlc_writer;
        GRANT SELECT ON erased_users, pruned_events TO ttlc_writer;
        GRANT EXECUTE ON FUNCTION ensure_event_partitions(integer), erased_hash(text),
            erase_user(text, text[], timestamptz, text, integer), restore_tombstone(bytea, timestamptz, jsonb),
            find_erased(), settle_tombstones(bytea[]), continue_erasure(bytea, integer) TO ttlc_writer;
    END IF;
    RETURN missing;
END
$$;
