"""The face detector as part of an ONNX graph: reads the .tflite file and adds its nodes.

Only what this file needs is known: convolutions, additions, paddings of channels, pooling,
resizing. Its weights are
stored as float16. 2,304 places of 4 x 4 pixels each say whether a face is centred there, and its
box.
"""

import numpy as np
import tflite

SIDE, CELLS = 192, 48
OPERATORS = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
SCORE, OVERLAP = 0.75, 0.3


class Reader:
    def __init__(self, path):
        self.model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)

    def value(self, index):
        """The constant of a tensor, None where it is computed."""
        tensor = self.graph.Tensors(index)
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        if not isinstance(data, np.ndarray) or not data.size:
            return None
        kind = {
            tflite.TensorType.FLOAT16: np.float16,
            tflite.TensorType.FLOAT32: np.float32,
            tflite.TensorType.INT32: np.int32,
        }[tensor.Type()]
        return data.view(kind).reshape(tensor.ShapeAsNumpy())

    def operators(self):
        for i in range(self.graph.OperatorsLength()):
            op = self.graph.Operators(i)
            code = self.model.OperatorCodes(op.OpcodeIndex())
            yield OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())], op


def options(op, kind):
    o = kind()
    o.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
    return o


def detector(m, path, pixels):
    """Adds the network; gives the names of the boxes [n, 2304, 16] and of the scores [n, 2304,
    1]."""
    r, names, values = Reader(path), {}, {}
    g = m.g
    side = m.op("Concat", m.op("Shape", pixels, start=0, end=2), m.axes(SIDE, SIDE), axis=0)
    names[r.graph.Inputs(0)] = m.op(
        "Resize", pixels, "", "", side, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    constant = lambda i: values[i] if i in values else r.value(i)

    def active(x, code):
        if code == tflite.ActivationFunctionType.RELU:
            return m.op("Relu", x)
        if code == tflite.ActivationFunctionType.NONE:
            return x
        raise SystemExit(f"activation {code} is unknown")

    for k, (name, op) in enumerate(r.operators()):
        ins, out = list(op.InputsAsNumpy()), op.Outputs(0)
        if name == "DEQUANTIZE":
            values[out] = r.value(ins[0])
        elif name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            deep = name != "CONV_2D"
            o = options(op, tflite.DepthwiseConv2DOptions if deep else tflite.Conv2DOptions)
            w = (
                constant(ins[1])
                .astype(np.float32)
                .transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2))
            )
            w = g.constant(f"face.{k}.w", w, half=True)
            b = g.constant(f"face.{k}.b", constant(ins[2]).astype(np.float32))
            shape = r.graph.Tensors(ins[1]).ShapeAsNumpy()
            x = g.add(
                "Conv",
                [names[ins[0]], w, b],
                f"face.{k}",
                kernel_shape=[int(shape[1]), int(shape[2])],
                strides=[o.StrideH(), o.StrideW()],
                group=int(shape[3]) if deep else 1,
                auto_pad="SAME_UPPER" if o.Padding() == tflite.Padding.SAME else "VALID",
            )
            names[out] = active(x, o.FusedActivationFunction())
        elif name == "RELU":
            names[out] = m.op("Relu", names[ins[0]])
        elif name == "ADD":
            names[out] = active(
                m.op("Add", names[ins[0]], names[ins[1]]),
                options(op, tflite.AddOptions).FusedActivationFunction(),
            )
        elif name == "PAD":
            p = constant(ins[1])[[0, 3, 1, 2]]
            names[out] = m.op("Pad", names[ins[0]], m.axes(*p[:, 0], *p[:, 1]))
        elif name == "MAX_POOL_2D":
            o = options(op, tflite.Pool2DOptions)
            x = m.op(
                "MaxPool",
                names[ins[0]],
                kernel_shape=[o.FilterHeight(), o.FilterWidth()],
                strides=[o.StrideH(), o.StrideW()],
                auto_pad="SAME_UPPER" if o.Padding() == tflite.Padding.SAME else "VALID",
            )
            names[out] = active(x, o.FusedActivationFunction())
        elif name == "RESIZE_BILINEAR":
            o = options(op, tflite.ResizeBilinearOptions)
            height, width = (int(v) for v in constant(ins[1]))
            mode = (
                "half_pixel"
                if o.HalfPixelCenters()
                else "align_corners" if o.AlignCorners() else "asymmetric"
            )
            to = m.op(
                "Concat",
                m.op("Shape", names[ins[0]], start=0, end=2),
                m.axes(height, width),
                axis=0,
            )
            names[out] = m.op(
                "Resize",
                names[ins[0]],
                "",
                "",
                to,
                mode="linear",
                coordinate_transformation_mode=mode,
            )
        elif name == "RESHAPE":
            last = int(r.graph.Tensors(out).ShapeAsNumpy()[2])
            names[out] = m.op(
                "Reshape",
                m.op("Transpose", names[ins[0]], perm=[0, 2, 3, 1]),
                m.axes(0, CELLS * CELLS, last),
            )
        else:
            raise SystemExit(f"{name} is unknown")
    boxes, scores = sorted(
        (r.graph.Outputs(0), r.graph.Outputs(1)),
        key=lambda i: -r.graph.Tensors(i).ShapeAsNumpy()[2],
    )
    return names[boxes], names[scores]


def faces(m, path, pixels):
    """(number of faces, score of the surest) of each picture, as floats [n]."""
    boxes, scores = detector(m, path, pixels)
    scores = m.op("Sigmoid", m.op("Clip", scores, -50.0, 50.0))
    y, x = np.mgrid[0:CELLS, 0:CELLS]
    centre = (np.stack([x, y], -1).reshape(1, -1, 2) + 0.5) / CELLS
    at = m.op(
        "Add",
        m.op("Div", m.op("Slice", boxes, m.axes(0), m.axes(2), m.axes(2)), float(SIDE)),
        centre,
    )
    size = m.op("Div", m.op("Slice", boxes, m.axes(2), m.axes(4), m.axes(2)), float(SIDE))
    wide = m.op("Concat", at, size, axis=2)  # x, y, width, height
    kept = m.op(
        "NonMaxSuppression",
        wide,
        m.op("Transpose", scores, perm=[0, 2, 1]),
        m.axes(8),
        m.c([OVERLAP]),
        m.c([SCORE]),
        center_point_box=1,
    )
    of = m.op("Slice", kept, m.axes(0), m.axes(1), m.axes(1))  # [faces, 1]: the picture of each
    pictures = m.op(
        "Range",
        m.c(np.int64(0), np.int64),
        m.op("Squeeze", m.op("Shape", pixels, start=0, end=1), m.axes(0)),
        m.c(np.int64(1), np.int64),
    )
    same = m.op("Cast", m.op("Equal", of, m.op("Unsqueeze", pictures, m.axes(0))), to=1)
    count = m.op("ReduceSum", same, m.axes(0), keepdims=0)
    best = m.op("ReduceMax", m.op("Squeeze", scores, m.axes(2)), axes=[1], keepdims=0)
    return count, best
