"""What the benchmarks share: SQL on the cluster of PG_CAPTION_DSN, and a large picture.

Imported by programs whose first argument is psql.
"""

import os
import random
import struct
import subprocess
import sys
import zlib

PSQL = sys.argv[1]
DSN = os.environ["PG_CAPTION_DSN"]


def sql(text):
    """Runs SQL; the output unaligned, without headers."""
    done = subprocess.run(
        [PSQL, "-XqAt", "-v", "ON_ERROR_STOP=1", DSN], input=text, text=True, capture_output=True
    )
    if done.returncode:
        sys.exit(f"{text}\n{done.stderr}")
    return done.stdout.strip()


def noise_png(side):
    """An uncompressed PNG of noise: its file is as large as the decoded picture."""
    noise = random.Random(7).randbytes(side * 3)
    # Each row starts at another offset of the noise, after the filter byte 0 (none).
    rows = b"".join(
        b"\0" + noise[at:] + noise[:at] for at in (row * 7 % len(noise) for row in range(side))
    )

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
