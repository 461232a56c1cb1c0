-- What watches have done and what remains: the views failure, progress and database, the procedure
-- wait, and the functions behind them.

CREATE FUNCTION caption.in_flight(relation regclass)
    RETURNS int
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'in_flight_wrapper';
COMMENT ON FUNCTION caption.in_flight(regclass) IS
    'Returns the number of rows of a watched table that the engine works on. '
    'NULL unless the caller is a member of the owning role.';

CREATE FUNCTION caption.rows_ahead(relation regclass, OUT read int, OUT completed int)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rows_ahead_wrapper';
COMMENT ON FUNCTION caption.rows_ahead(regclass) IS
    'Returns how many rows of a watched table the worker has read beyond the recorded position '
    'of the backfill. completed: those done that the queue and that position do not count yet. '
    'NULL unless the caller is a member of the owning role or of pg_monitor.';

CREATE FUNCTION caption.unwatched_hint(relation regclass)
    RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'unwatched_hint_wrapper';
COMMENT ON FUNCTION caption.unwatched_hint(regclass) IS
    'Returns what to do about a table that is not watched.';

CREATE FUNCTION caption.obstacle()
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'obstacle_wrapper';
COMMENT ON FUNCTION caption.obstacle() IS
    'Returns why no table of this database is being filled, as in caption.database; '
    'NULL if nothing prevents it. Members of pg_monitor also see why the engine cannot serve.';

CREATE FUNCTION caption.require_no_transaction(procedure text DEFAULT 'caption.wait')
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'require_no_transaction_wrapper';
COMMENT ON FUNCTION caption.require_no_transaction(text) IS
    'Raises an error where the procedure that calls it could not commit: '
    'in a transaction block or in a function.';

GRANT EXECUTE ON FUNCTION
    caption.in_flight(regclass),
    caption.rows_ahead(regclass),
    caption.unwatched_hint(regclass),
    caption.obstacle(),
    caption.require_no_transaction(text)
    TO PUBLIC;

CREATE FUNCTION caption.key_object(relation oid, key jsonb)
    RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(
            (SELECT jsonb_object_agg(
                        n.name,
                        CASE WHEN v.value IS NULL THEN NULL
                             WHEN t.typcategory = 'N' AND v.value ~ '^-?[0-9.]+$'
                             THEN to_jsonb(v.value::numeric)
                             WHEN t.typcategory = 'B' THEN to_jsonb(v.value IN ('t', 'true'))
                             ELSE to_jsonb(v.value) END)
               FROM (SELECT w.relation::oid AS relation, w.keys
                       FROM caption.watch w
                      WHERE w.relation = key_object.relation
                      UNION ALL
                     -- A backfill that has ended leaves failures.
                     SELECT i.indrelid,
                            ARRAY(SELECT a.attname
                                    FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, ord)
                                    JOIN pg_attribute a
                                      ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                                   WHERE k.ord <= i.indnkeyatts
                                   ORDER BY k.ord)
                       FROM pg_index i
                      WHERE i.indrelid = key_object.relation AND i.indisprimary
                        AND NOT EXISTS (SELECT FROM caption.watch w
                                         WHERE w.relation = key_object.relation)) w
              CROSS JOIN unnest(w.keys) WITH ORDINALITY AS n (name, ord)
               JOIN jsonb_array_elements_text(key) WITH ORDINALITY AS v (value, ord)
                 ON v.ord = n.ord
               LEFT JOIN pg_attribute a
                 ON a.attrelid = w.relation AND a.attname = n.name AND NOT a.attisdropped
               LEFT JOIN pg_type t ON t.oid = a.atttypid),
            key)
    $$;
COMMENT ON FUNCTION caption.key_object(oid, jsonb) IS
    'Returns the key of a row of a watched table, ["3"] in the extension''s tables, with its '
    'columns: {"id": 3}.';

CREATE VIEW caption.failure WITH (security_barrier) AS
    SELECT f.relation::regclass AS relation,
           caption.key_object(f.relation, f.key) AS key,
           f.class, f.code, f.message, f.detail, f.attempts, f.at, f.hint
      FROM caption.failed f
      JOIN pg_class c ON c.oid = f.relation
     WHERE pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW caption.failure IS
    'Rows without a caption, and why. Visible to members of the table''s owner.';
COMMENT ON COLUMN caption.failure.key IS
    'Key columns of the row, for example {"id": 3}.';
