-- Seen from outside: what model servers were used for, and numbers for a monitoring system.

CREATE TABLE caption.used (
    day           date    NOT NULL,
    model         text    NOT NULL,
    style         text    NOT NULL,
    run           text    NOT NULL,
    requests      bigint  NOT NULL,
    images        bigint  NOT NULL,
    input_tokens  bigint  NOT NULL,
    output_tokens bigint  NOT NULL,
    failures      bigint  NOT NULL,
    cost          numeric NOT NULL,
    PRIMARY KEY (day, model, style, run)
);
COMMENT ON TABLE caption.used IS
    'What each engine used model servers for, by day and style. Written by the worker at most '
    'every ten seconds, kept for 13 months. Shown by caption.usage. Part of dumps.';
COMMENT ON COLUMN caption.used.run IS
    'The engine process: the start of its counts.';
SELECT pg_extension_config_dump('caption.used', '');

CREATE VIEW caption.usage AS
    WITH report AS MATERIALIZED (
        SELECT caption.engine_report() AS r
    ), live AS (
        SELECT date '1970-01-01' + x.day AS day, x.model, x.style, report.r->>'run' AS run,
               x.requests, x.images, x.input_tokens, x.output_tokens, x.failures, x.cost
          FROM report
         CROSS JOIN jsonb_to_recordset(coalesce(report.r#>'{model,remote,usage}', '[]'))
               AS x (day int, model text, style text, requests bigint, images bigint,
                     input_tokens bigint, output_tokens bigint, failures bigint, cost numeric)
    )
    SELECT a.day, a.model, a.style,
           sum(a.requests)::bigint      AS requests,
           sum(a.images)::bigint        AS images,
           sum(a.input_tokens)::bigint  AS input_tokens,
           sum(a.output_tokens)::bigint AS output_tokens,
           sum(a.failures)::bigint      AS failures,
           sum(a.cost)                  AS cost
      FROM (SELECT * FROM live
             UNION ALL
            SELECT u.day, u.model, u.style, u.run, u.requests, u.images, u.input_tokens,
                   u.output_tokens, u.failures, u.cost
              FROM caption.used u
             WHERE NOT EXISTS (SELECT FROM live l
                                WHERE (l.day, l.model, l.style, l.run)
                                    = (u.day, u.model, u.style, u.run))) a
     GROUP BY a.day, a.model, a.style;
COMMENT ON VIEW caption.usage IS
    'What model servers were used for, by day (UTC), model and style: of the whole server, '
    'calls and watches of all databases. '
    'Visible to pg_monitor. Also requires EXECUTE on caption.engine_report().';
COMMENT ON COLUMN caption.usage.requests IS
    'Requests that were sent, repeated ones included.';
COMMENT ON COLUMN caption.usage.images IS
    'Captions that came back.';
COMMENT ON COLUMN caption.usage.input_tokens IS
    'Tokens of requests, as the model server counts them.';
COMMENT ON COLUMN caption.usage.output_tokens IS
    'Tokens of answers, as the model server counts them.';
COMMENT ON COLUMN caption.usage.failures IS
    'Requests without a caption.';
COMMENT ON COLUMN caption.usage.cost IS
    'An estimate, by the prices in remote.json.';
GRANT SELECT ON caption.usage TO pg_monitor;

CREATE VIEW caption.metrics AS
    WITH report AS MATERIALIZED (
        SELECT caption.engine_report() AS r
    ), engine AS (
        SELECT m.name, '{}'::jsonb AS labels, m.value, m.help
          FROM report
         CROSS JOIN LATERAL (VALUES
            ('pg_caption_engine_up', (report.r->>'state' = 'ready')::int::float8,
             '1 while the engine serves'),
            ('pg_caption_engine_uptime_seconds', (report.r->>'uptime_s')::float8,
             'Time since the engine started'),
            ('pg_caption_engine_connections', (report.r->>'connections')::float8,
             'Connections of sessions and workers'),
            ('pg_caption_engine_in_flight', (report.r->>'in_flight')::float8,
             'Requests that the engine has accepted and not answered'),
            ('pg_caption_engine_answered_total', (report.r->>'answered')::float8,
             'Requests that the engine has answered'),
            ('pg_caption_engine_captions_total', (report.r->>'generated')::float8,
             'Captions that the model has written'),
            ('pg_caption_engine_resident_bytes', (report.r->>'rss')::float8,
             'Resident memory of the engine')
         ) AS m (name, value, help)
    ), stage AS (
        SELECT 'pg_caption_engine_cpu_seconds_total', jsonb_build_object('stage', e.key),
               (e.value #>> '{}')::float8 / 1000, 'Processor time of each stage'
          FROM report
         CROSS JOIN jsonb_each(report.r->'cpu_ms') e
         WHERE e.key NOT IN ('total', 'wait')
    ), server AS (
        SELECT m.name, jsonb_build_object('server', report.r#>>'{model,remote,server}'), v.value,
               m.help
          FROM report
         CROSS JOIN LATERAL (VALUES
            ('pg_caption_model_server_in_flight', report.r#>>'{model,remote,in_flight}',
             'Requests that the model server has'),
            ('pg_caption_model_server_waiting', report.r#>>'{model,remote,waiting}',
             'Pictures and captions that wait for the model server'),
            ('pg_caption_model_server_ceiling', report.r#>>'{model,remote,ceiling}',
             'Requests that may be in flight now'),
            ('pg_caption_model_server_paused_seconds',
             ((report.r#>>'{model,remote,paused_ms}')::float8 / 1000)::text,
             'Time until the pause of the model server ends')
         ) AS m (name, text, help)
         CROSS JOIN LATERAL (SELECT coalesce(m.text, '0')::float8) AS v (value)
         WHERE report.r#>'{model,remote}' IS NOT NULL
    ), watched AS (
        SELECT m.name,
               jsonb_build_object('database', current_database(), 'relation', p.relation::text),
               m.value, m.help
          FROM caption.progress p
         CROSS JOIN LATERAL (VALUES
            ('pg_caption_watch_waiting', p.waiting::float8,
             'Rows to examine, partly an estimate'),
            ('pg_caption_watch_in_flight', p.in_flight::float8,
             'Rows that the engine works on'),
            ('pg_caption_watch_deferred', p.deferred::float8,
             'Rows that are tried again later'),
            ('pg_caption_watch_failed', p.failed::float8,
             'Rows without a caption'),
            ('pg_caption_watch_filled_total', p.filled::float8,
             'Rows that were filled'),
            ('pg_caption_watch_stopped', p.stopped::int::float8,
             '1 if filling has stopped until a user acts')
         ) AS m (name, value, help)
    ), failure AS (
        SELECT 'pg_caption_failure_rows',
               jsonb_build_object('database', current_database(), 'relation', f.relation::text,
                                  'class', f.class, 'code', f.code),
               f.rows::float8, 'Rows without a caption, by the reason'
          FROM caption.failure_count f
    ), use AS (
        SELECT m.name, jsonb_build_object('model', u.model, 'style', u.style), m.value, m.help
          FROM (SELECT model, style, sum(requests) AS requests, sum(images) AS images,
                       sum(input_tokens) AS input, sum(output_tokens) AS output,
                       sum(failures) AS failures, sum(cost) AS cost
                  FROM caption.usage GROUP BY model, style) u
         CROSS JOIN LATERAL (VALUES
            ('pg_caption_usage_requests_total', u.requests::float8,
             'Requests to model servers'),
            ('pg_caption_usage_images_total', u.images::float8,
             'Captions of model servers'),
            ('pg_caption_usage_input_tokens_total', u.input::float8,
             'Tokens of requests'),
            ('pg_caption_usage_output_tokens_total', u.output::float8,
             'Tokens of answers'),
            ('pg_caption_usage_failures_total', u.failures::float8,
             'Requests without a caption'),
            ('pg_caption_usage_cost_total', u.cost::float8,
             'Cost, estimated by the prices in remote.json')
         ) AS m (name, value, help)
    )
    SELECT name, labels, value, help FROM engine
     UNION ALL SELECT * FROM stage
     UNION ALL SELECT * FROM server
     UNION ALL SELECT * FROM watched
     UNION ALL SELECT * FROM failure
     UNION ALL SELECT * FROM use;
COMMENT ON VIEW caption.metrics IS
    'Numbers for a monitoring system, in the units of Prometheus; the names are stable. '
    'Visible to pg_monitor. Also requires EXECUTE on caption.engine_report().';
GRANT SELECT ON caption.metrics TO pg_monitor;
