-- Functions that send requests to the engine. They have side effects outside of the database:
-- VOLATILE, not granted to PUBLIC.

CREATE FUNCTION @extschema@.caption_image(
        url        text,
        style      text DEFAULT 'concise',
        max_tokens int  DEFAULT 64,
        on_error   text DEFAULT NULL,
        context    jsonb DEFAULT NULL)
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE COST 100000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'caption_image_url_wrapper';
COMMENT ON FUNCTION @extschema@.caption_image(text, text, int, text, jsonb) IS
    'Returns a caption of the image at a URL. style: concise (alternative text), '
    'seo (meta description), detailed, or a name in caption.style. max_tokens: 32 to 256. '
    'on_error: error or null; by default pg_caption.on_error. '
    'context: what is known about the image, as {"title": "Navy T-shirt"}.';

CREATE FUNCTION @extschema@.caption_image(
        image      bytea,
        style      text DEFAULT 'concise',
        max_tokens int  DEFAULT 64,
        on_error   text DEFAULT NULL,
        context    jsonb DEFAULT NULL)
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL SAFE COST 100000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'caption_image_bytes_wrapper';
COMMENT ON FUNCTION @extschema@.caption_image(bytea, text, int, text, jsonb) IS
    'Returns a caption of an encoded image (JPEG, PNG, WebP, GIF, BMP, TIFF). '
    'Otherwise as caption_image(url).';

CREATE FUNCTION @extschema@.caption_images(
        urls       text[],
        style      text DEFAULT 'concise',
        max_tokens int  DEFAULT 64,
        timeout_ms int  DEFAULT NULL,
        OUT ord           int,
        OUT url           text,
        OUT caption       text,
        OUT finish_reason text,
        OUT confidence    real,
        OUT error_class   text,
        OUT error         text,
        OUT error_code    text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE COST 1000000 ROWS 100
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'caption_images_wrapper';
COMMENT ON FUNCTION @extschema@.caption_images(text[], text, int, int) IS
    'Captions several images together. Returns one row per URL, in order; '
    'a failure is reported in its row and does not affect the others. '
    'timeout_ms: for each URL, from when its turn comes; by default pg_caption.timeout.';

CREATE FUNCTION @extschema@.caption_image_json(
        url        text,
        styles     text[] DEFAULT '{concise,seo,detailed}',
        max_tokens int    DEFAULT 64)
    RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE COST 100000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'caption_image_json_wrapper';
COMMENT ON FUNCTION @extschema@.caption_image_json(text, text[], int) IS
    'Returns captions in several styles from one fetch of an image, with finish reasons, '
    'token counts, confidence, facts about the image, the model, and milliseconds per stage.';

REVOKE ALL ON FUNCTION
    @extschema@.caption_image(text, text, int, text, jsonb),
    @extschema@.caption_image(bytea, text, int, text, jsonb),
    @extschema@.caption_images(text[], text, int, int),
    @extschema@.caption_image_json(text, text[], int)
    FROM PUBLIC;

CREATE FUNCTION caption.engine_report()
    RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE COST 10000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'engine_status_wrapper';
COMMENT ON FUNCTION caption.engine_report() IS
    'Returns what caption.engine_status() shows, as one JSON object.';
REVOKE ALL ON FUNCTION caption.engine_report() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION caption.engine_report() TO pg_monitor;

CREATE FUNCTION caption.engine_status(
        OUT pid             int,
        OUT state           text,
        OUT failure         text,
        OUT model           text,
        OUT family          text,
        OUT digest          text,
        OUT batch_invariant boolean,
        OUT uptime          interval,
        OUT connections     int,
        OUT in_flight       int,
        OUT answered        bigint,
        OUT encoded         bigint,
        OUT encode_calls    bigint,
        OUT generated       bigint,
        OUT cpu_ms          jsonb,
        OUT rss             bigint,
        OUT confinement     text[],
        OUT details         jsonb,
        OUT saved           jsonb)
    LANGUAGE sql VOLATILE PARALLEL SAFE COST 10000 SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT (r->>'pid')::int,
               r->>'state',
               (r#>>'{failure,message}') || coalesce(': ' || (r#>>'{failure,detail}'), ''),
               r#>>'{model,name}',
               r#>>'{model,family}',
               r#>>'{model,digest}',
               (r#>>'{model,batch_invariant}')::boolean,
               make_interval(secs => (r->>'uptime_s')::double precision),
               (r->>'connections')::int,
               (r->>'in_flight')::int,
               (r->>'answered')::bigint,
               (r->>'encoded')::bigint,
               (r->>'encode_calls')::bigint,
               (r->>'generated')::bigint,
               r->'cpu_ms',
               (r->>'rss')::bigint,
               ARRAY(SELECT jsonb_array_elements_text(r->'confinement')),
               r,
               r->'saved'
          FROM (SELECT caption.engine_report() AS r) AS report
    $$;
COMMENT ON FUNCTION caption.engine_status() IS
    'Returns the status of the engine: process, state (loading, ready, failed, draining, absent) '
    'and why, model, work done and work saved, CPU time by stage, memory, confinement, hosts.';
REVOKE ALL ON FUNCTION caption.engine_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION caption.engine_status() TO pg_monitor;

CREATE VIEW caption.host AS
    SELECT h.host,
           h.in_flight,
           clock_timestamp() + make_interval(secs => h.cooling_ms / 1000.0) AS cooling_until,
           h.last AS last_answer,
           clock_timestamp() - make_interval(secs => h.last_ms_ago / 1000.0) AS last_answer_at
      FROM jsonb_to_recordset(caption.engine_report()->'hosts')
           AS h (host        text,
                 in_flight   int,
                 cooling_ms  double precision,
                 last        text,
                 last_ms_ago double precision);
GRANT SELECT ON caption.host TO pg_monitor;
COMMENT ON VIEW caption.host IS
    'Hosts with requests in flight, in a cooldown, or with a recent answer. '
    'Also requires EXECUTE on caption.engine_report().';
COMMENT ON COLUMN caption.host.in_flight IS
    'Requests in flight.';
COMMENT ON COLUMN caption.host.cooling_until IS
    'End of the cooldown: the host answered 429 or 503. '
    'It named this time, or the pause grows with each such answer.';
COMMENT ON COLUMN caption.host.last_answer IS
    'http_200, redirect, or the code of a failure as in caption.failure: http_429, timeout, tls …';
COMMENT ON COLUMN caption.host.last_answer_at IS
    'When the last answer arrived.';
