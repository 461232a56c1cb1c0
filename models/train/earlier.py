"""What the two networks of the first default model see: cache/earlier_NAME.npz.

They were trained from nothing on the project's own photos (train_encoder.py); their weights are
taken from the
encoder graph of the commit that last shipped them as the whole model.
"""

import argparse, json, subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from look import open_rgb, photos, session, sets

COMMIT_FILE = "models/default/onnx/encoder_model.onnx"
SIDE = 128
HEADS = ["kind", "product", "colour", "pattern", "background"]


def graph_of(cache):
    """The networks alone: pixels to the logits of every head of each of the two."""
    path = cache / "earlier.onnx"
    if not path.exists():
        commit = json.loads((Path(__file__).parent / "earlier.json").read_text())["commit"]
        path.write_bytes(
            subprocess.run(
                ["git", "show", f"{commit}:{COMMIT_FILE}"], check=True, stdout=subprocess.PIPE
            ).stdout
        )
    return onnx.load(path)


def logits_names(model):
    """For each head the tensors of the first and of the second network: what is added up before
    the halving."""
    made = {o: n for n in model.graph.node for o in n.output}
    names = []
    for i in range(len(HEADS)):
        div = made[f"/eyes/Div{'_%d' % i if i else ''}_output_0"]
        names.append(list(made[div.input[0]].input))
    return names


def networks(cache, which=(0, 1)):
    model = graph_of(cache)
    names = logits_names(model)
    wanted = [pair[w] for pair in names for w in which]
    return pruned(model, wanted), wanted


def pruned(model, outputs):
    """The part of a graph that these outputs need."""
    needed, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed.update(node.input)
    constants = [c for c in model.graph.initializer if c.name in needed]
    values = [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["batch", None]) for o in outputs]
    graph = helper.make_graph(nodes, "part", list(model.graph.input), values, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def prepared(picture):
    x = np.asarray(picture.resize((SIDE, SIDE), Image.BILINEAR)).astype(np.float64) / 255
    return ((x.astype(np.float32) - np.float32(0.5)) / np.float32(0.25)).transpose(2, 0, 1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    part, wanted = networks(a.cache)
    eyes = session(part.SerializeToString())
    held = {
        (r["set"], r["file"])
        for r in json.load(open(a.cache / "rows.json"))
        if r["part"] != "train"
    }
    for name in sets(a.training):
        out = a.cache / f"earlier_{name}.npz"
        if out.exists():
            continue
        files, got = [], []
        for file, data in photos(a.training, name):
            if name in ("clothing-cc0", "grocery-store") and (name, file) not in held:
                continue  # they were trained on
            found = eyes.run(wanted, {"pixel_values": prepared(open_rgb(data))[None]})
            files.append(file)
            got.append([v[0].astype(np.float16) for v in found])
        arrays = {}
        for k, values in enumerate(zip(*got)):
            arrays[f"{HEADS[k // 2]}{k % 2}"] = np.stack(values)
        np.savez(out, files=files, **arrays)
        print(name, len(files), flush=True)


if __name__ == "__main__":
    main()
