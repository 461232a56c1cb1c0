"""`make bench`, memory: 200 requests for 50 MB pictures wait; the engine's memory stays bounded.

memory.py PSQL PICTURES: needs PG_CAPTION_DSN, like throughput.py. A separate process serves one PNG
of noise, just below the limit of 50 MB. The bench requests it over eight connections and prints the
engine's peak resident memory and `pg_caption.memory`. It fails if the peak exceeds the setting.
"""

import http.server
import multiprocessing
import subprocess
import sys
import time

from common import DSN, PSQL, noise_png, sql

PICTURES = int(sys.argv[2])
CONNECTIONS = 8
SIDE = 4160
MB = 1 << 20
# For the allocator, thread stacks and ONNX Runtime's arena, which the budget does not include.
SLACK = 128 * MB


def serve(pipe):
    body = noise_png(SIDE)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                pass

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    pipe.send((server.server_port, len(body)))
    server.serve_forever()


def resident(pid, which):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(which))


def main():
    here, there = multiprocessing.Pipe()
    multiprocessing.Process(target=serve, args=(there,), daemon=True).start()
    port, size = here.recv()
    deadline = time.monotonic() + 60
    while (state := sql("SELECT state FROM caption.engine_status()")) != "ready":
        if state == "failed" or time.monotonic() > deadline:
            sys.exit(
                "the engine is not ready: " + sql("SELECT failure FROM caption.engine_status()")
            )
        time.sleep(0.05)
    engine = sql("SELECT pid FROM caption.engine_status()")
    budget = int(sql("SELECT pg_size_bytes(current_setting('pg_caption.memory'))"))
    before, began = resident(engine, "VmRSS:"), time.monotonic()
    query = """SET pg_caption.timeout = '20min';
        SELECT count(caption), string_agg(DISTINCT error, '; ')
          FROM caption_images(ARRAY(
            SELECT 'http://127.0.0.1:{}/{}-' || n || '.png' FROM generate_series(1, {}) n))"""
    counts = [
        PICTURES // CONNECTIONS + (number < PICTURES % CONNECTIONS) for number in range(CONNECTIONS)
    ]
    running = [
        subprocess.Popen(
            [PSQL, "-XqAt", DSN, "-c", query.format(port, number, count)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, count in enumerate(counts)
    ]
    answers = [process.communicate()[0].strip() for process in running]
    seconds, peak = time.monotonic() - began, resident(engine, "VmHWM:")
    answered = sum(int(answer.split("|")[0] or 0) for answer in answers if answer)
    if sql("SELECT pid FROM caption.engine_status()") != engine:
        sys.exit("the engine died")
    print(
        f"{PICTURES} pictures of {size / MB:.0f} MB and {SIDE} x {SIDE} pixels, requested over"
        f" {CONNECTIONS} connections: {answered} captions in {seconds:.0f} s"
    )
    print(
        f"the engine's memory: {before / MB:.0f} MB before, {peak / MB:.0f} MB at its peak:"
        f" {(peak - before) / MB:.0f} MB more, pg_caption.memory {budget / MB:.0f} MB"
    )
    others = {answer.split("|")[1] for answer in answers if "|" in answer} - {""}
    if answered < PICTURES:
        sys.exit(f"not all pictures were captioned: {others}")
    if peak - before > budget + SLACK:
        sys.exit("the engine used more memory than pg_caption.memory")


if __name__ == "__main__":
    main()
