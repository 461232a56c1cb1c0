-- From 0.1.0 to 0.2.0: every change to the SQL objects stands here and in its topic's file; a test compares the two ways.

-- Operators and functions below mean PostgreSQL's own, as in schema.sql.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- queue.sql
ALTER TABLE caption.tally ADD database oid;
COMMENT ON COLUMN caption.tally.database IS 'The database that this walk is of: in a copy of it, the walk begins anew.';
UPDATE caption.tally SET database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());

-- A publication FOR ALL TABLES on the other side brings that side's watches, queue and ledger along. They name its own tables by OID: rows that logical
-- replication applies to ours are dropped, and so never stop an apply worker.
CREATE FUNCTION caption.keep_local() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pg_caption_keep_local';
COMMENT ON FUNCTION caption.keep_local() IS 'Trigger function: drops what logical replication applies to the tables of pg_caption.';
REVOKE ALL ON FUNCTION caption.keep_local() FROM PUBLIC;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.watch FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.watch ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.tally FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.tally ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.queue FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.queue ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.deferred FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.deferred ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.written FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.written ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.failed FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.failed ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.style FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.style ENABLE REPLICA TRIGGER keep_local;

CREATE FUNCTION caption.database_report() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'database_report_wrapper';
COMMENT ON FUNCTION caption.database_report() IS 'What caption.database shows, as one JSON array.';
REVOKE ALL ON FUNCTION caption.database_report() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION caption.database_report() TO pg_monitor;

CREATE VIEW caption.database WITH (security_barrier) AS
    SELECT d.datname AS database, r.state, r.why, r.worker
      FROM pg_catalog.jsonb_to_recordset(caption.database_report()) AS r (oid oid, state text, why text, worker int)
      JOIN pg_catalog.pg_database d ON d.oid = r.oid;
COMMENT ON VIEW caption.database IS
    'Each database of this server that has the extension: served (worker: its process), idle, waiting, or cannot be served, and why. For members of pg_monitor.';
GRANT SELECT ON caption.database TO pg_monitor;

-- IS DISTINCT FROM finds its operator in the caller's search_path.
CREATE OR REPLACE PROCEDURE caption.wait(relation regclass, timeout interval DEFAULT NULL)
    LANGUAGE plpgsql
    AS $$
    DECLARE
        began timestamptz := pg_catalog.clock_timestamp();
        said timestamptz;
        line text;
        last text;
        problem text;
    BEGIN
        IF NOT EXISTS (SELECT FROM caption.watch w WHERE w.relation OPERATOR(pg_catalog.=) wait.relation) THEN
            RAISE EXCEPTION 'table % is not watched', relation USING ERRCODE = 'undefined_object', HINT = 'See caption.watch().';
        END IF;
        WHILE NOT caption.is_idle(relation) LOOP
            SELECT pg_catalog.format('%s %s filled, %s waiting, %s in flight, %s deferred, %s failed', p.bar, p.filled, p.waiting, p.in_flight, p.deferred, p.failed),
                   CASE WHEN p.state OPERATOR(pg_catalog.=) ANY ('{idle,working}'::pg_catalog.text[]) THEN NULL ELSE p.state END
              INTO line, problem FROM caption.progress p WHERE p.relation OPERATOR(pg_catalog.=) wait.relation;
            IF problem IS NOT NULL THEN
                RAISE EXCEPTION 'table % is not being filled: %', relation, problem USING ERRCODE = 'object_not_in_prerequisite_state';
            END IF;
            IF coalesce(line, '') OPERATOR(pg_catalog.<>) coalesce(last, '') AND (said IS NULL OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) said OPERATOR(pg_catalog.>) interval '1 second') THEN
                RAISE NOTICE '%', line;
                said := pg_catalog.clock_timestamp();
                last := line;
            END IF;
            IF timeout IS NOT NULL AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began OPERATOR(pg_catalog.>) timeout THEN
                RAISE EXCEPTION 'table % still has rows to fill', relation USING ERRCODE = 'query_canceled', DETAIL = line;
            END IF;
            COMMIT;
            PERFORM pg_catalog.pg_sleep(0.1);
        END LOOP;
        SELECT pg_catalog.format('%s %s filled, %s failed', p.bar, p.filled, p.failed) INTO line FROM caption.progress p WHERE p.relation OPERATOR(pg_catalog.=) wait.relation;
        RAISE NOTICE '%', line;
    END
    $$;
