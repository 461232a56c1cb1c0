"""The Python peer of `make bench`: a caption script without pg_caption.

peer.py DSN MODEL_DIR LIMIT: reads `id, image_url` of bench_products, fetches with a pool of
threads, prepares with Pillow, runs the same model folder with onnxruntime in batches (greedy,
key/value cache), and writes `alt` in batches with psycopg. Prints one JSON object: rows, seconds,
rows_per_second. Needs onnxruntime, numpy, pillow, psycopg, tokenizers.

It contains the usual optimizations: connections stay open, fetching and decoding run ahead of the
model, and equal shapes form batches.
"""

import http.client
import io
import json
import os
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import psycopg
from PIL import Image, ImageOps
from tokenizers import Tokenizer

BATCH = 8
THREADS = 16
MAX_TOKENS = 64
kept = threading.local()


def fetch(url):
    """The bytes behind a URL, over a connection that this thread keeps."""
    parts = urllib.parse.urlsplit(url)
    connections = kept.__dict__.setdefault("connections", {})
    connection = connections.get(parts.netloc)
    if connection is None:
        connection = connections[parts.netloc] = http.client.HTTPConnection(
            parts.netloc, timeout=30
        )
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} for {url}")
    return body


class Model:
    """A vision-encoder-decoder folder."""

    def __init__(self, folder):
        read = lambda name: json.load(open(os.path.join(folder, name), encoding="utf-8"))
        self.config, self.picture = read("config.json"), read("preprocessor_config.json")
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        load = lambda name: ort.InferenceSession(
            os.path.join(folder, "onnx", name), options, providers=["CPUExecutionProvider"]
        )
        self.encoder, self.decoder = load("encoder_model.onnx"), load("decoder_model_merged.onnx")
        self.inputs = {tensor.name: tensor for tensor in self.decoder.get_inputs()}
        self.outputs = [tensor.name for tensor in self.decoder.get_outputs()]
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        generation = (
            read("generation_config.json")
            if os.path.exists(os.path.join(folder, "generation_config.json"))
            else {}
        )
        setting = lambda name: generation.get(
            name, self.config.get(name, self.config.get("decoder", {}).get(name))
        )
        self.start = setting("decoder_start_token_id")
        eos = setting("eos_token_id")
        self.ends = set(eos if isinstance(eos, list) else [eos])

    def prepare(self, data):
        """Bytes to [channels, height, width]."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        size = self.picture["size"]
        edge = size if isinstance(size, int) else (size["height"], size["width"])
        height, width = (edge, edge) if isinstance(edge, int) else edge
        image = image.resize((width, height), self.picture.get("resample", 2))
        pixels = np.asarray(image, np.float32) * np.float32(
            self.picture.get("rescale_factor", 1 / 255)
        )
        pixels = (pixels - np.float32(self.picture["image_mean"])) / np.float32(
            self.picture["image_std"]
        )
        return pixels.transpose(2, 0, 1)

    def caption(self, pictures):
        """Greedy texts of a batch of prepared pictures."""
        features = self.encoder.run(["last_hidden_state"], {"pixel_values": np.stack(pictures)})[0]
        rows = len(pictures)
        past = {}
        for name, tensor in self.inputs.items():
            if name.startswith("past_key_values."):
                past[name] = np.zeros([rows, tensor.shape[1], 0, tensor.shape[3]], np.float32)
        tokens = np.full([rows, 1], self.start, np.int64)
        written, alive = [[] for _ in range(rows)], [True] * rows
        for step in range(MAX_TOKENS):
            feed = {"input_ids": tokens, "encoder_hidden_states": features, **past}
            if "use_cache_branch" in self.inputs:
                feed["use_cache_branch"] = np.array([step > 0])
            out = dict(zip(self.outputs, self.decoder.run(None, feed)))
            past = {name: out[name.replace("past_key_values", "present")] for name in past}
            best = out["logits"][:, -1].argmax(-1)
            for row in range(rows):
                if alive[row] and int(best[row]) in self.ends:
                    alive[row] = False
                elif alive[row]:
                    written[row].append(int(best[row]))
            if not any(alive):
                break
            tokens = best[:, None].astype(np.int64)
        return [self.tokenizer.decode(ids) for ids in written]


def main():
    dsn, folder, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = Model(folder)
    with psycopg.connect(dsn) as connection, ThreadPoolExecutor(THREADS) as pool:
        rows = connection.execute(
            "SELECT id, image_url FROM bench_products ORDER BY id LIMIT %s", [limit]
        ).fetchall()
        began, done = time.perf_counter(), 0
        ready = pool.map(lambda row: (row[0], model.prepare(fetch(row[1]))), rows)
        batch = []
        for position, item in enumerate(ready, 1):
            batch.append(item)
            if len(batch) == BATCH or position == len(rows):
                texts = model.caption([pixels for _, pixels in batch])
                with connection.cursor() as cursor:
                    cursor.executemany(
                        "UPDATE bench_products SET alt = %s WHERE id = %s",
                        [(text, key) for (key, _), text in zip(batch, texts)],
                    )
                connection.commit()
                done, batch = done + len(batch), []
        seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "rows": done,
                "seconds": round(seconds, 3),
                "rows_per_second": round(done / seconds, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
