-- Functions that control watches. Each one requires the rights of the table's owner.

-- Without a search_path: names in the condition are those of the caller. The function pins the path
-- itself.
CREATE FUNCTION caption.watch(
        relation   regclass,
        image      text         DEFAULT NULL,
        fills      jsonb        DEFAULT NULL,
        max_tokens int          DEFAULT NULL,
        overwrite  boolean      DEFAULT NULL,
        on_replica boolean      DEFAULT NULL,
        base_url   text         DEFAULT NULL,
        sign       regprocedure DEFAULT NULL,
        context    name[]       DEFAULT NULL,
        follow_context boolean  DEFAULT NULL,
        blank      text         DEFAULT NULL,
        review     boolean      DEFAULT NULL,
        condition  text         DEFAULT NULL,
        notify     text         DEFAULT NULL,
        replace    boolean      DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'watch_wrapper';
COMMENT ON FUNCTION
    caption.watch(regclass, text, jsonb, int, boolean, boolean, text, regprocedure, name[],
                  boolean, text, boolean, text, text, boolean) IS
    'Fills empty columns of a table with captions of the images at its URLs: '
    'of existing rows, and of rows written from now on. '
    'fills: columns, each with its style; by default {"alt": "concise", "seo": "seo"}. '
    'sign: a function from text to text that signs the URL at the moment of the fetch. '
    'context: columns whose words the model gets as facts; follow_context: their changes count. '
    'blank: keep leaves empty texts alone, only NULL is filled. '
    'review: texts become drafts, which caption.approve() writes. '
    'condition: an expression over one row; other rows are left alone. '
    'notify: a channel that is notified of filled rows, with the table and their number. '
    'A call for a watched table changes what it is given. replace: the given fills replace all.';

CREATE FUNCTION caption.unwatch(relation regclass, forget boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'unwatch_wrapper';
COMMENT ON FUNCTION caption.unwatch IS
    'Ends a watch and removes its triggers, queue and failures. Written texts stay, and the ledger '
    'of a later watch knows them. forget: it does not; they count as user-edited from then on.';

CREATE FUNCTION caption.move_watch(
        from_relation regclass,
        to_relation   regclass)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'move_watch_wrapper';
COMMENT ON FUNCTION caption.move_watch(regclass, regclass) IS
    'Moves a watch with its queue, failures and ledger to another table with the same key, '
    'such as one that has taken the name of the watched table.';

CREATE FUNCTION caption.pause(relation regclass)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'pause_wrapper';
COMMENT ON FUNCTION caption.pause IS
    'Stops filling a table. Changed rows are still queued.';

CREATE FUNCTION caption.resume(relation regclass)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'resume_wrapper';
COMMENT ON FUNCTION caption.resume IS
    'Resumes filling a table.';

CREATE FUNCTION caption.retry(relation regclass)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'retry_wrapper';
COMMENT ON FUNCTION caption.retry IS
    'Queues the failed and the deferred rows of a table again. Returns their number.';

-- Without a search_path, as caption.watch.
CREATE FUNCTION caption.recaption(
        relation   regclass,
        older_than interval DEFAULT '0',
        condition  text     DEFAULT NULL,
        keys       jsonb[]  DEFAULT NULL,
        force      boolean  DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'recaption_wrapper';
COMMENT ON FUNCTION caption.recaption IS
    'Captions rows again whose machine-written texts are older than the interval, '
    'if image, model or style have changed since. condition, keys: only of these rows, '
    'keys such as {"id": 3}. force: in any case, also withdrawn texts and '
    'rejected drafts. User-edited texts stay.';

-- Without a search_path, as caption.watch.
CREATE FUNCTION caption.withdraw(
        relation  regclass,
        condition text    DEFAULT NULL,
        keys      jsonb[] DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'withdraw_wrapper';
COMMENT ON FUNCTION caption.withdraw IS
    'Takes machine-written texts out of a watched table, with the caller''s rights; of all rows, '
    'or of those that the condition or the keys name. Nothing is written for the same images until '
    'caption.recaption(force => true). User-edited texts stay. Returns the number of texts.';

CREATE FUNCTION caption.prune(relation regclass)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'prune_wrapper';
COMMENT ON FUNCTION caption.prune IS
    'Schedules the removal of orphaned bookkeeping: ledger entries of deleted rows and '
    'resolved failures. Otherwise they are removed within a day.';

REVOKE ALL ON FUNCTION
    caption.watch, caption.unwatch, caption.move_watch, caption.pause, caption.resume,
    caption.retry, caption.recaption, caption.withdraw, caption.prune
    FROM PUBLIC;
