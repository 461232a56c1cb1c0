"""Measures colour, pattern and background words from the pixels, because the labels lack them.

Writes cache/measured.npz: colour [n, 14] (shares of the colour words in the goods' pixels), colour_word,
pattern, background (word numbers, -1 = cannot be told), mask [n, 44, 44] (share of goods in a cell) and
mask_ok (the goods stand out well enough to be cut out).

How: the pixels near the border are described by three Lab clusters; goods are what lies far from them
(Otsu) in the picture's middle. Each goods pixel gets a colour word by lightness, chroma and hue. For loose
groceries only the words that such goods can have are counted. Stripes and checks are peaks in the spectrum
of the middle of the garment. The background word is the word of the border pixels.
"""
import argparse, json
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from data import CLOTHES, KINDS, NONE

COLOURS = ["white", "black", "grey", "red", "orange", "yellow", "green", "blue", "navy", "purple", "pink", "brown",
           "beige", "multicoloured"]
PATTERNS = ["plain", "striped", "checked", "patterned"]
BACKGROUNDS = ["white", "grey", "dark", "wooden", "beige", "red", "pink", "blue", "green", "shop"]
W = {word: i for i, word in enumerate(COLOURS)}

# Colours that a loose fruit or vegetable can show; the pixel count is limited to them.
POSSIBLE = {
    "Apple": "red green yellow", "Avocado": "green black", "Banana": "yellow green", "Kiwi": "brown",
    "Lemon": "yellow", "Lime": "green", "Mango": "green red yellow", "Melon": "green yellow", "Nectarine": "red orange",
    "Orange": "orange", "Papaya": "green yellow orange", "Passion Fruit": "purple", "Peach": "orange red",
    "Pear": "green yellow red", "Pineapple": "brown green", "Plum": "purple red", "Pomegranate": "red", "Red Grapefruit": "orange",
    "Satsumas": "orange", "Asparagus": "green", "Aubergine": "purple", "Cabbage": "green white",
    "Carrots": "orange", "Cucumber": "green", "Garlic": "white", "Ginger": "brown", "Leek": "green",
    "Mushroom": "brown white", "Onion": "brown", "Pepper": "red green yellow orange", "Potato": "brown",
    "Red Beet": "purple", "Tomato": "red", "Zucchini": "green"}
NO_PATTERN = {"shoes", "hat"}
QUILTED = {"trousers", "jacket or coat"}  # their folds and seams look like a pattern


def lab(rgb):
    """sRGB bytes [..., 3] to CIE Lab (D65)."""
    c = rgb.astype(np.float32) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]], np.float32)
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1.0, 1.089], np.float32), 0.008856))
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def words_of(pixels, green_from=106):
    """The colour word of each Lab pixel. Fruit that is half way between green and yellow is called green."""
    L, a, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    C, h = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    out = np.full(L.shape, W["grey"])

    def put(word, where):
        out[where] = W[word]
    chroma = C >= 10
    put("red", chroma & ((h < 46) | (h >= 350)))
    put("orange", chroma & (h >= 46) & (h < 74))
    put("yellow", chroma & (h >= 74) & (h < green_from))
    put("green", chroma & (h >= green_from) & (h < 205))
    put("blue", chroma & (h >= 205) & (h < 304))
    put("purple", chroma & (h >= 304) & (h < 334))
    put("pink", chroma & (h >= 334) & (h < 350))
    put("pink", chroma & ((h < 16) | (h >= 338)) & (L > 43))
    put("pink", chroma & ((h < 40) | (h >= 340)) & (L > 58) & (C < 50))
    put("pink", chroma & (h < 60) & (L > 70) & (C < 32))
    put("red", chroma & (h >= 334) & (L <= 46) & (C > 18))
    warm = (h >= 20) & (h < 100)
    put("brown", chroma & warm & (L < 52) & (C < 40) & (h >= 40))
    put("brown", chroma & warm & (L < 42) & (C < 24))
    put("green", chroma & (h >= 95) & (h < 110) & (L < 55))
    put("beige", (C >= 9) & (C < 30) & (h >= 55) & (h < 110) & (L >= 52))
    put("navy", (C >= 8) & (h >= 240) & (h < 310) & (L < 33))
    put("blue", (C >= 6) & (h >= 230) & (h < 290) & (L >= 33) & (C < 12))
    put("black", (L < 24) & (C < 9) | (L < 13))
    put("white", (L > 74) & (C < 9))
    return out


