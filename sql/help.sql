-- What to call, from psql.

CREATE FUNCTION caption.help(OUT call text, OUT purpose text, OUT example text)
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    VALUES
        ('caption_image(url, style, …)', 'Returns one caption of a picture.',
         'SELECT caption_image(image_url) FROM products LIMIT 3'),
        ('caption.backfill(table, url column, fills, …)',
         'Fills the empty columns of a table once.',
         'CALL caption.backfill(''products'', ''image_url'', ''{"alt": "concise"}'')'),
        ('caption.watch(table, url column, fills, …)',
         'Fills the empty columns of a table, now and from now on.',
         'SELECT caption.watch(''products'', ''image_url'')'),
        ('caption.wait(table, timeout)', 'Reports progress until nothing is left to do.',
         'CALL caption.wait(''products'')'),
        ('caption.progress', 'View: how far each watch is, and what it waits for.',
         'SELECT relation, bar, filled, failed, state FROM caption.progress'),
        ('caption.failure', 'View: rows without a caption, and why.',
         'SELECT key, code, message, hint FROM caption.failure'),
        ('caption.retry(table)', 'Queues failed and deferred rows again.',
         'SELECT caption.retry(''products'')'),
        ('caption.recaption(table, older_than, …)',
         'Captions machine-written rows again: other pictures, model or style.',
         'SELECT caption.recaption(''products'')'),
        ('caption.unwatch(table)', 'Ends a watch. The texts stay.',
         'SELECT caption.unwatch(''products'')'),
        ('caption.engine_status()', 'Shows the engine: state, model, work done, memory.',
         'SELECT state, model, failure FROM caption.engine_status()')
    $$;
COMMENT ON FUNCTION caption.help() IS
    'Returns the ten calls that one needs most, each with its purpose and an example. '
    'All others: \df+ caption.* and \dv+ caption.*.';
