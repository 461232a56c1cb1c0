"""Writes the folder models/default from cache/eyes.pt, cache/writer.pt, cache/tokenizer.json and cache/choice.json."""
import argparse, json, warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from calibrate import load_eyes
from captions import NOUN_OF_PRODUCT, NOUNS, product_kind
from data import KINDS, NONE
from measure import PATTERNS
from network import DIM, HEADS, LAYERS, FactTable, Writer, empty_past
from train_decoder import EOS, PAD, SIZES, SPECIAL, START
from train_encoder import MEAN, STD


class Encoder(nn.Module):
    """pixel_values to the four facts as vectors, and the confidence."""
    def __init__(self, eyes, table, products, kind_of_product, choice):
        super().__init__()
        self.eyes, self.table, self.choice = eyes, table, choice
        of_kind = torch.zeros(len(KINDS), len(products))
        to_noun = torch.zeros(len(products), len(NOUNS))
        for i, name in enumerate(products):
            kind = kind_of_product[name]
            of_kind[kind, i] = 1
            to_noun[i, NOUN_OF_PRODUCT.get(name, kind)] = 1
        self.register_buffer("of_kind", of_kind)
        self.register_buffer("to_noun", to_noun)

    def forward(self, pixel_values):
        kind, product, colour, pattern, background = self.eyes(pixel_values)
        if self.choice["flip"]:
            other = self.eyes(pixel_values.flip(3))
            kind, product, colour, pattern, background = ((a + b) / 2 for a, b in zip((kind, product, colour, pattern, background), other))
        p = (kind / self.choice["temperature"]).softmax(-1)
        best, which = p[:, :NONE].max(-1)
        confidence = torch.where(p[:, NONE] > best, torch.zeros_like(best), best)
        # The product's own noun, where one product's name is likely enough among the products of this kind.
        mine = product.softmax(-1) * self.of_kind[which] + 1e-9 * self.of_kind[which]
        share, noun = ((mine / (mine.sum(-1, keepdim=True) + 1e-12)) @ self.to_noun).max(-1)
        noun = torch.where(share >= self.choice["product"], noun, which)
        facts = [noun]
        for logits, name in ((colour, "colour"), (pattern, "pattern"), (background, "background")):
            sure, word = logits.softmax(-1).max(-1)
            facts.append(torch.where(sure >= self.choice[name], word, -torch.ones_like(word)))
        return self.table(torch.stack(facts, 1)), confidence


class Decoder(nn.Module):
    def __init__(self, writer):
        super().__init__()
        self.writer = writer

    def forward(self, input_ids, encoder_hidden_states, *past):
        logits, present = self.writer(input_ids, encoder_hidden_states, past)
        return logits, *present


