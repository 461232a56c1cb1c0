"""Writes the folder models/default: the encoder's graph, the compiled decoder, the tokenizer and
the configuration.

Needs cache/heads.npz (heads.py), cache/mask_head.npz (mask_head.py), what the networks saw of the
catalogue and of the
validation part (look.py, earlier.py): on these the probabilities are calibrated. The threshold is
given by
leave_one_out.py.
"""

import argparse, json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import grammar as G
from compile_decoder import EOS, PAD, SPECIAL, STARTS, WIDTH
from data import CLOTHES, KINDS
from decide import (
    LOW,
    REFUSAL,
    REFUSED,
    RIVALS,
    SPECIFIC,
    T_BOTH,
    T_ONE,
    Vocabulary,
    rank,
)
from earlier import networks
from faces import faces
from heads import PROBE
from leave_one_out import Catalogue, Lessons, heads_of
from lite import Graph, linear, lite
from look import MEAN, SIDE, STD
from measure import BACKGROUNDS, COLOURS, lab, words_of
from own_kinds import ALL, OTHER
from weights import file_of, read_pth

FACE = (
    0.95  # a face's score becomes the confidence in "a person"; not calibrated, for want of photos
)
STEPS = 32  # of a colour channel in the table of colour words


class Maths:
    """Shorthand for nodes over floats."""

    def __init__(self, g):
        self.g, self.n = g, 0

    def c(self, value, dtype=np.float32):
        self.n += 1
        return self.g.constant(f"m{self.n}", np.asarray(value, dtype))

    def op(self, kind, *inputs, **attributes):
        self.n += 1
        inputs = [x if isinstance(x, str) else self.c(x) for x in inputs]
        return self.g.add(kind, inputs, f"{kind.lower()}{self.n}", **attributes)

    def axes(self, *n):
        return self.c(n, np.int64)

    def odds(self, p):
        p = self.op("Clip", p, LOW, 1 - LOW)
        return self.op("Sub", self.op("Log", p), self.op("Log", self.op("Sub", 1.0, p)))

    def total(self, *terms):
        out = terms[0]
        for t in terms[1:]:
            out = self.op("Add", out, t)
        return out

    def small_table(self, name, values):
        """A table of small whole numbers, stored in bytes."""
        stored = self.g.constant(name + ".bytes", np.asarray(values, np.uint8))
        return self.g.add("Cast", [stored], name, to=TensorProto.FLOAT)


