"""Catalogue photos written and right, each shop left out of training and tuning once.

The truth is ../shared/catalogue/truth.jsonl, acceptable nouns by eye; of an own kind what it
accepts is below. The regressions learn from what heads say that did not see the photo's shop; of
the kinds that only one shop has, from what heads say that did not see the photo.
"""

import argparse, csv, json
from pathlib import Path

import numpy as np

from data import CLOTHES, KINDS
from decide import PACKED, Judge, Seen, Vocabulary, logistic, pick
from heads import FOLDS, SHOPS, fold_of, kind_logits, rooted
from own_kinds import ALL, OTHER, labels

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
        name = {key[1].split(".")[0]: key[1] for key in labels(a.training)}
        self.fold = np.array([fold_of(name[sha[f]]) if sha[f] in name else -1 for f in self.files])
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


# What nouns are right for clothing and groceries, by the names of classes and groups; of those
# behind the bar it is not known.
CLOTHING = "clothing | sarong, kimono, pajamas, cloak, poncho, abaya, bra"
ALSO_RIGHT = {
    "t-shirt": "T-shirt, top |",
    "long-sleeved top": "top | sweatshirt, cardigan, T-shirt",
    "shirt": "top | T-shirt, lab coat",
    "dress": "dress or skirt | gown, miniskirt, swimwear",
    "jacket or coat": "jacket or coat | trench coat, fur coat, lab coat, cardigan, sweatshirt, suit",
    "polo shirt": "top | T-shirt, sweatshirt",
    "undershirt": "top | T-shirt, swimwear",
    "hoodie": "sweatshirt, top | jacket or coat, cardigan",
    "top": "top | T-shirt, sweatshirt, cardigan, swimwear",
    "blouse": "top | T-shirt, sweatshirt, cardigan, gown",
    "trousers": " | jeans",
    "shorts": " | swim trunks / shorts, jeans, swimwear",
    "skirt": " | miniskirt, dress or skirt",
    "blazer": "jacket or coat | suit",
    "baby bodysuit": " | swimwear, T-shirt, top",
}
WORN_ALONE = {
    "shoes": "shoe, footwear | sneaker, slip-on shoe, sandal, clogs, cowboy boot",
    "hat": "hat, headwear |",
}
VEGETABLES = "Asparagus Aubergine Cabbage Carrots Cucumber Garlic Ginger Leek Mushroom Onion Pepper"
VEGETABLES = {*VEGETABLES.split(), "Potato", "Red Beet", "Tomato", "Zucchini"}
OWN_CLASS = {
    "Apple": "Granny Smith apple",
    "Banana": "banana",
    "Cabbage": "cabbage",
    "Cucumber": "cucumber",
    "Lemon": "lemon",
    "Mushroom": "mushroom",
    "Orange": "orange",
    "Pepper": "bell pepper",
    "Pineapple": "pineapple",
    "Pomegranate": "pomegranate",
    "Zucchini": "zucchini",
}


def truth_of_kinds(v):
    """[kinds, nouns of classes] right, not known; and of which kinds anything is known."""
    names = {n.name: j for j, n in enumerate(v.classes)}
    right, unknown = (np.zeros((len(KINDS), len(v.classes)), bool) for _ in range(2))
    for k, kind in enumerate(KINDS):
        if kind in WORN_ALONE:
            texts = [WORN_ALONE[kind]]
        elif kind in CLOTHES:
            texts = [CLOTHING, ALSO_RIGHT[kind]]
        elif kind in VEGETABLES:
            texts = [f"food, vegetable, {OWN_CLASS.get(kind, '')} | fruit, squash, shop"]
        else:
            texts = [f"food, fruit, {OWN_CLASS.get(kind, '')} | vegetable, shop"]
        for text in texts:
            for to, part in zip((right, unknown), text.split("|")):
                to[k, [names[n.strip()] for n in part.split(",") if n.strip()]] = True
    return right, unknown, np.array([k not in PACKED for k in KINDS])


def see(v, heads, f, two, zero, eyes):
    x = rooted(f)
    return Seen(
        v, f, two, zero, kind_logits(heads, x), eyes, x @ heads["nothing_w"] + heads["nothing_b"]
    )


def heads_of(a, name=""):
    return dict(np.load(a.cache / f"heads{name}.npz"))


def seen_apart(v, photos, groups, heads):
    """What is seen of photos, those of each group (numbers or names) by its own heads."""
    names = sorted(set(groups))
    places = [np.flatnonzero(groups == name) for name in names]
    parts = [see(v, heads[name], *(x[p] for x in photos)) for name, p in zip(names, places)]
    return Seen.joined(parts, places, len(groups))


