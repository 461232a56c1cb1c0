"""`make bench-noise`: one hostile caller of each kind next to one session and one watch.

noise.py PSQL SECONDS: needs PG_CAPTION_DSN and the rights to read the server's data directory
(`scripts/bench.sh noise` starts a temporary cluster). For each kind it measures the session's median
time of a call and the watch's rows per second, without and with the hostile caller, for SECONDS
each. It prints both as ratios to the undisturbed run just before, and fails below 0.5.

* drip: 300 URLs on 60 ports that announce 52 MB and send a byte each second
* dead names: 2,000 names in one zone, and a name server that does not answer. Skipped without
  DEAD_NAMES, which `scripts/bench.sh` sets where it can replace /etc/resolv.conf.
* idle connections: more than the engine serves, each idle after its hello
* large values: pictures of 50 MB as bytea, one after the other
* engine kills: kill -9 every five seconds
"""

import asyncio
import http.server
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import DSN, PSQL, noise_png, sql

SECONDS = float(sys.argv[2])
PROJECT = Path(__file__).resolve().parent.parent
LEAST = 0.5
PORTS, URLS, NAMES = 60, 300, 2000
ROWS = 20_000
CONNECTIONS = 600
NAME_SERVER = ("127.9.9.9", 53)
# Long enough to meet the hostile caller's full load.
WARM_UP = 3


def serve_pictures(pipe):
    body = noise_png(64)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, *_):
            """A killed engine resets its connections."""

    server = Server(("127.0.0.1", 0), Handler)
    pipe.send(server.server_port)
    server.serve_forever()


