"""Turns the grammar into the decoder: onnx/decoder_model_merged.onnx, tokenizer.json and
cache/words.json.

Nothing is trained. A text is a row of slots (words before the noun, the noun, words behind it, the
place, …); each
slot's words are looked up by the few facts it depends on. The graph keeps the tokens so far in its
cache, the first
of which says style and language, counts them, and gives the next word of the row. Any model that
reads such graphs
can run it: `input_ids`, `encoder_hidden_states`, `past_key_values.0.decoder.key/value` of length 0
at first.
"""

import argparse, json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import grammar as G

PAD, EOS, FIRST = 0, 1, 2
STARTS = {
    f"{style}{'' if x == 'en' else '_' + x}": FIRST + 3 * i + k
    for i, x in enumerate(G.LANGUAGES)
    for k, style in enumerate(G.STYLES)
}
SPECIAL = ["<|pad|>", "<|end|>"] + [f"<|{name}|>" for name in STARTS]
WIDTH = 16  # of a fact's vector; its first number is the fact
NC, NP, NB = len(G.COLOURS), len(G.PATTERNS), len(G.PLACES)


class Words:
    """Texts of slots as rows of tokens; a token is a word with the blank before it."""

    def __init__(self):
        self.token, self.flat, self.offset, self.length, self.segment = {}, [], [], [], {}
        self.add(())

    def add(self, tokens):
        if tokens not in self.segment:
            self.segment[tokens] = len(self.offset)
            self.offset.append(len(self.flat))
            self.length.append(len(tokens))
            self.flat += [
                (
                    self.token.setdefault(t, len(SPECIAL) + len(self.token))
                    if isinstance(t, str)
                    else t
                )
                for t in tokens
            ]
        return self.segment[tokens]

    def of(self, text, begins=False):
        """The segment of a text; unless it begins the caption each word has a blank before it."""
        words = text.split()
        return self.add(tuple(w if begins and i == 0 else " " + w for i, w in enumerate(words)))


def tables():
    """Every table that the graph looks into, by name, and the words."""
    w, n, t = Words(), len(G.NOUNS), {}
    keys = sorted({x.signature for x in G.NOUNS}, key=str)
    signed = [G.signed_by(k) for k in keys]
    t["signature"] = np.array([keys.index(x.signature) for x in G.NOUNS])
    t["topic"] = np.array([G.TOPIC_NAMES.index(x.topic) for x in G.NOUNS])
    t["gender"] = np.array([x.fr_gender[0] == "f" for x in G.NOUNS]).astype(int)
    t["colours"] = np.array([[G.possible(x, c, 0, 0)[0] for c in range(NC)] for x in G.NOUNS])
    t["patterns"] = np.array([[G.possible(x, 0, p, 0)[1] for p in range(NP)] for x in G.NOUNS])
    t["places"] = np.array([[G.possible(x, 0, 0, b)[2] for b in range(NB)] for x in G.NOUNS])
    t["many"] = np.array(
        [[[s.many(x, b) for b in range(NB)] for s in signed] for x in G.LANGUAGES]
    ).astype(int)
    before = np.zeros((9, len(keys), 2, NC, NP), int)
    after, where = np.zeros_like(before), np.zeros((9, len(keys), 2, NB), int)
    look, noun = np.zeros((9, NC, NP), int), np.zeros((9, n, 2, 2), int)
    subject = np.zeros((9, n), int)
    first, second = np.zeros((9, len(G.TOPICS), 16, 2), int), np.zeros(
        (9, len(G.TOPICS), 16, 2), int
    )
    for i, x in enumerate(G.LANGUAGES):
        for k, style in enumerate(G.STYLES):
            ls = 3 * i + k
            for a, s in enumerate(signed):
                for m in (0, 1):
                    more = bool(m) or s.many(x, 1)
                    for c in range(NC):
                        for p in range(NP):
                            before[ls, a, m, c, p] = w.of(s.before(x, style, more, c, p), True)
                            after[ls, a, m, c, p] = w.of(s.after(x, more, c, p))
                    for b in range(NB):
                        where[ls, a, m, b] = w.of(
                            s.where(x, style, more, b) + ("." if style == "seo" else "")
                        )
            if style == "detailed":
                for c in range(NC):
                    for p in range(NP):
                        look[ls, c, p] = w.of(signed[0].look(x, c, p))
            for j, word in enumerate(G.NOUNS):
                for m in (0, 1):
                    text = G.noun_text(x, word, bool(m))
                    noun[ls, j, m] = w.of(G.capital(text), True), w.of(text)
                if style != "concise":
                    subject[ls, j] = w.of(G.subject(x, word))
            if style != "concise":
                for j, name in enumerate(G.TOPIC_NAMES):
                    for female in (0, 1):
                        about = next(s for s in signed if (s.fr_gender[0] == "f") == bool(female))
                        for o, text in enumerate(G.STATEMENTS[x, name, bool(female)]):
                            first[ls, j, o, female] = w.of(text + ".")
                            if style == "detailed":
                                second[ls, j, o, female] = w.of(about.they(x, text))
    choice, bad = choices(keys, signed)
    for line in bad:
        print(line)
    if bad:
        raise SystemExit("some texts cannot be made")
    end = w.add((EOS,))
    t |= {
        "before": before,
        "after": after,
        "where": where,
        "look": look,
        "noun": noun,
        "subject": subject,
        "first": first,
        "second": second,
        "choice": choice,
        "flat": np.array(w.flat),
        "offset": np.array(w.offset),
        "length": np.array(w.length),
        "end": np.array([end]),
    }
    return t, w