def earlier_part(m, cache):
    """The first of the earlier networks, at 128 px: logits of kind, product, colour, pattern,
    background."""
    part, wanted = networks(cache, (0,))
    x = m.op(
        "Resize",
        "pixel_values",
        "",
        "",
        m.op("Concat", m.op("Shape", "pixel_values", start=0, end=2), m.axes(256, 256), axis=0),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    x = m.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m.op("Add", m.op("Mul", x, STD / 0.25), (MEAN - 0.5) / 0.25)
    rename = lambda n: (
        x
        if n == "pixel_values"
        else "" if not n else "earlier" + n if n.startswith("/") else "earlier/" + n
    )
    for constant in part.graph.initializer:
        constant.name = rename(constant.name)
        m.g.constants.append(constant)
    for node in part.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"earlier/{node.output[0]}.node"
        del copy.input[:], copy.output[:]
        copy.input.extend(rename(i) for i in node.input)
        copy.output.extend(rename(o) for o in node.output)
        m.g.nodes.append(copy)
    return [rename(o) for o in wanted]


def colour_table():
    """The colour word of every colour, as COLOURS + 1, 0 standing for none."""
    levels = (np.arange(STEPS) + 0.5) * 256 / STEPS
    r, g, b = np.meshgrid(levels, levels, levels, indexing="ij")
    colours = lab(np.stack([r, g, b], -1).reshape(-1, 3))
    words = words_of(colours)
    # Tan leather and wood are brown, not orange.
    dull = (
        (words == COLOURS.index("orange"))
        & (np.hypot(colours[:, 1], colours[:, 2]) < 58)
        & (colours[:, 0] < 66)
    )
    return np.where(dull, COLOURS.index("brown"), words) + 1


def looks(m, middle, head):
    """Colour of the thing and word of its surroundings: (colour, place), each as a number, 0 where
    not known."""
    w, b = head["w"], head["b"]
    mask = m.op("Conv", middle, w.reshape(1, -1, 1, 1), np.array([b]))
    side = m.op("Concat", m.op("Shape", mask, start=0, end=2), m.axes(65, 65), axis=0)
    mask = m.op(
        "Sigmoid",
        m.op(
            "Resize",
            mask,
            "",
            "",
            side,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
    )
    small = m.op("AveragePool", "pixel_values", kernel_shape=[4, 4], strides=[4, 4])  # 65 px
    level = m.op("Add", m.op("Mul", small, 128 / 256 * STEPS), 127 / 256 * STEPS)
    level = m.op("Floor", m.op("Clip", level, 0.0, STEPS - 1.0))
    index = m.op(
        "ReduceSum",
        m.op("Mul", level, np.array([STEPS * STEPS, STEPS, 1]).reshape(1, 3, 1, 1)),
        m.axes(1),
        keepdims=0,
    )
    index = m.op("Reshape", m.op("Cast", index, to=TensorProto.INT64), m.axes(0, -1))
    words = m.op("Gather", m.g.constant("colour_words", colour_table().astype(np.uint8)), index)
    hot = m.op(
        "Equal",
        m.op("Unsqueeze", m.op("Cast", words, to=TensorProto.INT64), m.axes(2)),
        m.c(np.arange(1, len(COLOURS) + 1), np.int64),
    )
    hot = m.op("Cast", hot, to=TensorProto.FLOAT)  # [n, cells, words]
    flat = m.op("Reshape", mask, m.axes(0, 1, -1))
    y, x = np.mgrid[0:65, 0:65] / 64 * 2 - 1
    middle_weight = np.exp(-(x**2 + y**2) / (2 * 0.6**2)).reshape(1, 1, -1)
    edge = (np.maximum(abs(x), abs(y)) > 0.9).reshape(1, 1, -1)

    def shares(weight):
        hist = m.op("Squeeze", m.op("MatMul", weight, hot), m.axes(1))
        return m.op("Div", hist, m.op("Add", m.op("ReduceSum", hist, m.axes(1), keepdims=1), 1e-6))

    goods = shares(m.op("Mul", m.op("Pow", flat, 2.0), middle_weight))
    # Grey and white are what shadows, reflections and walls are, too: they must be seen on more
    # of the thing.
    need = np.full(len(COLOURS), 0.5, np.float32)
    for word, share in (("grey", 0.7), ("white", 0.7), ("beige", 0.55)):
        need[COLOURS.index(word)] = share
    sure = m.op("Sub", goods, need)
    best = m.op("ArgMax", sure, axis=1, keepdims=0)
    said = m.op("GreaterOrEqual", m.op("ReduceMax", sure, axes=[1], keepdims=0), 0.0)
    lively = m.op(
        "ReduceSum",
        m.op("Cast", m.op("Greater", goods, 0.1), to=TensorProto.FLOAT),
        m.axes(1),
        keepdims=0,
    )
    mixed = m.op(
        "And",
        m.op("GreaterOrEqual", lively, 5.0),
        m.op("Less", m.op("ReduceMax", goods, axes=[1], keepdims=0), 0.25),
    )
    zero, one = m.c(0, np.int64), m.c(1, np.int64)
    colour = m.op("Where", said, m.op("Add", best, one), zero)
    colour = m.op("Where", mixed, m.c(COLOURS.index("multicoloured") + 1, np.int64), colour)
    around = shares(m.op("Mul", m.op("Sub", 1.0, m.op("Mul", flat, 0.8)), edge))
    # Words of surroundings: those of PLACES, from the colour words.
    sums = np.zeros((len(COLOURS), len(G.PLACES)), np.float32)
    for word, place in (
        ("white", "white"),
        ("grey", "grey"),
        ("black", "dark"),
        ("navy", "dark"),
        ("beige", "beige"),
        ("red", "red"),
        ("pink", "pink"),
        ("blue", "blue"),
        ("green", "green"),
    ):
        sums[COLOURS.index(word), G.PLACES.index(place)] = 1
    around = m.op("MatMul", around, sums)
    place = m.op("ArgMax", around, axis=1, keepdims=0)
    place = m.op(
        "Where",
        m.op("GreaterOrEqual", m.op("ReduceMax", around, axes=[1], keepdims=0), 0.8),
        place,
        zero,
    )
    # A thin thing whose colour is that of its surroundings has not been seen.
    same = np.zeros((len(COLOURS) + 1, len(G.PLACES)))
    same[1:] = sums > 0
    both = m.op("Add", m.op("Mul", colour, code64(m, len(G.PLACES))), place)
    same = m.op("Greater", m.op("Gather", m.small_table("same_words", same.ravel()), both), 0.5)
    area = m.op("ReduceMean", m.op("Squeeze", flat, m.axes(1)), axes=[1], keepdims=0)
    return m.op("Where", m.op("And", same, m.op("Less", area, 0.3)), zero, colour), place


def code64(m, value):
    return m.c(value, np.int64)


def encoder(a, v, judge, heads, head, numbers):
    g = Graph()
    m = Maths(g)
    arrays = {name: read_pth(file_of(a.cache, name)) for name in ("lite2", "lite0")}
    f2, _, middle = lite(g, "pixel_values", arrays["lite2"], "lite2")
    f0, _, _ = lite(g, "pixel_values", arrays["lite0"], "lite0")
    two, zero = (
        linear(g, f, arrays[n]["_fc.weight"].T, arrays[n]["_fc.bias"], n + ".logits")
        for f, n in ((f2, "lite2"), (f0, "lite0"))
    )
    kind_e, product_e, _, pattern_e, background_e = earlier_part(m, a.cache)
    # Own kinds, each with its products: the discriminant and the earlier network together.
    kinds = m.small_table("kinds", np.eye(OTHER + 1)[heads["kind_of"]])
    features = m.op("Sqrt", m.op("Concat", f2, f0, axis=1))
    each = m.op("Mul", linear(g, features, heads["kind_w"], heads["kind_b"], "own"), PROBE)
    high = m.op("ReduceMax", each, axes=[1], keepdims=1)
    own = m.op("MatMul", m.op("Exp", m.op("Sub", each, high)), kinds)
    own = m.op("Add", m.op("Log", m.op("Add", own, 1e-30)), high)
    n, new = len(KINDS), OTHER - len(KINDS)
    none = m.op("Slice", kind_e, m.axes(n), m.axes(n + 1), m.axes(1))
    spread = m.op(
        "Concat",
        m.op("Slice", kind_e, m.axes(0), m.axes(n), m.axes(1)),
        *[none] * (new + 1),
        axis=1,
    )
    fused, probe, eyes = (
        m.op("Softmax", x, axis=1) for x in (m.op("Add", own, spread), own, kind_e)
    )
    # ImageNet's nouns.
    half = lambda x, t: m.op("Softmax", m.op("Div", x, float(t)), axis=1)
    p2, p0, both = half(two, T_ONE), half(zero, T_ONE), half(m.op("Add", two, zero), 2 * T_BOTH)
    matrix = m.small_table("nouns_of_classes", v.matrix)
    q, q2, q0 = (m.odds(m.op("MatMul", p, matrix)) for p in (both, p2, p0))
    entropy = m.op(
        "Neg",
        m.op(
            "ReduceSum",
            m.op("Mul", both, m.op("Log", m.op("Add", both, 1e-9))),
            m.axes(1),
            keepdims=1,
        ),
    )
    top = m.odds(m.op("ReduceMax", both, axes=[1], keepdims=1))
    # The likeliest class that a noun does not stand for.
    values, which = g.add("TopK", [both, m.axes(RIVALS)], "rivals", 2)
    absent = m.small_table("absent_classes", 1 - v.matrix)
    found = m.op("Mul", m.op("Gather", absent, which), m.op("Unsqueeze", values, m.axes(2)))
    rival = m.odds(m.op("ReduceMax", found, axes=[1], keepdims=0))
    # Nothing to name: noise, text, floors.
    nothing = m.op(
        "Clip",
        m.op(
            "Add",
            m.op("MatMul", features, heads["nothing_w"].reshape(-1, 1)),
            float(heads["nothing_b"]),
        ),
        -6.0,
        6.0,
    )
    last = lambda x, k: m.op("Slice", x, m.axes(k), m.axes(k + 1), m.axes(1))
    other = m.odds(last(probe, OTHER))
    common = [nothing] + [m.op("ReduceLogSumExp", x, axes=[1], keepdims=1) for x in (two, zero)]
    for x, f, length in ((two, f2, v.length2), (zero, f0, v.length0)):
        x = m.op("Sub", x, m.op("ReduceMean", x, axes=[1], keepdims=1))
        x = m.op("ReduceMax", m.op("Div", x, length.reshape(1, -1)), axes=[1], keepdims=1)
        f = m.op("ReduceL2", f, axes=[1], keepdims=1)
        common.append(m.op("Div", x, m.op("Add", f, 1e-6)))
    w = judge.classes
    numbers_of_photo = [entropy, top, *common, other]
    fixed = w[4] * v.group + w[5] * v.distrusted + w[6] * np.log(v.size) + w[7] * v.alive + w[-1]
    z = m.total(
        m.op("Mul", q, w[0]),
        m.op("Mul", q2, w[1]),
        m.op("Mul", q0, w[2]),
        m.op("Mul", m.op("Min", q2, q0), w[3]),
        m.c(fixed.reshape(1, -1)),
        m.op("Mul", rival, w[8]),
        *(m.op("Mul", x, w[9 + k]) for k, x in enumerate(numbers_of_photo)),
        m.op("Mul", other, (w[9 + len(numbers_of_photo)] * v.food).reshape(1, -1)),
    )
    classes = m.op("Sigmoid", z)
    # Own kinds, each with the weights of its family.
    weights = np.zeros((9 + len(common), OTHER))
    weights[-1] = -30
    for family, values in enumerate(judge.own):
        if values is not None:
            weights[:, v.family == family] = values[:, None]
    few = lambda x: m.op("Slice", x, m.axes(0), m.axes(OTHER), m.axes(1))
    eyes_wide = m.op(
        "Pad", m.odds(m.op("Slice", eyes, m.axes(0), m.axes(n), m.axes(1))), m.axes(0, 0, 0, new)
    )
    mass = m.op(
        "Pad", m.odds(m.op("MatMul", both, m.small_table("domains", v.domain))), m.axes(0, 0, 0, 1)
    )
    domain = m.op("Gather", mass, m.c(v.family, np.int64), axis=1)
    numbers_of = [
        m.odds(few(fused)),
        m.odds(few(probe)),
        eyes_wide,
        domain,
        None,
        entropy,
        other,
        m.odds(last(eyes, n)),
        *common,
    ]
    terms = [m.op("Mul", x, weights[k].reshape(1, -1)) for k, x in enumerate(numbers_of) if x]
    fixed = weights[4] * (v.family == 2) + weights[-1]
    owned = m.op("Sigmoid", m.total(*terms, m.c(fixed.reshape(1, -1))))
    keep = m.op("Where", m.op("Greater", nothing, REFUSAL), m.c([[REFUSED]]), m.c([[1.0]]))
    sure = m.op("Mul", m.op("Concat", classes, owned, axis=1), keep)
    score = m.op(
        "Where",
        m.op("GreaterOrEqual", sure, SPECIFIC),
        m.op("Add", sure, (2 + 4 * rank(v)).reshape(1, -1)),
        sure,
    )
    best = m.op("ArgMax", score, axis=1, keepdims=1)
    confidence = m.op("Squeeze", m.op("GatherElements", sure, best, axis=1), m.axes(1))
    best = m.op("Squeeze", best, m.axes(1))
    noun = m.op("Gather", m.c(numbers, np.int64), best)
    # People are said where nothing else is as sure: how many faces there are.
    count, face = faces(m, file_of(a.cache, "face"), "pixel_values")
    people = m.op(
        "And", m.op("Less", confidence, SPECIFIC), m.op("Less", confidence, m.op("Mul", face, FACE))
    )
    people = m.op("And", people, m.op("GreaterOrEqual", count, 1.0))
    confidence = m.op("Where", people, m.op("Mul", face, FACE), confidence)
    g.add("Identity", [confidence], "confidence")
    words = [v.own[k] for k in ("person", "two people", "several people")]
    word = m.op(
        "Gather",
        m.c([0, *words], np.int64),
        m.op("Cast", m.op("Min", count, 3.0), to=TensorProto.INT64),
    )
    # A product with a name of its own, where it is likely enough among the products of the kind.
    products, of_kind, to_noun, nouns = a.products
    shares = m.op(
        "Softmax",
        m.op(
            "Add",
            m.op("Slice", each, m.axes(OTHER + 1), m.axes(OTHER + 1 + len(products)), m.axes(1)),
            product_e,
        ),
        axis=1,
    )
    kind_of_candidate = np.full(len(numbers), n)
    kind_of_candidate[len(v.classes) : len(v.classes) + n] = np.arange(n)
    kind = m.op("Gather", m.c(kind_of_candidate, np.int64), best)
    shares = m.op(
        "Mul",
        shares,
        m.op(
            "Gather",
            m.small_table("products_of_kinds", np.r_[of_kind, np.zeros((1, len(products)))]),
            kind,
        ),
    )
    shares = m.op(
        "Div", shares, m.op("Add", m.op("ReduceSum", shares, m.axes(1), keepdims=1), 1e-9)
    )
    named = m.op("MatMul", shares, m.small_table("nouns_of_products", to_noun))
    which = m.op("Gather", m.c(nouns, np.int64), m.op("ArgMax", named, axis=1, keepdims=0))
    noun = m.op(
        "Where",
        m.op("GreaterOrEqual", m.op("ReduceMax", named, axes=[1], keepdims=0), 0.7),
        which,
        noun,
    )
    noun = m.op("Where", people, word, noun)
    colour, place = looks(m, middle, head)
    # Wooden surfaces and shops are what the earlier network knows; patterns, too, and of clothing
    # alone.
    rooms = m.op("Softmax", background_e, axis=1)
    is_kind = lambda names: np.array([k < n and KINDS[k] in names for k in range(n + 1)])
    grocery = m.op("Gather", m.c(is_kind(set(KINDS) - set(CLOTHES)), bool), kind)
    clothing = m.op("Gather", m.c(is_kind(set(CLOTHES) - {"shoes", "hat"}), bool), kind)
    at_least = lambda x, k, low: m.op("Squeeze", m.op("GreaterOrEqual", last(x, k), low), m.axes(1))
    code = lambda k: m.c(k, np.int64)
    place = m.op(
        "Where",
        at_least(rooms, BACKGROUNDS.index("wooden"), 0.8),
        code(G.PLACES.index("wooden")),
        place,
    )
    shop = m.op("And", grocery, at_least(rooms, BACKGROUNDS.index("shop"), 0.5))
    place = m.op("Where", shop, code(G.PLACES.index("shop")), place)
    patterns = m.op("Softmax", pattern_e, axis=1)
    pattern = m.op(
        "Where",
        m.op(
            "And",
            clothing,
            m.op("GreaterOrEqual", m.op("ReduceMax", patterns, axes=[1], keepdims=0), 0.85),
        ),
        m.op("ArgMax", patterns, axis=1, keepdims=0),
        code(0),
    )
    facts = [
        m.op("Unsqueeze", m.op("Cast", x, to=TensorProto.FLOAT), m.axes(1, 2))
        for x in (noun, colour, pattern, place)
    ]
    g.add(
        "Pad",
        [m.op("Concat", *facts, axis=1), m.axes(0, 0, 0, 0, 0, WIDTH - 1)],
        "last_hidden_state",
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes,
        "eyes",
        [value("pixel_values", TensorProto.FLOAT, ["batch_size", 3, SIDE, SIDE])],
        [
            value("last_hidden_state", TensorProto.FLOAT, ["batch_size", 4, WIDTH]),
            value("confidence", TensorProto.FLOAT, ["batch_size"]),
        ],
        g.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def product_tables(a, v):
    """Names of the products, of_kind [kinds, products], to_noun [products, nouns that products
    have], those nouns' numbers."""
    rows = json.load(open(a.cache / "rows.json"))
    kind_of = {r["product"]: r["kind"] for r in rows if r["product"]}
    products = sorted(kind_of)
    said = [v.own.get(p, v.own[KINDS[kind_of[p]]]) for p in products]
    nouns = sorted(set(said))
    of_kind, to_noun = np.zeros((len(KINDS), len(products))), np.zeros((len(products), len(nouns)))
    for i, p in enumerate(products):
        of_kind[kind_of[p], i], to_noun[i, nouns.index(said[i])] = 1, 1
    return products, of_kind, to_noun, nouns


def dump(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--out", type=Path, default=Path("models/default"))
    p.add_argument("--eyes", type=int, nargs="+", default=[0])
    p.add_argument("--threshold", type=float, default=0.66)
    a = p.parse_args()
    v = Vocabulary(a.cache)
    assert [n.texts() for n in v.nouns] == [n.texts() for n in G.NOUNS]
    heads = heads_of(a)
    judge = Lessons(v, Catalogue(a, v), a).learn()
    a.products = product_tables(a, v)
    (a.out / "onnx").mkdir(parents=True, exist_ok=True)
    onnx.save(
        encoder(a, v, judge, heads, np.load(a.cache / "mask_head.npz"), v.noun),
        a.out / "onnx/encoder_model.onnx",
    )
    np.savez(
        a.cache / "judge.npz",
        classes=judge.classes,
        **{f"own{i}": w for i, w in enumerate(judge.own) if w is not None},
    )
    vocabulary = len(json.loads((a.out / "tokenizer.json").read_text())["model"]["vocab"])
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "decoder_start_token_id": STARTS["concise"]}
    dump(
        a.out / "config.json",
        {
            "architectures": ["VisionEncoderDecoderModel"],
            "model_type": "vision-encoder-decoder",
            "is_encoder_decoder": True,
            **ids,
            "encoder": {
                "model_type": "pg_caption_eyes",
                "image_size": SIDE,
                "num_channels": 3,
                "hidden_size": WIDTH,
                "sequence_length": 4,
            },
            "decoder": {
                "model_type": "pg_caption_grammar",
                "add_cross_attention": True,
                "is_decoder": True,
                "n_embd": WIDTH,
                "n_head": 1,
                "n_layer": 1,
                "n_positions": 320,
                "vocab_size": vocabulary,
                "bos_token_id": STARTS["concise"],
                "eos_token_id": EOS,
            },
            "pg_caption": {
                "styles": {s: {"decoder_start_token_id": i} for s, i in STARTS.items()},
                "min_confidence": a.threshold,
            },
            "dtype": "float32",
        },
    )
    # By the start tokens: concise_de is concise in German.
    languages = ["en", *sorted({s.partition("_")[2] for s in STARTS} - {""})]
    dump(a.out / "captions.json", {"languages": languages})
    dump(
        a.out / "generation_config.json",
        {**ids, "bos_token_id": STARTS["concise"], "max_length": 80},
    )
    dump(
        a.out / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "do_convert_rgb": None,
            "do_resize": True,
            "size": {"height": SIDE, "width": SIDE},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 0.00392156862745098,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        },
    )
    special = {
        "bos_token": SPECIAL[2],
        "eos_token": SPECIAL[EOS],
        "pad_token": SPECIAL[PAD],
        "unk_token": SPECIAL[EOS],
    }
    dump(a.out / "special_tokens_map.json", special)
    dump(
        a.out / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                str(i): {
                    "content": t,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for i, t in enumerate(SPECIAL)
            },
            **special,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 320,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    total = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"{a.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