def clusters(points, k=3, rounds=6):
    order = np.argsort(points[:, 0])
    centres = points[order[np.linspace(0, len(order) - 1, k + 2).astype(int)[1:-1]]]
    for _ in range(rounds):
        near = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        centres = np.stack([points[near == i].mean(0) if (near == i).any() else centres[i] for i in range(k)])
    return centres, np.bincount(near, minlength=k) / len(points)


def otsu(values):
    hist, edges = np.histogram(values, 64)
    p, mid = hist / hist.sum(), (edges[1:] + edges[:-1]) / 2
    w, m = np.cumsum(p), np.cumsum(p * mid)
    between = (m[-1] * w - m) ** 2 / np.maximum(w * (1 - w), 1e-6)
    return mid[between.argmax()]


N = 88
YY, XX = np.mgrid[0:N, 0:N] / (N - 1) * 2 - 1
MIDDLE = np.exp(-(XX**2 + YY**2) / (2 * 0.45**2))
ELLIPSE = (XX**2 / 0.45**2 + YY**2 / 0.55**2) < 1
RING = (np.maximum(abs(XX), abs(YY)) > 0.89)


def goods_mask(picture):
    """(mask, ok): which pixels are goods, and whether they stand out from the border."""
    centres, shares = clusters(picture[RING])
    centres = centres[shares > 0.08]
    d = np.sqrt((((picture[:, :, None] - centres) * np.array([0.7, 1, 1])) ** 2).sum(-1)).min(-1)
    mask = d > max(otsu(d), 9)
    inside, outside = mask[ELLIPSE].mean(), mask[RING].mean()
    if inside < 0.35:
        return ELLIPSE.copy(), False
    return mask, inside > 0.75 and outside < 0.12


def colour_of(picture, mask, kind):
    weight = mask * MIDDLE
    words = words_of(picture, 98 if len(CLOTHES) <= kind < NONE else 106)
    hist = np.bincount(words.ravel(), weight.ravel(), len(COLOURS))
    hist /= max(hist.sum(), 1e-6)
    if KINDS[kind] in POSSIBLE if kind < NONE else False:
        keep = np.zeros(len(COLOURS))
        for word in POSSIBLE[KINDS[kind]].split():
            keep[W[word]] = 1
        extra = {"purple": ["red", "brown", "black", "navy", "pink"], "brown": ["beige", "orange", "yellow"], "green": [],
                 "orange": ["yellow"] if not keep[W["yellow"]] else [], "red": ["pink"], "white": ["beige", "grey"],
                 "black": ["brown", "navy"], "yellow": ["beige"]}
        for word in POSSIBLE[KINDS[kind]].split():
            for cousin in extra.get(word, []):
                if not keep[W[cousin]]:
                    hist[W[word]] += hist[W[cousin]]
        hist = hist * keep
        hist = hist / hist.sum() if hist.sum() > 0.02 else keep / keep.sum()
        return hist, int(hist.argmax())
    median = words_of(np.median(picture[mask & ELLIPSE], axis=0)[None])[0] if (mask & ELLIPSE).any() else W["grey"]
    hist[median] += 0.35
    hist /= hist.sum()
    lively = [i for i in np.flatnonzero(hist > 0.13)]
    if hist.max() < 0.36 and len(lively) >= 4:
        hist *= 0.4
        hist[W["multicoloured"]] = 0.6
    return hist, int(hist.argmax())


def pattern_of(rgb, mask):
    """plain, striped, checked or patterned, from the middle of the garment; -1 where it cannot be told."""
    L = lab(rgb)
    L = L[..., 0] + 0.35 * L[..., 1] + 0.35 * L[..., 2]
    patch, inside = L[40:136, 44:132], np.kron(mask, np.ones((2, 2), bool))[40:136, 44:132]
    if inside.mean() < 0.75:
        return -1, (0, 0, 0, 0)
    patch = np.where(inside, patch, patch[inside].mean())

    def blur(x, r):
        for axis in (0, 1):
            pad = np.pad(x, [(r, r) if i == axis else (0, 0) for i in (0, 1)], "reflect")
            c = np.cumsum(np.insert(pad, 0, 0, axis), axis)
            x = (np.take(c, range(2 * r + 1, c.shape[axis]), axis) - np.take(c, range(c.shape[axis] - 2 * r - 1), axis)) / (2 * r + 1)
        return x
    detail = blur(patch, 1) - blur(patch, 9)
    cells = (abs(detail) > 6).reshape(6, 16, 4, 22).mean((1, 3))
    strong, spread = cells.mean(), (cells > 0.16).mean()
    window = np.hanning(detail.shape[0])[:, None] * np.hanning(detail.shape[1])[None]
    power = abs(np.fft.fftshift(np.fft.fft2(detail * window, (96, 96)))) ** 2
    fy, fx = np.mgrid[-48:48, -48:48]
    r, angle = np.hypot(fx, fy), np.degrees(np.arctan2(fy, fx)) % 180
    band = (r >= 6) & (r <= 30)
    by_angle = np.bincount((angle[band] / 10).astype(int) % 18, power[band], 18)
    by_angle /= by_angle.sum() + 1e-6
    near = by_angle + np.roll(by_angle, 1) + np.roll(by_angle, -1)
    first = near.argmax()
    across = near[(first + 9) % 18]
    if strong < 0.05:
        return 0, (strong, spread, near[first], across)
    if near[first] + across > 0.64 and across > 0.19 and spread > 0.6:
        return 2, (strong, spread, near[first], across)
    if near[first] > 0.66 and spread > 0.6:
        return 1, (strong, spread, near[first], across)
    if spread > 0.85 and strong > 0.3:
        return 3, (strong, spread, near[first], across)
    return -1, (strong, spread, near[first], across)


