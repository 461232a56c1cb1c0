"""Catalogue photos written and right, each shop left out of training and tuning once; and with all
of them.

The truth is ../shared/catalogue/truth.jsonl, acceptable nouns by eye; of an own kind what it
accepts is below.
"""

import argparse, csv, json
from pathlib import Path

import numpy as np

from data import CLOTHES, KINDS
from decide import Judge, Seen, Vocabulary, logistic, pick
from heads import SHOPS, kind_logits
from own_kinds import ALL, NEW, OTHER, labels

# An own kind is right where the truth has one of these nouns and none of those behind the bar.
ACCEPTED = {
    "t-shirt": "T-shirt",
    "long-sleeved top": "sweatshirt",
    "trousers": "jeans",
    "shoes": "shoe",
    "dress": "gown",
    "jacket or coat": "jacket or coat",
    "hat": "hat",
    "hoodie": "sweatshirt",
    "top": "top",
    "snowboard": "skis or board",
    "bicycle helmet": "crash helmet",
    "smartphone": "mobile phone",
}
# Names of the draft's classes that this list says by another noun.
ALSO = {
    "fishing gear": ["fishing casting reel"],
    "game controller": ["joystick"],
    "computer monitor": ["monitor"],
    "wallet or purse": ["purse"],
    "scarf": ["stole scarf"],
    "Dutch oven": ["pot or pan"],
}


class Catalogue:
    """The photos, their truth for every candidate, and what the networks saw (cache)."""

    def __init__(self, a, v):
        self.truth = {}
        for line in open(a.training.parent / "catalogue/truth.jsonl"):
            row = json.loads(line)
            self.truth[row["file"]] = set(row["nouns"])
        d, e = np.load(a.cache / "features_catalogue.npz"), np.load(
            a.cache / "earlier_catalogue.npz"
        )
        self.files = [str(f) for f in d["files"]]
        self.features = np.concatenate([d["f2"][:, 0], d["f0"][:, 0]], -1).astype(np.float32)
        self.two, self.zero = (d[k][:, 0].astype(np.float32) for k in ("l2", "l0"))
        self.eyes = np.mean([e[f"kind{w}"].astype(np.float32) for w in a.eyes], 0)
        self.shop = np.array([f.split("--")[0] for f in self.files])
        sha = {
            r["file"]: r["sha256"][:16]
            for r in csv.DictReader(open(a.training.parent / "catalogue/products.csv"))
        }
        known = {key[1].split(".")[0]: kind for key, kind in labels(a.training).items()}
        self.kind = np.array([known.get(sha[f], -1) for f in self.files])
        self.right = np.zeros((len(self.files), len(v.noun)), bool)
        names = {}
        for j, n in enumerate(v.classes):
            for name in [n.name, *ALSO.get(n.name, ())]:
                names.setdefault(name, []).append(j)
        for i, f in enumerate(self.files):
            t = self.truth[f]
            for name in t:
                self.right[i, names.get(name, [])] = True
            for k, name in enumerate(ALL):
                self.right[i, len(v.classes) + k] = ACCEPTED.get(name) in t or self.kind[i] == k
        self.wordless = np.array([not self.truth[f] for f in self.files])


def held_photos(a, part="val"):
    """Seen and kinds of the validation or test part of the large sets, as far as their features
    are there."""
    rows = {(r["set"], r["file"]): r for r in json.load(open(a.cache / "rows.json"))}
    known, out = labels(a.training), []
    for name in ("clothing-cc0", "grocery-store"):
        paths = [a.cache / f"features_{name}.npz", a.cache / f"earlier_{name}.npz"]
        if not all(p.exists() for p in paths):
            continue
        d, e = (
            {k: f[k] for k in keys}
            for f, keys in (
                (np.load(paths[0]), ("files", "f2", "f0", "l2", "l0")),
                (np.load(paths[1]), ("files", "kind0", "kind1")),
            )
        )
        at = {str(f): i for i, f in enumerate(d["files"])}
        for i, f in enumerate(e["files"]):
            if rows[name, str(f)]["part"] == part:
                j = at[str(f)]
                both = np.concatenate([d["f2"][j, 0], d["f0"][j, 0]])
                out.append(
                    (
                        both,
                        d["l2"][j, 0],
                        d["l0"][j, 0],
                        np.mean([e[f"kind{w}"][i].astype(np.float32) for w in a.eyes], 0),
                        known[name, str(f)],
                    )
                )
    if not out:
        return None
    *seen, kind = (np.stack(x).astype(np.float32) for x in zip(*out))
    return *seen, kind.astype(int)


