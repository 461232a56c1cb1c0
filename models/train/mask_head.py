"""The mask head: which part of a photo is the thing, from Lite2's map of stride 16. Writes
cache/mask_head.npz.

A ridge regression from the 120 channels of a cell to the mask of U²-Net (masks.py), read as a
logit.
"""

import argparse
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from lite import Graph, lite
from look import LARGE, open_rgb, photos, prepared, session, sets
from weights import file_of, read_pth


def map_session(cache):
    g = Graph()
    _, _, middle = lite(g, "pixel_values", read_pth(file_of(cache, "lite2")), "lite2")
    at = next(i for i, n in enumerate(g.nodes) if middle in n.output)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes[: at + 1],
        "map",
        [value("pixel_values", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [value(middle, TensorProto.FLOAT, ["batch", None, None, None])],
        [c for c in g.constants if any(c.name in n.input for n in g.nodes[: at + 1])],
    )
    return session(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--ridge", type=float, default=30.0)
    a = p.parse_args()
    net, x, held = map_session(a.cache), [], []
    for name in sets(a.training):
        path = a.cache / f"masks_{name}.npz"
        if name == "catalogue" or not path.exists():
            continue  # what the catalogue's small shops have is in their sets; the rest stays unseen
        d = np.load(path)
        wanted = {str(f): m for f, m in zip(d["files"], d["mask"])}
        for i, (file, data) in enumerate(photos(a.training, name)):
            if file not in wanted or name not in LARGE and i % 2:
                continue
            found = net.run(None, {"pixel_values": prepared(open_rgb(data))[None]})[0][0]
            side = found.shape[1]
            at = np.linspace(0, 64, side).round().astype(int)
            mask = wanted[file].astype(np.float32)[np.ix_(at, at)] / 255
            photo = found.reshape(found.shape[0], -1).T, mask.ravel()
            (held if (len(x) + len(held)) % 10 == 9 else x).append(photo)
    cells, target = (np.concatenate(v) for v in zip(*x))
    mean = cells.mean(0)
    z = cells - mean
    goal = np.where(target > 0.5, 1.0, -1.0)
    w = np.linalg.solve(
        z.T @ z + a.ridge * len(z) / 100 * np.eye(z.shape[1]), z.T @ (goal - goal.mean())
    )
    b = goal.mean() - mean @ w
    sure = np.mean([((m @ w + b > 0) == (t > 0.5)).mean() for m, t in held])
    np.savez(a.cache / "mask_head.npz", w=(4 * w).astype(np.float32), b=np.float32(4 * b))
    print(len(x), "photos; cells right in", len(held), f"others: {sure:.3f}")


if __name__ == "__main__":
    main()