def choices(keys, signed):
    """The statements of every noun with every set of facts, and the nouns for which none fits."""
    out, bad = np.zeros((6, len(G.NOUNS), NC, NP, NB), np.uint8), []
    c, p, b = np.meshgrid(np.arange(NC), np.arange(NP), np.arange(NB), indexing="ij")
    around = {}
    for i, x in enumerate(G.LANGUAGES):
        for style in ("seo", "detailed"):
            for key, s in zip(keys, signed):
                size = np.zeros((NC, NP, NB), int)
                for q in range(NB):
                    many = s.many(x, q)
                    size[:, :, q] = [
                        [
                            len(s.before(x, style, many, k, r))
                            + len(s.after(x, many, k, r))
                            + (len(s.look(x, k, r)) if style == "detailed" else 0)
                            for r in range(NP)
                        ]
                        for k in range(NC)
                    ]
                    size[:, :, q] += len(s.where(x, style, many, q))
                around[x, style, key] = size, np.array([s.many(x, q) for q in range(NB)])
    for j, noun in enumerate(G.NOUNS):
        said = np.zeros((NC, NP, NB), bool)
        for f in {
            G.possible(noun, k, r, q) for k in range(NC) for r in range(NP) for q in range(NB)
        }:
            said[f] = True
        for i, x in enumerate(G.LANGUAGES):
            sizes = [len(G.noun_text(x, noun, m)) for m in (False, True)]
            for k, style in enumerate(("seo", "detailed")):
                size, many = around[x, style, noun.signature]
                length = size + np.where(many, sizes[1], sizes[0])
                found = G.choices(x, style, noun, length, G.seed_of(noun, c, p, b))
                if (found[said] < 0).any():
                    at = np.argwhere((found < 0) & said)[0]
                    bad.append(f"{x} {style} {noun.topic} {noun.en_many}: {at} {length[tuple(at)]}")
                found = np.where(said, found, 0)
                out[2 * i + k, j] = 16 * found if style == "seo" else found
    return out, bad


class Builder:
    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, value, dtype=None, name=None):
        self.count += 1
        name = name or f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        out = attributes.pop("out", None) or f"{kind.lower()}_{self.count}"
        inputs = [i if isinstance(i, str) else self.constant(np.int64(i)) for i in inputs]
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=f"{kind}_{self.count}", **attributes)
        )
        return out

    def int64(self, x):
        return self.op("Cast", x, to=TensorProto.INT64)

    def table(self, name, values, *indices):
        """values[indices] of a table, each index a tensor of rows; small numbers are stored
        small."""
        small = np.uint8 if values.max() < 256 else np.int16 if values.max() < 32768 else np.int32
        flat = self.constant(values.ravel(), small, name)
        at = None
        for size, index in zip(values.shape, indices):
            at = index if at is None else self.op("Add", self.op("Mul", at, size), index)
        return self.int64(self.op("Gather", flat, at))


