"""What the pretrained networks see in every photo: cache/features_NAME.npz, resumable by set.

For the training photos and the catalogue: features and the 1,000 logits of Lite2 and Lite0 at 260
px.
"""

import argparse, csv, io, json, tarfile, time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from PIL import Image, ImageOps

from lite import Graph, linear, lite
from weights import file_of, read_pth

SIDE, MEAN, STD = 260, 127 / 255, 128 / 255
LARGE = ("grocery-store", "clothing-cc0")


def open_rgb(data):
    """What the engine does: upright, transparency becomes white."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def prepared(picture, side=SIDE):
    """What the engine feeds: Pillow's bilinear stretch, 1/255, mean and deviation."""
    x = np.asarray(picture.resize((side, side), Image.BILINEAR)).astype(np.float64) * (1 / 255)
    return ((x.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def pretrained(cache, names=("lite2", "lite0"), half=True):
    """A session that gives features and logits of the networks, in order."""
    g, outputs = Graph(half), []
    for name in names:
        arrays = read_pth(file_of(cache, name))
        flat, _, _ = lite(g, "pixel_values", arrays, name)
        logits = linear(g, flat, arrays["_fc.weight"].T, arrays["_fc.bias"], f"{name}.logits")
        outputs += [flat, logits]
    value = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None])
    pixels = helper.make_tensor_value_info(
        "pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"]
    )
    graph = helper.make_graph(g.nodes, "lite", [pixels], [value(n) for n in outputs], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return session(model.SerializeToString())


def session(model, threads=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options)


def photos(folder, name):
    """(file, bytes) of a training set, or of the catalogue."""
    if name == "catalogue":
        for row in csv.DictReader(open(folder.parent / "catalogue/products.csv")):
            yield row["file"], (folder.parent / "catalogue/images" / row["file"]).read_bytes()
        return
    with tarfile.open(folder / f"{name}.tar") as tar:
        for member in tar:
            if member.isfile():
                yield Path(member.name).name, tar.extractfile(member).read()


def sets(folder):
    return ["catalogue"] + sorted(
        {json.loads(line)["set"] for line in open(folder / "labels.jsonl")}
    )


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--without", help="a set that is left for another run")
    a = p.parse_args()
    both = pretrained(a.cache)
    names = sets(a.training)
    for name in sorted(names, key=lambda n: n in LARGE):
        out = a.cache / f"features_{name}.npz"
        if out.exists() or name == a.without:
            continue
        start, files, got = time.time(), [], []
        for file, data in photos(a.training, name):
            x = prepared(open_rgb(data))
            views = x[None]
            found = both.run(None, {"pixel_values": views})
            files.append(file)
            got.append([v.astype(np.float16) for v in found])
        arrays = dict(zip(("f2", "l2", "f0", "l0"), (np.stack(v) for v in zip(*got))))
        np.savez(out, files=files, **arrays)
        print(
            name, len(files), f"{(time.time() - start) / len(files) * 1000:.0f} ms each", flush=True
        )


if __name__ == "__main__":
    main()
