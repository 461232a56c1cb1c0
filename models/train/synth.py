"""Makes pictures that join the photos: drawn goods (draw.py) as their kinds, and pictures of nothing known as `none`.

Writes cache/drawn.npy + cache/drawn.json and cache/nothing.npy (uint8, 176 px). The nothing: blank and noisy
planes, gradients, loose shapes, charts, pages of text, shuffled photos of unknown goods, and floors, walls and
beds cut from the free edges of the clothing photos of the training part.
"""
import argparse, json, string
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data import KINDS, NONE, SIDE
from draw import THINGS, random_drawing
from measure import BACKGROUNDS, COLOURS, PATTERNS


def drawn(seed):
    picture, thing, colour, pattern, place = random_drawing(np.random.default_rng(10_000 + seed))
    kind = KINDS.index(THINGS[thing][1])
    row = {"thing": thing, "kind": kind, "colour": -1 if thing in ("milk", "juice") else COLOURS.index(colour),
           "pattern": PATTERNS.index(pattern) if kind < 17 and thing not in ("hat", "shoes") else -1, "background": BACKGROUNDS.index(str(place))}
    return np.asarray(picture.resize((SIDE, SIDE), Image.BILINEAR)), row


def noise(rng, n):
    """Cloudy noise with details of many sizes."""
    out = np.zeros((n, n, 3), np.float32)
    for size in (3, 6, 12, 24, 60, n):
        layer = rng.normal(0, 1, (size, size, 3 if rng.random() < 0.5 else 1)).repeat(1, -1)
        layer = np.broadcast_to(layer, (size, size, 3)).astype(np.float32)
        big = np.stack([np.asarray(Image.fromarray(layer[..., c]).resize((n, n), Image.BICUBIC)) for c in range(3)], -1)
        out += big * rng.uniform(0, 1) * rng.integers(0, 2)
    return np.clip(out * rng.uniform(20, 60) + rng.uniform(30, 225, 3), 0, 255).astype(np.uint8)


def colour(rng):
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def nothing(job):
    seed, photo, mask = job
    rng = np.random.default_rng(20_000 + seed)
    n = SIDE
    what = seed % 8
    if what == 0:  # a plain or shaded plane
        a, b = np.array(colour(rng), float), np.array(colour(rng), float)
        if rng.random() < 0.6:
            b = np.clip(a + rng.normal(0, 14, 3), 0, 255)
        t = np.mgrid[0:n, 0:n][rng.integers(2)] / n
        picture = Image.fromarray(np.clip(a + (b - a) * t[..., None] + rng.normal(0, rng.uniform(0, 5), (n, n, 1)), 0, 255).astype(np.uint8))
    elif what == 1:
        picture = Image.fromarray(noise(rng, n))
    elif what == 2:  # many loose shapes and lines
        picture = Image.new("RGB", (n, n), colour(rng))
        d = ImageDraw.Draw(picture)
        for _ in range(rng.integers(5, 30)):
            x, y, w, h = rng.integers(-20, n, 2).tolist() + rng.integers(8, 90, 2).tolist()
            form = rng.integers(4)
            if form == 0:
                d.rectangle((x, y, x + w, y + h), fill=colour(rng))
            elif form == 1:
                d.ellipse((x, y, x + w, y + h), outline=colour(rng), width=int(rng.integers(1, 6)))
            elif form == 2:
                d.polygon([tuple(rng.integers(0, n, 2).tolist()) for _ in range(3)], fill=colour(rng))
            else:
                d.line((x, y, *rng.integers(0, n, 2).tolist()), fill=colour(rng), width=int(rng.integers(1, 8)))
    elif what == 3:  # a page or a screen with text
        paper = (255, 255, 255) if rng.random() < 0.6 else colour(rng)
        picture = Image.new("RGB", (n, n), paper)
        d = ImageDraw.Draw(picture)
        y, letters = 6, string.ascii_letters + "     .,0123456789"
        ink = tuple(255 - v for v in paper)
        while y < n:
            size = int(rng.choice([8, 10, 12, 18, 26]))
            if rng.random() < 0.8:
                d.text((rng.integers(2, 40), y), "".join(rng.choice(list(letters), rng.integers(4, 40))), fill=ink, font_size=size)
            else:
                d.rectangle((8, y, n - rng.integers(8, 90), y + size), fill=colour(rng))
            y += size + int(rng.integers(1, 8))
    elif what == 4:  # a chart, or a logo-like sign
        picture = Image.new("RGB", (n, n), (250, 250, 250) if rng.random() < 0.7 else colour(rng))
        d = ImageDraw.Draw(picture)
        if rng.random() < 0.5:
            for k in range(rng.integers(3, 9)):
                d.rectangle((14 + k * 18, rng.integers(20, 140), 26 + k * 18, 150), fill=colour(rng))
            d.line((8, 8, 8, 152, 168, 152), fill=(0, 0, 0), width=2)
        else:
            start = 0
            for _ in range(rng.integers(2, 6)):
                end = start + int(rng.integers(30, 120))
                d.pieslice((30, 30, 146, 146), start, end, fill=colour(rng), outline=(255, 255, 255))
                start = end
            d.text((40, 150), "".join(rng.choice(list(string.ascii_uppercase), 6)), fill=(20, 20, 20), font_size=16)
    elif what in (5, 6):  # a free edge of a clothing photo
        picture = Image.fromarray(photo)
        free = mask < 40
        for _ in range(30):
            w = int(rng.integers(12, 22))
            x, y = rng.integers(0, 44 - w + 1, 2)
            if free[y:y + w, x:x + w].mean() > 0.97:
                picture = picture.crop((x * 4, y * 4, (x + w) * 4, (y + w) * 4)).resize((n, n), Image.BICUBIC)
                break
        else:
            return None
    else:  # a shuffled photo
        k = int(rng.choice([2, 3, 4]))
        step = n // k
        tiles = [photo[y * step:(y + 1) * step, x * step:(x + 1) * step] for y in range(k) for x in range(k)]
        order = rng.permutation(len(tiles))
        picture = Image.fromarray(np.concatenate([np.concatenate([tiles[order[y * k + x]] for x in range(k)], 1) for y in range(k)], 0)).resize((n, n))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    return np.asarray(picture.convert("RGB"))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--drawn", type=int, default=900)
    p.add_argument("--nothing", type=int, default=900)
    a = p.parse_args()
    rows = json.load(open(a.cache / "rows.json"))
    pixels = np.load(a.cache / "pixels.npy", mmap_mode="r")
    masks = np.load(a.cache / "measured.npz")
    ok, mask = masks["mask_ok"], masks["mask"]
    clothes = [i for i, r in enumerate(rows) if r["part"] == "train" and r["set"] == "clothing-cc0" and ok[i]]
    unknown = [i for i, r in enumerate(rows) if r["part"] == "train" and r["kind"] == NONE]
    rng = np.random.default_rng(5)
    with Pool(2) as pool:
        got = pool.map(drawn, range(a.drawn), chunksize=16)
        np.save(a.cache / "drawn.npy", np.stack([x for x, _ in got]))
        json.dump([r for _, r in got], open(a.cache / "drawn.json", "w"))
        source = [int(rng.choice(clothes if s % 8 in (5, 6) else unknown)) for s in range(a.nothing)]
        got = [x for x in pool.map(nothing, ((s, np.array(pixels[i]), mask[i]) for s, i in enumerate(source)), chunksize=16) if x is not None]
        np.save(a.cache / "nothing.npy", np.stack(got))
    print("drawn", a.drawn, "nothing", len(got))


if __name__ == "__main__":
    main()
