"""Which part of a photo is the thing: cache/masks_NAME.npz, by U²-Net (the small one), offline.

The masks (65 x 65) teach the mask head of the encoder. Of the large sets every so many photos is
looked at.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from look import open_rgb, photos, session, sets
from weights import file_of

SIDE, SMALL = 160, 65
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--each", type=int, default=24, help="of the large sets, every so many photos")
    a = p.parse_args()
    model = onnx.load(file_of(a.cache, "mask"))
    for axis in (2, 3):  # it is made for 320 px, but reads any size
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    del model.graph.value_info[:]
    net = session(model.SerializeToString())
    name_in = net.get_inputs()[0].name
    for name in sets(a.training):
        out = a.cache / f"masks_{name}.npz"
        if out.exists():
            continue
        files, got = [], []
        for i, (file, data) in enumerate(photos(a.training, name)):
            if name in ("clothing-cc0", "grocery-store") and i % a.each:
                continue
            x = np.asarray(open_rgb(data).resize((SIDE, SIDE), Image.BILINEAR), np.float32)
            x = (x / max(x.max(), 1) - MEAN) / STD
            y = net.run(None, {name_in: x.transpose(2, 0, 1)[None]})[0][0, 0]
            y = (y - y.min()) / max(y.max() - y.min(), 1e-6)
            small = Image.fromarray((y * 255).astype(np.uint8)).resize((SMALL, SMALL), Image.BOX)
            files.append(file)
            got.append(np.asarray(small))
        np.savez(out, files=files, mask=np.stack(got))
        print(name, len(files), flush=True)


if __name__ == "__main__":
    main()
