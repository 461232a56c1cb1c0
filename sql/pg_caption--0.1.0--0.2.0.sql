-- From 0.1.0 to 0.2.0: every change to the SQL objects stands here and in its topic's file; a test compares the two ways.

-- Operators and functions below mean PostgreSQL's own, as in schema.sql.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- All tables at once or none: one after the other, in whatever order, would now and then meet a worker that has one and waits for another.
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE caption.watch, caption.tally, caption.queue, caption.deferred, caption.written, caption.failed, caption.style IN ACCESS EXCLUSIVE MODE NOWAIT;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_catalog.pg_sleep(0.01);
        END;
    END LOOP;
END
$$;

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
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'recaption_wrapper';
COMMENT ON FUNCTION caption.recaption(regclass, interval) IS
    'Captions rows again whose texts are ours and older than that: where the picture has changed, or the model. Texts that people wrote stay.';
REVOKE ALL ON FUNCTION caption.recaption(regclass, interval) FROM PUBLIC;

-- queue.sql: a NULL is an error, not a call that does nothing
ALTER FUNCTION caption.watch(regclass, name, jsonb, int, boolean, boolean) CALLED ON NULL INPUT;
ALTER FUNCTION caption.unwatch(regclass) CALLED ON NULL INPUT;
ALTER FUNCTION caption.pause(regclass) CALLED ON NULL INPUT;
ALTER FUNCTION caption.resume(regclass) CALLED ON NULL INPUT;
ALTER FUNCTION caption.retry(regclass) CALLED ON NULL INPUT;

-- queue.sql: cheaper to append to
ALTER TABLE caption.queue ALTER COLUMN keys TYPE json;
ALTER TABLE caption.queue SET (toast_tuple_target = 8160);

-- queue.sql: read table by table
ALTER TABLE caption.queue DROP CONSTRAINT queue_pkey, ADD CONSTRAINT queue_pkey PRIMARY KEY (relation, id);

-- queue.sql: marks for tables whose triggers have missed something
DROP INDEX caption.deferred_due;
CREATE INDEX deferred_due ON caption.deferred (relation, due);
CREATE INDEX queue_marks ON caption.queue (relation) WHERE n = 0;
COMMENT ON TABLE caption.queue IS 'Keys of rows to look at, many a row, appended at commit by the triggers and removed with the write-back. n = 0: the walk is to begin anew.';

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

-- queue.sql: watches that wait for a style go on
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON caption.style FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();

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

COMMENT ON FUNCTION caption.in_flight(regclass) IS 'Rows of a watched table that the engine is working on now; NULL for who is no member of the table''s owner.';

-- queue.sql: why nothing moves, and a wait that always ends or says why it does not
CREATE FUNCTION caption.obstacle() RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'obstacle_wrapper';
COMMENT ON FUNCTION caption.obstacle() IS
    'Why nothing of this database is being filled now, as caption.database says it; NULL where nothing stands in the way. What an engine without a model lacks: for members of pg_monitor.';

