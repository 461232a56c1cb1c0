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

CREATE FUNCTION caption.is_language(tag text)
    RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'is_language_wrapper';
COMMENT ON FUNCTION caption.is_language(text) IS
    'Returns whether a text names a language, as a BCP 47 tag: de, pt-BR, zh-Hant.';
GRANT EXECUTE ON FUNCTION caption.is_language(text) TO PUBLIC;

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
    language         text    CHECK (caption.is_language(language)),
    template         text    CHECK (char_length(template) BETWEEN 1 AND 500),
    fallback         text    CHECK (char_length(fallback) BETWEEN 1 AND 500),
    CHECK (min_chars <= max_chars),
    CONSTRAINT style_has_instruction
        CHECK (instruction IS NOT NULL OR name IN ('concise', 'seo', 'detailed'))
);
COMMENT ON TABLE caption.style IS
    'User-defined styles, and changes to the built-in styles concise, seo and detailed. '
    'A NULL keeps the built-in value. Part of dumps.';
COMMENT ON COLUMN caption.style.name IS
    'The name that caption_image() and caption.watch() refer to: at most 63 lower-case letters, '
    'digits and underscores, a letter first.';
COMMENT ON COLUMN caption.style.instruction IS
    'The prompt of a model that follows instructions. At most 2000 characters.';
COMMENT ON COLUMN caption.style.task IS
    'The nearest built-in style, for models that have trained tasks only. NULL: detailed.';
COMMENT ON COLUMN caption.style.min_chars IS
    'Shorter texts are rejected. From 1 to 4000. NULL: 3.';
COMMENT ON COLUMN caption.style.max_chars IS
    'Longer texts are cut at the last sentence, clause or word that fits. From 10 to 4000. '
    'NULL: 1000.';
COMMENT ON COLUMN caption.style.max_sentences IS
    'Further sentences are removed. NULL: no limit.';
COMMENT ON COLUMN caption.style.strip_final_stop IS
    'Whether the full stop at the end is removed. NULL: it is kept.';
COMMENT ON COLUMN caption.style.prompts IS
    'Prompts that replace the instruction for models of one family, by model_type, '
    'e.g. {"florence2": "What does the image describe?"}.';
COMMENT ON COLUMN caption.style.language IS
    'Language of the texts, as a BCP 47 tag such as de or pt-BR. NULL: as the model writes.';
COMMENT ON COLUMN caption.style.template IS
    'Combines the caption with words of the row or of the context, e.g. {title}: {caption}. '
    'At most 500 characters.';
COMMENT ON COLUMN caption.style.fallback IS
    'The text of a watched row whose picture gets no caption, e.g. {title}. '
    'At most 500 characters.';
GRANT SELECT ON caption.style TO PUBLIC;
SELECT pg_extension_config_dump('caption.style', '');

CREATE FUNCTION caption.style_problem(style jsonb)
    RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'style_problem_wrapper';
COMMENT ON FUNCTION caption.style_problem(jsonb) IS
    'Returns why a row of caption.style, as to_jsonb makes it, is no style; NULL if it is one.';
GRANT EXECUTE ON FUNCTION caption.style_problem(jsonb) TO PUBLIC;

-- A violated constraint would show its name only.
CREATE FUNCTION caption.check_style()
    RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        problem constant text := caption.style_problem(to_jsonb(NEW));
    BEGIN
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION '%', problem
                USING ERRCODE = 'check_violation',
                      HINT    = 'The comments of the columns of caption.style describe what they '
                                'may hold; \d+ caption.style shows them.';
        END IF;
        RETURN NEW;
    END
    $$;
COMMENT ON FUNCTION caption.check_style() IS
    'Trigger function of the table style: refuses rows that are no styles.';
REVOKE ALL ON FUNCTION caption.check_style() FROM PUBLIC;
CREATE TRIGGER check_style BEFORE INSERT OR UPDATE ON caption.style
    FOR EACH ROW EXECUTE FUNCTION caption.check_style();

CREATE TABLE caption.rule (
    pattern     text NOT NULL CHECK (char_length(pattern) BETWEEN 1 AND 200
                                     AND pattern ~ '[^[:space:]]'
                                     AND pattern !~ '[\u0001-\u001f\u007f-\u009f]'),
    action      text NOT NULL CHECK (action IN ('refuse', 'replace')),
    replacement text CHECK (char_length(replacement) <= 200
                            AND replacement !~ '[\u0001-\u001f\u007f-\u009f]'),
    style       text CHECK (style ~ '^[a-z][a-z0-9_]{0,62}$'),
    UNIQUE NULLS NOT DISTINCT (pattern, style),
    CONSTRAINT rule_has_replacement CHECK ((action = 'replace') = (replacement IS NOT NULL))
);
COMMENT ON TABLE caption.rule IS
    'Words that captions must not have: they are refused or replaced. Part of dumps.';
COMMENT ON COLUMN caption.rule.pattern IS
    'A word or phrase. It is compared literally, as whole words, without case.';
COMMENT ON COLUMN caption.rule.action IS
    'refuse: no caption, with the code blocked_word. replace: by the replacement.';
COMMENT ON COLUMN caption.rule.replacement IS
    'What replaces the words. Empty: they are removed. The words themselves: they are allowed.';
COMMENT ON COLUMN caption.rule.style IS
    'The style whose captions are meant. NULL: all styles.';
-- It has no key, and may be part of a publication FOR ALL TABLES.
ALTER TABLE caption.rule REPLICA IDENTITY FULL;
GRANT SELECT ON caption.rule TO PUBLIC;
SELECT pg_extension_config_dump('caption.rule', '');

-- All rules travel with each request.
CREATE FUNCTION caption.limit_rules()
    RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF (SELECT sum(octet_length(r.pattern) + octet_length(coalesce(r.replacement, '')) + 32)
              FROM caption.rule r) > 65536 THEN
            RAISE EXCEPTION 'caption.rule has too many rules'
                USING ERRCODE = 'program_limit_exceeded',
                      DETAIL  = 'All rules are sent with each request. Together they may have '
                                '64 kB: about 1500 words.',
                      HINT    = 'Remove rules, or replace several by a shorter phrase.';
        END IF;
        RETURN NULL;
    END
    $$;
COMMENT ON FUNCTION caption.limit_rules() IS
    'Trigger function of the table rule: refuses more rules than fit into a request.';
REVOKE ALL ON FUNCTION caption.limit_rules() FROM PUBLIC;
CREATE TRIGGER limit_rules AFTER INSERT OR UPDATE ON caption.rule
    FOR EACH STATEMENT EXECUTE FUNCTION caption.limit_rules();

CREATE FUNCTION caption.neutral_wording(
        OUT pattern     text,
        OUT action      text,
        OUT replacement text,
        OUT style       text)
    RETURNS SETOF record
    LANGUAGE c IMMUTABLE PARALLEL SAFE ROWS 150 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'neutral_wording_wrapper';
COMMENT ON FUNCTION caption.neutral_wording() IS
    'Returns rules for gender-neutral wording in English and Dutch, to be inserted into '
    'caption.rule.';
