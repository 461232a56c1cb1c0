"""`scripts/bench.sh cascade`: what a cascade costs, against both models' own costs.

cascade.py PROGRAM FIRST THEN IMAGES…: captions the pictures with each model alone, then with
cascades whose thresholds send 10, 20 and 30 % of them to the second. Prints the rate of each, and
as a share of what the costs of both models would give: 1 / (cost of FIRST + share × cost of THEN).
Weights do not matter for this figure, only their sizes. Loading is measured with one picture and
left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

PROGRAM, FIRST, THEN = sys.argv[1:4]
IMAGES = sys.argv[4:]
# Random weights never end a text, as published ones do after a dozen tokens.
OPTIONS = ["--min-confidence", "0", "--max-tokens", "32", "--greedy"]


def captions(model, images):
    """Runs `caption`. Returns its lines and the time that it takes."""
    began = time.monotonic()
    done = subprocess.run(
        [PROGRAM, "caption", "--json", *OPTIONS, "--model", model, *images],
        text=True,
        capture_output=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if len(lines) != len(images):
        sys.exit(f"{model}: {len(lines)} captions of {len(images)} pictures\n{done.stderr}")
    return lines, time.monotonic() - began


def cost(model, images=IMAGES):
    """Lines, and seconds for each picture."""
    _, load = captions(model, images[:1])
    lines, total = captions(model, images)
    return lines, (total - load) / (len(images) - 1)


def main():
    lines, first = cost(FIRST)
    # All its pictures cost the same: a third of them is enough.
    _, then = cost(THEN, IMAGES[::3])
    print(f"first: {1 / first:.2f} pictures/s   then: {1 / then:.2f} pictures/s", flush=True)
    sure = sorted(line.get("confidence") or 0.0 for line in lines)
    with tempfile.TemporaryDirectory() as models:
        for name, folder in (("first", FIRST), ("then", THEN)):
            os.symlink(os.path.abspath(folder), os.path.join(models, name))
        folder = os.path.join(models, "both")
        os.mkdir(folder, 0o755)
        for percent in (10, 20, 30):
            below = sure[len(sure) * percent // 100]
            cascade = {"first": "first", "then": "then", "below": below}
            with open(os.path.join(folder, "cascade.json"), "w", encoding="utf-8") as file:
                json.dump(cascade, file)
            share = sum(confidence < below for confidence in sure) / len(sure)
            _, each = cost(folder)
            ideal = first + share * then
            print(
                f"{share:4.0%} to the second: {1 / each:.2f} pictures/s, "
                f"{ideal / each:.2f} of both models' own costs",
                flush=True,
            )


main()
