-- The lint of texts that models or users wrote.

CREATE FUNCTION caption.lint(
        text       text,
        style      text   DEFAULT 'concise',
        neighbours text[] DEFAULT NULL,
        OUT rule     text,
        OUT github   text,
        OUT message  text,
        OUT "position" int)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL SAFE ROWS 2 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'lint_wrapper';
COMMENT ON FUNCTION caption.lint(text, text, text[]) IS
    'Returns a row for each rule that a text breaks. Rules: length, stock opener, file name, vague '
    'or placeholder words, URL, keywords, markup, words of a model, the text of a neighbour. '
    'github: the rule of GitHub''s accessibility scanner that reports the same. '
    'position: the character that is meant, from 1. An empty text is a decorative image.';

CREATE FUNCTION caption.audit(
        relation regclass,
        OUT key         jsonb,
        OUT column_name name,
        OUT rule        text,
        OUT message     text,
        OUT "position"  int,
        OUT text        text)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
    #variable_conflict use_column
    DECLARE
        watch record;
    BEGIN
        SELECT format('%s%s', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, w.relation) AS name,
               (SELECT string_agg(format('format(''%%s'', t.%I)', k.name), ', ' ORDER BY k.ord)
                  FROM unnest(w.keys) WITH ORDINALITY AS k (name, ord)) AS key,
               (SELECT string_agg(format('t.%I', k.name), ', ' ORDER BY k.ord)
                  FROM unnest(w.keys) WITH ORDINALITY AS k (name, ord)) AS key_order,
               (SELECT string_agg(format('t.%1$I::text AS t%2$s, '
                                         'array_agg(t.%1$I::text) OVER near AS n%2$s',
                                         f.key, f.ord), ', ')
                  FROM jsonb_each(w.fills) WITH ORDINALITY AS f (key, value, ord)) AS texts,
               (SELECT string_agg(format('(%L::name, %L, r.t%3$s, r.n%3$s)', f.key,
                                         coalesce(f.value->>'style', f.value#>>'{}'), f.ord), ', ')
                  FROM jsonb_each(w.fills) WITH ORDINALITY AS f (key, value, ord)) AS fills
          INTO watch
          FROM caption.watch w
          JOIN pg_class c ON c.oid = w.relation
         WHERE w.relation = audit.relation;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'table % is not watched', audit.relation
                USING ERRCODE = 'undefined_object',
                      HINT    = 'caption.lint() takes the texts of any table.';
        END IF;
        RETURN QUERY EXECUTE format($query$
            SELECT caption.key_object($1, r.key), f.column_name, l.rule, l.message, l."position",
                   f.text
              FROM (SELECT jsonb_build_array(%s) AS key, %s
                      FROM %s t
                    WINDOW near AS (ORDER BY %s ROWS BETWEEN 4 PRECEDING AND 4 FOLLOWING
                                    EXCLUDE CURRENT ROW)) AS r
             CROSS JOIN LATERAL (VALUES %s) AS f (column_name, style, text, neighbours)
             CROSS JOIN LATERAL caption.lint(f.text, f.style, f.neighbours) AS l
        $query$, watch.key, watch.texts, watch.name, watch.key_order, watch.fills)
            USING audit.relation::oid;
    END
    $$;
COMMENT ON FUNCTION caption.audit(regclass) IS
    'Runs caption.lint() over the filled columns of a watched table, with the caller''s rights: '
    'a row for each rule that a text breaks. A text is compared with those of the four rows before '
    'and after it in the order of the key.';
