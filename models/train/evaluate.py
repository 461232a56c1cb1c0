"""Measures the exported folder end to end with ONNX Runtime, on the held-out part, and writes cache/report.json.

Everything goes through the files: preprocessor_config.json, both graphs (greedy, the cache from a past of
length 0), tokenizer.json and the threshold of config.json.
"""
import argparse, csv, json, re
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

from calibrate import new_unknown, open_rgb, photos
from captions import NOUNS, STYLES, broken_rule
from data import CLOTHES, KINDS, NONE
from measure import COLOURS
from synth import nothing


class Folder:
    """The exported model, as the engine would use it."""
    def __init__(self, folder, threads=2):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        read = lambda name: json.loads((folder / name).read_text())
        self.config, self.pre, self.gen = read("config.json"), read("preprocessor_config.json"), read("generation_config.json")
        self.encoder = ort.InferenceSession(folder / "onnx/encoder_model.onnx", options)
        self.decoder = ort.InferenceSession(folder / "onnx/decoder_model_merged.onnx", options)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.past = [i for i in self.decoder.get_inputs() if i.name.startswith("past")]
        self.threshold = self.config["pg_caption"]["min_confidence"]

    def pixels(self, data):
        size = self.pre["size"]
        x = np.asarray(open_rgb(data).resize((size["width"], size["height"]), Image.BILINEAR)).astype(np.float64) * self.pre["rescale_factor"]
        x = (x.astype(np.float32) - np.array(self.pre["image_mean"], np.float32)) / np.array(self.pre["image_std"], np.float32)
        return x.transpose(2, 0, 1)

    def encode(self, pictures):
        return self.encoder.run(["last_hidden_state", "confidence"], {"pixel_values": np.stack(pictures).astype(np.float32)})

    def write(self, hidden, style, max_tokens=64):
        """Greedy texts for a batch of hidden states, with their token counts."""
        n = len(hidden)
        start = self.config["pg_caption"]["styles"][style]["decoder_start_token_id"]
        ids = np.full((n, 1), start, np.int64)
        feed = {i.name: np.zeros((n, i.shape[1], 0, i.shape[3]), np.float32) for i in self.past}
        out, done = [[] for _ in range(n)], np.zeros(n, bool)
        for _ in range(max_tokens):
            logits, *present = self.decoder.run(None, {"input_ids": ids, "encoder_hidden_states": hidden, **feed})
            feed = {i.name: p for i, p in zip(self.past, present)}
            ids = logits[:, -1:].argmax(-1)
            for k in np.flatnonzero(~done):
                out[k].append(int(ids[k, 0]))
            done |= ids[:, 0] == self.gen["eos_token_id"]
            if done.all():
                break
        return [self.tokenizer.decode(t, skip_special_tokens=True) for t in out], [len(t) for t in out], done


def kind_words():
    """For each kind the texts that name it, longest first: what a caption must hold to be right."""
    words = [set() for _ in KINDS]
    for n in NOUNS:
        words[KINDS.index(n.kind)].update(x for x in (n.one, n.many) if x)
    return words


WORDS = kind_words()
NAMES = sorted(((w, k) for k, ws in enumerate(WORDS) for w in ws), key=lambda x: -len(x[0]))


def named_kind(text):
    """The kind that a text names first: the noun before the place."""
    low = re.split(r" (?:shown on|on|in) (?:a|display)\b", text.lower())[0]
    for word, kind in NAMES:
        if low.endswith(word.lower()):
            return kind
    return -1


def named_colour(text):
    first = text.split()[0].lower()
    return COLOURS.index(first) if first in COLOURS else -1


def run(model, items, batch=32):
    """For each (row, bytes): confidence and the three texts (written whether or not they would be refused)."""
    got = []
    for i in range(0, len(items), batch):
        part = items[i:i + batch]
        hidden, confidence = model.encode([model.pixels(b) if isinstance(b, bytes) else b for _, b in part])
        texts = {s: model.write(hidden, s) for s in STYLES}
        for k, (row, _) in enumerate(part):
            got.append({"row": row, "confidence": float(confidence[k]), **{s: texts[s][0][k] for s in STYLES},
                        "tokens": {s: texts[s][1][k] for s in STYLES}, "ended": all(texts[s][2][k] for s in STYLES)})
    return got


