-- Tables of watches: what is watched, what is queued, what was written.
--
-- Users never write here. Triggers and functions do, with the rights of the extension's owner;
-- the views show what may be read.

CREATE TABLE caption.watch (
    relation          regclass PRIMARY KEY,
    image             name     NOT NULL,
    fills             jsonb    NOT NULL,
    keys              name[]   NOT NULL,
    max_tokens        int      NOT NULL DEFAULT 64,
    overwrite         boolean  NOT NULL DEFAULT false,
    on_replica        boolean  NOT NULL DEFAULT false,
    paused            boolean  NOT NULL DEFAULT false,
    base_url          text,
    superuser_since   timestamptz,
    sign              text,
    condition         text,
    condition_columns name[],
    backfill          boolean  NOT NULL DEFAULT false,
    batch             int,
    named             name[],
    context           name[],
    follow_context    boolean  NOT NULL DEFAULT false,
    blank             text     CHECK (blank = 'keep'),
    followed          name[],
    review            boolean  NOT NULL DEFAULT false,
    notify            text
);
COMMENT ON TABLE caption.watch IS
    'Watched tables, one per row, written by caption.watch(). '
    'Part of dumps; a restored database starts its backfill from the beginning.';
COMMENT ON COLUMN caption.watch.relation IS
    'The watched table.';
COMMENT ON COLUMN caption.watch.image IS
    'Column of the image URLs, or of the images themselves.';
COMMENT ON COLUMN caption.watch.fills IS
    'Columns to fill, each with its style, e.g. {"alt": "concise", "seo": "seo"}.';
COMMENT ON COLUMN caption.watch.keys IS
    'Columns of the primary key, or of the unique index that replaces it.';
COMMENT ON COLUMN caption.watch.max_tokens IS
    'Longest caption, in tokens.';
COMMENT ON COLUMN caption.watch.overwrite IS
    'Whether user-edited text is replaced, too, once for each URL.';
COMMENT ON COLUMN caption.watch.on_replica IS
    'Whether the triggers also fire for rows that logical replication applies.';
COMMENT ON COLUMN caption.watch.paused IS
    'Whether filling is suspended; see caption.pause().';
COMMENT ON COLUMN caption.watch.base_url IS
    'Base of relative URLs. Shown to members of the table''s owner by caption.watch_option.';
COMMENT ON COLUMN caption.watch.superuser_since IS
    'When a superuser watched the table, if it has belonged to superusers since. '
    'Other tables of superusers are not filled.';
COMMENT ON COLUMN caption.watch.sign IS
    'Function that turns a value of the column into a URL when it is fetched. '
    'Shown to members of the table''s owner by caption.watch_option.';
COMMENT ON COLUMN caption.watch.condition IS
    'Only rows that satisfy it get captions. '
    'Shown to members of the table''s owner by caption.watch_option.';
COMMENT ON COLUMN caption.watch.condition_columns IS
    'Columns that the condition names.';
COMMENT ON COLUMN caption.watch.backfill IS
    'A backfill: it has no triggers and ends by itself; see caption.backfill(). Not part of dumps.';
COMMENT ON COLUMN caption.watch.batch IS
    'The most rows of a backfill in progress. NULL: the worker decides.';
COMMENT ON COLUMN caption.watch.named IS
    'Schema and name of the table when caption.watch() was called last. '
    'Another table may have this name now; see caption.move_watch().';
COMMENT ON COLUMN caption.watch.context IS
    'Columns whose words the model gets as facts. '
    'Shown to members of the table''s owner by caption.watch_option.';
COMMENT ON COLUMN caption.watch.follow_context IS
    'Whether a changed context changes the texts.';
COMMENT ON COLUMN caption.watch.blank IS
    'keep: the empty text is a decision, and only NULL is filled.';
COMMENT ON COLUMN caption.watch.followed IS
    'Columns whose change is followed: those of the context and of the templates.';
COMMENT ON COLUMN caption.watch.review IS
    'Whether texts become drafts, which caption.approve() writes.';
COMMENT ON COLUMN caption.watch.notify IS
    'Channel that is notified of filled rows. '
    'Shown to members of the table''s owner by caption.watch_option.';
GRANT SELECT (relation, image, fills, keys, max_tokens, overwrite, on_replica, paused,
              superuser_since, backfill, batch, named, blank, review)
    ON caption.watch TO PUBLIC;
-- pg_dump runs the condition with an empty search_path.
SELECT pg_extension_config_dump('caption.watch',
                                'WHERE NOT backfill AND '
                                'relation::oid IN (SELECT c.oid FROM pg_catalog.pg_class c)');

