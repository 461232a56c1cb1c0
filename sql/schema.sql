-- The schema of everything but the three functions that everybody calls.

-- Operators and functions below mean PostgreSQL's own, whatever has been planted in the schema that the extension is installed in.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Said here, where somebody sees it, and not by each call.
DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'pg_caption works in databases whose encoding is UTF8' USING ERRCODE = 'feature_not_supported',
            DETAIL = pg_catalog.format('This database has the encoding %s.', pg_catalog.getdatabaseencoding()),
            HINT = 'Captions are Unicode text. Create the database with ENCODING ''UTF8''.';
    END IF;
END
$$;

CREATE SCHEMA caption;
COMMENT ON SCHEMA caption IS 'pg_caption: watches, their progress and failures, styles, the engine.';
GRANT USAGE ON SCHEMA caption TO PUBLIC;

CREATE TABLE caption.style (
    name             text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    instruction      text CHECK (instruction <> ''),
    task             text CHECK (task IN ('concise', 'seo', 'detailed')),
    min_chars        int CHECK (min_chars BETWEEN 1 AND 4000),
    max_chars        int CHECK (max_chars BETWEEN 10 AND 4000),
    max_sentences    int CHECK (max_sentences > 0),
    strip_final_stop boolean,
    prompts          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(prompts) = 'object' AND NOT jsonb_path_exists(prompts, '$.* ? (@.type() != "string")')),
    CHECK (min_chars <= max_chars),
    CONSTRAINT style_says_something CHECK (instruction IS NOT NULL OR name IN ('concise', 'seo', 'detailed'))
);
COMMENT ON TABLE caption.style IS
    'Users'' own styles, and changes of the built-in concise, seo and detailed: what is NULL there is as built in. Part of dumps.';
COMMENT ON COLUMN caption.style.instruction IS 'What an instruction-following model is told.';
COMMENT ON COLUMN caption.style.task IS 'The nearest built-in register, for models that know only trained tasks. NULL: detailed.';
COMMENT ON COLUMN caption.style.max_chars IS 'Longer texts are cut at the last sentence, clause or word that fits. NULL: 1000.';
COMMENT ON COLUMN caption.style.prompts IS 'What models of a family are told instead, by model_type, e.g. {"florence2": "What does the image describe?"}.';
GRANT SELECT ON caption.style TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('caption.style', '');