def graph(t, vocabulary):
    g = Builder()
    axis = lambda *n: g.constant(n, np.int64)
    # The tokens so far: the cache holds them as numbers.
    ids = g.op("Cast", "input_ids", to=TensorProto.FLOAT)
    ids4 = g.op("Unsqueeze", ids, axis(1, 3))
    for kind in ("key", "value"):
        g.op(
            "Concat",
            f"past_key_values.0.decoder.{kind}",
            ids4,
            axis=2,
            out=f"present.0.decoder.{kind}",
        )
    begun = g.op(
        "Gather",
        g.op("Squeeze", "present.0.decoder.key", axis(1, 3)),
        g.constant(np.int64(0)),
        axis=1,
    )
    ls = g.int64(
        g.op(
            "Clip",
            g.op("Sub", begun, g.constant(np.float32(FIRST))),
            g.constant(np.float32(0)),
            g.constant(np.float32(8)),
        )
    )
    language = g.op("Div", ls, 3)
    # The facts: the first number of each vector.
    facts = g.op("Gather", "encoder_hidden_states", g.constant(np.int64(0)), axis=2)
    fact = {}
    for k, (name, size) in enumerate(
        (("noun", len(t["signature"])), ("colour", NC), ("pattern", NP), ("place", NB))
    ):
        x = g.op("Round", g.op("Gather", facts, g.constant(np.int64(k)), axis=1))
        fact[name] = g.int64(
            g.op("Clip", x, g.constant(np.float32(0)), g.constant(np.float32(size - 1)))
        )
    n = fact["noun"]
    c = g.table("colours", t["colours"], n, fact["colour"])
    p = g.table("patterns", t["patterns"], n, fact["pattern"])
    b = g.table("places", t["places"], n, fact["place"])
    s, topic, gender = (g.table(name, t[name], n) for name in ("signature", "topic", "gender"))
    many = g.table("many", t["many"], language, s, b)
    before = g.table("before", t["before"], ls, s, many, c, p)
    lengths = g.constant(t["length"], np.int64, "length")
    inside = g.int64(g.op("Greater", g.op("Gather", lengths, before), 0))
    # Rows of the choice: two styles of each language; of the concise one the row before it, whose
    # words are empty.
    style = g.op("Sub", ls, g.op("Mul", language, 3))
    row = g.op("Add", g.op("Mul", language, 2), g.op("Max", g.op("Sub", style, 1), 0))
    choice = g.table("choice", t["choice"], row, n, c, p, b)
    one = g.op("Div", choice, 16)
    other = g.op("Sub", choice, g.op("Mul", one, 16))
    slots = [
        before,
        g.table("noun", t["noun"], ls, n, many, inside),
        g.table("after", t["after"], ls, s, many, c, p),
        g.table("where", t["where"], ls, s, many, b),
        g.table("look", t["look"], ls, c, p),
        g.table("subject", t["subject"], ls, n),
        g.table("first", t["first"], ls, topic, one, gender),
        g.table("second", t["second"], ls, topic, other, gender),
    ]
    slots.append(g.op("Add", g.op("Mul", ls, 0), int(t["end"][0])))
    slots = g.op(
        "Concat",
        *(g.op("Unsqueeze", g.op("Add", x, g.op("Mul", ls, 0)), axis(1)) for x in slots),
        axis=1,
    )
    length = g.op("Gather", lengths, slots)
    starts = g.op("CumSum", length, g.constant(np.int64(1)), exclusive=1)
    # Where in the row each of the fed tokens is, and what comes next.
    before_n = g.op(
        "Gather", g.op("Shape", "past_key_values.0.decoder.key"), g.constant(np.int64(2))
    )
    fed = g.op("Gather", g.op("Shape", "input_ids"), g.constant(np.int64(1)))
    at = g.op("Range", before_n, g.op("Add", before_n, fed), g.constant(np.int64(1)))
    at = g.op("Unsqueeze", at, axis(0))  # [1, fed]
    reached = g.op(
        "GreaterOrEqual", g.op("Unsqueeze", at, axis(2)), g.op("Unsqueeze", starts, axis(1))
    )
    slot = g.op("Sub", g.op("ReduceSum", g.int64(reached), axis(2), keepdims=0), 1)  # [rows, fed]
    take = lambda x: g.op("GatherElements", x, slot, axis=1)
    offset = g.op("Gather", g.constant(t["offset"], np.int64, "offset"), take(slots))
    step = g.op("Min", g.op("Sub", at, take(starts)), g.op("Sub", take(length), 1))
    word = g.int64(
        g.op("Gather", g.constant(t["flat"], np.int16, "flat"), g.op("Add", offset, step))
    )
    g.op(
        "OneHot",
        word,
        g.constant([vocabulary], np.int64),
        g.constant([-20, 20], np.float32),
        axis=-1,
        out="logits",
    )
    value = helper.make_tensor_value_info
    inputs = [
        value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
        value(
            "encoder_hidden_states",
            TensorProto.FLOAT,
            ["batch_size", "encoder_sequence_length", WIDTH],
        ),
    ]
    outputs = [value("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", vocabulary])]
    for kind in ("key", "value"):
        inputs.append(
            value(
                f"past_key_values.0.decoder.{kind}",
                TensorProto.FLOAT,
                ["batch_size", 1, "past_sequence_length", 1],
            )
        )
        outputs.append(
            value(
                f"present.0.decoder.{kind}",
                TensorProto.FLOAT,
                ["batch_size", 1, "total_sequence_length", 1],
            )
        )
    graph = helper.make_graph(g.nodes, "grammar", inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def byte_letters():
    """How the byte-level tokenizers write each byte."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    other = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(other)}


def tokenizer(words):
    letters = byte_letters()
    spelt = lambda token: "".join(letters[b] for b in token.encode())
    special = [
        {
            "id": i,
            "content": t,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, t in enumerate(SPECIAL)
    ]
    vocabulary = {t: i for i, t in enumerate(SPECIAL)} | {
        spelt(t): i for t, i in words.token.items()
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=Path, default=Path("models/default"))
    a = p.parse_args()
    t, words = tables()
    (a.out / "onnx").mkdir(parents=True, exist_ok=True)
    vocabulary = len(SPECIAL) + len(words.token)
    onnx.save(graph(t, vocabulary), a.out / "onnx/decoder_model_merged.onnx")
    (a.out / "tokenizer.json").write_text(
        json.dumps(tokenizer(words), ensure_ascii=False, indent=1) + "\n"
    )
    size = (a.out / "onnx/decoder_model_merged.onnx").stat().st_size
    print(len(G.NOUNS), "nouns,", vocabulary, "tokens,", f"{size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