CREATE VIEW caption.watch_option WITH (security_barrier) AS
    SELECT w.relation, w.image, w.fills, w.keys, w.max_tokens, w.overwrite, w.on_replica,
           w.paused, w.base_url, w.sign, w.condition, w.context, w.follow_context, w.blank,
           w.review, w.notify
      FROM caption.watch w
      JOIN pg_class c ON c.oid = w.relation
     WHERE pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW caption.watch_option IS
    'All options of each watch. Visible to members of the table''s owner.';
GRANT SELECT ON caption.watch_option TO PUBLIC;

CREATE TABLE caption.watch_state (
    relation         oid         PRIMARY KEY,
    backfill_after   jsonb,
    backfill_run     int         NOT NULL DEFAULT 0,
    backfill_done    boolean     NOT NULL DEFAULT false,
    backfilled       bigint      NOT NULL DEFAULT 0,
    filled           bigint      NOT NULL DEFAULT 0,
    per_minute       real,
    problem          text,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    recaption_before timestamptz,
    database         oid,
    pruned_at        timestamptz,
    prune_after      jsonb,
    pruned_files     bigint,
    pruned_deleted   bigint
) WITH (fillfactor = 50);
COMMENT ON TABLE caption.watch_state IS
    'State of each watch: position of the backfill, counters, position of pruning.';
COMMENT ON COLUMN caption.watch_state.backfill_after IS
    'Last key that the backfill has read.';
COMMENT ON COLUMN caption.watch_state.backfill_run IS
    'Number of the backfill; each restart has a new one.';
COMMENT ON COLUMN caption.watch_state.backfill_done IS
    'Whether the backfill has reached the end of the table.';
COMMENT ON COLUMN caption.watch_state.backfilled IS
    'Rows that the backfill has read.';
COMMENT ON COLUMN caption.watch_state.filled IS
    'Rows that were filled.';
COMMENT ON COLUMN caption.watch_state.per_minute IS
    'Rows filled per minute, lately.';
COMMENT ON COLUMN caption.watch_state.problem IS
    'Why the table cannot be filled.';
COMMENT ON COLUMN caption.watch_state.updated_at IS
    'When the counters changed last.';
COMMENT ON COLUMN caption.watch_state.recaption_before IS
    'Rows captioned before this time are captioned again; see caption.recaption().';
COMMENT ON COLUMN caption.watch_state.database IS
    'Database of the backfill. In a copy of that database the backfill restarts.';
COMMENT ON COLUMN caption.watch_state.pruned_at IS
    'End of the last check of ledger and failures. NULL: a check is due; see caption.prune().';
COMMENT ON COLUMN caption.watch_state.prune_after IS
    'Last key of the check in progress, and the table that it is in.';
COMMENT ON COLUMN caption.watch_state.pruned_files IS
    'Hash of the table''s files when it was checked. Other files: it may have been truncated.';
COMMENT ON COLUMN caption.watch_state.pruned_deleted IS
    'Rows ever deleted from the table, by its statistics, at the start of the last check.';

CREATE TABLE caption.queue (
    id       bigint      GENERATED ALWAYS AS IDENTITY,
    relation oid         NOT NULL,
    -- Written by sessions of users, read as a whole by the worker, which converts it to jsonb.
    keys     json        NOT NULL,
    n        int         NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Read per table, so that rows of a paused table do not slow down the others.
    PRIMARY KEY (relation, id)
);
-- 200 keys of most types fit into a page: compression would not pay for rows that live so briefly.
ALTER TABLE caption.queue SET (toast_tuple_target = 8160);
CREATE INDEX queue_rescans ON caption.queue (relation) WHERE n = 0;
COMMENT ON TABLE caption.queue IS
    'Keys of rows to examine, many per row. '
    'Appended by the triggers at commit, removed when the captions are written.';
COMMENT ON COLUMN caption.queue.n IS
    'Number of keys. 0: the backfill of the table must restart.';

CREATE TABLE caption.deferred (
    relation oid         NOT NULL,
    key      jsonb       NOT NULL,
    due      timestamptz NOT NULL,
    host     text,
    attempts int         NOT NULL DEFAULT 0,
    code     text        NOT NULL,
    message  text        NOT NULL,
    PRIMARY KEY (relation, key)
);
CREATE INDEX deferred_due ON caption.deferred (relation, due);
COMMENT ON TABLE caption.deferred IS
    'Keys of rows to try again when due: the host is in a cooldown, or the network failed.';

