"""Chooses, on the validation part only: the temperature, the threshold, and when a fact is said. Writes cache/choice.json.

The validation part: the clothing contributors and grocery photos marked `val` by data.py, and half of the
unknown goods that are only in the catalogue (never trained on).
"""
import argparse, csv, json, os, tarfile
from pathlib import Path

import numpy as np
import torch

from captions import NOUN_OF_PRODUCT
from data import CLOTHES, KINDS, NONE, open_rgb, share
from measure import BACKGROUNDS, COLOURS, PATTERNS
from network import Eyes, Pair
from train_encoder import MEAN, STD

from PIL import Image

UNKNOWN_CATEGORIES = {"accessories", "beauty", "electronics", "jewelry", "outdoors"}


def load_eyes(paths):
    """One network, or two as a pair, and the names of the products."""
    loaded = []
    for path in paths:
        saved = torch.load(path, map_location="cpu")
        eyes = Eyes(len(KINDS) + 1, len(saved["products"]), len(COLOURS), len(PATTERNS), len(BACKGROUNDS))
        eyes.load_state_dict(saved["eyes"])
        loaded.append(eyes)
    return (Pair(*loaded) if len(loaded) == 2 else loaded[0]).eval(), saved["products"]


def prepared(data, size):
    """What the engine feeds: Pillow's bilinear stretch, 1/255, mean and standard deviation."""
    x = np.asarray(open_rgb(data).resize((size, size), Image.BILINEAR)).astype(np.float64) * (1 / 255)
    return ((x.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def photos(training, rows):
    """(row, bytes) of the given rows, read from the tar files."""
    wanted = {(r["set"], r["file"]): r for r in rows}
    for name in sorted({r["set"] for r in rows}):
        with tarfile.open(training / f"{name}.tar") as tar:
            for member in tar:
                row = wanted.get((name, Path(member.name).name))
                if row:
                    yield row, tar.extractfile(member).read()


def new_unknown(training, half):
    """Unknown goods of the catalogue that no training part has: (row, bytes). half 0: validation, 1: report."""
    known = {json.loads(line)["file"].split(".")[0] for line in open(training / "labels.jsonl")}
    folder = training.parent / "catalogue"
    for r in csv.DictReader(open(folder / "products.csv")):
        if r["sha256"][:16] not in known and r["category"] in UNKNOWN_CATEGORIES and int(share(r["file"]) >= 0.5) == half:
            yield {"kind": NONE, "set": "catalogue", "file": r["file"], "product": None}, (folder / "images" / r["file"]).read_bytes()


@torch.no_grad()
def logits_of(eyes, pictures, flip):
    outs = []
    for i in range(0, len(pictures), 64):
        x = torch.from_numpy(np.stack(pictures[i:i + 64]))
        out = eyes(x)
        if flip:
            out = [(a + b) / 2 for a, b in zip(out, eyes(x.flip(3)))]
        outs.append(out)
    return [torch.cat(o) for o in zip(*outs)]


def confidence(kind, temperature):
    """As in the exported graph: the calibrated probability of the best real kind, 0 where `none` wins."""
    p = (kind / temperature).softmax(-1)
    best, which = p[:, :NONE].max(-1)
    return torch.where(p[:, NONE] > best, 0.0, best), which


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--sizes", type=int, nargs="+", default=[128, 160])
    p.add_argument("--flip", type=int, nargs="+", default=[0, 1])
    p.add_argument("--eyes", nargs="+", default=["eyes.pt", "eyes_b.pt"], help="one or two files of weights in the cache")
    p.add_argument("--precision", type=float, default=0.915)
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    eyes, products = load_eyes([a.cache / name for name in a.eyes])
    rows = json.load(open(a.cache / "rows.json"))
    measured = np.load(a.cache / "measured.npz")
    at = {(r["set"], r["file"]): i for i, r in enumerate(rows)}
    data = list(photos(a.training, [r for r in rows if r["part"] == "val"])) + list(new_unknown(a.training, 0))
    truth = torch.tensor([r["kind"] for r, _ in data])
    results = []
    for size in a.sizes:
        pictures = [prepared(b, size) for _, b in data]
        for flip in a.flip:
            out = logits_of(eyes, pictures, flip)
            right = (out[0][:, :NONE].argmax(-1) == truth)
            clothes, food = truth < len(CLOTHES), (truth >= len(CLOTHES)) & (truth < NONE)
            score = (right[clothes].float().mean() + right[food].float().mean()) / 2
            print(f"{size}px flip {flip}: clothing {right[clothes].float().mean():.3f} groceries {right[food].float().mean():.3f}", flush=True)
            results.append((float(score) - 0.004 * flip - 0.003 * (size > 128), size, flip, out))
    _, size, flip, out = max(results, key=lambda r: r[0])
    kind = out[0]
    best_t = min(np.arange(0.3, 2.5, 0.02), key=lambda t: float(torch.nn.functional.cross_entropy(kind / t, truth)))
    conf, which = confidence(kind, best_t)
    known = truth < NONE
    right = which == truth
    threshold = 0.99
    for t in np.arange(0.2, 0.99, 0.005):
        written = conf >= t
        if (right & written)[known].sum() / max(1, (written & known).sum()) >= a.precision:
            threshold = float(t)
            break
    written = conf >= threshold
    print(f"temperature {best_t:.2f}, threshold {threshold:.3f}: written {written[known].float().mean():.3f}, right of these "
          f"{(right & written)[known].sum() / (written & known).sum():.3f}, unknown goods refused {(~written[~known]).float().mean():.3f} of {int((~known).sum())}")
    # A fact is said where it is right often enough on what is written.
    choice = {"eyes": a.eyes, "size": size, "flip": bool(flip), "temperature": round(float(best_t), 4), "min_confidence": round(threshold, 4)}
    index = [at.get((r["set"], r["file"]), -1) for r, _ in data]
    for name, logits, label, aim in (("colour", out[2], measured["colour_word"], 0.6), ("pattern", out[3], measured["pattern"], 0.75), ("background", out[4], measured["background"], 0.8)):
        want = torch.tensor([int(label[i]) if i >= 0 else -1 for i in index])
        p, got = logits.softmax(-1).max(-1)
        use = (want >= 0) & written
        chosen = 0.95
        for t in np.arange(0.2, 0.96, 0.01):
            said = use & (p >= t) & ((got > 0) | (name != "pattern"))
            if said.sum() < 20 or (got == want)[said].float().mean() >= aim:
                chosen = float(t)
                break
        said = use & (p >= chosen)
        choice[name] = round(chosen, 3)
        print(f"{name}: said at {chosen:.2f}; right {(got == want)[said].float().mean():.3f} of {int(said.sum())} (all: {(got == want)[want >= 0].float().mean():.3f})")
    want = torch.tensor([NOUN_OF_PRODUCT.get(r["product"] or "", r["kind"] if r["kind"] < NONE else 0) for r, _ in data])
    choice["product"] = 0.7
    json.dump(choice, open(a.cache / "choice.json", "w"), indent=1)
    print(choice)


if __name__ == "__main__":
    main()
