"""Milliseconds an image of two folders in one run, turn by turn: `speed.py OLD_FOLDER NEW_FOLDER`.

An image is what a watched row needs: the encoder once, then an alt text (concise) and a meta
description (seo).
"""

import sys, time
from pathlib import Path

import numpy as np

from folder import Folder

for threads in (1, 2):
    models = [Folder(Path(p), threads) for p in sys.argv[1:]]
    picture = np.random.default_rng(1).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    from PIL import Image

    pixels = [m.pixels(Image.fromarray(picture)) for m in models]
    eye, all_of_it = [[] for _ in models], [[] for _ in models]
    for _ in range(25):
        for k, m in enumerate(models):
            start = time.perf_counter()
            hidden, _ = m.encode([pixels[k]])
            middle = time.perf_counter()
            for style in ("concise", "seo"):
                m.write(hidden, style)
            eye[k].append((middle - start) * 1000)
            all_of_it[k].append((time.perf_counter() - start) * 1000)
    for name, times in (("encoder alone", eye), ("an image", all_of_it)):
        old, new = (np.percentile(t, 25) for t in times)
        print(f"{threads} threads, {name}: {old:.1f} ms and {new:.1f} ms, ratio {new / old:.2f}")