CREATE TABLE caption.ledger (
    relation      regclass    NOT NULL,
    key           jsonb       NOT NULL,
    url           text        NOT NULL,
    outputs       jsonb       NOT NULL,
    model         text        NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    etag          text,
    last_modified text,
    sha256        text,
    recaption     smallint    NOT NULL DEFAULT 0,
    drafts        int         NOT NULL GENERATED ALWAYS AS (
        jsonb_array_length(jsonb_path_query_array(outputs, '$.*.draft ? (@.state == "draft")'))
    ) STORED,
    PRIMARY KEY (relation, key)
);
CREATE INDEX ledger_drafts ON caption.ledger (relation, drafts) WHERE drafts > 0;
COMMENT ON TABLE caption.ledger IS
    'Machine-written texts: in which column, for which URL, with which model. '
    'Shown by caption.texts(). Part of dumps: in the restored database these texts are known as '
    'machine-written.';
COMMENT ON COLUMN caption.ledger.url IS
    'Hash of the URL that was captioned last.';
COMMENT ON COLUMN caption.ledger.outputs IS
    'Columns, each with the hashes of its text and of its URL, and the text as written. '
    'Also source, confidence, style, model and time, and a draft with the same.';
COMMENT ON COLUMN caption.ledger.model IS
    'Digest of the model.';
COMMENT ON COLUMN caption.ledger.etag IS
    'ETag of the image, for a conditional request.';
COMMENT ON COLUMN caption.ledger.last_modified IS
    'Last-Modified of the image, for a conditional request.';
COMMENT ON COLUMN caption.ledger.sha256 IS
    'SHA-256 of the image file. NULL: the texts of the row are of several.';
COMMENT ON COLUMN caption.ledger.recaption IS
    '1: the row is to be captioned again if image, model or style have changed. 2: in any case.';
COMMENT ON COLUMN caption.ledger.drafts IS
    'Number of drafts that wait for a review.';

SELECT pg_extension_config_dump('caption.ledger',
                                'WHERE relation::oid IN (SELECT c.oid FROM pg_catalog.pg_class c)');

CREATE TABLE caption.failed (
    relation  oid         NOT NULL,
    key       jsonb       NOT NULL,
    class     text        NOT NULL,
    code      text        NOT NULL,
    message   text        NOT NULL,
    detail    text,
    attempts  int         NOT NULL DEFAULT 1,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    hint      text,
    threshold real,
    PRIMARY KEY (relation, key)
);
CREATE INDEX failed_at ON caption.failed (at);
COMMENT ON TABLE caption.failed IS
    'Rows without a caption, and why; shown by the view caption.failure.';
COMMENT ON COLUMN caption.failed.threshold IS
    'pg_caption.min_confidence by which an uncertain row was judged. NULL: that of the model.';

CREATE FUNCTION caption.announce()
    RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'pg_caption_announce';
COMMENT ON FUNCTION caption.announce() IS
    'Trigger function of the tables watch, style and rule: '
    'wakes the worker of this database at commit.';
REVOKE ALL ON FUNCTION caption.announce() FROM PUBLIC;

-- A watch in a restored dump is work, and a changed style may be one that a watch lacks.
CREATE TRIGGER announce AFTER INSERT OR UPDATE ON caption.watch
    FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON caption.style
    FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON caption.rule
    FOR EACH STATEMENT EXECUTE FUNCTION caption.announce();

CREATE FUNCTION caption.keep_local()
    RETURNS trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'pg_caption_keep_local';
COMMENT ON FUNCTION caption.keep_local() IS
    'Trigger function of all tables of pg_caption: skips rows that logical replication applies.';
REVOKE ALL ON FUNCTION caption.keep_local() FROM PUBLIC;

-- A publication FOR ALL TABLES also replicates the publisher's watches, queue and ledger. They name
-- tables by the publisher's OIDs. Their rows are skipped, and so never stop an apply worker.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
            '{watch,watch_state,queue,deferred,ledger,failed,style,rule}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER keep_local BEFORE INSERT OR UPDATE OR DELETE ON caption.%I '
                       'FOR EACH ROW EXECUTE FUNCTION caption.keep_local()', name);
        EXECUTE format('ALTER TABLE caption.%I ENABLE REPLICA TRIGGER keep_local', name);
    END LOOP;
END
$$;

-- Without a search_path: setting one would slow down every write to a watched table.
CREATE FUNCTION caption.enqueue()
    RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'pg_caption_enqueue';
COMMENT ON FUNCTION caption.enqueue() IS
    'Trigger function of watched tables: gathers the keys of changed rows '
    'and appends them to the queue at commit.';
