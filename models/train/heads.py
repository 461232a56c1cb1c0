"""Trains the linear heads on the features of Lite2 and Lite0: own kinds, products, nothing. Writes
cache/heads.npz.

The features stay as the pretrained network gives them; the heads read their square roots. Of
groceries each product has a mean of its own: a kind is as likely as its products together.
heads_without_SHOP.npz never saw that shop, heads_fold_K.npz never saw a fifth of the photos of the
small shops; leave_one_out.py needs both.
"""

import argparse, json, zlib
from pathlib import Path

import numpy as np

from own_kinds import OTHER, labels

FOLDS = 5
# Of the discriminants' covariance; weight of their logits beside the earlier network's: the best
# in the validation part.
SHRINK, PROBE = 0.2, 0.1
SHOPS = [
    "aws-retail-demo-store",
    "contoso-traders",
    "dotnet-eshop",
    "saleor-demo",
    "sylius-fixtures",
    "tailwind-traders",
]
# evaluate.py reports on shuffled photos of this shop: the head of nothing never sees it.
UNSEEN = "contoso-traders"


def fold_of(file):
    return zlib.crc32(str(file).encode()) % FOLDS


def rooted(*features):
    """What the heads read: the square roots of what both networks see."""
    return np.sqrt(np.maximum(np.concatenate(features, -1).astype(np.float32), 0))


def features(cache, name):
    """(files, features [photos, 2560]) of a set."""
    d = np.load(cache / f"features_{name}.npz")
    return list(d["files"]), rooted(d["f2"][:, 0], d["f0"][:, 0])


def views(cache, name):
    """(files, features [views, 2560]) of the other views of a set (views.py)."""
    d = np.load(cache / f"views_{name}.npz")
    return [str(f) for f in d["files"]], rooted(d["f2"], d["f0"])


class Sums:
    """What a linear discriminant needs of its photos: sums by class, and the sum of all squares.
    Photos can be taken out."""

    def __init__(self, classes, width):
        self.count, self.sums = np.zeros(classes), np.zeros((classes, width), np.float32)
        self.squares = np.zeros((width, width), np.float32)

    def add(self, x, y, weight, sign=1):
        hot = np.zeros((len(self.count), len(y)), np.float32)
        hot[y, np.arange(len(y))] = weight
        self.count += sign * hot.sum(1)
        self.sums += sign * (hot @ x)
        self.squares += sign * ((x * weight[:, None]).T @ x)

    def discriminant(self, shrink):
        """Weights and bias: class means and one covariance for all, shrunk towards its diagonal.
        As good as a softmax regression, in seconds; and new kinds of few photos fit in."""
        known = self.count > 0.5
        means = np.where(known[:, None], self.sums / np.maximum(self.count, 0.5)[:, None], 0)
        within = (self.squares - (means * self.count[:, None]).T @ means) / self.count[known].sum()
        within = (1 - shrink) * within + np.diag(shrink * np.diag(within) + 1e-4)
        w = np.linalg.solve(within.astype(np.float32), means.T.astype(np.float32))
        return w, np.where(known, -0.5 * (means * w.T).sum(1), -1e4).astype(np.float32)


def refusal(x, y, weight, decay=0.01, steps=300):
    """Weights and bias of a logistic regression of many numbers, by accelerated gradient steps."""
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    z, weight = (x - mean) / deviation, (weight / weight.sum()).astype(np.float32)
    direction = np.ones(z.shape[1], np.float32)
    for _ in range(12):  # the largest curvature
        direction /= np.linalg.norm(direction)
        direction = z.T @ (weight * (z @ direction))
    rate = 1 / (0.3 * (np.linalg.norm(direction) + 1) + 2 * decay)
    w, b = np.zeros(z.shape[1], np.float32), np.float32(0)
    ahead, ahead_b = w, b
    for step in range(steps):
        slope = weight * (1 / (1 + np.exp(-np.clip(z @ ahead + ahead_b, -30, 30))) - y)
        new = ahead - rate * (z.T @ slope + 2 * decay * ahead)
        new_b = ahead_b - rate * slope.sum()
        push = np.float32(step / (step + 3))
        ahead, ahead_b = new + push * (new - w), new_b + push * (new_b - b)
        w, b = new, new_b
    w = w / deviation
    return w.astype(np.float32), np.float32(b - mean @ w)


