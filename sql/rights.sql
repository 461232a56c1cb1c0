-- Rights in one call.

CREATE FUNCTION caption.grant_to(role regrole, rights text)
    RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        caller constant text := '@extschema@.caption_image(text, text, int, text, jsonb), '
                                '@extschema@.caption_image(bytea, text, int, text, jsonb), '
                                '@extschema@.caption_images(text[], text, int, int), '
                                '@extschema@.caption_image_json(text, text[], int)';
        editor constant text :=
            'caption.watch, caption.unwatch, caption.move_watch, caption.pause, '
            'caption.resume, caption.retry, '
            'caption.recaption, caption.withdraw, caption.prune, caption.is_idle, '
            'caption.estimate, caption.preview, '
            'caption.texts, caption.begin_backfill, caption.end_backfill, '
            'caption.approve, caption.reject, caption.revise, caption.contact_sheet, '
            'caption.import_review';
    BEGIN
        IF rights NOT IN ('caller', 'editor') THEN
            RAISE EXCEPTION 'unknown rights "%"', left(rights, 100)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT    = 'They are caller (captions on demand) or editor '
                                '(also watches of the role''s own tables).';
        END IF;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', caller, role);
        IF rights = 'editor' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', editor, role);
            EXECUTE format('GRANT EXECUTE ON PROCEDURE '
                           'caption.wait, caption.backfill TO %s', role);
        END IF;
    END
    $$;
COMMENT ON FUNCTION caption.grant_to(regrole, text) IS
    'Grants a role what it needs in this database. caller: captions on demand. '
    'editor: also watches of its own tables. Creates no role.';
REVOKE ALL ON FUNCTION caption.grant_to(regrole, text) FROM PUBLIC;
