"""`make bench-remote`: the engine in front of a model server that waits instead of computing.

remote.py PROGRAM IMAGES COUNT: captions COUNT pictures of a folder through a server that answers in
200 ms, 16 requests at a time. Prints the rate as a share of the server's, and what a request takes
beyond the answer if there is one at a time: decoding and encoding overlap the one before.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM, IMAGES, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
SLOTS, DELAY = 16, 0.2
ANSWER = json.dumps(
    {"choices": [{"message": {"content": "A cat on a mat"}, "finish_reason": "stop"}]}
).encode()


class ModelServer:
    """Speaks as much of OpenAI's protocol as the engine needs. Notes when answers begin and end."""

    def __init__(self):
        self.began, self.ended, self.address = [], [], None
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(ready)), daemon=True).start()
        ready.wait()

    async def serve(self, ready):
        self.slots = asyncio.Semaphore(SLOTS)
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=1 << 24)
        self.address = "http://127.0.0.1:{}/v1".format(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    async def connection(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = [line[15:] for line in head.split("\r\n") if line[:15] == "content-length:"]
                body = await reader.readexactly(int(length[0])) if length else b""
                answer = b'{"data": [{"id": "m"}]}'
                if b"image_url" in body:
                    async with self.slots:
                        self.began.append(time.perf_counter())
                        await asyncio.sleep(DELAY)
                        self.ended.append(time.perf_counter())
                    answer = ANSWER
                elif body:
                    answer = ANSWER
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(answer), answer)
                )
                await writer.drain()


def captions(concurrency, count):
    """Captions pictures. Returns the times at which answers began and ended."""
    server = ModelServer()
    files = sorted(os.path.join(IMAGES, name) for name in os.listdir(IMAGES))
    files = [name for name in files if name.endswith((".jpg", ".png"))]
    with tempfile.TemporaryDirectory() as models:
        os.chmod(models, 0o755)
        folder = os.path.join(models, "far")
        os.mkdir(folder, 0o755)
        remote = {
            "protocol": "openai",
            "base_url": server.address,
            "model": "m",
            "concurrency": concurrency,
            "without_confidence": "write",
        }
        with open(os.path.join(folder, "remote.json"), "w", encoding="utf-8") as file:
            json.dump(remote, file)
        done = subprocess.run(
            [PROGRAM, "caption", "--json", "--model", folder]
            + [files[number % len(files)] for number in range(count)],
            text=True,
            capture_output=True,
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if sum("caption" in line for line in lines) != count:
        sys.exit(f"not all pictures have a caption\n{done.stdout[-500:]}\n{done.stderr[-500:]}")
    return server.began, server.ended


def main():
    began, ended = captions(SLOTS, COUNT)
    # From the time at which the engine has found the server's capacity.
    warm = len(ended) // 4
    rate = (len(ended) - warm - SLOTS) / (ended[-SLOTS] - ended[warm])
    print(
        f"{COUNT} pictures in {ended[-1] - began[0]:.1f} s: {rate:.1f} a second,"
        f" {rate / (SLOTS / DELAY):.2f} of the server's rate (aim 0.95)"
    )
    began, ended = captions(1, 40)
    each = [next_began - end for next_began, end in zip(began[1:], ended)]
    print(
        f"one at a time: {1000 * sum(each) / len(each):.1f} ms from an answer to the next request"
        " (aim 5)"
    )


main()
