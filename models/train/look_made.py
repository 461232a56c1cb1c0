"""What Lite2 sees in the made pictures: cache/features_made.npz, and cache/held_nothing.npy.

Drawn goods (every third of synth.py's), pictures of nothing to train on, and others, of other
seeds and of
photos that are not trained on, to report on.
"""

import argparse, json
from pathlib import Path

import numpy as np
from PIL import Image

from data import NONE
from look import pretrained, prepared
from synth import nothing


def held_nothing(cache):
    """The pictures of nothing that are only reported on, as evaluate.py of the first model made
    them."""
    path = cache / "held_nothing.npy"
    if not path.exists():
        rows = json.load(open(cache / "rows.json"))
        measured, pixels = np.load(cache / "measured.npz"), np.load(
            cache / "pixels.npy", mmap_mode="r"
        )
        ok, mask = measured["mask_ok"], measured["mask"]
        clothes = [
            i
            for i, r in enumerate(rows)
            if r["part"] == "test" and r["set"] == "clothing-cc0" and ok[i]
        ]
        shops = [i for i, r in enumerate(rows) if r["part"] == "test" and r["kind"] == NONE]
        made = []
        for s in range(160):
            source = clothes if s % 8 in (5, 6) else shops
            i = source[s % len(source)]
            picture = nothing((900_000 + s, np.array(pixels[i]), mask[i]))
            if picture is not None:
                made.append(picture)
        np.save(path, np.stack(made))
    return np.load(path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    both = pretrained(a.cache)
    drawn = np.load(a.cache / "drawn.npy", mmap_mode="r")[::3]
    parts = {
        "held": held_nothing(a.cache),
        "nothing": np.load(a.cache / "nothing.npy", mmap_mode="r"),
        "drawn": drawn,
    }
    out = {}
    for name, pictures in parts.items():
        got = []
        for picture in pictures:
            x = prepared(Image.fromarray(np.array(picture)))[None]
            got.append([v[0].astype(np.float16) for v in both.run(None, {"pixel_values": x})])
        for key, values in zip(("f2", "l2", "f0", "l0"), zip(*got)):
            out[f"{name}_{key}"] = np.stack(values)
        print(name, len(pictures), flush=True)
    np.savez(a.cache / "features_made.npz", **out)


if __name__ == "__main__":
    main()
