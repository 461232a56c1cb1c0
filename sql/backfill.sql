-- The one-off: a watch without triggers that ends by itself.

-- Without a search_path: names in the condition are those of the caller. The function pins the path
-- itself.
CREATE FUNCTION caption.begin_backfill(
        relation  regclass,
        image     text  DEFAULT NULL,
        fills     jsonb DEFAULT NULL,
        condition text  DEFAULT NULL,
        batch     int   DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'begin_backfill_wrapper';
COMMENT ON FUNCTION caption.begin_backfill(regclass, text, jsonb, text, int) IS
    'Begins or continues a backfill; a part of caption.backfill(). '
    'Returns whether it is one: a watched table is filled by its watch.';

CREATE FUNCTION caption.end_backfill(relation regclass)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'end_backfill_wrapper';
COMMENT ON FUNCTION caption.end_backfill(regclass) IS
    'Ends a finished backfill, and pauses another; a part of caption.backfill(). '
    'Returns whether it is finished; NULL if it was ended before.';

-- A procedure that commits cannot set a search_path: every name and operator is qualified.
CREATE PROCEDURE caption.backfill(
        relation  regclass,
        image     text  DEFAULT NULL,
        fills     jsonb DEFAULT NULL,
        condition text  DEFAULT NULL,
        batch     int   DEFAULT NULL)
    LANGUAGE plpgsql
    AS $$
    DECLARE
        -- After a DROP TABLE only the OID would be left.
        name      text := pg_catalog.format('%s', relation);
        is_own    boolean;
        is_done   boolean;
        filled    bigint;
        counted   text;
        codes     text;
        later     bigint;
        first_due timestamptz;
    BEGIN
        PERFORM caption.require_no_transaction('caption.backfill');
        is_own := caption.begin_backfill(relation, image, fills, condition, batch);
        COMMIT;
        CALL caption.wait_for(relation, name, timeout => NULL, deferred => false, begun => true);
        IF NOT is_own THEN
            RETURN;
        END IF;
        SELECT p.filled
          INTO filled
          FROM caption.progress p
         WHERE p.relation OPERATOR(pg_catalog.=) backfill.relation;
        is_done := caption.end_backfill(relation);
        IF is_done IS NULL THEN
            PERFORM FROM caption.watch w
              WHERE w.relation OPERATOR(pg_catalog.=) backfill.relation AND NOT w.backfill;
            IF FOUND THEN
                RAISE NOTICE 'table % is watched now', name;
                RETURN;
            END IF;
            RAISE EXCEPTION 'the backfill of table % was ended by another session', name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL  = 'The table was dropped, or caption.unwatch() was called.',
                      HINT    = 'If the table is still there, call caption.backfill() again.';
        END IF;
        SELECT pg_catalog.concat(pg_catalog.sum(c.rows), ' failed: ',
                                 pg_catalog.string_agg(pg_catalog.format('%s with %s', c.rows,
                                                                         c.code), ', '
                                                       ORDER BY c.rows DESC, c.code))
          INTO codes
          FROM caption.failure_count c
         WHERE c.relation OPERATOR(pg_catalog.=) backfill.relation
        HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0;
        SELECT pg_catalog.count(*), pg_catalog.min(d.due)
          INTO later, first_due
          FROM caption.deferred_row d
         WHERE d.relation OPERATOR(pg_catalog.=) backfill.relation;
        counted := pg_catalog.concat(filled, CASE WHEN filled OPERATOR(pg_catalog.=) 1
                                                  THEN ' row' ELSE ' rows' END);
        IF is_done THEN
            RAISE NOTICE 'backfill of table % is complete: % filled, %', name, counted,
                         coalesce(codes, 'none failed');
        ELSE
            RAISE NOTICE 'backfill of table % is paused: % filled, % tried again later, %',
                         name, counted, later, coalesce(codes, 'none failed')
                USING HINT = pg_catalog.format('CALL caption.backfill(%L) after %s continues it.',
                                               name, first_due);
        END IF;
    END
    $$;
COMMENT ON PROCEDURE caption.backfill(regclass, text, jsonb, text, int) IS
    'Fills the empty columns of a table once, and commits as it goes. Reports progress by NOTICE. '
    'If it is cancelled, another call continues. fills and condition as for caption.watch(). '
    'batch: the most rows in progress. CALL it outside of a transaction block.';

REVOKE ALL ON FUNCTION
    caption.begin_backfill(regclass, text, jsonb, text, int),
    caption.end_backfill(regclass)
    FROM PUBLIC;
REVOKE ALL ON PROCEDURE caption.backfill(regclass, text, jsonb, text, int) FROM PUBLIC;
