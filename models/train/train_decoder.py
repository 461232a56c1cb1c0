"""Makes the tokenizer and trains the writer on the texts of captions.py; writes cache/writer.pt and cache/tokenizer.json.

The writer sees only the four facts, never a picture's features, so it needs no photos: every combination of
noun, colour, pattern and background (or "not known") can be shown to it. What the encoder passes at run time
is exactly one of these combinations.
"""
import argparse, math, time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from captions import NOUNS, STYLES, broken_rule, caption
from data import CLOTHES
from measure import BACKGROUNDS, COLOURS, PATTERNS
from network import FactTable, Writer, empty_past

PAD, EOS, START = 0, 1, {"concise": 2, "seo": 3, "detailed": 4}
SPECIAL = ["<|pad|>", "<|end|>", "<|concise|>", "<|seo|>", "<|detailed|>"]
MAX_TOKENS = {"concise": 20, "seo": 44, "detailed": 64}  # with the end token
SIZES = (len(NOUNS), len(COLOURS), len(PATTERNS), len(BACKGROUNDS))


def every_fact():
    grid = np.stack(np.meshgrid(*(np.arange(0 if i == 0 else -1, n) for i, n in enumerate(SIZES)), indexing="ij"), -1)
    return grid.reshape(-1, 4)


def make_tokenizer(texts):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=SPECIAL, min_frequency=1, show_progress=False,
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--steps", type=int, default=800)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--begin", action="store_true", help="go on from cache/writer.pt with its tokenizer")
    p.add_argument("--rate", type=float, default=2e-3)
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    rng = np.random.default_rng(1)
    facts = every_fact()
    texts = {s: [caption(s, *f) for f in facts] for s in STYLES}
    for s in STYLES:
        broken = [(t, broken_rule(s, t)) for t in set(texts[s]) if broken_rule(s, t)]
        assert not broken, broken[:5]
    if a.begin:
        tokenizer = Tokenizer.from_file(str(a.cache / "tokenizer.json"))
    else:
        tokenizer = make_tokenizer([t for s in STYLES for t in sorted(set(texts[s]))])
    tokenizer.save(str(a.cache / "tokenizer.json"))
    ids, longest = {}, {}
    for s in STYLES:
        coded = [e.ids for e in tokenizer.encode_batch(texts[s])]
        longest[s] = max(map(len, coded)) + 1
        assert longest[s] <= MAX_TOKENS[s], (s, longest[s])
        table = np.full((len(coded), longest[s] + 1), PAD, np.int64)
        table[:, 0] = START[s]
        for i, c in enumerate(coded):
            table[i, 1:len(c) + 2] = c + [EOS]
        ids[s] = torch.from_numpy(table)
    print(len(facts), "combinations;", tokenizer.get_vocab_size(), "tokens; longest", longest, flush=True)
    facts = torch.from_numpy(facts)
    writer, table = Writer(tokenizer.get_vocab_size()), FactTable(*SIZES)
    if a.begin:
        saved = torch.load(a.cache / "writer.pt")
        writer.load_state_dict(saved["writer"])
        table.load_state_dict(saved["table"])
    weights = list(writer.parameters()) + list(table.parameters())
    print("parameters", sum(x.numel() for x in weights), flush=True)
    best = torch.optim.AdamW(weights, a.rate, betas=(0.9, 0.98), weight_decay=0.01)
    unknown = (facts < 0).float()
    odds = (0.6 ** unknown.sum(1)).numpy()  # what is not known is rarer here than in the full grid
    odds = odds * torch.where(facts[:, 1] < 0, 2.0, 1.0).numpy() * torch.where(facts[:, 3] < 0, 2.0, 1.0).numpy()
    food, shop = (facts[:, 0] >= len(CLOTHES)).numpy(), (facts[:, 3] == BACKGROUNDS.index("shop")).numpy()
    odds = odds * np.where(food & shop, 6.0, 1.0)  # as in the photos
    odds /= odds.sum()

    def run(style, rows):
        target = ids[style][rows]
        width = int((target != PAD).sum(1).max())
        target = target[:, :width]
        logits, _ = writer(target[:, :-1], table(facts[rows]), empty_past(len(rows)))
        return logits, target[:, 1:]
    start = time.time()
    for step in range(a.steps):
        rate = a.rate * min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * step / a.steps)) + 0.01)
        for group in best.param_groups:
            group["lr"] = rate
        style = STYLES[step % 3] if step % 6 else "seo"  # seo has the most to choose from
        rows = torch.from_numpy(rng.choice(len(odds), a.batch, p=odds))
        logits, target = run(style, rows)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        best.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        best.step()
        if step % 100 < 3:
            print(f"{(time.time() - start) / 60:.1f} min, step {step}, {style}: loss {loss.item():.4f}", flush=True)
    writer.eval()
    with torch.no_grad():
        for style in STYLES:
            same = total = 0
            for rows in torch.from_numpy(rng.permutation(len(facts))[:12000]).split(256):
                logits, target = run(style, rows)
                right = (logits.argmax(-1) == target) | (target == PAD)
                same, total = same + int(right.all(1).sum()), total + len(rows)
            print(f"{style}: {same} of {total} combinations are written word for word", flush=True)
    torch.save({"writer": writer.state_dict(), "table": table.state_dict()}, a.cache / "writer.pt")


if __name__ == "__main__":
    main()
