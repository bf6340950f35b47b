-- Who may do what. Roles without a login: a connection takes one on (SET ROLE), or belongs to a
-- login role of the operator's that is a member of it.
--
--   ttlc_writer  the storage writer: adds events, and can neither change nor remove one
--   ttlc_reader  reads everything, changes nothing
--
-- Roles belong to the server, not to the database: where the migrating user may not make them, the
-- operator does, and the next migration grants the rights. It is called after every migration.

CREATE FUNCTION grant_rights() RETURNS text[]
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
            session_users, gaps, dead_letters TO ttlc_reader;
    END IF;
    IF 'ttlc_writer' <> ALL (missing) THEN
        GRANT SELECT, INSERT ON events, gaps TO ttlc_writer;
        GRANT SELECT, INSERT, UPDATE ON creators, streams, sessions, users, session_stats, stream_minute_stats,
            session_users, dead_letters TO ttlc_writer;
        GRANT EXECUTE ON FUNCTION ensure_event_partitions(integer) TO ttlc_writer;
    END IF;
    RETURN missing;
END
$$;
REVOKE ALL ON FUNCTION grant_rights() FROM PUBLIC;
COMMENT ON FUNCTION grant_rights() IS 'Makes the roles ttlc_writer and ttlc_reader where that is allowed, gives them their rights on what exists, and returns the roles that are missing.';

SELECT grant_rights();
