-- From 0.3.0: every change of an object in sql/ is also here (CONTRIBUTING.md).
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
