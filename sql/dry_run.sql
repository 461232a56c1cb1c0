-- What a watch would do, before there is one. Both functions read tables with the caller's rights.

-- Without a search_path, as caption.watch.
CREATE FUNCTION caption.estimate(
        relation  regclass,
        image     text  DEFAULT NULL,
        fills     jsonb DEFAULT NULL,
        condition text  DEFAULT NULL,
        OUT rows          bigint,
        OUT pictures      bigint,
        OUT duration      interval,
        OUT model         text,
        OUT requests      bigint,
        OUT input_tokens  bigint,
        OUT output_tokens bigint,
        OUT cost          double precision)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
    AS 'MODULE_PATHNAME', 'estimate_wrapper';
COMMENT ON FUNCTION caption.estimate(regclass, text, jsonb, text) IS
    'Returns how many rows of a table have a picture and an empty column, and how many different '
    'pictures that are. The time is that at the speed of the engine so far. For a model on a '
    'server also requests, tokens and, with a price in its folder, the cost. Fetches nothing. '
    'image and fills are those of the watch, or the defaults of a new one.';

-- Without a search_path, as caption.watch.
CREATE FUNCTION caption.preview(
        relation  regclass,
        image     text  DEFAULT NULL,
        fills     jsonb DEFAULT NULL,
        sample    int   DEFAULT 20,
        condition text  DEFAULT NULL,
        base_url  text  DEFAULT NULL,
        OUT key         jsonb,
        OUT column_name text,
        OUT text        text,
        OUT source      text,
        OUT confidence  real,
        OUT code        text,
        OUT failure     text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 40
    AS 'MODULE_PATHNAME', 'preview_wrapper';
COMMENT ON FUNCTION caption.preview(regclass, text, jsonb, int, text, text) IS
    'Captions a random sample of the rows that have a picture, as a watch would. Returns a row for '
    'each row and column, with text, source (model, fallback), confidence, and a failure. '
    'Writes nothing. image, fills, condition and base_url are those of the watch, or the defaults '
    'of a new one.';

REVOKE ALL ON FUNCTION caption.estimate, caption.preview FROM PUBLIC;
