"""EfficientNet-Lite as an ONNX graph, from arrays: batch normalisation is folded into the
convolutions.

The stages follow from the shapes of the weights: a new stage begins where the number of channels
changes.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

EPSILON = 1e-3
STRIDES = [1, 2, 2, 2, 1, 2, 1]  # of the first block of each stage


def fold(arrays, conv, norm):
    """Weight and bias of a convolution with its batch normalisation."""
    w = arrays[f"{conv}.weight"].astype(np.float64)
    scale = arrays[f"{norm}.weight"] / np.sqrt(arrays[f"{norm}.running_var"] + EPSILON)
    bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * scale
    return (w * scale[:, None, None, None]).astype(np.float32), bias.astype(np.float32)


def plan(arrays):
    """(block, stride, kernel, expands, adds its input) of every block."""
    blocks, channels, stage, i = [], 0, -1, 0
    while f"_blocks.{i}._project_conv.weight" in arrays:
        name = f"_blocks.{i}"
        out = arrays[f"{name}._project_conv.weight"].shape[0]
        first = out != channels
        stage += first
        kernel = arrays[f"{name}._depthwise_conv.weight"].shape[2]
        expands = f"{name}._expand_conv.weight" in arrays
        blocks.append((name, STRIDES[stage] if first else 1, kernel, expands, not first))
        channels, i = out, i + 1
    return blocks


class Graph:
    """Nodes and constants under construction. Weights are stored as float16 where `half` says
    so."""

    def __init__(self, half=True):
        self.nodes, self.constants, self.half, self.made = [], [], half, {}

    def constant(self, name, value, half=False):
        """A constant; equal ones are kept once."""
        value = np.asarray(value)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size < 64 else name
        if key in self.made:
            return self.made[key]
        if half and self.half:
            self.constants.append(numpy_helper.from_array(value.astype(np.float16), name + ".half"))
            self.nodes.append(
                helper.make_node(
                    "Cast", [name + ".half"], [name], name=name + ".cast", to=TensorProto.FLOAT
                )
            )
        else:
            self.constants.append(numpy_helper.from_array(value, name))
        self.made[key] = name
        return name

    def add(self, op, inputs, name, outputs=1, **attributes):
        outs = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, name=name + ".node", **attributes))
        return outs[0] if outputs == 1 else outs


def conv(g, x, name, weight, bias, stride=1, group=1, act=True):
    w = g.constant(name + ".w", weight, half=True)
    b = g.constant(name + ".b", bias)
    k = weight.shape[2]
    y = g.add(
        "Conv",
        [x, w, b],
        name,
        kernel_shape=[k, k],
        strides=[stride, stride],
        group=group,
        auto_pad="SAME_UPPER",
    )
    if not act:
        return y
    low, high = g.constant("zero", np.float32(0)), g.constant("six", np.float32(6))
    return g.add("Clip", [y, low, high], name + ".relu6")


def lite(g, x, arrays, prefix, half_map=None):
    """Adds the network to a graph; gives the names of the features [n, 1280], their map, and the
    map of stride 16."""
    w, b = fold(arrays, "_conv_stem", "_bn0")
    x = conv(g, x, f"{prefix}.stem", w, b, 2)
    middle, size = None, 2
    for name, stride, kernel, expands, adds in plan(arrays):
        if stride == 2 and size == 16:
            middle = x
        size *= stride
        y, at = x, f"{prefix}.{name[1:]}"
        if expands:
            y = conv(g, y, f"{at}.expand", *fold(arrays, f"{name}._expand_conv", f"{name}._bn0"))
        w, b = fold(arrays, f"{name}._depthwise_conv", f"{name}._bn1")
        y = conv(g, y, f"{at}.depthwise", w, b, stride, len(w))
        w, b = fold(arrays, f"{name}._project_conv", f"{name}._bn2")
        y = conv(g, y, f"{at}.project", w, b, act=False)
        x = g.add("Add", [x, y], f"{at}.add") if adds else y
    w, b = fold(arrays, "_conv_head", "_bn1")
    x = conv(g, x, f"{prefix}.head", w, b)
    pooled = g.add("GlobalAveragePool", [x], f"{prefix}.pool")
    flat = g.add("Flatten", [pooled], f"{prefix}.features", axis=1)
    return flat, x, middle


def linear(g, x, weight, bias, name):
    """x [n, i] times weight [i, o] plus bias."""
    y = g.add(
        "MatMul",
        [x, g.constant(name + ".w", weight.astype(np.float32), half=True)],
        name + ".product",
    )
    return g.add("Add", [y, g.constant(name + ".b", bias.astype(np.float32))], name)
