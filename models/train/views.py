"""Other views of the training photos, and more pictures of nothing: cache/views_NAME.npz.

A view is a photo cropped, widened or mirrored, a little brighter or darker. Every photo of the
small shops and of the catalogue gets three, every training photo of the large sets one. The
pictures of nothing are those of synth.py with other seeds, shuffled photos of the small shops
(`source` is the shop), and textures, tables, scribbles and screens of text; "pieces" are more
shuffled photos, half of them of two halves that changed places.
"""

import argparse, json, string, zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from earlier import networks
from earlier import prepared as prepared_small
from look import LARGE, open_rgb, photos, prepared, pretrained, session, sets
from synth import colour, noise, nothing


def view(picture, rng):
    """A view of a photo: cropped or widened, mirrored or not, brighter or darker."""
    w, h = picture.size
    if rng.random() < 0.7:
        share = rng.uniform(0.75, 1.0, 2)
        x, y = (rng.uniform(0, 1 - s) for s in share)
        box = (x * w, y * h, (x + share[0]) * w, (y + share[1]) * h)
        picture = picture.crop([int(b) for b in box])
    else:
        edge = np.asarray(picture.resize((16, 16)))
        edge = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]])
        fill = tuple(int(x) for x in np.median(edge, 0))
        wide = tuple(int(rng.uniform(0.02, 0.15) * n) for n in (w, h))
        picture = ImageOps.expand(picture, wide + wide, fill)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.85, 1.15))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.85, 1.15))
    return ImageEnhance.Color(picture).enhance(rng.uniform(0.8, 1.2))


def shuffled(picture, rng):
    k = int(rng.choice([2, 3, 4, 5]))
    n = int(rng.choice([176, 240]))
    step = n // k
    x = np.asarray(picture.resize((step * k, step * k), Image.BILINEAR))
    tiles = x.reshape(k, step, k, step, 3).swapaxes(1, 2).reshape(k * k, step, step, 3)
    order = rng.permutation(k * k)
    while (order == np.arange(k * k)).all():
        order = rng.permutation(k * k)
    x = tiles[order].reshape(k, k, step, step, 3).swapaxes(1, 2).reshape(step * k, step * k, 3)
    picture = Image.fromarray(x)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    return picture