def halve(path):
    """Stores the large weights as float16, each with a cast to float32 behind it, which ONNX Runtime does once when it loads the file."""
    model = onnx.load(path)
    casts = []
    for weights in model.graph.initializer:
        value = numpy_helper.to_array(weights)
        if value.dtype == np.float32 and value.size >= 1024:
            name = weights.name
            weights.CopyFrom(numpy_helper.from_array(value.astype(np.float16), name + ".stored"))
            casts.append(helper.make_node("Cast", [weights.name], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def dump(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--out", type=Path, default=Path("models/default"))
    a = p.parse_args()
    warnings.filterwarnings("ignore")
    (a.out / "onnx").mkdir(parents=True, exist_ok=True)
    choice = json.load(open(a.cache / "choice.json"))
    eyes, products = load_eyes([a.cache / name for name in choice["eyes"]])
    rows = json.load(open(a.cache / "rows.json"))
    kind_of_product = {r["product"]: r["kind"] for r in rows if r["product"]}
    assert all(KINDS[kind_of_product[n]] == product_kind(n) for n in NOUN_OF_PRODUCT), "captions.py and the labels disagree"
    tokenizer = json.loads((a.cache / "tokenizer.json").read_text())
    vocabulary = len(tokenizer["model"]["vocab"])
    saved = torch.load(a.cache / "writer.pt")
    table, writer = FactTable(*SIZES), Writer(vocabulary)
    table.load_state_dict(saved["table"])
    writer.load_state_dict(saved["writer"])
    encoder = Encoder(eyes, table, products, kind_of_product, choice).eval()
    decoder = Decoder(writer).eval()
    size = choice["size"]
    torch.onnx.export(encoder, torch.randn(2, 3, size, size), a.out / "onnx/encoder_model.onnx", opset_version=17, dynamo=False,
                      input_names=["pixel_values"], output_names=["last_hidden_state", "confidence"],
                      dynamic_axes={"pixel_values": {0: "batch_size"}, "last_hidden_state": {0: "batch_size"}, "confidence": {0: "batch_size"}})
    halve(a.out / "onnx/encoder_model.onnx")
    past = [torch.randn(2, HEADS, 3, DIM // HEADS) for _ in empty_past(1)]
    names = [f"{i}.{what}" for i in range(LAYERS) for what in ("key", "value")]
    axes = {"input_ids": {0: "batch_size", 1: "decoder_sequence_length"}, "encoder_hidden_states": {0: "batch_size", 1: "encoder_sequence_length"},
            "logits": {0: "batch_size", 1: "decoder_sequence_length"}}
    axes |= {f"past_key_values.{n}": {0: "batch_size", 2: "past_sequence_length"} for n in names}
    axes |= {f"present.{n}": {0: "batch_size", 2: "past_sequence_length + sequence_length"} for n in names}
    torch.onnx.export(decoder, (torch.tensor([[2, 3], [4, 5]]), torch.randn(2, 4, DIM), *past), a.out / "onnx/decoder_model_merged.onnx", opset_version=17,
                      dynamo=False, do_constant_folding=False, input_names=["input_ids", "encoder_hidden_states"] + [f"past_key_values.{n}" for n in names],
                      output_names=["logits"] + [f"present.{n}" for n in names], dynamic_axes=axes)
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "decoder_start_token_id": START["concise"]}
    dump(a.out / "config.json", {
        "architectures": ["VisionEncoderDecoderModel"], "model_type": "vision-encoder-decoder", "is_encoder_decoder": True, **ids,
        "encoder": {"model_type": "pg_caption_eyes", "image_size": size, "num_channels": 3, "hidden_size": DIM, "sequence_length": 4},
        "decoder": {"model_type": "gpt2", "add_cross_attention": True, "is_decoder": True, "n_embd": DIM, "n_head": HEADS, "n_inner": 4 * DIM, "n_layer": LAYERS,
                    "n_positions": 320, "activation_function": "gelu_new", "vocab_size": vocabulary, "tie_word_embeddings": True,
                    "bos_token_id": START["concise"], "eos_token_id": EOS},
        "pg_caption": {"styles": {s: {"decoder_start_token_id": i} for s, i in START.items()}, "min_confidence": choice["min_confidence"]},
        "dtype": "float32", "tie_word_embeddings": True})
    dump(a.out / "generation_config.json", {**ids, "bos_token_id": START["concise"], "max_length": 66})
    dump(a.out / "preprocessor_config.json", {
        "image_processor_type": "ViTImageProcessor", "do_convert_rgb": None, "do_resize": True, "size": {"height": size, "width": size}, "resample": 2,
        "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3})
    dump(a.out / "tokenizer.json", tokenizer)
    special = {"bos_token": SPECIAL[2], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[PAD], "unk_token": SPECIAL[EOS]}
    dump(a.out / "special_tokens_map.json", special)
    dump(a.out / "tokenizer_config.json", {
        "added_tokens_decoder": {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, t in enumerate(SPECIAL)},
        **special, "clean_up_tokenization_spaces": False, "model_max_length": 320, "tokenizer_class": "PreTrainedTokenizerFast"})
    total = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"{a.out}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
