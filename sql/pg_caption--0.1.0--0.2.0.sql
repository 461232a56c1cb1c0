-- From 0.1.0 to 0.2.0: every change to the SQL objects stands here and in its topic's file; a test compares the two ways.

-- Operators and functions below mean PostgreSQL's own, as in schema.sql.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Styles: built-in ones can be changed, and a family can be told something of its own.
ALTER TABLE caption.style
    ADD COLUMN prompts jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(prompts) = 'object' AND NOT jsonb_path_exists(prompts, '$.* ? (@.type() != "string")')),
    ALTER COLUMN instruction DROP NOT NULL,
    ALTER COLUMN task DROP NOT NULL, ALTER COLUMN task DROP DEFAULT,
    ALTER COLUMN min_chars DROP NOT NULL, ALTER COLUMN min_chars DROP DEFAULT,
    ALTER COLUMN max_chars DROP NOT NULL, ALTER COLUMN max_chars DROP DEFAULT,
    ALTER COLUMN strip_final_stop DROP NOT NULL, ALTER COLUMN strip_final_stop DROP DEFAULT,
    DROP CONSTRAINT style_name_check,
    ADD CONSTRAINT style_name_check CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    ADD CONSTRAINT style_says_something CHECK (instruction IS NOT NULL OR name IN ('concise', 'seo', 'detailed'));
COMMENT ON TABLE caption.style IS
    'Users'' own styles, and changes of the built-in concise, seo and detailed: what is NULL there is as built in. Part of dumps.';
COMMENT ON COLUMN caption.style.task IS 'The nearest built-in register, for models that know only trained tasks. NULL: detailed.';
COMMENT ON COLUMN caption.style.max_chars IS 'Longer texts are cut at the last sentence, clause or word that fits. NULL: 1000.';
COMMENT ON COLUMN caption.style.prompts IS 'What models of a family are told instead, by model_type, e.g. {"florence2": "What does the image describe?"}.';

-- Models from SQL.
CREATE FUNCTION caption.models(OUT name text, OUT active boolean, OUT state text, OUT family text, OUT bytes bigint, OUT graphs jsonb, OUT digest text,
        OUT memory bigint, OUT styles text[], OUT problem text, OUT path text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE COST 10000 ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'models_wrapper';
COMMENT ON FUNCTION caption.models() IS
    'Installed models. state: serving (problem: files of no use that were passed over), loading, failed (problem: why), unusable, installed; graphs: precisions of each, the one to be used first, and of the one that serves those it uses; digest and memory of the one that serves.';

CREATE FUNCTION caption.use_model(name text, wait boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'use_model_wrapper';
COMMENT ON FUNCTION caption.use_model(text, boolean) IS
    'Makes an installed model (or an absolute path) the one of this server, at once and whatever becomes of the transaction; needs ALTER SYSTEM on pg_caption.model. wait: until it serves, or an error.';
REVOKE ALL ON FUNCTION caption.models(), caption.use_model(text, boolean) FROM PUBLIC;

-- caption.sql: hosts as the engine sees them
CREATE VIEW caption.host AS
    SELECT h.host, h.in_flight, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => h.cooling_ms / 1000.0) AS cooling_until, h.last AS last_answer,
           pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => h.last_ms_ago / 1000.0) AS last_answer_at
      FROM pg_catalog.jsonb_to_recordset(caption.engine_report()->'hosts')
           AS h (host text, in_flight int, cooling_ms double precision, last text, last_ms_ago double precision);
COMMENT ON VIEW caption.host IS
    'Hosts that the engine asks, leaves alone because they asked for patience, or asked lately. Needs EXECUTE on caption.engine_report(), too.';
COMMENT ON COLUMN caption.host.cooling_until IS 'No request before then: the host answered 429, or 503, and named this time or gets a growing pause.';
COMMENT ON COLUMN caption.host.last_answer IS 'http_200, redirect, or the code of a failure as in caption.failure: http_429, timeout, tls …';

-- queue.sql: captioning again
ALTER TABLE caption.tally ADD COLUMN recaption_before timestamptz;
COMMENT ON COLUMN caption.tally.recaption_before IS 'Rows that were captioned before then are captioned again; see caption.recaption().';
CREATE FUNCTION caption.recaption(relation regclass, older_than interval DEFAULT '0') RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'recaption_wrapper';
COMMENT ON FUNCTION caption.recaption(regclass, interval) IS
    'Captions rows again whose texts are ours and older than that: where the picture has changed, or the model. Texts that people wrote stay.';
REVOKE ALL ON FUNCTION caption.recaption(regclass, interval) FROM PUBLIC;

-- queue.sql: cheaper to append to
ALTER TABLE caption.queue ALTER COLUMN keys TYPE json;
ALTER TABLE caption.queue SET (toast_tuple_target = 8160);

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

-- queue.sql: passes over ledger and failures
ALTER TABLE caption.tally ADD COLUMN tidied_at timestamptz, ADD COLUMN tidy_after jsonb, ADD COLUMN tidied_files bigint, ADD COLUMN tidied_deleted bigint;
COMMENT ON COLUMN caption.tally.tidied_at IS 'When the last pass over ledger and failures ended; NULL: one is to be made. See caption.tidy().';
COMMENT ON COLUMN caption.tally.tidy_after IS 'The last key of the pass that is being made, by the table it is in.';
COMMENT ON COLUMN caption.tally.tidied_files IS 'A hash of the files of the table when it was looked at: it was truncated since, perhaps, where they are others.';
COMMENT ON COLUMN caption.tally.tidied_deleted IS 'Rows that were ever deleted from the table, by its statistics, when the last pass began.';
CREATE FUNCTION caption.tidy(relation regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'tidy_wrapper';
COMMENT ON FUNCTION caption.tidy(regclass) IS
    'Has what is kept of rows that are gone, and failures that are none any more, forgotten soon instead of within a day.';
REVOKE ALL ON FUNCTION caption.tidy(regclass) FROM PUBLIC;