CREATE FUNCTION caption.require_no_transaction() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'require_no_transaction_wrapper';
COMMENT ON FUNCTION caption.require_no_transaction() IS 'Raises an error where caption.wait() could not commit: in a transaction block or a function.';
CREATE OR REPLACE VIEW caption.progress WITH (security_barrier) AS
    SELECT p.relation, p.rows, p.filled, p.waiting, p.in_flight, p.deferred, p.failed, p.rows_per_minute,
           CASE WHEN p.rest = 0 THEN interval '0' WHEN p.rows_per_minute > 0 THEN pg_catalog.make_interval(mins => 1) * (p.rest / p.rows_per_minute) END
               AS time_left,
           pg_catalog.rpad(pg_catalog.repeat('#', (20 * p.share)::int), 20, '.') || pg_catalog.lpad((100 * p.share)::int::text, 4) || '%' AS bar,
           p.state, p.stopped
      FROM (
        SELECT w.relation, greatest(t.walked, s.estimate) AS rows, coalesce(t.filled, 0) AS filled, q.waiting + s.unwalked AS waiting,
               caption.in_flight(w.relation) AS in_flight, d.deferred, f.failed, t.per_minute AS rows_per_minute, r.rest,
               CASE WHEN r.rest = 0 THEN 1.0 ELSE r.total / (r.total + r.rest) END AS share,
               CASE WHEN w.paused THEN 'paused' WHEN t.problem IS NOT NULL THEN t.problem
                    WHEN r.rest + d.deferred = 0 AND coalesce(t.walk_done, false) THEN 'idle' ELSE coalesce('waiting: ' || caption.obstacle(), 'working') END AS state,
               w.paused OR t.problem IS NOT NULL AS stopped
          FROM caption.watch w
          JOIN pg_catalog.pg_class c ON c.oid = w.relation
          LEFT JOIN caption.tally t ON t.relation = w.relation
          CROSS JOIN LATERAL (SELECT coalesce(sum(greatest(q.n, 1)), 0)::bigint AS waiting FROM caption.queue q WHERE q.relation = w.relation) q
          CROSS JOIN LATERAL (SELECT count(*) AS deferred FROM caption.deferred d WHERE d.relation = w.relation) d
          CROSS JOIN LATERAL (SELECT count(*) AS failed FROM caption.failed f WHERE f.relation = w.relation) f
          CROSS JOIN LATERAL (
            SELECT e.estimate, CASE WHEN t.walk_done THEN 0 ELSE greatest(e.estimate - coalesce(t.walked, 0), 1) END AS unwalked
              -- reltuples is -1 until the first ANALYZE; the statistics collector's count is there before.
              FROM (SELECT coalesce(sum(greatest(l.reltuples, pg_catalog.pg_stat_get_live_tuples(l.oid), 0)), 0)::bigint AS estimate FROM pg_catalog.pg_class l
                     WHERE l.oid = w.relation OR l.oid IN (SELECT i.relid FROM pg_catalog.pg_partition_tree(w.relation) i WHERE i.isleaf)) e) s
          CROSS JOIN LATERAL (SELECT q.waiting + s.unwalked AS rest, greatest(coalesce(t.filled, 0) + f.failed, 0.001)::numeric AS total) r
         WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE')
      ) p;
COMMENT ON VIEW caption.progress IS
    'Each watch: rows and the part of waiting not walked yet are estimates; filled, queued, in flight, deferred and failed are exact.';
COMMENT ON COLUMN caption.progress.state IS 'idle, working, waiting: and for what, paused, or what is wrong with the table.';
COMMENT ON COLUMN caption.progress.stopped IS 'Somebody must do something before it goes on; state says what.';
GRANT EXECUTE ON FUNCTION caption.obstacle(), caption.require_no_transaction() TO PUBLIC;