class Photos:
    """What the heads learn from: features, kind, product (-1: none), origin, fold (-1: always in),
    weight."""

    def __init__(self, a):
        rows = {(r["set"], r["file"]): r for r in json.load(open(a.cache / "rows.json"))}
        known, self.parts = labels(a.training), []
        self.products = sorted({r["product"] for r in rows.values() if r["product"]})

        def add(name, files, x, weight):
            mine = [rows[name, str(f)] for f in files]
            keep = [k for k, r in enumerate(mine) if name in SHOPS or r["part"] == "train"]
            product = [self.products.index(r["product"]) if r["product"] else -1 for r in mine]
            fold = [fold_of(f) if name in SHOPS else -1 for f in files]
            kind = [known[name, str(f)] for f in files]
            self.put(x[keep], *(np.array(c)[keep] for c in (kind, product, fold)), name, weight)

        for name in ["clothing-cc0", "grocery-store"] + SHOPS:
            add(name, *features(a.cache, name), 1.0)
            add(name, *views(a.cache, name), 0.5)
        made = np.load(a.cache / "features_made.npz")
        drawn = json.load(open(a.cache / "drawn.json"))[::3]
        for name, weight in (("nothing", 1.0), ("drawn", 1.5)):
            x = rooted(made[f"{name}_f2"], made[f"{name}_f0"])
            kind = np.array([r["kind"] for r in drawn]) if name == "drawn" else OTHER
            self.put(x, kind, -1, -1, name, weight)
        files, x = views(a.cache, "nothing")
        plain = np.array(files) == "made"
        self.put(x[plain], OTHER, -1, -1, "nothing", 0.5)
        columns = zip(*self.parts)
        self.x, self.kind, self.product, self.fold, self.origin, self.weight = (
            np.concatenate(c) for c in columns
        )
        del self.parts
        self.column = np.where(self.product < 0, self.kind, OTHER + 1 + self.product)
        # More photos of something and of nothing, for the head of nothing alone.
        self.more = [(x[~plain], np.array(files)[~plain], 1)]
        files, x = views(a.cache, "pieces")
        self.more.append((x, np.array(files), 1))
        files, x = views(a.cache, "catalogue")
        self.more.append((x, np.array([f.split("--")[0] for f in files]), 0))

    def put(self, x, kind, product, fold, origin, weight):
        n = len(x)
        full = lambda value, kind: np.broadcast_to(np.asarray(value, kind), (n,))
        self.parts.append(
            (
                x,
                full(kind, int),
                full(product, int),
                full(fold, int),
                full(origin, "<U32"),
                full(weight, np.float32),
            )
        )

    def nothing(self):
        """Features, whether there is nothing, origin."""
        x, where = [self.x], [self.origin]
        y = [(self.origin == "nothing").astype(np.float32)]
        for features, origin, is_nothing in self.more:
            x.append(features)
            where.append(origin)
            y.append(np.full(len(features), is_nothing, np.float32))
        x, where, y = (np.concatenate(c) for c in (x, where, y))
        keep = where != UNSEEN
        return x[keep], y[keep], where[keep]


def nothing_heads(photos, leave_out):
    """(weights, bias) by shop that was left out; None: with all of them but UNSEEN."""
    x, y, where = photos.nothing()
    shop = np.isin(where, SHOPS)
    out = {}
    for left in [None, *leave_out]:
        if left == UNSEEN:
            out[left] = out[None]
            continue
        keep, weight = where != left, np.zeros(len(y), np.float32)
        for mine, share in ((y > 0, 0.35), ((y == 0) & shop, 0.4), ((y == 0) & ~shop, 0.25)):
            weight[keep & mine] = share / (keep & mine).sum()
        out[left] = refusal(x[keep], y[keep], weight[keep])
        print("nothing, without", left, flush=True)
    return out


def fit(a, leave_out=()):
    """The heads; for each shop to be left out the heads without it; those without each fold."""
    photos = Photos(a)
    nothing = nothing_heads(photos, leave_out)
    kinds = Sums(OTHER + 1 + len(photos.products), photos.x.shape[1])
    kinds.add(photos.x, photos.column, photos.weight)
    kind_of = np.arange(len(kinds.count))
    products = photos.product >= 0
    kind_of[photos.column[products]] = photos.kind[products]
    out = {}
    for name in [None, *leave_out, *range(FOLDS)]:
        here = photos.fold == name if isinstance(name, int) else photos.origin == name
        part = photos.x[here], photos.column[here], photos.weight[here]
        kinds.add(*part, -1)
        kind_w, kind_b = kinds.discriminant(SHRINK)
        kinds.add(*part)
        nothing_w, nothing_b = nothing.get(name, nothing[None])
        out[name] = {
            "kind_w": kind_w,
            "kind_b": kind_b,
            "kind_of": kind_of,
            "nothing_w": nothing_w,
            "nothing_b": nothing_b,
        }
    return out


def kind_logits(heads, x):
    """Weighted logits of the kinds: of the kind itself and of its products together; far below
    all others where there were no photos of it."""
    each = PROBE * (x @ heads["kind_w"] + heads["kind_b"])
    of_kind = np.eye(OTHER + 1, dtype=np.float32)[heads["kind_of"]]
    high = each.max(1, keepdims=True)
    together = np.log(np.exp(each - high) @ of_kind + 1e-30) + high
    return np.where((heads["kind_b"] > -5e3) @ of_kind > 0, together, -1e4)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    for name, heads in fit(a, SHOPS).items():
        file = "heads" if name is None else f"heads_fold_{name}"
        file = f"heads_without_{name}" if name in SHOPS else file
        np.savez(a.cache / f"{file}.npz", **heads)


if __name__ == "__main__":
    main()