def see(v, heads, f, two, zero, eyes):
    nothing = np.full(len(f), -30.0)
    if "nothing_w" in heads:
        nothing = f @ heads["nothing_w"] + heads["nothing_b"]
    return Seen(v, two, zero, kind_logits(heads, f), eyes, nothing)


def learn(v, c, seen, rows, held=None):
    """The regressions, from these rows of the catalogue and the validation part."""
    rows = np.flatnonzero(rows)
    x, q = seen.class_features(v), seen.both @ v.matrix
    use = np.argwhere(q[rows] >= 0.08)
    i, j = rows[use[:, 0]], use[:, 1]
    share = 5 / np.bincount(use[:, 0], minlength=len(rows))[use[:, 0]]
    classes = logistic(x[i, j], c.right[i, j].astype(float), share)
    own, xo = [], seen.own_features(v)
    if held is not None:
        hseen, kind = held
        xh = hseen.own_features(v)
    for family in range(4):
        mine = np.flatnonzero(v.family == family)
        best = mine[seen.fused[:, mine].argmax(1)]
        xs, ys = [xo[rows, best[rows]]], [c.right[rows, len(v.classes) + best[rows]]]
        weights = [np.full(len(rows), 1.0)]
        if held is not None:
            hb = mine[hseen.fused[:, mine].argmax(1)]
            xs.append(xh[np.arange(len(kind)), hb])
            ys.append(kind == hb)
            weights.append(np.full(len(kind), 0.5))
        x1, y1 = np.concatenate(xs), np.concatenate(ys).astype(float)
        own.append(logistic(x1, y1, np.concatenate(weights)) if y1.sum() >= 5 else None)
    return Judge(classes, own)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--eyes", type=int, nargs="+", default=[0], help="which of the earlier networks")
    p.add_argument("--show", action="store_true")
    a = p.parse_args()
    v = Vocabulary(a.cache)
    c = Catalogue(a, v)
    confidence, val = np.zeros((len(c.files), len(v.noun))), held_photos(a)
    for shop in SHOPS:
        heads = dict(np.load(a.cache / f"heads_without_{shop}.npz"))
        seen = see(v, heads, c.features, c.two, c.zero, c.eyes)
        held = see(v, heads, *val[:4]), val[4]
        mine = c.shop == shop
        judge = learn(v, c, seen, ~mine, held)
        confidence[mine] = judge.confidence(v, seen)[mine]
    np.save(a.cache / "left_out.npy", confidence)
    best, sure = pick(v, confidence)
    right_of = c.right[np.arange(len(best)), best]
    for low in np.arange(0, 1, 0.1):
        mine = (sure >= low) & (sure < low + 0.1)
        if mine.any():
            print(
                f"confidence {low:.1f} to {low + 0.1:.1f}: {mine.sum()} photos, right {right_of[mine].mean():.2f}, said {sure[mine].mean():.2f}"
            )
    for t in (0.5, 0.55, 0.6, 0.62, 0.64, 0.66, 0.68, 0.7, 0.75, 0.8, 0.85):
        written = sure >= t
        right = right_of & written
        each = " ".join(
            f"{s[:4]} {written[c.shop == s].mean():.2f}/{right[c.shop == s].sum() / max(1, written[c.shop == s].sum()):.2f}"
            for s in SHOPS
        )
        print(
            f"{t:.2f}: written {written.mean():.3f} right {right.sum() / written.sum():.3f} wordless written "
            f"{(written & c.wordless).sum()} of {c.wordless.sum()}; {each}"
        )
    if a.show:
        for i in np.argsort(-sure):
            if not c.right[i, best[i]] and sure[i] > 0.5:
                print(
                    f"{sure[i]:.2f} {c.files[i]} said {v.nouns[v.noun[best[i]]].name}; {sorted(c.truth[c.files[i]])[:4]}"
                )


if __name__ == "__main__":
    main()
