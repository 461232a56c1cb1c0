"""The exported folder, used as the engine uses it: preprocessing, both graphs, greedy decoding,
tokenizer, threshold."""

import json

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

from look import open_rgb


def options(threads):
    o = ort.SessionOptions()
    o.intra_op_num_threads = threads
    o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return o


class Folder:
    def __init__(self, folder, threads=2):
        read = lambda name: json.loads((folder / name).read_text())
        self.config, self.pre, self.gen = (
            read("config.json"),
            read("preprocessor_config.json"),
            read("generation_config.json"),
        )
        self.encoder = ort.InferenceSession(folder / "onnx/encoder_model.onnx", options(threads))
        self.decoder = ort.InferenceSession(
            folder / "onnx/decoder_model_merged.onnx", options(threads)
        )
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.past = [i for i in self.decoder.get_inputs() if i.name.startswith("past")]
        self.threshold = self.config["pg_caption"]["min_confidence"]
        self.styles = {
            s: x["decoder_start_token_id"] for s, x in self.config["pg_caption"]["styles"].items()
        }

    def pixels(self, picture):
        """A tensor of bytes of a file, or of a picture."""
        picture = open_rgb(picture) if isinstance(picture, bytes) else picture
        size = self.pre["size"]
        x = (
            np.asarray(picture.resize((size["width"], size["height"]), Image.BILINEAR)).astype(
                np.float64
            )
            * self.pre["rescale_factor"]
        )
        x = (x.astype(np.float32) - np.array(self.pre["image_mean"], np.float32)) / np.array(
            self.pre["image_std"], np.float32
        )
        return x.transpose(2, 0, 1)

    def encode(self, pictures):
        return self.encoder.run(
            ["last_hidden_state", "confidence"],
            {"pixel_values": np.stack(pictures).astype(np.float32)},
        )

    def write(self, hidden, style, max_tokens=79):
        """Greedy texts for a batch of hidden states."""
        n = len(hidden)
        ids = np.full((n, 1), self.styles[style], np.int64)
        feed = {i.name: np.zeros((n, i.shape[1], 0, i.shape[3]), np.float32) for i in self.past}
        out, done = [[] for _ in range(n)], np.zeros(n, bool)
        for _ in range(max_tokens):
            logits, *present = self.decoder.run(
                None, {"input_ids": ids, "encoder_hidden_states": hidden, **feed}
            )
            feed = {i.name: p for i, p in zip(self.past, present)}
            ids = logits[:, -1:].argmax(-1)
            for k in np.flatnonzero(~done):
                out[k].append(int(ids[k, 0]))
            done |= ids[:, 0] == self.gen["eos_token_id"]
            if done.all():
                break
        return (
            [self.tokenizer.decode(t, skip_special_tokens=True) for t in out],
            [len(t) for t in out],
            done,
        )
