-- The schema of all objects but caption_image, caption_images and caption_image_json.

-- The search_path of the whole install script: names and operators below are PostgreSQL's own,
-- whatever objects exist in the schema that the extension is installed in.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Checked once, here: the encoding of a database never changes.
DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'pg_caption requires a database with the encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL  = format('This database has the encoding %s.', getdatabaseencoding()),
                  HINT    = 'Captions are Unicode text. '
                            'Create the database with ENCODING ''UTF8''.';
    END IF;
END
$$;

CREATE SCHEMA caption;
COMMENT ON SCHEMA caption IS
    'pg_caption: watched tables, their progress and failures, styles, models, the engine.';
GRANT USAGE ON SCHEMA caption TO PUBLIC;

CREATE TABLE caption.style (
    name             text    PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    instruction      text    CHECK (instruction <> ''),
    task             text    CHECK (task IN ('concise', 'seo', 'detailed')),
    min_chars        int     CHECK (min_chars BETWEEN 1 AND 4000),
    max_chars        int     CHECK (max_chars BETWEEN 10 AND 4000),
    max_sentences    int     CHECK (max_sentences > 0),
    strip_final_stop boolean,
    prompts          jsonb   NOT NULL DEFAULT '{}'
                             CHECK (jsonb_typeof(prompts) = 'object'
                                    AND NOT jsonb_path_exists(prompts,
                                                              '$.* ? (@.type() != "string")')),
    CHECK (min_chars <= max_chars),
    CONSTRAINT style_has_instruction
        CHECK (instruction IS NOT NULL OR name IN ('concise', 'seo', 'detailed'))
);
COMMENT ON TABLE caption.style IS
    'User-defined styles, and changes to the built-in styles concise, seo and detailed. '
    'A NULL keeps the built-in value. Part of dumps.';
COMMENT ON COLUMN caption.style.name IS
    'The name that caption_image() and caption.watch() refer to.';
COMMENT ON COLUMN caption.style.instruction IS
    'The prompt of a model that follows instructions.';
COMMENT ON COLUMN caption.style.task IS
    'The nearest built-in style, for models that have trained tasks only. NULL: detailed.';
COMMENT ON COLUMN caption.style.min_chars IS
    'Shorter texts are rejected. NULL: 3.';
COMMENT ON COLUMN caption.style.max_chars IS
    'Longer texts are cut at the last sentence, clause or word that fits. NULL: 1000.';
COMMENT ON COLUMN caption.style.max_sentences IS
    'Further sentences are removed. NULL: no limit.';
COMMENT ON COLUMN caption.style.strip_final_stop IS
    'Whether the full stop at the end is removed. NULL: it is kept.';
COMMENT ON COLUMN caption.style.prompts IS
    'Prompts that replace the instruction for models of one family, by model_type, '
    'e.g. {"florence2": "What does the image describe?"}.';
GRANT SELECT ON caption.style TO PUBLIC;
SELECT pg_extension_config_dump('caption.style', '');