def from_array(model, rgb):
    """A made picture through the same preprocessing."""
    import io
    f = io.BytesIO()
    Image.fromarray(rgb).save(f, "PNG")
    return model.pixels(f.getvalue())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--training", type=Path, default=Path("../shared/training"))
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--folder", type=Path, default=Path("models/default"))
    p.add_argument("--demo", type=Path, default=Path("demo"))
    p.add_argument("--few", type=int, default=0, help="look at this many held-out photos only")
    a = p.parse_args()
    model = Folder(a.folder)
    rows = json.load(open(a.cache / "rows.json"))
    measured = np.load(a.cache / "measured.npz")
    at = {(r["set"], r["file"]): i for i, r in enumerate(rows)}
    held = [r for r in rows if r["part"] == "test"]
    if a.few:
        held = held[::max(1, len(held) // a.few)]
    got = run(model, list(photos(a.training, held)))
    report = {}
    known = [g for g in got if g["row"]["kind"] != NONE]
    for g in known:
        g["right"] = named_kind(g["concise"]) == g["row"]["kind"]
        g["written"] = g["confidence"] >= model.threshold
        want = int(measured["colour_word"][at[g["row"]["set"], g["row"]["file"]]])
        said = named_colour(g["concise"])
        g["colour"] = None if want < 0 or said < 0 else said == want
    for name, mine in (("clothing", [g for g in known if g["row"]["kind"] < len(CLOTHES)]), ("groceries", [g for g in known if g["row"]["kind"] >= len(CLOTHES)]), ("all", known)):
        written = [g for g in mine if g["written"]]
        hue, hue_written = [g["colour"] for g in mine if g["colour"] is not None], [g["colour"] for g in written if g["colour"] is not None]
        report[name] = {"photos": len(mine), "kind right": np.mean([g["right"] for g in mine]), "written": len(written) / max(1, len(mine)),
                        "kind right of written": np.mean([g["right"] for g in written]), "colour right where said": np.mean(hue),
                        "colour said": len(hue) / len(mine), "colour right where said and written": np.mean(hue_written)}
    unknown = {"contoso-traders (whole shop held out)": [g for g in got if g["row"]["kind"] == NONE],
               "catalogue, not in training": run(model, list(new_unknown(a.training, 1)))}
    mask, pixels = measured["mask"], np.load(a.cache / "pixels.npy", mmap_mode="r")
    clothes = [i for i, r in enumerate(rows) if r["part"] == "test" and r["set"] == "clothing-cc0" and measured["mask_ok"][i]]
    shops = [i for i, r in enumerate(rows) if r["part"] == "test" and r["kind"] == NONE]
    made = []
    for s in range(160):  # other seeds than in training
        source = clothes if s % 8 in (5, 6) else shops
        picture = nothing((900_000 + s, np.array(pixels[source[s % len(source)]]), mask[source[s % len(source)]]))
        if picture is not None:
            made.append(({"kind": NONE}, from_array(model, picture)))
    unknown["blank, noise, drawn nothing, floors"] = run(model, made)
    for name, mine in unknown.items():
        report["refused: " + name] = {"pictures": len(mine), "refused": np.mean([g["confidence"] < model.threshold for g in mine])}
    trained = [(r, b) for r, b in photos(a.training, [r for r in rows if r["kind"] == NONE and r["part"] == "train"])]
    mine = run(model, trained)
    report["refused: unknown goods that were trained on"] = {"pictures": len(mine), "refused": np.mean([g["confidence"] < model.threshold for g in mine])}
    for style in STYLES:
        broken = Counter(broken_rule(style, g[style]) for g in known)
        report["style " + style] = {"photos": len(known), "rules kept": broken[None] / len(known), "broken": {k: v for k, v in broken.items() if k},
                                    "characters": [min(len(g[style]) for g in known), max(len(g[style]) for g in known)], "most tokens": max(g["tokens"][style] for g in known)}
    report["texts that ended by themselves"] = np.mean([g["ended"] for g in known])
    report["styles agree on the kind"] = np.mean([named_kind(g["seo"]) == named_kind(g["concise"]) for g in known])
    demo = []
    if (a.demo / "products.csv").exists():
        table = list(csv.DictReader(open(a.demo / "products.csv")))
        demo = run(model, [({"file": r["file"], "title": r["title"]}, (a.demo / "images" / r["file"]).read_bytes()) for r in table])
        for g in demo:
            print(f"  {g['row']['file']:32} {g['confidence']:.2f} {'' if g['confidence'] >= model.threshold else 'REFUSED'} {g['concise']}")
        report["demo"] = {"pictures": len(demo), "written": sum(g["confidence"] >= model.threshold for g in demo)}
    one = [model.pixels(b) for _, b in list(photos(a.training, held[:8]))]
    h8, c8 = model.encode(one)
    h1, c1 = (np.concatenate(x) for x in zip(*(model.encode([x]) for x in one)))
    report["batch of 8 against single: largest difference"] = [float(abs(h8 - h1).max()), float(abs(c8 - c1).max())]
    for k, v in report.items():
        print(k, {x: round(float(y), 4) if isinstance(y, (float, np.floating)) else y for x, y in v.items()} if isinstance(v, dict) else v)
    json.dump(report, open(a.cache / "report.json", "w"), indent=1, default=float)
    rng = np.random.default_rng(4)
    for g in rng.choice(known, 6, replace=False):
        print(KINDS[g["row"]["kind"]], round(g["confidence"], 2), *(g[s] for s in STYLES), sep="\n  ")


if __name__ == "__main__":
    main()