class Lessons:
    """What the regressions learn from: the catalogue, other views of it, and the validation part of
    the large sets."""

    def __init__(self, v, c, a):
        self.v, self.count = v, len(c.files)
        d = np.load(a.cache / "views_catalogue.npz")
        at = {f: i for i, f in enumerate(c.files)}
        photo = np.r_[np.arange(len(c.files)), [at[str(f)] for f in d["files"]]]
        features = np.concatenate([d["f2"], d["f0"]], -1)
        others = features, d["l2"], d["l0"], d["kind0"]
        plain = c.features, c.two, c.zero, c.eyes
        looks = [np.concatenate([x, y.astype(np.float32)]) for x, y in zip(plain, others)]
        self.shop, right = c.shop[photo], c.right[photo]
        # A photo and its three views count as one.
        weight = np.where(np.arange(len(photo)) < len(c.files), 0.5, 0.5 / 3)
        by_shop = seen_apart(v, looks, self.shop, {s: heads_of(a, f"_without_{s}") for s in SHOPS})
        fold = c.fold[photo]
        heads = {k: heads_of(a, f"_fold_{k}") for k in range(FOLDS)} | {-1: heads_of(a)}
        by_photo = seen_apart(v, looks, fold, heads)
        by_photo.nothing = by_shop.nothing
        self.catalogue = by_shop.rows(np.arange(len(c.files)))
        *held, kind = held_photos(a)
        held = see(v, heads[-1], *held)
        self.classes = [self.class_rows(by_shop, right[:, : len(v.classes)]) + (weight, self.shop)]
        truth, unknown, some = truth_of_kinds(v)
        loose = np.flatnonzero(some[kind])
        rows = self.class_rows(held.rows(loose), truth[kind[loose]], unknown[kind[loose]])
        self.classes.append(rows + (np.full(len(loose), 1 / len(loose)), None))
        own = right[:, len(v.classes) :]
        of_held = kind[:, None] == np.arange(OTHER)
        even = np.full(len(kind), 0.5)
        self.own = []
        for family in range(4):
            sources = [(by_shop, own, weight, self.shop), (held, of_held, even, None)]
            if family == 3:
                plain = np.where(np.arange(len(photo)) < len(c.files), 0.5, 0)
                sources = [
                    (by_photo, own, weight, self.shop),
                    (by_shop, own, plain, self.shop),
                    (held, of_held, even * 0.4, None),
                ]
            self.own.append([self.own_rows(family, *s) for s in sources])

    def class_rows(self, seen, right, unknown=None):
        """(numbers, right, photo, share) of the candidates that are not out of the question."""
        x, q = seen.class_features(self.v), seen.both @ self.v.matrix
        use = np.argwhere(q >= 0.08)
        share = 5 / np.bincount(use[:, 0], minlength=len(q))[use[:, 0]]
        keep = np.ones(len(use), bool) if unknown is None else ~unknown[use[:, 0], use[:, 1]]
        i, j = use[keep].T
        return x[i, j], right[i, j].astype(float), i, share[keep]

    def own_rows(self, family, seen, right, weight, shop):
        """(numbers, right, weight, shop) of the likeliest kind of a family in each photo."""
        mine = np.flatnonzero(self.v.family == family)
        best = mine[seen.fused[:, mine].argmax(1)]
        i = np.arange(len(best))
        return seen.own_features(self.v)[i, best], right[i, best].astype(float), weight, shop

    def learn(self, without=None):
        """The regressions, from all shops but one."""
        x, y, weight = [], [], []
        for numbers, right, photo, share, each, shop in self.classes:
            if shop is None:  # all of these photos together weigh as much as the catalogue
                keep = np.ones(len(photo), bool)
                each = each * (self.shop[: self.count] != without).sum()
            else:
                keep = shop[photo] != without
            x.append(numbers[keep]), y.append(right[keep]), weight.append(
                (each[photo] * share)[keep]
            )
        classes = logistic(*(np.concatenate(z) for z in (x, y, weight)))
        own = []
        for sources in self.own:
            parts = []
            for numbers, right, each, shop in sources:
                keep = np.ones(len(each), bool) if shop is None else shop != without
                parts.append((numbers[keep], right[keep], each[keep]))
            parts = [np.concatenate(z) for z in zip(*parts)]
            own.append(logistic(*parts) if parts[1].sum() >= 5 else None)
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
    lessons = Lessons(v, c, a)
    confidence = np.zeros((len(c.files), len(v.noun)))
    for shop in SHOPS:
        mine = np.flatnonzero(c.shop == shop)
        judge = lessons.learn(shop)
        confidence[mine] = judge.confidence(v, lessons.catalogue.rows(mine))
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
