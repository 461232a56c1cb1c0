-- From 0.1.0 to 0.2.0: every change to the SQL objects stands here and in its topic's file; a test compares the two ways.

-- Operators and functions below mean PostgreSQL's own, as in schema.sql.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- queue.sql
ALTER TABLE caption.tally ADD database oid;
COMMENT ON COLUMN caption.tally.database IS 'The database that this walk is of: in a copy of it, the walk begins anew.';
UPDATE caption.tally SET database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