COMMENT ON COLUMN caption.failure.class IS
    'uncertain: no caption with enough confidence; reject: permanent; '
    'retry: transient, but all attempts failed.';
COMMENT ON COLUMN caption.failure.code IS
    'Stable name of the failure, for grouping: http_404, not_an_image …';
COMMENT ON COLUMN caption.failure.hint IS
    'What to do.';
GRANT SELECT ON caption.failure TO PUBLIC;

CREATE VIEW caption.failure_count WITH (security_barrier) AS
    SELECT f.relation::regclass AS relation, f.class, f.code,
           count(*) AS rows, max(f.at) AS latest
      FROM caption.failed f
      JOIN pg_class c ON c.oid = f.relation
     WHERE pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE')
     GROUP BY f.relation, f.class, f.code;
COMMENT ON VIEW caption.failure_count IS
    'Failures of each watched table by code. '
    'Visible to members of the table''s owner and of pg_monitor.';
GRANT SELECT ON caption.failure_count TO PUBLIC;

CREATE VIEW caption.deferred_row WITH (security_barrier) AS
    SELECT d.relation::regclass AS relation,
           caption.key_object(d.relation, d.key) AS key,
           d.due, d.host, d.code, d.attempts, d.message
      FROM caption.deferred d
      JOIN pg_class c ON c.oid = d.relation
     WHERE pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW caption.deferred_row IS
    'Rows that are tried again when due, and why. Visible to members of the table''s owner.';
COMMENT ON COLUMN caption.deferred_row.host IS
    'The host that asked for a pause, if one did.';
COMMENT ON COLUMN caption.deferred_row.attempts IS
    'Attempts that count towards pg_caption.max_attempts.';
GRANT SELECT ON caption.deferred_row TO PUBLIC;

