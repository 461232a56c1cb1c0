"""Trains the linear heads on the features of Lite2 and Lite0: own kinds, products, nothing. Writes
cache/heads.npz.

The features stay as the pretrained network gives them. heads_without_SHOP.npz never saw that shop,
for leave_one_out.py.
"""

import argparse, json
from pathlib import Path

import numpy as np

from data import CLOTHES, KINDS
from own_kinds import ALL, OTHER, labels

# Photos of things lie below -30 (a few in a thousand above), nearly all pictures of nothing above
# -25.
MARGIN = 25
SHOPS = [
    "aws-retail-demo-store",
    "contoso-traders",
    "dotnet-eshop",
    "saleor-demo",
    "sylius-fixtures",
    "tailwind-traders",
]


def features(cache, name):
    """(files, features [photos, views, 2560]) of a set: those of both networks."""
    d = np.load(cache / f"features_{name}.npz")
    return list(d["files"]), np.concatenate([d["f2"], d["f0"]], -1).astype(np.float32)


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
        As good as a softmax
        regression on these features, in seconds; and new kinds of few photos fit in."""
        known = self.count > 0.5
        means = np.where(known[:, None], self.sums / np.maximum(self.count, 0.5)[:, None], 0)
        within = (self.squares - (means * self.count[:, None]).T @ means) / self.count[known].sum()
        within = (1 - shrink) * within + np.diag(shrink * np.diag(within) + 1e-4)
        w = np.linalg.solve(within.astype(np.float32), means.T.astype(np.float32))
        return w, np.where(known, -0.5 * (means * w.T).sum(1), -1e4).astype(np.float32)


def gather(a, part="train"):
    """Features, kinds and products of a part; of training also of the small shops and of the made
    pictures."""
    rows, known = json.load(open(a.cache / "rows.json")), labels(a.training)
    products = sorted({r["product"] for r in rows if r["product"]})
    of = {(r["set"], r["file"]): r for r in rows}
    x, kind, product, origin = [], [], [], []
    for name in ["clothing-cc0", "grocery-store"] + SHOPS * (part == "train"):
        if not (a.cache / f"features_{name}.npz").exists():
            print("without", name)
            continue
        files, f = features(a.cache, name)
        for file, v in zip(files, f):
            row = of[name, str(file)]
            if name in SHOPS or row["part"] == part:
                for view in v:
                    x.append(view)
                    kind.append(known[name, str(file)])
                    product.append(products.index(row["product"]) if row["product"] else -1)
                    origin.append(name)
    if part == "train" and (a.cache / "features_made.npz").exists():
        made, drawn = (
            np.load(a.cache / "features_made.npz"),
            json.load(open(a.cache / "drawn.json"))[::3],
        )
        made = {
            name: np.concatenate([made[f"{name}_f2"], made[f"{name}_f0"]], -1)
            for name in ("nothing", "drawn")
        }
        for v in made["nothing"]:
            x.append(v)
            kind.append(OTHER)
            origin.append("nothing")
        for v, row in zip(made["drawn"], drawn):
            x.append(v)
            kind.append(row["kind"])
            origin.append("drawn")
        product += [-1] * (len(x) - len(product))
    return (
        np.stack(x).astype(np.float32),
        np.array(kind),
        np.array(product),
        np.array(origin),
        products,
    )


def fit(a, leave_out=()):
    """The heads; and, for each shop to be left out, the heads without it."""
    x, kind, product, origin, products = gather(a)
    weight = np.where(origin == "drawn", 1.5, 1.0).astype(np.float32)
    nothing = (origin == "nothing").astype(int)
    kinds, nothings = Sums(OTHER + 1, x.shape[1]), Sums(2, x.shape[1])
    kinds.add(x, kind, weight)
    nothings.add(x, nothing, np.ones(len(x), np.float32))
    mine = product >= 0
    goods = Sums(len(products), x.shape[1])
    goods.add(x[mine], product[mine], np.ones(mine.sum(), np.float32))
    product_w, product_b = goods.discriminant(a.shrink)

    def heads():
        kind_w, kind_b = kinds.discriminant(a.shrink)
        w, b = nothings.discriminant(a.shrink)
        return {
            "kind_w": kind_w,
            "kind_b": kind_b,
            "nothing_w": w[:, 1] - w[:, 0],
            "nothing_b": b[1] - b[0] + MARGIN,
            "product_w": product_w,
            "product_b": product_b,
        }

    out = {None: heads()}
    for shop in leave_out:
        here = origin == shop
        for sums, y, u in ((kinds, kind, weight), (nothings, nothing, np.ones(len(x), np.float32))):
            sums.add(x[here], y[here], u[here], -1)
        out[shop] = heads()
        for sums, y, u in ((kinds, kind, weight), (nothings, nothing, np.ones(len(x), np.float32))):
            sums.add(x[here], y[here], u[here])
    return out


def kind_logits(heads, f):
    return f.astype(np.float32) @ heads["kind_w"] + heads["kind_b"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--shrink", type=float, default=0.1)
    a = p.parse_args()
    for shop, heads in fit(a, SHOPS).items():
        np.savez(a.cache / (f"heads_without_{shop}.npz" if shop else "heads.npz"), **heads)
        if shop is None:
            x, kind, _, origin, _ = gather(a, part="val")
            right = kind_logits(heads, x)[:, : len(KINDS)].argmax(1) == kind
            for name in sorted(set(origin)):
                print(
                    name,
                    f"{right[origin == name].mean():.3f} of {(origin == name).sum()} in the validation part",
                    flush=True,
                )


if __name__ == "__main__":
    main()