def halves(picture, rng):
    """A photo cut in two, the parts in each other's place."""
    n = int(rng.choice([176, 240]))
    x = np.asarray(picture.resize((n, n), Image.BILINEAR))
    return Image.fromarray(np.roll(x, n // 2, int(rng.integers(2))))


def text(rng, longest):
    return "".join(rng.choice(list(string.ascii_letters + "     .,0123456789"), longest))


def made(rng):
    """A texture, a table, a scribble, a diagram or a screen of text."""
    n, what = int(rng.choice([176, 260])), rng.integers(8)
    y, x = np.mgrid[0:n, 0:n]
    a, b = np.array(colour(rng), float), np.array(colour(rng), float)
    if what < 3:
        turn, period = rng.uniform(0, np.pi), rng.uniform(4, 50)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        if what == 0:  # stripes, soft or sharp
            wave = np.sin(along / period * 6.28)
            t = (wave > rng.uniform(-0.5, 0.5)) if rng.random() < 0.5 else (wave + 1) / 2
        elif what == 1:  # tiles or bricks, with joints
            row = np.floor(across / period)
            gap = period * rng.uniform(0.03, 0.15)
            shift = row % 2 * period * rng.choice([0, 0.5])
            t = (across % period < gap) | ((along + shift) % (period * rng.choice([1, 2])) < gap)
        else:  # grain, as of wood or cloth
            grain = rng.normal(0, 1, (n, max(2, int(n / period))))
            t = np.asarray(Image.fromarray(grain.astype(np.float32)).resize((n, n), Image.BICUBIC))
            t = np.clip(t * 0.25 + 0.5, 0, 1)
            t = t if rng.random() < 0.5 else t.T
        z = a + (b - a) * rng.uniform(0.2, 1) * np.asarray(t, float)[..., None]
        z = z + noise(rng, n) * 0.15 if rng.random() < 0.5 else z
        z = z + rng.normal(0, rng.uniform(0, 14), (n, n, 1))
        return Image.fromarray(np.clip(z, 0, 255).astype(np.uint8))
    paper = (255, 255, 255) if rng.random() < 0.6 else colour(rng)
    ink = (20, 20, 20) if sum(paper) > 380 else (235, 235, 235)
    picture = Image.new("RGB", (n, n), paper)
    d = ImageDraw.Draw(picture)
    if what == 3:  # a table
        rows, columns = rng.integers(3, 14), rng.integers(2, 7)
        for i in range(rows):
            for j in range(columns):
                box = [j * n / columns, i * n / rows, (j + 1) * n / columns, (i + 1) * n / rows]
                fill = colour(rng) if i == 0 and rng.random() < 0.5 else None
                d.rectangle(box, outline=ink, fill=fill)
                d.text((box[0] + 3, box[1] + 2), text(rng, rng.integers(2, 9)), fill=ink)
    elif what == 4:  # a scribble, or a line chart
        for _ in range(rng.integers(1, 7)):
            steps = rng.normal(0, n / 12, (rng.integers(8, 60), 2)).cumsum(0) + n / 2
            if rng.random() < 0.5:
                steps[:, 0] = np.linspace(10, n - 10, len(steps))
            line = [tuple(p) for p in steps]
            d.line(line, fill=colour(rng), width=int(rng.integers(1, 6)))
        if rng.random() < 0.5:
            d.line((10, 10, 10, n - 10, n - 10, n - 10), fill=ink, width=2)
    elif what == 5:  # boxes with lines between them
        boxes = [rng.integers(5, n - 60, 2) for _ in range(rng.integers(3, 9))]
        for p, q in zip(boxes, boxes[1:]):
            d.line((*p, *q), fill=ink, width=2)
        for p in boxes:
            d.rectangle((*p, *(p + rng.integers(20, 60, 2))), fill=colour(rng), outline=ink)
            d.text(tuple(p + 4), text(rng, rng.integers(3, 9)), fill=ink)
    elif what == 6:  # a page in columns, or a screen with a bar and fields
        if rng.random() < 0.5:
            d.rectangle((0, 0, n, rng.integers(12, 40)), fill=colour(rng))
            d.rectangle((0, 0, rng.integers(20, 80), n), fill=colour(rng))
        columns, size = rng.integers(1, 4), int(rng.integers(7, 14))
        for j in range(columns):
            for at in range(int(rng.integers(8, 50)), n, size + 3):
                if rng.random() < 0.9:
                    d.text(
                        (8 + j * n / columns, at),
                        text(rng, n // columns // size * 2),
                        fill=ink,
                        font_size=size,
                    )
    else:  # a few large letters, as of a sign
        for _ in range(rng.integers(1, 4)):
            at = tuple(int(p) for p in rng.integers(0, n // 2, 2))
            d.text(
                at,
                text(rng, rng.integers(1, 8)),
                fill=colour(rng),
                font_size=int(rng.integers(20, 90)),
            )
    if rng.random() < 0.3:
        picture = picture.rotate(rng.uniform(-20, 20), fillcolor=paper)
    return picture


def nothings(a):
    """(picture, source) of the pictures of nothing."""
    rows = json.load(open(a.cache / "rows.json"))
    pixels = np.load(a.cache / "pixels.npy", mmap_mode="r")
    masks = np.load(a.cache / "measured.npz")
    clothes = [
        i
        for i, r in enumerate(rows)
        if r["part"] == "train" and r["set"] == "clothing-cc0" and masks["mask_ok"][i]
    ]
    mask, rng = masks["mask"], np.random.default_rng(77)
    for s in range(300):
        yield made(rng), "made"
    for s in range(700):
        if s % 8 != 7:
            i = int(rng.choice(clothes))
            x = nothing((300_000 + s, np.array(pixels[i]), mask[i]))
            if x is not None:
                yield Image.fromarray(x), "made"
    for name in [n for n in sets(a.training) if n not in LARGE and n != "catalogue"]:
        for file, data in photos(a.training, name):
            for _ in range(2):
                yield shuffled(open_rgb(data), rng), name


def pieces(a):
    """(picture, source) of photos cut up: of each of the small shops, and of the clothing."""
    held = {
        r["file"]
        for r in json.load(open(a.cache / "rows.json"))
        if r["set"] == "clothing-cc0" and r["part"] != "train"
    }
    for name in [n for n in sets(a.training) if n not in ("catalogue", "grocery-store")]:
        for file, data in photos(a.training, name):
            rng = np.random.default_rng(zlib.crc32(file.encode()) + 1)
            if name == "clothing-cc0" and (file in held or rng.random() < 0.9):
                continue
            picture = open_rgb(data)
            for _ in range(2):
                yield shuffled(picture, rng), name
                yield halves(picture, rng), name


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    both = pretrained(a.cache)
    part, wanted = networks(a.cache, (0,))
    eyes = session(part.SerializeToString())

    def seen(picture):
        found = both.run(None, {"pixel_values": prepared(picture)[None]})
        kind = eyes.run(wanted[:1], {"pixel_values": prepared_small(picture)[None]})[0]
        return [v[0].astype(np.float16) for v in (*found, kind)]

    trained = {r["file"] for r in json.load(open(a.cache / "rows.json")) if r["part"] == "train"}
    made_up = {"nothing": nothings, "pieces": pieces}
    small = [n for n in sets(a.training) if n not in LARGE]
    for name in ["nothing", *small, "pieces", *LARGE]:
        out = a.cache / f"views_{name}.npz"
        if out.exists():
            continue
        files, got = [], []
        if name in made_up:
            for picture, source in made_up[name](a):
                files.append(source)
                got.append(seen(picture))
        else:
            for file, data in photos(a.training, name):
                if name in LARGE and file not in trained:
                    continue
                rng = np.random.default_rng(zlib.crc32(file.encode()))
                for _ in range(1 if name in LARGE else 3):
                    files.append(file)
                    got.append(seen(view(open_rgb(data), rng)))
        arrays = dict(zip(("f2", "l2", "f0", "l0", "kind0"), (np.stack(v) for v in zip(*got))))
        np.savez(out, files=files, **arrays)
        print(name, len(files), flush=True)


if __name__ == "__main__":
    main()