CREATE VIEW caption.progress WITH (security_barrier) AS
    WITH queued AS (
        SELECT q.relation, sum(greatest(q.n, 1))::bigint AS keys
          FROM caption.queue q
         GROUP BY q.relation
    ), deferred AS (
        SELECT d.relation, count(*) AS keys
          FROM caption.deferred d
         GROUP BY d.relation
    ), failed AS (
        SELECT f.relation, count(*) AS keys
          FROM caption.failed f
         GROUP BY f.relation
    ), drafted AS (
        SELECT l.relation, sum(l.drafts)::bigint AS texts
          FROM caption.ledger l
         WHERE l.drafts > 0
         GROUP BY l.relation
    )
    SELECT w.relation,
           greatest(s.backfilled, e.rows) AS rows,
           coalesce(s.filled, 0) AS filled,
           m.waiting,
           caption.in_flight(w.relation) AS in_flight,
           coalesce(d.keys, 0) AS deferred,
           coalesce(f.keys, 0) AS failed,
           s.per_minute AS rows_per_minute,
           CASE WHEN m.remaining = 0 THEN interval '0'
                WHEN s.per_minute > 0
                THEN make_interval(mins => 1) * (m.remaining / s.per_minute) END AS time_left,
           rpad(repeat('#', (20 * m.share)::int), 20, '.')
               || lpad((100 * m.share)::int::text, 4) || '%' AS bar,
           CASE WHEN w.paused AND w.backfill THEN 'paused: CALL caption.backfill() to continue'
                WHEN w.paused THEN 'paused'
                WHEN s.problem IS NOT NULL THEN s.problem
                WHEN o.name IS NOT NULL
                THEN format('%s is another table now: SELECT caption.move_watch(%L, %L) '
                            'moves the watch', o.name, w.relation, o.name)
                WHEN m.remaining = 0 AND s.backfill_done THEN 'idle'
                ELSE coalesce('waiting: ' || caption.obstacle(), 'working') END AS state,
           w.paused OR s.problem IS NOT NULL AS stopped,
           coalesce(y.texts, 0) AS drafts
      FROM caption.watch w
      JOIN pg_class c                 ON c.oid      = w.relation
      LEFT JOIN caption.watch_state s ON s.relation = w.relation
      LEFT JOIN queued q              ON q.relation = w.relation
      LEFT JOIN deferred d            ON d.relation = w.relation
      LEFT JOIN failed f              ON f.relation = w.relation
      LEFT JOIN drafted y             ON y.relation = w.relation
     CROSS JOIN LATERAL (
        -- reltuples is -1 until the first ANALYZE; the cumulative statistics are there before.
        SELECT sum(greatest(l.reltuples, pg_stat_get_live_tuples(l.oid), 0))::bigint AS rows
          FROM pg_class l
         WHERE l.oid = w.relation
            OR l.oid IN (SELECT t.relid FROM pg_partition_tree(w.relation) t WHERE t.isleaf)
     ) e
      LEFT JOIN LATERAL (
        -- A table that has the name under which this one was watched.
        SELECT format('%I.%I', n.nspname, x.relname) AS name
          FROM pg_namespace n JOIN pg_class x ON x.relnamespace = n.oid
         WHERE n.nspname = w.named[1]
           AND x.relname = w.named[2]
           AND NOT w.backfill
           AND x.oid <> w.relation::oid
           AND x.relkind IN ('r', 'p')
           AND NOT EXISTS (SELECT FROM caption.watch y WHERE y.relation::oid = x.oid)
     ) o ON true
     CROSS JOIN LATERAL (
        -- Queue and backfill advance by many rows together; a.completed counts one by one.
        SELECT greatest(coalesce(q.keys, 0)
                        + CASE WHEN s.backfill_done THEN 0
                               ELSE greatest(e.rows - coalesce(s.backfilled, 0), a.read, 1) END
                        - coalesce(a.completed, 0),
                        CASE WHEN s.backfill_done THEN 0 ELSE 1 END),
               greatest(coalesce(s.filled, 0) + coalesce(f.keys, 0) + coalesce(y.texts, 0),
                        0.001)::numeric
          FROM caption.rows_ahead(w.relation) a
     ) r (waiting, completed)
     CROSS JOIN LATERAL (
        -- Deferred rows are work, too.
        SELECT r.waiting,
               r.waiting + coalesce(d.keys, 0),
               CASE WHEN r.waiting + coalesce(d.keys, 0) = 0 THEN 1.0
                    ELSE r.completed / (r.completed + r.waiting + coalesce(d.keys, 0)) END
     ) m (waiting, remaining, share)
     WHERE pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE')
     UNION ALL
    SELECT c.oid::regclass, greatest(c.reltuples, 0)::bigint, 0, 0, 0, 0, 0, NULL, NULL, NULL,
           'its triggers have no watch, as in a schema-only copy: '
           'call caption.watch() or drop them',
           true, 0
      FROM pg_class c
     WHERE c.oid IN (SELECT t.tgrelid
                       FROM pg_trigger t
                      WHERE t.tgfoid = 'caption.enqueue()'::regprocedure
                        AND t.tgparentid = 0)
       AND NOT EXISTS (SELECT FROM caption.watch w WHERE w.relation::oid = c.oid)
       AND (pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE'));
COMMENT ON VIEW caption.progress IS
    'Progress of each watch. filled, in_flight, deferred and failed are exact; '
    'rows, and the part of waiting that the backfill has not read yet, are estimates. '
    'Visible to members of the table''s owner and of pg_monitor.';
COMMENT ON COLUMN caption.progress.waiting IS
    'Rows to examine: queued, or not yet read by the backfill.';
COMMENT ON COLUMN caption.progress.time_left IS
    'Time to fill the waiting and deferred rows at the present rate. NULL: unknown.';
COMMENT ON COLUMN caption.progress.state IS
    'idle, working, waiting and what for, paused, or what is wrong with the table.';
COMMENT ON COLUMN caption.progress.stopped IS
    'Whether filling has stopped until a user acts; state says why.';
COMMENT ON COLUMN caption.progress.drafts IS
    'Texts that wait for a review; see caption.approve().';
GRANT SELECT ON caption.progress TO PUBLIC;

CREATE FUNCTION caption.is_idle(relation regclass)
    RETURNS boolean
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce((SELECT s.backfill_done AND s.problem IS NULL
                           FROM caption.watch_state s
                          WHERE s.relation = is_idle.relation), false)
           AND NOT EXISTS (SELECT FROM caption.queue q WHERE q.relation = is_idle.relation)
           AND NOT EXISTS (SELECT FROM caption.deferred d WHERE d.relation = is_idle.relation)
    $$;
COMMENT ON FUNCTION caption.is_idle(regclass) IS
    'Returns whether a watched table has no work left.';
REVOKE ALL ON FUNCTION caption.is_idle(regclass) FROM PUBLIC;

-- A procedure that commits cannot set a search_path: every name and operator is qualified.
CREATE PROCEDURE caption.wait_for(
        relation regclass,
        name     text,
        timeout  interval,
        deferred boolean,
        begun    boolean)
    LANGUAGE plpgsql
    AS $$
    DECLARE
        started_at  timestamptz := pg_catalog.clock_timestamp();
        reported_at timestamptz;
        reported    text;
        report      text;
        owner       text;
        later       text;
        first_due   timestamptz;
        moved       text;
        settled     text;
        settled_at  timestamptz;
        stopped_at  timestamptz;
        latest      record;
    BEGIN
        LOOP
            SELECT pg_catalog.format('%s %s filled, %s waiting, %s in flight, %s deferred, '
                                     '%s failed',
                                     p.bar, p.filled, p.waiting, p.in_flight, p.deferred, p.failed)
                       AS counts,
                   pg_catalog.format('%s %s filled, %s failed', p.bar, p.filled, p.failed)
                       OPERATOR(pg_catalog.||)
                       CASE WHEN p.drafts OPERATOR(pg_catalog.>) 0
                            THEN pg_catalog.format(', %s drafts to review', p.drafts)
                            ELSE '' END
                       AS result,
                   pg_catalog.format('%s %s', p.filled, p.failed)
                       AS settled,
                   CASE WHEN p.state OPERATOR(pg_catalog.<>) 'working'
                        THEN pg_catalog.concat(' (', p.state, ')') END
                       AS why,
                   p.waiting OPERATOR(pg_catalog.+) p.deferred OPERATOR(pg_catalog.=) 0
                       AND (p.state OPERATOR(pg_catalog.=) 'paused' OR NOT p.stopped)
                       AS done,
                   p.waiting OPERATOR(pg_catalog.=) 0
                       AND p.in_flight OPERATOR(pg_catalog.=) 0
                       AND p.deferred OPERATOR(pg_catalog.>) 0
                       AS only_deferred,
                   p.state,
                   p.state OPERATOR(pg_catalog.~) '^paused' AS paused,
                   p.stopped
              INTO latest
              FROM caption.progress p
             WHERE p.relation OPERATOR(pg_catalog.=) wait_for.relation;
            IF NOT FOUND THEN
                SELECT c.relowner::pg_catalog.regrole::pg_catalog.text
                  INTO owner
                  FROM caption.watch w
                  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) w.relation
                 WHERE w.relation OPERATOR(pg_catalog.=) wait_for.relation;
                IF FOUND THEN
                    RAISE EXCEPTION 'must be owner of table % to wait for it', name
                        USING ERRCODE = 'insufficient_privilege',
                              DETAIL  = pg_catalog.format('It belongs to %s.', owner);
                ELSIF reported IS NULL AND NOT begun THEN
                    RAISE EXCEPTION 'table % is not watched', name
                        USING ERRCODE = 'undefined_object',
                              HINT    = caption.unwatched_hint(relation);
                END IF;
                RAISE NOTICE 'table % is no longer watched', name;
                RETURN;
            END IF;
            IF latest.done THEN
                RAISE NOTICE '%', latest.result;
                RETURN;
            ELSIF latest.only_deferred AND NOT deferred THEN
                -- Only rows that are due later, or whose host answers with pauses only.
                SELECT pg_catalog.string_agg(pg_catalog.format('%s with %s', l.rows, l.code), ', '
                                             ORDER BY l.rows DESC),
                       pg_catalog.min(l.due),
                       pg_catalog.format('%s, %s attempts', latest.settled,
                                         pg_catalog.sum(l.attempts))
                  INTO later, first_due, moved
                  FROM (SELECT d.code, pg_catalog.count(*) AS rows, pg_catalog.min(d.due) AS due,
                               pg_catalog.sum(d.attempts) AS attempts
                          FROM caption.deferred_row d
                         WHERE d.relation OPERATOR(pg_catalog.=) wait_for.relation
                         GROUP BY d.code) l;
                IF settled IS NULL OR settled OPERATOR(pg_catalog.<>) moved THEN
                    settled := moved;
                    settled_at := pg_catalog.clock_timestamp();
                END IF;
                IF first_due OPERATOR(pg_catalog.>)
                   (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) interval '1 minute')
                   OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) settled_at
                   OPERATOR(pg_catalog.>) interval '1 minute' THEN
                    RAISE NOTICE '%', latest.result
                        USING DETAIL = pg_catalog.format('Rows that are tried again later: %s.',
                                                         later),
                              HINT   = 'See caption.deferred_row; '
                                       'deferred => true waits for them, too.';
                    RETURN;
                END IF;
            ELSIF latest.stopped THEN
                -- The cause may already be removed, as at the end of a restore; the worker then
                -- checks the table again.
                stopped_at := coalesce(stopped_at, pg_catalog.clock_timestamp());
                IF latest.paused
                   OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) stopped_at
                      OPERATOR(pg_catalog.>) interval '10 seconds' THEN
                    RAISE EXCEPTION 'table % is not being filled: %', name, latest.state
                        USING ERRCODE = 'object_not_in_prerequisite_state',
                              HINT    = CASE WHEN latest.paused
                                             THEN 'See caption.resume() and caption.backfill().'
                                             ELSE 'Remove the cause, then wait again.' END;
                END IF;
            ELSE
                stopped_at := NULL;
            END IF;
            report := pg_catalog.concat(latest.counts, latest.why);
            -- Equal counts are repeated from time to time: the reason may have changed, and only
            -- sending a message detects a closed connection.
            IF reported IS NULL
               OR pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) reported_at
                  OPERATOR(pg_catalog.>)
                  (CASE WHEN latest.counts OPERATOR(pg_catalog.=) reported
                        THEN interval '10 seconds' ELSE interval '1 second' END) THEN
                RAISE NOTICE '%', report;
                reported_at := pg_catalog.clock_timestamp();
                reported := latest.counts;
            END IF;
            IF timeout IS NOT NULL
               AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started_at
                   OPERATOR(pg_catalog.>) timeout THEN
                RAISE EXCEPTION 'table % still has rows to fill', name
                    USING ERRCODE = 'query_canceled',
                          DETAIL  = pg_catalog.format('Its progress is: %s.', report),
                          HINT    = 'The worker goes on. Call caption.wait() again, or see '
                                    'caption.progress.';
            END IF;
            COMMIT;
            PERFORM pg_catalog.pg_sleep(0.1);
        END LOOP;
    END
    $$;