CREATE OR REPLACE PROCEDURE caption.wait(relation regclass, timeout interval DEFAULT NULL)
    LANGUAGE plpgsql
    AS $$
    DECLARE
        -- Of a table that is dropped meanwhile only the number would be left.
        name text := pg_catalog.format('%s', relation);
        began timestamptz := pg_catalog.clock_timestamp();
        said timestamptz;
        line text;
        last text;
        owner text;
        now_at record;
    BEGIN
        PERFORM caption.require_no_transaction();
        LOOP
            SELECT pg_catalog.format('%s %s filled, %s waiting, %s in flight, %s deferred, %s failed', p.bar, p.filled, p.waiting, p.in_flight, p.deferred, p.failed) AS counts,
                   pg_catalog.format('%s %s filled, %s failed', p.bar, p.filled, p.failed) AS result,
                   CASE WHEN p.state OPERATOR(pg_catalog.<>) 'working' THEN pg_catalog.concat(' (', p.state, ')') END AS why,
                   p.waiting OPERATOR(pg_catalog.+) p.deferred OPERATOR(pg_catalog.=) 0 AND p.state OPERATOR(pg_catalog.=) ANY ('{idle,paused}'::pg_catalog.text[]) AS done,
                   p.state, p.stopped
              INTO now_at FROM caption.progress p WHERE p.relation OPERATOR(pg_catalog.=) wait.relation;
            IF NOT FOUND THEN
                SELECT c.relowner::pg_catalog.regrole::pg_catalog.text INTO owner FROM caption.watch w JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) w.relation
                 WHERE w.relation OPERATOR(pg_catalog.=) wait.relation;
                IF FOUND THEN
                    RAISE EXCEPTION 'must be owner of table % to wait for it', name USING ERRCODE = 'insufficient_privilege', DETAIL = pg_catalog.format('It belongs to %s.', owner);
                ELSIF last IS NULL THEN
                    RAISE EXCEPTION 'table % is not watched', name USING ERRCODE = 'undefined_object', HINT = 'See caption.watch().';
                END IF;
                RAISE NOTICE 'table % is not watched any more', name;
                RETURN;
            END IF;
            IF now_at.done THEN
                RAISE NOTICE '%', now_at.result;
                RETURN;
            ELSIF now_at.stopped THEN
                RAISE EXCEPTION 'table % is not being filled: %', name, now_at.state USING ERRCODE = 'object_not_in_prerequisite_state';
            END IF;
            line := pg_catalog.concat(now_at.counts, now_at.why);
            -- The same counts are said again from time to time: why may be news, and a client that has gone is found out when it is told something.
            IF last IS NULL OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) said OPERATOR(pg_catalog.>) (CASE WHEN now_at.counts OPERATOR(pg_catalog.=) last THEN interval '10 seconds' ELSE interval '1 second' END) THEN
                RAISE NOTICE '%', line;
                said := pg_catalog.clock_timestamp();
                last := now_at.counts;
            END IF;
            IF timeout IS NOT NULL AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began OPERATOR(pg_catalog.>) timeout THEN
                RAISE EXCEPTION 'table % still has rows to fill', name USING ERRCODE = 'query_canceled', DETAIL = line;
            END IF;
            COMMIT;
            PERFORM pg_catalog.pg_sleep(0.1);
        END LOOP;
    END
    $$;

-- queue.sql: passes over ledger and failures
ALTER TABLE caption.tally ADD COLUMN tidied_at timestamptz, ADD COLUMN tidy_after jsonb, ADD COLUMN tidied_files bigint, ADD COLUMN tidied_deleted bigint;
COMMENT ON COLUMN caption.tally.tidied_at IS 'When the last pass over ledger and failures ended; NULL: one is to be made. See caption.tidy().';
COMMENT ON COLUMN caption.tally.tidy_after IS 'The last key of the pass that is being made, by the table it is in.';
COMMENT ON COLUMN caption.tally.tidied_files IS 'A hash of the files of the table when it was looked at: it was truncated since, perhaps, where they are others.';
COMMENT ON COLUMN caption.tally.tidied_deleted IS 'Rows that were ever deleted from the table, by its statistics, when the last pass began.';
CREATE FUNCTION caption.tidy(relation regclass) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'tidy_wrapper';
COMMENT ON FUNCTION caption.tidy(regclass) IS
    'Has what is kept of rows that are gone, and failures that are none any more, forgotten soon instead of within a day.';
REVOKE ALL ON FUNCTION caption.tidy(regclass) FROM PUBLIC;

-- A superuser's table is filled where a superuser has watched it; in 0.1.0 only they could.
ALTER TABLE caption.watch ADD COLUMN superuser boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN caption.watch.superuser IS 'It belonged to a superuser when a superuser watched it. Where it came to one later, it is not filled.';
UPDATE caption.watch w SET superuser = r.rolsuper
  FROM pg_catalog.pg_class c, pg_catalog.pg_roles r
 WHERE c.oid OPERATOR(pg_catalog.=) w.relation::pg_catalog.oid AND r.oid OPERATOR(pg_catalog.=) c.relowner;