def background_of(picture, mask):
    ring = picture[RING & ~mask] if (RING & ~mask).sum() > 200 else picture[RING]
    words = np.bincount(words_of(ring), minlength=len(COLOURS)) / len(ring)
    L, a, b = np.median(ring, axis=0)
    C, h = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    B = BACKGROUNDS.index
    woody = ((np.hypot(ring[:, 1], ring[:, 2]) > 13) & (abs(np.degrees(np.arctan2(ring[:, 2], ring[:, 1])) - 68) < 20)).mean()
    if woody > 0.6 and L < 80 and C > 16 and ring[:, 0].std() > 3:
        return B("wooden")
    if words[W["white"]] > 0.6:
        return B("white")
    if words[W["black"]] + 0.7 * words[W["navy"]] > 0.6 or L < 22 and C < 12:
        return B("dark")
    for word in ("red", "pink", "blue", "green"):
        share = words[W[word]] + (words[W["navy"]] if word == "blue" else 0)
        if share > 0.6:
            return B(word)
    if words[W["beige"]] > 0.6 and C > 9:
        return B("beige")
    if words[W["grey"]] + words[W["white"]] > 0.65 and C < 10:
        return B("grey") if L < 76 else B("white")
    return -1


def one(job):
    rgb, kind = job
    small = lab(rgb.reshape(N, 2, N, 2, 3).mean((1, 3)).astype(np.uint8))
    mask, ok = goods_mask(small)
    grocery = len(CLOTHES) <= kind < NONE
    if grocery:
        mask, ok = np.ones_like(mask), False
    hist, word = colour_of(small, mask, kind)
    if grocery and KINDS[kind] not in POSSIBLE or kind == NONE:
        word = -1
    pattern = -1
    if kind < len(CLOTHES) and CLOTHES[kind] not in NO_PATTERN:
        pattern = pattern_of(rgb, mask)[0]
        pattern = -1 if pattern == 3 and CLOTHES[kind] in QUILTED else pattern
    background = BACKGROUNDS.index("shop") if grocery else background_of(small, mask) if kind < NONE else -1
    return hist, word, pattern, background, mask.reshape(44, 2, 44, 2).mean((1, 3)), ok


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    rows = json.load(open(a.cache / "rows.json"))
    pixels = np.load(a.cache / "pixels.npy", mmap_mode="r")
    with Pool(2) as pool:
        got = pool.map(one, ((pixels[i], r["kind"]) for i, r in enumerate(rows)), chunksize=64)
    hist, word, pattern, background, mask, ok = (np.array(x) for x in zip(*got))
    np.savez(a.cache / "measured.npz", colour=hist.astype(np.float32), colour_word=word, pattern=pattern,
             background=background, mask=(mask * 255).astype(np.uint8), mask_ok=ok)
    kinds = np.array([r["kind"] for r in rows])
    clothes = kinds < len(CLOTHES)
    print("clothing colours", {c: int((word[clothes] == i).sum()) for i, c in enumerate(COLOURS)})
    print("grocery colours", {c: int((word[~clothes] == i).sum()) for i, c in enumerate(COLOURS)})
    print("patterns", {c: int((pattern[clothes] == i).sum()) for i, c in enumerate(["?"] + PATTERNS, -1)})
    print("backgrounds", {c: int((background[clothes] == i).sum()) for i, c in enumerate(["?"] + BACKGROUNDS, -1)})
    print("can be cut out", int(ok[clothes].sum()), "of", int(clothes.sum()))


if __name__ == "__main__":
    main()
