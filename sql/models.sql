-- Models: what is installed, and which one is used.

CREATE FUNCTION caption.models(OUT name text, OUT active boolean, OUT state text, OUT family text, OUT bytes bigint, OUT graphs jsonb, OUT digest text,
        OUT memory bigint, OUT styles text[], OUT problem text, OUT path text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE COST 10000 ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'models_wrapper';
COMMENT ON FUNCTION caption.models() IS
    'Installed models. state: serving (problem: files of no use that were passed over), loading, failed (problem: why), unusable, installed; graphs: precisions of each, the one to be used first, and of the one that serves those it uses; digest and memory of the one that serves.';

CREATE FUNCTION caption.use_model(name text, wait boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'use_model_wrapper';
COMMENT ON FUNCTION caption.use_model(text, boolean) IS
    'Makes an installed model (or an absolute path) the one of this server, at once and whatever becomes of the transaction; needs ALTER SYSTEM on pg_caption.model. wait: until it serves, or an error.';
REVOKE ALL ON FUNCTION caption.models(), caption.use_model(text, boolean) FROM PUBLIC;
