"""`make bench`: rows per second of every way to caption, and the engine's CPU time per stage.

throughput.py PSQL IMAGES ROWS: needs PG_CAPTION_DSN, a cluster with the extension whose engine may
use all cores (`scripts/bench.sh` starts one). A separate process serves the pictures. All figures
of a line come from one run. The first lines are without the memo: each row has a picture of its
own. The last ones have each picture ten times. `limit` is (cores - cores used by PostgreSQL and the picture server)
divided by the engine's CPU seconds per image.
"""

import json
import os
import subprocess
import sys
import time
import urllib.parse

from common import DSN, PSQL, serve_pictures, sql

TICK = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))
IMAGES, ROWS = sys.argv[2], int(sys.argv[3])


def stat(pid):
    """Parent process id, own CPU ticks, and the ticks of ended children; None without a process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


class Meter:
    """CPU seconds since its creation: engine, PostgreSQL without the engine, picture server."""

    def __init__(self, server):
        self.server = server
        self.engine = int(sql("SELECT pid FROM caption.engine_status()"))
        self.postmaster = int(sql("SELECT pg_read_file('postmaster.pid')").split("\n")[0])
        self.began, self.cpu, self.stages = time.perf_counter(), self.read(), self.status()

    def read(self):
        table = {int(name): stat(name) for name in os.listdir("/proc") if name.isdigit()}
        family, grown = {self.postmaster}, True
        while grown:
            more = {pid for pid, row in table.items() if row and row[0] in family} - family
            family, grown = family | more, bool(more)
        own = sum(table[pid][1] for pid in family - {self.engine} if table.get(pid))
        # The postmaster's statistics include its ended backends.
        ended = table[self.postmaster][2] if table.get(self.postmaster) else 0
        return {
            "engine": table[self.engine][1] / TICK,
            "postgres": (own + ended) / TICK,
            "server": table[self.server][1] / TICK,
        }

    @staticmethod
    def status():
        return json.loads(
            sql(
                """SELECT to_jsonb(s) FROM (
                     SELECT cpu_ms, encoded, encode_calls FROM caption.engine_status()) AS s"""
            )
        )

    def line(self, rows):
        seconds = time.perf_counter() - self.began
        used = {name: value - self.cpu[name] for name, value in self.read().items()}
        after = self.status()
        stages = {
            name: round((value - self.stages["cpu_ms"][name]) / rows, 3)
            for name, value in after["cpu_ms"].items()
        }
        calls = after["encode_calls"] - self.stages["encode_calls"]
        elsewhere = (used["postgres"] + used["server"]) / seconds
        each = used["engine"] / rows
        limit = (CORES - elsewhere) / each if each else 0
        return {
            "rows": rows,
            "seconds": seconds,
            "rate": rows / seconds,
            "limit": limit,
            "share": rows / seconds / limit if limit else 0,
            "cpu": each,
            "elsewhere": elsewhere,
            "stages": stages,
            "batch": (after["encoded"] - self.stages["encoded"]) / calls if calls else 0,
        }


def table(urls):
    values = ", ".join("('{}')".format(url.replace("'", "''")) for url in urls)
    sql(f"""DROP TABLE IF EXISTS bench_products;
        CREATE TABLE bench_products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                     image_url text, alt text, seo text);
        INSERT INTO bench_products (image_url) VALUES {values}""")


def watch(urls, fills):
    table(urls)
    sql(
        f"SELECT caption.watch('bench_products', 'image_url', '{fills}');"
        " CALL caption.wait('bench_products')"
    )
    sql("SELECT caption.unwatch('bench_products')")


# One call after the other for the rows that meet a condition.
CALLS = """SET pg_caption.on_error = 'null';
    DO $$ DECLARE u text; BEGIN
    FOR u IN SELECT image_url FROM bench_products WHERE {} LOOP PERFORM caption_image(u); END LOOP;
    END $$"""


def one_at_a_time(urls):
    table(urls)
    sql(CALLS.format("true"))


def eight_connections(urls):
    table(urls)
    part = CALLS.format("id % 8 = {}")
    running = [
        subprocess.Popen([PSQL, "-Xq", DSN, "-c", part.format(number)], stderr=subprocess.DEVNULL)
        for number in range(8)
    ]
    for process in running:
        if process.wait():
            sys.exit("a connection failed")


def one_set(urls):
    table(urls)
    sql("SELECT count(*) FROM caption_images((SELECT array_agg(image_url) FROM bench_products))")


def update(urls):
    table(urls)
    sql("UPDATE bench_products SET alt = caption_image(image_url)")


def insert_select(urls):
    table(urls)
    sql("""DROP TABLE IF EXISTS bench_texts;
        CREATE TABLE bench_texts (id int, alt text);
        INSERT INTO bench_texts SELECT id, caption_image(image_url) FROM bench_products""")


def select(urls):
    table(urls)
    sql("SELECT id, caption_image(image_url) FROM bench_products")


def update_without_lookahead(urls):
    table(urls)
    sql("""SET pg_caption.lookahead = 0;
        UPDATE bench_products SET alt = caption_image(image_url)""")


def duplicates(address, files, rows):
    """Rows of which ten have the same picture: at one URL, and under ten URLs."""
    few = [urllib.parse.quote(name) for name in files[: max(1, rows // 10)]]
    same = [f"{address}/{few[number % len(few)]}?again" for number in range(rows)]
    other = [f"{address}/{few[number % len(few)]}?{number}" for number in range(rows)]
    return {
        "watch, 10 rows a URL": lambda: watch(same, '{"alt": "concise"}'),
        "watch, 10 URLs a picture": lambda: watch(other, '{"alt": "concise"}'),
        "UPDATE, 10 rows a URL": lambda: update(same),
        "UPDATE, 10 URLs a picture": lambda: update(other),
    }


def set_memo(size):
    """A memo of this size, in a new engine: nothing is known."""
    before = sql("SELECT pid FROM caption.engine_status()")
    sql(f"ALTER SYSTEM SET pg_caption.memo = '{size}'")
    sql("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = sql("SELECT state, pid FROM caption.engine_status()").split("|")
        if state[0] == "ready" and state[1] != before:
            return
        time.sleep(0.05)
    sys.exit("the engine did not restart")


def overhead(urls):
    """The median time of a call beyond the engine's own time, in milliseconds."""
    table(urls)
    return float(
        sql("""SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FROM (
        SELECT extract(epoch FROM clock_timestamp() - began) * 1000 - engine AS ms FROM (
          SELECT began, (caption_image_json(image_url, '{concise}')
                         #>> '{milliseconds,total}')::float8 AS engine
            FROM (SELECT image_url, clock_timestamp() AS began FROM bench_products OFFSET 0) AS a
           OFFSET 0) AS b OFFSET 0) AS c""")
        or "nan"
    )


