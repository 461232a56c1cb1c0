"""Reads labels.jsonl and the tar files and writes the cache that every other script uses.

cache/pixels.npy   uint8 [n, 176, 176, 3]: each photo stretched to a square by Pillow (bilinear)
cache/rows.json    one object per photo: file, set, kind, product, part

Parts: train, val (the threshold is chosen here), test (what is reported). Held out are whole
contributors (clothing), the dataset's own `test` split (groceries) and one whole shop of unknown
goods (contoso-traders). Nothing is ever split by row between train and the held-out parts.
"""
import argparse, hashlib, io, json, re, tarfile
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIDE = 176
ALWAYS_TRAINED = {"204", "181", "48", "260"}  # four contributors with a third of the clothing photos

CLOTHES = ["t-shirt", "long-sleeved top", "trousers", "shoes", "shirt", "dress", "jacket or coat", "shorts", "hat",
           "skirt", "polo shirt", "undershirt", "blazer", "hoodie", "baby bodysuit", "top", "blouse"]
GROCERIES = ["Apple", "Avocado", "Banana", "Kiwi", "Lemon", "Lime", "Mango", "Melon", "Nectarine", "Orange", "Papaya",
             "Passion Fruit", "Peach", "Pear", "Pineapple", "Plum", "Pomegranate", "Red Grapefruit", "Satsumas",
             "Juice", "Milk", "Oatghurt", "Oat Milk", "Sour Cream", "Sour Milk", "Soyghurt", "Soy Milk", "Yoghurt",
             "Asparagus", "Aubergine", "Cabbage", "Carrots", "Cucumber", "Garlic", "Ginger", "Leek", "Mushroom",
             "Onion", "Pepper", "Potato", "Red Beet", "Tomato", "Zucchini"]
KINDS = CLOTHES + GROCERIES
NONE = len(KINDS)


def share(text):
    """A fixed number in [0, 1) for a text: every split is made with it, so that it never changes."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def other_kind(row):
    """The kind of a photo from the small shop sets, None where the shop sells something we do not know."""
    name, category, shop = row["title"], row["category"], row["set"]
    if shop == "sylius-fixtures":
        for key, kind in (("caps", "hat"), ("dress", "dress"), ("jeans", "trousers"), ("t_shirt", "t-shirt")):
            if key in category:
                return kind
    if shop == "saleor-demo":
        return {"Sneakers": "shoes", "Sweatshirts": "hoodie", "Beanies": "hat"}.get(category)
    if shop in ("dotnet-eshop", "aws-retail-demo-store"):
        if re.search(r"Shoes|Sneakers|Hi-Tops|Boot|Boots\b|Deck Shoe", name):
            return "shoes"
        if re.search(r"Jacket", name):
            return "jacket or coat"
        if name == "Blue Shirt":
            return "shirt"
    return None


def part_of(row):
    if row["set"] == "clothing-cc0":
        if row["contributor"] in ALWAYS_TRAINED:
            return "train"
        s = share("contributor " + row["contributor"])
        return "train" if s < 0.72 else "val" if s < 0.80 else "test"
    if row["set"] == "grocery-store":
        if row["split"] != "test":
            return "train"
        return "val" if share(row["file"]) < 0.4 else "test"
    return "test" if row["set"] == "contoso-traders" else "train"


def read_rows(folder):
    rows = []
    for line in open(folder / "labels.jsonl"):
        row = json.loads(line)
        kind, product = None, None
        if row["set"] == "clothing-cc0":
            kind = row["kind"]
        elif row["set"] == "grocery-store":
            kind, product = row["subcategory"].split(" / ")[1], row["kind"]
        else:
            kind = other_kind(row)
        rows.append({"file": row["file"], "set": row["set"], "kind": KINDS.index(kind) if kind else NONE,
                     "product": product, "part": part_of(row)})
    return rows


def open_rgb(data):
    """What the engine does: upright, alpha dropped."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def square(data):
    return np.asarray(open_rgb(data).resize((SIDE, SIDE), Image.BILINEAR))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    a.cache.mkdir(parents=True, exist_ok=True)
    rows = read_rows(a.training)
    blobs = {}
    for name in sorted({r["set"] for r in rows}):
        with tarfile.open(a.training / f"{name}.tar") as tar:
            for member in tar:
                if member.isfile():
                    blobs[name, Path(member.name).name] = tar.extractfile(member).read()
    pixels = np.lib.format.open_memmap(a.cache / "pixels.npy", "w+", np.uint8, (len(rows), SIDE, SIDE, 3))
    with Pool(2) as pool:
        jobs = pool.imap(square, (blobs[r["set"], r["file"]] for r in rows), chunksize=32)
        for i, picture in enumerate(jobs):
            pixels[i] = picture
    pixels.flush()
    json.dump(rows, open(a.cache / "rows.json", "w"))
    for part in ("train", "val", "test"):
        mine = [r for r in rows if r["part"] == part]
        clothes = sum(r["kind"] < len(CLOTHES) for r in mine)
        unknown = sum(r["kind"] == NONE for r in mine)
        print(part, len(mine), "clothing", clothes, "groceries", len(mine) - clothes - unknown, "unknown", unknown)


if __name__ == "__main__":
    main()
