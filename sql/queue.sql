-- Watches, the queue that their triggers fill, and the ledger of what was written.
--
-- Users never write here: triggers and functions do, on their behalf and with the extension owner's rights. What may be seen is in the views.

CREATE TABLE caption.watch (
    relation   regclass PRIMARY KEY,
    image_url  name NOT NULL,
    fills      jsonb NOT NULL,
    keys       name[] NOT NULL,
    max_tokens int NOT NULL DEFAULT 64,
    overwrite  boolean NOT NULL DEFAULT false,
    on_replica boolean NOT NULL DEFAULT false,
    paused     boolean NOT NULL DEFAULT false,
    superuser  boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE caption.watch IS 'One row per watched table, made by caption.watch(). Part of dumps; a restored database starts its walk anew.';
COMMENT ON COLUMN caption.watch.fills IS 'Column to style, e.g. {"alt": "concise", "seo": "seo"}.';
COMMENT ON COLUMN caption.watch.keys IS 'Columns of the primary key, or of the unique index used in its stead.';
COMMENT ON COLUMN caption.watch.overwrite IS 'Text that a person wrote is replaced, too, once for each URL.';
COMMENT ON COLUMN caption.watch.on_replica IS 'The triggers also fire for rows that logical replication applies.';
COMMENT ON COLUMN caption.watch.superuser IS 'It belonged to a superuser when a superuser watched it. Where it came to one later, it is not filled.';
GRANT SELECT ON caption.watch TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('caption.watch', 'WHERE relation::oid IN (SELECT c.oid FROM pg_catalog.pg_class c)');

CREATE TABLE caption.watch_state (
    relation    oid PRIMARY KEY,
    backfill_after  jsonb,
    backfill_run int NOT NULL DEFAULT 0,
    backfill_done   boolean NOT NULL DEFAULT false,
    backfilled      bigint NOT NULL DEFAULT 0,
    filled      bigint NOT NULL DEFAULT 0,
    per_minute  real,
    problem     text,
    updated_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    recaption_before timestamptz,
    database    oid,
    pruned_at   timestamptz,
    prune_after  jsonb,
    pruned_files bigint,
    pruned_deleted bigint
) WITH (fillfactor = 50);
COMMENT ON TABLE caption.watch_state IS 'How far the walk over the existing rows of each watched table has come, and exact counters of what was done.';
COMMENT ON COLUMN caption.watch_state.recaption_before IS 'Rows that were captioned before then are captioned again; see caption.recaption().';

COMMENT ON COLUMN caption.watch_state.database IS 'The database that this walk is of: in a copy of it, the walk begins anew.';
COMMENT ON COLUMN caption.watch_state.pruned_at IS 'When the last pass over ledger and failures ended; NULL: one is to be made. See caption.prune().';
COMMENT ON COLUMN caption.watch_state.prune_after IS 'The last key of the pass that is being made, by the table it is in.';
COMMENT ON COLUMN caption.watch_state.pruned_files IS 'A hash of the files of the table when it was looked at: it was truncated since, perhaps, where they are others.';
COMMENT ON COLUMN caption.watch_state.pruned_deleted IS 'Rows that were ever deleted from the table, by its statistics, when the last pass began.';

CREATE TABLE caption.queue (
    id       bigint GENERATED ALWAYS AS IDENTITY,
    relation oid NOT NULL,
    -- Only ever read as a whole, by the worker, which makes jsonb of it: the writers are users' sessions.
    keys     json NOT NULL,
    n        int NOT NULL,
    at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Read table by table: what waits for one that is paused is not in the way of the others.
    PRIMARY KEY (relation, id)
);
-- 200 keys of most types fit into a page of the table: not worth compressing for the moment that they stand here.
ALTER TABLE caption.queue SET (toast_tuple_target = 8160);
CREATE INDEX queue_rescans ON caption.queue (relation) WHERE n = 0;
COMMENT ON TABLE caption.queue IS 'Keys of rows to look at, many a row, appended at commit by the triggers and removed with the write-back. n = 0: the walk is to begin anew.';

CREATE TABLE caption.deferred (
    relation oid NOT NULL,
    key      jsonb NOT NULL,
    due      timestamptz NOT NULL,
    host     text,
    attempts int NOT NULL DEFAULT 0,
    code     text NOT NULL,
    message  text NOT NULL,
    PRIMARY KEY (relation, key)
);
CREATE INDEX deferred_due ON caption.deferred (relation, due);
COMMENT ON TABLE caption.deferred IS 'Keys to be tried again when due: their host cools down, or the network failed.';

CREATE TABLE caption.ledger (
    relation oid NOT NULL,
    key      jsonb NOT NULL,
    url      text NOT NULL,
    outputs  jsonb NOT NULL,
    model    text NOT NULL,
    at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    etag     text,
    last_modified text,
    PRIMARY KEY (relation, key)
);
COMMENT ON TABLE caption.ledger IS 'The ledger: which texts a machine wrote, for which URL (hash), with which model.';
COMMENT ON COLUMN caption.ledger.url IS 'Hash of the URL that was captioned last.';
COMMENT ON COLUMN caption.ledger.outputs IS 'Column to the hashes of the text written there and of the URL it was written for.';
COMMENT ON COLUMN caption.ledger.model IS 'Digest of the model.';

CREATE TABLE caption.failed (
    relation oid NOT NULL,
    key      jsonb NOT NULL,
    class    text NOT NULL,
    code     text NOT NULL,
    message  text NOT NULL,
    detail   text,
    attempts int NOT NULL DEFAULT 1,
    at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (relation, key)
);
CREATE INDEX failed_at ON caption.failed (at);
COMMENT ON TABLE caption.failed IS 'Rows that got no caption and why; shown by the view caption.failure.';

-- A watch that arrives with a restored dump wakes this database like any other work.
CREATE FUNCTION caption.announce() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pg_caption_announce';
COMMENT ON FUNCTION caption.announce() IS 'Trigger function: wakes the worker of this database at commit.';
REVOKE ALL ON FUNCTION caption.announce() FROM PUBLIC;
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON caption.watch FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();
-- So does a style that a watch may have waited for.
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON caption.style FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();

-- A publication FOR ALL TABLES on the other side brings that side's watches, queue and ledger along. They name its own tables by OID: rows that logical
-- replication applies to ours are dropped, and so never stop an apply worker.
CREATE FUNCTION caption.keep_local() RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pg_caption_keep_local';
COMMENT ON FUNCTION caption.keep_local() IS 'Trigger function: drops what logical replication applies to the tables of pg_caption.';
REVOKE ALL ON FUNCTION caption.keep_local() FROM PUBLIC;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.watch FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.watch ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.watch_state FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.watch_state ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.queue FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.queue ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.deferred FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.deferred ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.ledger FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.ledger ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.failed FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.failed ENABLE REPLICA TRIGGER keep_local;
CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.style FOR EACH ROW EXECUTE FUNCTION caption.keep_local();
ALTER TABLE caption.style ENABLE REPLICA TRIGGER keep_local;

CREATE FUNCTION caption.enqueue() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pg_caption_enqueue';
COMMENT ON FUNCTION caption.enqueue() IS
    'Trigger function of watched tables: remembers the key of the row and appends all keys of the transaction to the queue at commit.';

CREATE FUNCTION caption.watch(relation regclass, image_url name DEFAULT 'image_url', fills jsonb DEFAULT '{"alt": "concise", "seo": "seo"}',
        max_tokens int DEFAULT 64, overwrite boolean DEFAULT false, on_replica boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'watch_wrapper';
COMMENT ON FUNCTION caption.watch(regclass, name, jsonb, int, boolean, boolean) IS
    'Fills empty columns of a table with captions of the pictures its URLs show, now and from now on. fills: column to style.';

CREATE FUNCTION caption.unwatch(relation regclass) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'unwatch_wrapper';
COMMENT ON FUNCTION caption.unwatch(regclass) IS 'Ends a watch: its triggers, queue, failures and ledger go; the texts written stay.';

CREATE FUNCTION caption.pause(relation regclass) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'pause_wrapper';
COMMENT ON FUNCTION caption.pause(regclass) IS 'Stops filling a table; its queue keeps growing.';

CREATE FUNCTION caption.resume(relation regclass) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'resume_wrapper';
COMMENT ON FUNCTION caption.resume(regclass) IS 'Goes on filling a table.';

CREATE FUNCTION caption.retry(relation regclass) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'retry_wrapper';
COMMENT ON FUNCTION caption.retry(regclass) IS 'Queues the failed and the deferred rows of a table again; says how many.';
CREATE FUNCTION caption.recaption(relation regclass, older_than interval DEFAULT '0') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'recaption_wrapper';
COMMENT ON FUNCTION caption.recaption(regclass, interval) IS
    'Captions rows again whose texts are ours and older than that: where the picture has changed, or the model. Texts that people wrote stay.';
CREATE FUNCTION caption.prune(relation regclass) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'prune_wrapper';
COMMENT ON FUNCTION caption.prune(regclass) IS
    'Has what is kept of rows that are gone, and failures that are none any more, forgotten soon instead of within a day.';
REVOKE ALL ON FUNCTION caption.watch(regclass, name, jsonb, int, boolean, boolean), caption.unwatch(regclass), caption.pause(regclass),
    caption.resume(regclass), caption.retry(regclass), caption.recaption(regclass, interval), caption.prune(regclass) FROM PUBLIC;

CREATE FUNCTION caption.in_flight(relation regclass) RETURNS int
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'in_flight_wrapper';
COMMENT ON FUNCTION caption.in_flight(regclass) IS 'Rows of a watched table that the engine is working on now; NULL for who is no member of the table''s owner.';

CREATE FUNCTION caption.obstacle() RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'obstacle_wrapper';
COMMENT ON FUNCTION caption.obstacle() IS
    'Why nothing of this database is being filled now, as caption.database says it; NULL where nothing stands in the way. What an engine without a model lacks: for members of pg_monitor.';

CREATE FUNCTION caption.require_no_transaction() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'require_no_transaction_wrapper';
COMMENT ON FUNCTION caption.require_no_transaction() IS 'Raises an error where caption.wait() could not commit: in a transaction block or a function.';

CREATE VIEW caption.failure WITH (security_barrier) AS
    SELECT f.relation::regclass AS relation, f.key, f.class, f.code, f.message, f.detail, f.attempts, f.at
      FROM caption.failed f JOIN pg_catalog.pg_class c ON c.oid = f.relation
     WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW caption.failure IS 'Rows without a caption and why, for members of the table''s owner. class: uncertain or reject (retry: attempts used up).';
GRANT SELECT ON caption.failure TO PUBLIC;

CREATE VIEW caption.progress WITH (security_barrier) AS
    SELECT p.relation, p.rows, p.filled, p.waiting, p.in_flight, p.deferred, p.failed, p.rows_per_minute,
           CASE WHEN p.rest = 0 THEN interval '0' WHEN p.rows_per_minute > 0 THEN pg_catalog.make_interval(mins => 1) * (p.rest / p.rows_per_minute) END
               AS time_left,
           pg_catalog.rpad(pg_catalog.repeat('#', (20 * p.share)::int), 20, '.') || pg_catalog.lpad((100 * p.share)::int::text, 4) || '%' AS bar,
           p.state, p.stopped
      FROM (
        SELECT w.relation, greatest(t.backfilled, s.estimate) AS rows, coalesce(t.filled, 0) AS filled, q.waiting + s.unread AS waiting,
               caption.in_flight(w.relation) AS in_flight, d.deferred, f.failed, t.per_minute AS rows_per_minute, r.rest,
               CASE WHEN r.rest = 0 THEN 1.0 ELSE r.total / (r.total + r.rest) END AS share,
               CASE WHEN w.paused THEN 'paused' WHEN t.problem IS NOT NULL THEN t.problem
                    WHEN r.rest + d.deferred = 0 AND coalesce(t.backfill_done, false) THEN 'idle' ELSE coalesce('waiting: ' || caption.obstacle(), 'working') END AS state,
               w.paused OR t.problem IS NOT NULL AS stopped
          FROM caption.watch w
          JOIN pg_catalog.pg_class c ON c.oid = w.relation
          LEFT JOIN caption.watch_state t ON t.relation = w.relation
          CROSS JOIN LATERAL (SELECT coalesce(sum(greatest(q.n, 1)), 0)::bigint AS waiting FROM caption.queue q WHERE q.relation = w.relation) q
          CROSS JOIN LATERAL (SELECT count(*) AS deferred FROM caption.deferred d WHERE d.relation = w.relation) d
          CROSS JOIN LATERAL (SELECT count(*) AS failed FROM caption.failed f WHERE f.relation = w.relation) f
          CROSS JOIN LATERAL (
            SELECT e.estimate, CASE WHEN t.backfill_done THEN 0 ELSE greatest(e.estimate - coalesce(t.backfilled, 0), 1) END AS unread
              -- reltuples is -1 until the first ANALYZE; the statistics collector's count is there before.
              FROM (SELECT coalesce(sum(greatest(l.reltuples, pg_catalog.pg_stat_get_live_tuples(l.oid), 0)), 0)::bigint AS estimate FROM pg_catalog.pg_class l
                     WHERE l.oid = w.relation OR l.oid IN (SELECT i.relid FROM pg_catalog.pg_partition_tree(w.relation) i WHERE i.isleaf)) e) s
          CROSS JOIN LATERAL (SELECT q.waiting + s.unread AS rest, greatest(coalesce(t.filled, 0) + f.failed, 0.001)::numeric AS total) r
         WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE')
      ) p;
COMMENT ON VIEW caption.progress IS
    'Each watch: rows and the part of waiting not backfilled yet are estimates; filled, queued, in flight, deferred and failed are exact.';
COMMENT ON COLUMN caption.progress.state IS 'idle, working, waiting: and for what, paused, or what is wrong with the table.';
COMMENT ON COLUMN caption.progress.stopped IS 'Somebody must do something before it goes on; state says what.';
GRANT SELECT ON caption.progress TO PUBLIC;
GRANT EXECUTE ON FUNCTION caption.in_flight(regclass), caption.obstacle(), caption.require_no_transaction() TO PUBLIC;

CREATE FUNCTION caption.is_idle(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT t.backfill_done AND t.problem IS NULL FROM caption.watch_state t WHERE t.relation = is_idle.relation), false)
           AND NOT EXISTS (SELECT FROM caption.queue q WHERE q.relation = is_idle.relation)
           AND NOT EXISTS (SELECT FROM caption.deferred d WHERE d.relation = is_idle.relation)
    $$;
COMMENT ON FUNCTION caption.is_idle(regclass) IS 'Whether nothing of a watched table is left to do.';

CREATE PROCEDURE caption.wait(relation regclass, timeout interval DEFAULT NULL)
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
COMMENT ON PROCEDURE caption.wait(regclass, interval) IS 'Reports progress by NOTICE until nothing of the table is left to do. CALL it outside a transaction block.';
REVOKE ALL ON PROCEDURE caption.wait(regclass, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION caption.is_idle(regclass) FROM PUBLIC;

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