def main():
    process, address, files, urls = serve_pictures(IMAGES, ROWS)
    deadline = time.monotonic() + 60
    while (state := sql("SELECT state FROM caption.engine_status()")) != "ready":
        if state == "failed" or time.monotonic() > deadline:
            sys.exit(
                "the engine is not ready: " + sql("SELECT failure FROM caption.engine_status()")
            )
        time.sleep(0.05)
    one_set(urls[:16])

    ways = {
        "watch, alt": lambda: watch(urls, '{"alt": "concise"}'),
        "watch, alt and seo": lambda: watch(urls, '{"alt": "concise", "seo": "seo"}'),
        "UPDATE": lambda: update(urls),
        "INSERT ... SELECT": lambda: insert_select(urls),
        "SELECT": lambda: select(urls),
        "UPDATE, no look-ahead": lambda: update_without_lookahead(urls),
        "caption_image, one at a time": lambda: one_at_a_time(urls),
        "caption_image, 8 connections": lambda: eight_connections(urls),
        "caption_images": lambda: one_set(urls),
    }
    lines = {}
    print(
        f"{ROWS} rows, {len(files)} pictures, {CORES} cores,"
        f" model {sql('SELECT model FROM caption.engine_status()')}\n"
    )
    print(
        f"{'':30}{'rows/s':>9}{'limit':>9}{'share':>7}{'batch':>7}{'CPU ms/image':>14}"
        f"{'cores elsewhere':>17}"
    )
    for name, way in (ways | duplicates(address, files, ROWS)).items():
        if name not in ways:
            # Another size each time: answers of an earlier line would be in the memo.
            set_memo(f"{64 + len(lines)}MB")
        meter = Meter(process.pid)
        way()
        line = lines[name] = meter.line(ROWS)
        print(
            f"{name:30}{line['rate']:9.1f}{line['limit']:9.1f}{line['share']:7.2f}"
            f"{line['batch']:7.1f}{line['cpu'] * 1000:14.2f}{line['elsewhere']:17.2f}",
            flush=True,
        )
        if name == list(ways)[-1]:
            print("duplicates, with pg_caption.memo:")
    saved = json.loads(sql("SELECT saved FROM caption.engine_status()"))
    print("\nsaved by the last line:", ", ".join(f"{name} {n}" for name, n in saved.items()))
    set_memo("0")
    print(
        "\nengine CPU, ms per image, for alt only:",
        ", ".join(f"{name} {value}" for name, value in lines["watch, alt"]["stages"].items()),
    )
    factor = lines["watch, alt and seo"]["cpu"] / lines["watch, alt"]["cpu"]
    print(f"alt and seo cost {factor:.2f} times alt alone (aim 1.3)")
    for name in ("UPDATE", "INSERT ... SELECT"):
        ratio = lines[name]["rate"] / lines["watch, alt"]["rate"]
        print(f"{name} reaches {ratio:.2f} of watch, alt (aim 0.9)")
    print(f"a call takes {overhead(urls[:50]):.2f} ms more than the engine's own time (aim 1)")

    if os.environ.get("PEER_PYTHON"):
        table(urls)
        peer = subprocess.run(
            [
                os.environ["PEER_PYTHON"],
                os.path.join(os.path.dirname(__file__), "peer.py"),
                DSN,
                os.environ["PEER_MODEL"],
                str(ROWS),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        rate = json.loads(peer.stdout)["rows_per_second"]
        print(
            f"the Python peer: {rate:.1f} rows/s; watch is"
            f" {lines['watch, alt']['rate'] / rate:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