def serve_drips(pipe):
    async def drip(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 52000000\r\n\r\n")
            while True:
                writer.write(b"\xff")
                await writer.drain()
                await asyncio.sleep(1)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def run():
        servers = [await asyncio.start_server(drip, "127.0.0.1", 0) for _ in range(PORTS)]
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.Event().wait()

    asyncio.run(run())


def started(serve):
    """Starts a server process; returns what it sent."""
    here, there = multiprocessing.Pipe()
    multiprocessing.Process(target=serve, args=(there,), daemon=True).start()
    return here.recv()


class Session:
    """One psql that calls caption_image in a loop."""

    def __init__(self, port):
        self.port = port
        self.process = subprocess.Popen(
            [PSQL, "-XqAt", DSN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.calls = 0

    def call(self):
        """Whether there was a caption."""
        self.calls += 1
        # A name, so that look-ups are measured too.
        url = f"http://localhost:{self.port}/{self.calls}.png"
        self.process.stdin.write(
            f"SELECT caption_image('{url}') IS NOT NULL;\n\\echo end\n"
        )
        self.process.stdin.flush()
        lines = iter(self.process.stdout.readline, "end\n")
        return "t\n" in list(lines)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def filled():
    return int(sql("SELECT count(*) FROM noise WHERE alt IS NOT NULL"))


def measure(port):
    """The session's median time, its failed calls, and the watch's rows per second."""
    session, times, failed = Session(port), [], 0
    session.call()
    before, began = filled(), time.monotonic()
    while time.monotonic() < began + SECONDS:
        start = time.monotonic()
        failed += not session.call()
        times.append(time.monotonic() - start)
    rate = (filled() - before) / (time.monotonic() - began)
    session.close()
    return statistics.median(times), failed, rate


class Repeated:
    """A session that repeats a query until it is stopped."""

    def __init__(self, query):
        self.query, self.stopped, self.process = query, False, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stopped:
            self.process = subprocess.Popen(
                [PSQL, "-XqAt", DSN, "-c", "SET pg_caption.timeout = '10min'", "-c", self.query],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.process.wait()
            time.sleep(0.1)

    def stop(self):
        self.stopped = True
        self.process.terminate()
        self.thread.join()


def images(urls):
    return f"SELECT count(*) FROM caption_images(ARRAY[{','.join(urls)}])"


def drip():
    ports = started(serve_drips)
    return Repeated(images([f"'http://127.0.0.1:{ports[n % PORTS]}/{n}'" for n in range(URLS)]))


def dead_names():
    # Bound, and never read: the resolver gets no answer and no refusal.
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(NAME_SERVER)
    caller = Repeated(images([f"'http://n{n}.dead.example.org/'" for n in range(NAMES)]))
    stop = caller.stop

    def stop_both():
        stop()
        server.close()

    caller.stop = stop_both
    return caller


class IdleConnections:
    """Connections to the engine that say hello and nothing else."""

    def __init__(self):
        path = Path(sql("SHOW data_directory")) / "pg_stat_tmp/pg_caption.sock"
        source = (PROJECT / "crates/wire/src/lib.rs").read_text(encoding="utf-8")
        version = int(re.search(r"PROTOCOL: u32 = (\d+)", source).group(1))
        hello = {"type": "hello", "version": version, "release": "noise", "role": "call"}
        head = json.dumps(hello).encode()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        self.sockets = []
        for _ in range(CONNECTIONS):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(5)
            try:
                client.connect(str(path))
                client.sendall(struct.pack("<II", len(head), 0) + head)
                client.recv(4096)
            except TimeoutError:
                # An engine without room lets it hang in the backlog.
                pass
            self.sockets.append(client)

    def stop(self):
        for client in self.sockets:
            client.close()


def large_values():
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(noise_png(4160))
        file.flush()
        os.chmod(file.name, 0o644)
        sql(f"CREATE TABLE large AS SELECT pg_read_binary_file('{file.name}') AS data")
    return Repeated("SELECT caption_image(data) FROM large, generate_series(1, 1000)")


class EngineKills:
    """kill -9 of the engine every five seconds."""

    def __init__(self):
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stopped.wait(5):
            done = subprocess.run(
                [PSQL, "-XqAt", DSN, "-c", "SELECT pid FROM caption.engine_status()"],
                text=True,
                capture_output=True,
            )
            if done.stdout.strip():
                try:
                    os.kill(int(done.stdout), signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def stop(self):
        self.stopped.set()
        self.thread.join()


def until_ready():
    deadline = time.monotonic() + 60
    while (state := sql("SELECT state FROM caption.engine_status()")) != "ready":
        if state == "failed" or time.monotonic() > deadline:
            failure = sql("SELECT failure FROM caption.engine_status()")
            sys.exit(f"the engine is not ready: {failure}")
        time.sleep(0.05)


def watch_rows(port):
    """A watched table with more rows than are filled during one measurement."""
    sql("SELECT caption.unwatch(oid::regclass) FROM pg_class WHERE relname = 'noise'")
    sql("DROP TABLE IF EXISTS noise")
    sql("CREATE TABLE noise (id int PRIMARY KEY, image_url text, alt text)")
    sql(
        f"""INSERT INTO noise SELECT n, 'http://localhost:{port}/watch/' || n || '.png'
              FROM generate_series(1, {ROWS}) n"""
    )
    sql("""SELECT caption.watch('noise', fills => '{"alt": "concise"}')""")
    deadline = time.monotonic() + 30
    while filled() == 0:
        if time.monotonic() > deadline:
            sys.exit("the watch does not begin")
        time.sleep(0.1)


KINDS = {
    "drip": drip,
    "dead names": dead_names,
    "idle connections": IdleConnections,
    "large values": large_values,
    "engine kills": EngineKills,
}


def main():
    port, short = started(serve_pictures), []
    until_ready()
    wanted = os.environ.get("KINDS", ",".join(KINDS)).split(",")
    print(f"{'hostile caller':18}{'session':>22}{'ratio':>7}{'watch':>24}{'ratio':>7}")
    for name in wanted:
        if name == "dead names" and not os.environ.get("DEAD_NAMES"):
            print(f"{name:18} skipped: /etc/resolv.conf cannot be replaced for the cluster")
            continue
        until_ready()
        watch_rows(port)
        quiet, quiet_failed, quiet_rate = measure(port)
        caller = KINDS[name]()
        try:
            time.sleep(WARM_UP)
            noisy, failed, rate = measure(port)
        finally:
            caller.stop()
        session, watch = quiet / noisy, rate / quiet_rate if quiet_rate else 0
        print(
            f"{name:18}{quiet * 1e3:8.0f} →{noisy * 1e3:8.0f} ms{session:7.2f}"
            f"{quiet_rate:9.1f} →{rate:7.1f} rows/s{watch:7.2f}"
            + (f"  {failed} calls failed" if failed > quiet_failed else ""),
            flush=True,
        )
        if min(session, watch) < LEAST:
            short.append(name)
    if short:
        sys.exit(f"below {LEAST} of the undisturbed rate: {', '.join(short)}")


if __name__ == "__main__":
    main()