COMMENT ON PROCEDURE caption.wait_for(regclass, text, interval, boolean, boolean) IS
    'Waits for a table of that name; a part of caption.wait() and caption.backfill(). '
    'begun: the table was watched a moment ago.';
-- caption.wait and caption.backfill call it as their caller. It shows what that role may see.
GRANT EXECUTE ON PROCEDURE caption.wait_for(regclass, text, interval, boolean, boolean) TO PUBLIC;

CREATE PROCEDURE caption.wait(
        relation regclass,
        timeout  interval DEFAULT NULL,
        deferred boolean  DEFAULT false)
    LANGUAGE plpgsql
    AS $$
    BEGIN
        PERFORM caption.require_no_transaction();
        -- After a DROP TABLE only the OID would be left of the name.
        CALL caption.wait_for(relation, pg_catalog.format('%s', relation), timeout, deferred,
                              begun => false);
    END
    $$;
COMMENT ON PROCEDURE caption.wait(regclass, interval, boolean) IS
    'Reports progress by NOTICE and returns when a watched table has no work left but rows '
    'that are tried again later than in a minute. deferred: wait for these, too. '
    'timeout: raise an error after this time. CALL it outside of a transaction block.';
REVOKE ALL ON PROCEDURE caption.wait(regclass, interval, boolean) FROM PUBLIC;

CREATE FUNCTION caption.database_report()
    RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'database_report_wrapper';
COMMENT ON FUNCTION caption.database_report() IS
    'Returns what caption.database shows, as one JSON array.';
REVOKE ALL ON FUNCTION caption.database_report() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION caption.database_report() TO pg_monitor;

CREATE VIEW caption.database WITH (security_barrier) AS
    SELECT d.datname AS database,
           r.state,
           r.why,
           r.worker
      FROM jsonb_to_recordset(caption.database_report())
           AS r (oid oid, state text, why text, worker int)
      JOIN pg_database d ON d.oid = r.oid;
COMMENT ON VIEW caption.database IS
    'The databases of this server that have the extension. Visible to members of pg_monitor.';
COMMENT ON COLUMN caption.database.state IS
    'served, idle, waiting, or cannot be served.';
COMMENT ON COLUMN caption.database.why IS
    'Why the database waits or cannot be served.';
COMMENT ON COLUMN caption.database.worker IS
    'Process id of its worker.';
GRANT SELECT ON caption.database TO pg_monitor;
