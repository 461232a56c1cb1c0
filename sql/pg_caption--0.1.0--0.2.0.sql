-- From 0.1.0 to 0.2.0: every change to the SQL objects stands here and in its topic's file; a test compares the two ways.

-- Operators and functions below mean PostgreSQL's own, as in schema.sql.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

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
