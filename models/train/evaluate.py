"""Every figure of the model card that does not need a shop left out: cache/report.json.

Catalogue photos and pictures of nothing go through the exported files as in the engine. Kinds of
the held-out photos are counted from what the networks saw of them (look.py, earlier.py), which is
the same arithmetic.
"""

import argparse, json, re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

import grammar as G
from data import CLOTHES, KINDS
from decide import Vocabulary
from folder import Folder
from leave_one_out import Catalogue, held_photos, see
from look import photos
from own_kinds import OTHER


def said(model, pixels, styles, batch=8):
    """(confidence, facts, texts by style) of each picture."""
    out = []
    for i in range(0, len(pixels), batch):
        hidden, sure = model.encode(pixels[i : i + batch])
        texts = {s: model.write(hidden, s)[0] for s in styles}
        out += [
            (float(sure[k]), [int(x) for x in hidden[k, :, 0]], {s: texts[s][k] for s in styles})
            for k in range(len(hidden))
        ]
    return out


def noun_right(v, c, i, number):
    """Whether a noun is right for photo i of the catalogue: any of its candidates is."""
    return any(c.right[i, j] for j in np.flatnonzero(v.noun == number))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--folder", type=Path, default=Path("models/default"))
    p.add_argument("--demo", type=Path, default=Path("demo"))
    p.add_argument("--eyes", type=int, nargs="+", default=[0])
    a = p.parse_args()
    model, v, report = Folder(a.folder, 1), Vocabulary(a.cache), {}
    c = Catalogue(a, v)
    items = list(photos(a.training, "catalogue"))
    got = said(model, [model.pixels(b) for _, b in items], ["concise", "seo"])
    written = np.array([g[0] >= model.threshold for g in got])
    right = np.array([noun_right(v, c, i, g[1][0]) for i, g in enumerate(got)])
    report["catalogue (tuned on)"] = {
        "photos": len(got),
        "written": written.mean(),
        "right of written": right[written].mean(),
        "without a word in the list": int(c.wordless.sum()),
        "of these written": int((written & c.wordless).sum()),
    }
    closing = Counter(re.split(r"(?<=\.) ", g[2]["seo"])[-1] for g, w in zip(got, written) if w)
    report["closing sentences"] = {
        "distinct": len(closing),
        "most frequent": closing.most_common(2),
        "its share": max(closing.values()) / written.sum(),
    }
    colours = Counter(G.COLOURS[g[1][1]] or "not said" for g, w in zip(got, written) if w)
    report["colours"] = dict(colours.most_common())
    json.dump(
        [[f, g[0], bool(r), *g[2].values()] for (f, _), g, r in zip(items, got, right)],
        open(a.cache / "catalogue_said.json", "w"),
        indent=0,
    )
    nothing = [model.pixels(Image.fromarray(x)) for x in np.load(a.cache / "held_nothing.npy")]
    report["blanks, noise, charts, text, floors"] = {
        "pictures": len(nothing),
        "written": sum(g[0] >= model.threshold for g in said(model, nothing, [])),
    }
    heads = dict(np.load(a.cache / "heads.npz"))
    *seen, kind = held_photos(a, "test")
    fused = see(v, heads, *seen).fused[:, : len(KINDS)].argmax(1)
    clothes = kind < len(CLOTHES)
    report["held out"] = {
        "clothing kind": (fused == kind)[clothes].mean(),
        "photos": int(clothes.sum()),
        "grocery kind": (fused == kind)[~clothes].mean(),
        "grocery photos": int((~clothes).sum()),
    }
    demo = sorted((a.demo / "images").iterdir())
    shown = said(model, [model.pixels(f.read_bytes()) for f in demo], ["concise"])
    report["demo"] = {"pictures": len(demo), "written": sum(g[0] >= model.threshold for g in shown)}
    for f, g in zip(demo, shown):
        print(f"{g[0]:.2f} {f.name}: {g[2]['concise']}")
    report["bytes"] = sum(f.stat().st_size for f in a.folder.rglob("*") if f.is_file())
    print(json.dumps(report, indent=1, default=float, ensure_ascii=False))
    json.dump(report, open(a.cache / "report.json", "w"), indent=1, default=float)


if __name__ == "__main__":
    main()
