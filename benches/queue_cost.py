"""`make bench-queue`: the cost of the queue, without the model.

queue_cost.py PSQL ROWS: needs PG_CAPTION_DSN, a temporary cluster with the extension
(`scripts/bench.sh queue` starts one). The first part prints the backend's CPU time of statements on
a watched table as a multiple of the same statements on an unwatched table.

The second part follows ROWS rows through a backfill and through the queue. It prints rows per
second, rows and dead rows of the queue, the size of its index, and the time of one read. Their URLs
are rejected without a network (ftp:), so every row is examined, sent to the engine, answered and
recorded. The last part queues 100,000 rows, one per transaction, without and with an old snapshot
of another transaction, which keeps finished rows from being vacuumed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from common import DSN, PSQL, sql

ROWS = int(sys.argv[2])
BATCH = 100_000
ROUNDS = 9
SINGLE = 100_000
COLUMNS = """(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
              title text, image_url text, alt text, seo text)"""
WATCH_PAUSED = "SELECT caption.watch('products'); SELECT caption.pause('products')"


def cpu(statement):
    """CPU seconds of the backend that runs the statement."""
    look = "\\! awk '{print $1}' /proc/$BACKEND/schedstat\n"
    out = sql(
        f"SELECT pg_backend_pid() AS pid \\gset\n\\setenv BACKEND :pid\n{look}{statement};\n{look}"
    ).splitlines()
    return (int(out[-1]) - int(out[0])) / 1e9


def cost():
    """Compares statements on a watched table with the same on an unwatched one, in turns."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as rows:
        rows.writelines(f"Product {n},ftp://127.0.0.1/{n}.jpg\n" for n in range(BATCH))
        rows.flush()
        os.chmod(rows.name, 0o644)
        # Both tables are vacuumed before each statement, never during a measurement.
        for table in ("plain", "watched"):
            sql(f"CREATE TABLE {table} {COLUMNS} WITH (autovacuum_enabled = off)")
        sql("SELECT caption.watch('watched'); SELECT caption.pause('watched')")
        statements = {
            f"COPY of {BATCH} rows": "COPY {} (title, image_url) FROM '"
            + rows.name
            + "' (FORMAT csv)",
            "UPDATE of another column": "UPDATE {} SET title = title || '.' WHERE id <= 100000",
            "UPDATE of single rows": "DO $$ BEGIN FOR n IN 1..20000 LOOP "
            "UPDATE {} SET title = 'x' WHERE id = n; END LOOP; END $$",
            "UPDATE of the URL": "UPDATE {} SET image_url = image_url || '.' WHERE id <= 100000",
        }
        for name, statement in statements.items():
            spent = {"plain": [], "watched": []}
            for turn in range(ROUNDS):
                sql("VACUUM plain, watched")
                for table in sorted(spent, reverse=turn % 2):
                    spent[table].append(cpu(statement.format(table)))
            plain, watched = (statistics.median(seconds) for seconds in spent.values())
            times = statistics.median(w / p for w, p in zip(spent["watched"], spent["plain"]))
            print(
                f"{name:26} {plain:7.3f} s CPU, watched {watched:7.3f} s: {times:.2f} times",
                flush=True,
            )
    sql("SELECT caption.unwatch('watched'); DROP TABLE plain, watched")


def health(name, begin, rows=ROWS):
    """Follows the processing of that many rows to the end."""
    print(
        f"{name}\n{'done':>8} {'rows/s':>8} {'queue rows':>10} {'dead':>8} {'index kB':>8}"
        f" {'read ms':>8}",
        flush=True,
    )
    sql(begin)
    last, before, step = time.monotonic(), 0, max(rows // 10, 1)
    while True:
        failed = int(sql("SELECT count(*) FROM caption.failed"))
        idle = sql("SELECT caption.is_idle('products')") == "t"
        if failed >= before + step or idle:
            now = time.monotonic()
            timed = sql(
                """EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT id FROM caption.queue
                   WHERE relation = 'products'::regclass AND id > 0 ORDER BY id LIMIT 5"""
            )
            read = timed.split('"Execution Time":')[1].split("\n")[0].strip(" ,")
            queue, dead, size = sql(
                """SELECT (SELECT count(*) FROM caption.queue),
                          pg_stat_get_dead_tuples('caption.queue'::regclass),
                          pg_relation_size('caption.queue_pkey') / 1024"""
            ).split("|")
            print(
                f"{failed:8} {(failed - before) / (now - last):8.0f} {queue:>10} {dead:>8}"
                f" {size:>8} {read:>8}",
                flush=True,
            )
            last, before = now, failed
        if idle:
            return
        time.sleep(0.2)


cost()
sql(f"CREATE TABLE products {COLUMNS}")
sql(
    f"""INSERT INTO products (image_url)
        SELECT 'ftp://127.0.0.1/' || n || '.jpg' FROM generate_series(1, {ROWS}) n"""
)
begun = time.monotonic()
sql(WATCH_PAUSED)
print(f"watch of {ROWS} rows returns after {time.monotonic() - begun:.2f} s")
health("backfill of existing rows", "SELECT caption.resume('products')")
health("all rows queued again", "SELECT caption.retry('products')")
for name, begin in (
    (f"{SINGLE} rows queued one by one", ""),
    (
        "the same, while a transaction keeps an older snapshot",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; ",
    ),
):
    sql(f"SELECT caption.unwatch('products'); TRUNCATE products; {WATCH_PAUSED}")
    other = subprocess.Popen(
        [PSQL, "-XqAt", DSN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    other.stdin.write(f"{begin}SELECT count(*) FROM caption.queue;\n")
    other.stdin.flush()
    other.stdout.readline()
    sql(
        f"""DO $$ BEGIN FOR n IN 1..{SINGLE} LOOP
            INSERT INTO products (image_url) VALUES ('ftp://127.0.0.1/' || n || '.jpg'); COMMIT;
            END LOOP; END $$"""
    )
    health(name, "SELECT caption.resume('products')", SINGLE)
    other.kill()
