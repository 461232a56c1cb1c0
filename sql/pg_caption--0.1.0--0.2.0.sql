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
