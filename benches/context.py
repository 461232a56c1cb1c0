"""`make bench-context`: what context and templates cost a watch.

context.py PSQL IMAGES ROWS: needs PG_CAPTION_DSN, a cluster with the extension whose engine may use
all cores (`scripts/bench.sh context` starts one). Fills the same rows by a plain watch and by one
with context, a template and a fallback, in turns. Prints the rates, and the time of the second as a
multiple of the first: the median of the rounds.
"""

import os
import statistics
import sys
import time

from common import serve_pictures, sql

IMAGES, ROWS = sys.argv[2], int(sys.argv[3])
ROUNDS = int(os.environ.get("ROUNDS", "9"))
PLAIN = """'{"alt": "concise"}'"""
WITH = """'{"alt": {"style": "concise", "template": "{title}: {caption}", "fallback": "{title}"}}',
    context => '{title,brand}'"""


def seconds(urls, fills):
    """The time in which a watch fills all rows."""
    values = ", ".join(
        "('{}', 'Product of shelf {}', 'Acme')".format(url.replace("'", "''"), number)
        for number, url in enumerate(urls)
    )
    sql(f"""DROP TABLE IF EXISTS bench_products;
        CREATE TABLE bench_products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                     image_url text, title text, brand text, alt text);
        INSERT INTO bench_products (image_url, title, brand) VALUES {values}""")
    began = time.perf_counter()
    sql(
        f"SELECT caption.watch('bench_products', 'image_url', {fills});"
        " CALL caption.wait('bench_products')"
    )
    took = time.perf_counter() - began
    if sql("SELECT count(*) FROM bench_products WHERE alt <> ''") != str(ROWS):
        sys.exit("not all rows were filled: " + sql("SELECT * FROM caption.failure LIMIT 3"))
    sql("SELECT caption.unwatch('bench_products')")
    return took


def main():
    urls = serve_pictures(IMAGES, ROWS)[3]
    seconds(urls, PLAIN)
    ratios = []
    for number in range(ROUNDS):
        # The order changes, so that a slow moment does not meet the same one each time.
        order = (PLAIN, WITH) if number % 2 else (WITH, PLAIN)
        times = {fills: seconds(urls, fills) for fills in order}
        ratios.append(times[WITH] / times[PLAIN])
        print(
            f"plain {ROWS / times[PLAIN]:6.1f} rows/s   with context and template"
            f" {ROWS / times[WITH]:6.1f} rows/s   {ratios[-1]:.3f} times",
            flush=True,
        )
    print(f"context and template cost {statistics.median(ratios):.3f} times (aim 1.03)")


main()
