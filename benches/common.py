"""What the benchmarks share: SQL on the cluster of PG_CAPTION_DSN, pictures on loopback, and a large
picture.

Imported by programs whose first argument is psql.
"""

import functools
import http.server
import multiprocessing
import os
import random
import struct
import subprocess
import sys
import urllib.parse
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


class PictureHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def serve(folder, pipe):
    class PictureServer(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    server = PictureServer(("127.0.0.1", 0), functools.partial(PictureHandler, directory=folder))
    pipe.send(server.server_port)
    server.serve_forever()


def serve_pictures(folder, rows):
    """Serves the pictures of a folder: the process that does, their names and a URL for each row."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(folder, there), daemon=True)
    process.start()
    address = f"http://127.0.0.1:{here.recv()}"
    endings = (".jpg", ".jpeg", ".png", ".webp")
    files = sorted(name for name in os.listdir(folder) if name.lower().endswith(endings))
    if not files:
        sys.exit(f"{folder} contains no pictures")
    urls = [
        f"{address}/{urllib.parse.quote(files[number % len(files)])}?{number}"
        for number in range(rows)
    ]
    return process, address, files, urls


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
