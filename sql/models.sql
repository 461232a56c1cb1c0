-- Models: which ones are installed, and which one serves.

CREATE FUNCTION caption.models(
        OUT name    text,
        OUT active  boolean,
        OUT state   text,
        OUT family  text,
        OUT bytes   bigint,
        OUT graphs  jsonb,
        OUT digest  text,
        OUT memory  bigint,
        OUT styles  text[],
        OUT problem text,
        OUT path    text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE COST 10000 ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'models_wrapper';
COMMENT ON FUNCTION caption.models() IS
    'Returns the installed models. state: serving (problem: skipped unusable files), loading, '
    'failed (problem: why), unusable (problem: why), installed. graphs: available precisions of '
    'each graph, the preferred one first; for the serving model the loaded ones. '
    'digest and memory: of the serving model.';

CREATE FUNCTION caption.use_model(
        name text,
        wait boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'use_model_wrapper';
COMMENT ON FUNCTION caption.use_model(text, boolean) IS
    'Chooses the model of this server: the name of an installed model or an absolute path. '
    'Takes effect immediately, even if the transaction is rolled back. '
    'wait: return when the model serves, or raise an error. '
    'Requires the privilege ALTER SYSTEM on pg_caption.model.';

REVOKE ALL ON FUNCTION caption.models(), caption.use_model(text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION caption.models() TO pg_monitor;
