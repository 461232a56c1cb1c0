-- The ledger as users see it: which texts are machine-written, and from which source.

CREATE VIEW caption.written_text WITH (security_barrier) AS
    SELECT l.relation::regclass AS relation,
           l.key,
           o.key::name AS column_name,
           o.value AS entry,
           coalesce((o.value->>'at')::timestamptz, l.at) AS at
      FROM caption.ledger l
      JOIN pg_class c ON c.oid = l.relation::oid
     CROSS JOIN jsonb_each(l.outputs) AS o
     WHERE pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW caption.written_text IS
    'Entries of the ledger, for caption.texts(). Visible to members of the table''s owner.';
GRANT SELECT ON caption.written_text TO PUBLIC;

CREATE FUNCTION caption.texts(
        relation regclass,
        OUT key         jsonb,
        OUT column_name name,
        OUT text        text,
        OUT source      text,
        OUT state       text,
        OUT confidence  real,
        OUT model       text,
        OUT style       text,
        OUT language    text,
        OUT at          timestamptz)
    RETURNS SETOF record
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS $$
    #variable_conflict use_column
    DECLARE
        watch record;
    BEGIN
        SELECT format('%s%s', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, w.relation) AS name,
               -- Key and texts of a row as the ledger has them.
               (SELECT string_agg(format('format(''%%s'', t.%I)', k.name), ', ' ORDER BY k.ord)
                  FROM unnest(w.keys) WITH ORDINALITY AS k (name, ord)) AS keys,
               (SELECT string_agg(format('WHEN %L THEN t.%I::text', f.name, f.name), ' ')
                  FROM jsonb_object_keys(w.fills) AS f (name)) AS texts,
               coalesce(w.blank = 'keep', false) AS keeps_blank,
               pg_has_role(c.relowner, 'USAGE') AS is_member,
               c.relowner::regrole AS owner
          INTO watch
          FROM caption.watch w
          JOIN pg_class c ON c.oid = w.relation
         WHERE w.relation = texts.relation;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'table % is not watched', texts.relation
                USING ERRCODE = 'undefined_object',
                      HINT    = caption.unwatched_hint(texts.relation);
        ELSIF NOT watch.is_member THEN
            RAISE EXCEPTION 'must be owner of table % to see its machine-written texts',
                    texts.relation
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL  = format('It belongs to %s.', watch.owner);
        END IF;
        RETURN QUERY EXECUTE format($query$
            SELECT caption.key_object(l.relation, l.key),
                   l.column_name,
                   coalesce(l.entry->>'written', CASE WHEN v.is_written THEN v.text END),
                   coalesce(l.entry->>'source', 'model'),
                   CASE WHEN l.entry->>'state' = 'withdrawn' AND v.text IS NULL THEN 'withdrawn'
                        WHEN v.is_written THEN coalesce(l.entry->>'state', 'written')
                        ELSE 'edited' END,
                   (l.entry->>'confidence')::real,
                   l.entry->>'model',
                   l.entry->>'style',
                   l.entry->>'language',
                   l.at
              FROM caption.written_text l
              JOIN %1$s t ON l.key = jsonb_build_array(%2$s)
             CROSS JOIN LATERAL (SELECT CASE l.column_name %3$s END AS text) AS c
             CROSS JOIN LATERAL (
                   SELECT CASE WHEN NOT $2 OR c.text <> '' THEN nullif(c.text, '')
                               ELSE c.text END AS text,
                          NOT ($2 AND c.text IS NOT DISTINCT FROM '')
                          AND left(encode(sha256(convert_to(coalesce(c.text, ''), 'UTF8')),
                                          'hex'), 32)
                              = l.entry->>'text' AS is_written) AS v
             WHERE l.relation = $1 AND l.entry ? 'text'
             UNION ALL
            SELECT caption.key_object(l.relation, l.key),
                   l.column_name,
                   d.draft->>'written',
                   d.draft->>'source',
                   d.draft->>'state',
                   (d.draft->>'confidence')::real,
                   d.draft->>'model',
                   d.draft->>'style',
                   d.draft->>'language',
                   coalesce((d.draft->>'at')::timestamptz, l.at)
              FROM caption.written_text l
              JOIN %1$s t ON l.key = jsonb_build_array(%2$s)
             CROSS JOIN LATERAL (SELECT l.entry->'draft' AS draft) AS d
             WHERE l.relation = $1 AND l.entry ? 'draft'
        $query$, watch.name, watch.keys, watch.texts) USING texts.relation, watch.keeps_blank;
    END
    $$;
COMMENT ON FUNCTION caption.texts(regclass) IS
    'Returns the machine-written texts of a watched table, for members of its owner. '
    'source: model or fallback. '
    'state: written, approved, edited (by a user since), withdrawn, draft, rejected. '
    'confidence: from 0 to 1.';
REVOKE ALL ON FUNCTION caption.texts(regclass) FROM PUBLIC;
