"""`make bench-families`: captions per second of each model family, compared with Python peers.

families.py PROGRAM LIBRARY [MODEL …]: MODEL is vit-gpt2, florence2, smolvlm:1tile or smolvlm, at
their published sizes with random weights. `tests/parity/make/make_models.py --full --int8` creates
them in $ORACLE_DIR/full. PROGRAM is the bench program of crates/captioner, which
`make bench-families` builds.

The peers run the same folders on the same machine in the same run. All programs take turns within a
round, in random order, because the speed of a machine drifts. The output has medians: images per
second, and the ratios to the peers within a round. Work per image: prepare a decoded 640 x 480
picture, encode it, generate 20 tokens greedily. On a shared machine, --beside keeps rounds short.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/parity/make"))

PLAN = {"vit-gpt2": [1, 4, 8, 16], "florence2": [1, 4], "smolvlm:1tile": [1, 4, 8], "smolvlm": [1]}
THREADS = 2


class BenchProgram:
    """The bench program of crates/captioner, kept running."""

    def __init__(self, program, library, folder, tiles):
        command = [program, folder, library, str(THREADS), tiles]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = json.loads(self.process.stdout.readline())

    def run(self, batch):
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def peers_of(model, peer_names):
    import bench_peers as b

    b.torch.set_num_threads(THREADS)
    m = b.Model(model.split(":")[0], not model.endswith("1tile"))
    peers = {
        "torch generate": m.torch_generate,
        "ort loop": lambda x: m.ort_loop(x, b.Bound),
        "ort numpy loop": lambda x: m.ort_loop(x, b.Plain),
        "raw sessions": m.raw,
    }
    if model == "vit-gpt2":
        peers["optimum"] = m.optimum
    images = [b._photo(640, 480, 100 + i) for i in range(16)]
    return m, {k: v for k, v in peers.items() if not peer_names or k in peer_names}, images


def memory_of(arguments, model, peer):
    """Peak resident bytes of one peer in its own process, at the first requested batch size."""
    batch = arguments.batches.split(",")[0] or str(PLAN[model][min(1, len(PLAN[model]) - 1)])
    code = subprocess.Popen(
        [
            sys.executable,
            __file__,
            arguments.program,
            arguments.library,
            model,
            "--peer",
            peer,
            "--batches",
            batch,
            "--rounds",
            "1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(code.pid, 0)
    return usage.ru_maxrss * 1024 if status == 0 else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("library")
    p.add_argument("models", nargs="*")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--batches", default="")
    p.add_argument("--peer", action="append", help="only this peer, without pg_caption")
    p.add_argument("--beside", action="append", help="pg_caption and only this peer")
    p.add_argument("--memory", action="store_true", help="also the peak memory of each")
    a = p.parse_args()
    from common import FULL

    random.seed(1)
    for model in a.models or PLAN:
        folder, tiles = FULL / model.split(":")[0], "one" if model.endswith("1tile") else "all"
        bench = None if a.peer else BenchProgram(a.program, a.library, str(folder), tiles)
        m, peers, images = peers_of(model, a.peer or a.beside)
        for batch in [int(b) for b in a.batches.split(",")] if a.batches else PLAN[model]:
            times = {}
            order = [*(["pg_caption"] if bench else []), *peers]
            for round_ in range(-1, a.rounds):  # the first round warms up, with one picture
                shown = batch if round_ >= 0 else 1
                for name in order:
                    before = time.perf_counter()
                    if name == "pg_caption":
                        answer = bench.run(shown)
                        spent = answer["seconds"]
                    else:
                        value = peers[name](images[:shown])
                        spent = value if name == "raw sessions" else time.perf_counter() - before
                    if round_ >= 0:
                        times.setdefault(name, []).append(spent)
                random.shuffle(order)
            m._rawkey = None
            median = {name: statistics.median(t) for name, t in times.items()}
            row = {
                "model": model,
                "batch": batch,
                "images_per_second": {k: round(batch / t, 3) for k, t in median.items()},
            }
            if bench:
                row["times_as_fast_as"] = {
                    k: round(statistics.median(x / y for x, y in zip(t, times["pg_caption"])), 2)
                    for k, t in times.items()
                    if k != "pg_caption"
                }
                row["stages_ms"] = {k: round(v * 1e3, 1) for k, v in answer["stages"].items()}
                row["peak_mb"] = answer["peak_bytes"] >> 20
            print(json.dumps(row), flush=True)
        if bench:
            bench.close()
        if a.memory:
            found = {peer: memory_of(a, model, peer) for peer in peers}
            print(
                json.dumps(
                    {"model": model, "peak_mb": {k: v and v >> 20 for k, v in found.items()}}
                ),
                flush=True,
            )
    print(
        json.dumps(
            {
                "load": os.getloadavg(),
                "own_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }
        )
    )


if __name__ == "__main__":
    main()
