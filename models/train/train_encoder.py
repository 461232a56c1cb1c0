"""Trains the encoder's eyes for a given number of minutes and writes cache/eyes.pt (averaged weights).

Small pictures first, larger ones later; crops, colour changes, mixup and CutMix, new backgrounds behind
garments that could be cut out; label smoothing; a head for the products beside the one for the kinds.
The schedule runs on the clock, so a slower machine trains less but always ends well. Two processes of one
thread each share the work and add up their gradients once a step: on a machine that others use as well this
is many times faster than two threads, which wait for each other in every layer.
"""
import argparse, copy, json, math, os, time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from data import CLOTHES, KINDS, NONE
from measure import BACKGROUNDS, COLOURS, PATTERNS
from network import Eyes

MEAN, STD = 0.5, 0.25
# From which part of the time on pictures of which size are trained on, and the size of the copies these are sampled from.
PLAN = [(0.0, 64, 80), (0.15, 96, 120), (0.68, 128, 152)]


def shrunk(pixels, size):
    parts = [F.interpolate(x.float(), size=(size, size), mode="bilinear", antialias=True).round().byte() for x in pixels.split(256)]
    return torch.cat(parts)


class Pictures:
    """Everything to train on, in memory: photos of the training part, drawn goods, nothing."""
    def __init__(self, cache, part="train"):
        rows = json.load(open(cache / "rows.json"))
        self.products = sorted({r["product"] for r in rows if r["product"]})
        m = np.load(cache / "measured.npz")
        keep = np.array([i for i, r in enumerate(rows) if r["part"] == part])
        rows = [rows[i] for i in keep]
        photos = np.load(cache / "pixels.npy", mmap_mode="r")
        pixels = [photos[keep]] if part != "train" or any(not (cache / f"train_{side}.npy").exists() for _, _, side in PLAN) else []
        kind = [r["kind"] for r in rows]
        product = [self.products.index(r["product"]) if r["product"] else -1 for r in rows]
        colour, word = m["colour"][keep].copy(), m["colour_word"][keep]
        known = word >= 0
        colour = 0.5 * colour
        colour[np.flatnonzero(known), word[known]] += 0.5
        colour[~known] = 0
        pattern, background = list(m["pattern"][keep]), list(m["background"][keep])
        mask, ok = list(m["mask"][keep]), list(m["mask_ok"][keep] & (np.array(kind) < len(CLOTHES)))
        source = ["photo" if k != NONE else "unknown" for k in kind]
        self.word = word
        if part == "train":
            drawn = json.load(open(cache / "drawn.json"))
            nothing = np.load(cache / "nothing.npy", mmap_mode="r")
            pixels += [np.load(cache / "drawn.npy", mmap_mode="r"), nothing]
            n, e = len(drawn), len(nothing)
            kind += [r["kind"] for r in drawn] + [NONE] * e
            product += [-1] * (n + e)
            extra = np.zeros((n + e, len(COLOURS)), np.float32)
            for i, r in enumerate(drawn):
                if r["colour"] >= 0:
                    extra[i, r["colour"]] = 1
            colour = np.concatenate([colour, extra])
            pattern += [r["pattern"] for r in drawn] + [-1] * e
            background += [r["background"] for r in drawn] + [-1] * e
            mask += [np.zeros((44, 44), np.uint8)] * (n + e)
            ok += [False] * (n + e)
            source += ["drawn"] * n + ["nothing"] * e
        self.pixels = {}
        if part == "train":  # smaller copies, so that a training picture is never sampled far below its size
            for side in sorted({side for _, _, side in PLAN}):
                file = cache / f"train_{side}.npy"
                if not file.exists():
                    np.save(file, torch.cat([shrunk(torch.from_numpy(x).permute(0, 3, 1, 2), side) for x in pixels]).numpy())
                self.pixels[side] = torch.from_numpy(np.load(file))
        else:
            self.large = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).contiguous()
        t = torch.tensor
        self.kind, self.product, self.colour = t(kind), t(product), torch.from_numpy(colour.astype(np.float32))
        self.pattern, self.background = t([int(v) for v in pattern]), t([int(v) for v in background])
        self.mask, self.ok = torch.from_numpy(np.stack(mask)), t([bool(v) for v in ok])
        self.source = np.array(source)

    def odds(self, drawn):
        """How often each picture is drawn: rarer kinds a little more often, the made pictures in fixed shares."""
        kind = self.kind.numpy()
        count = np.bincount(kind, minlength=NONE + 1).astype(float)
        w = count[kind] ** -0.3
        for source, part in (("photo", 0.86 - drawn), ("unknown", 0.07), ("drawn", drawn), ("nothing", 0.07)):
            mine = self.source == source
            w[mine] *= part / w[mine].sum()
        return w / w.sum()


def new_backgrounds(x, mask, which, g):
    """Puts what is cut out in front of a plain plane, or of the corner of another photo, enlarged.

    Each contributor has a floor of his own; without this the kind is learned from the floor.
    """
    n, size = int(which.sum()), x.shape[2]
    if not n:
        return
    m = F.interpolate(mask[which][:, None].float() / 255, size=(size, size), mode="bilinear")
    m = ((m - 0.35) / 0.3).clamp(0, 1)
    plane = torch.rand(n, 3, 1, 1, generator=g)
    light = torch.rand(n, 1, 1, 1, generator=g)
    plane = torch.where(light < 0.6, 0.8 + 0.2 * light / 0.6 + 0.03 * plane, plane)
    slope = torch.linspace(-1, 1, size)[None, None, None] * 0.06 * torch.randn(n, 1, 1, 1, generator=g)
    back = (plane + slope).clamp(0, 1).expand(n, 3, size, size)
    third = size // 3
    corner = x[torch.randint(0, len(x), (n,), generator=g)][:, :, -third:, :third]
    corner = F.interpolate(corner, size=(size, size), mode="bilinear")
    back = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.6, corner, back)
    x[which] = x[which] * m + back * (1 - m)


def augment(x, mask, ok, size, g, strength):
    """uint8 [b, 3, s, s] to floats [b, 3, size, size] in 0..1; returns also which backgrounds were changed."""
    b = len(x)
    r = lambda *shape: torch.rand(*shape, generator=g)
    x = x.float() / 255
    changed = ok & (r(b) < 0.5)
    new_backgrounds(x, mask, changed, g)
    area = 1 - r(b) * (0.2 + 0.5 * strength)
    ratio = torch.exp((r(b) - 0.5) * 0.5 * (0.5 + strength))
    sx, sy = (area * ratio).sqrt().clamp(max=1.1), (area / ratio).sqrt().clamp(max=1.1)
    turn = torch.randn(b, generator=g) * 0.13 * strength * (r(b) < 0.6)
    flip = torch.where(r(b) < 0.5, -1.0, 1.0)
    tx, ty = (r(b) * 2 - 1) * (1 - sx).clamp(min=0.03), (r(b) * 2 - 1) * (1 - sy).clamp(min=0.03)
    c, s = torch.cos(turn), torch.sin(turn)
    theta = torch.stack([torch.stack([c * sx * flip, -s * sy, tx], -1), torch.stack([s * sx * flip, c * sy, ty], -1)], 1)
    x = F.grid_sample(x, F.affine_grid(theta, (b, 3, size, size), align_corners=False), mode="bilinear", padding_mode="reflection", align_corners=False)
    shape = (b, 1, 1, 1)
    x = x ** torch.exp((r(*shape) - 0.5) * 0.5 * strength)
    mean = x.mean((2, 3), keepdim=True)
    x = (x - mean) * (1 + (r(*shape) - 0.5) * 0.6 * strength) + mean * (1 + (r(*shape) - 0.5) * 0.3 * strength)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + (r(*shape) - 0.5) * 0.5 * strength)
    x = x * (1 + (r(b, 3, 1, 1) - 0.5) * 0.12 * strength)
    soft = r(b) < 0.1
    if soft.any():
        x[soft] = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    return x.clamp(0, 1), changed


def cut(size, keep, g):
    """The sides of the pasted rectangle of CutMix."""
    h = w = int(size * math.sqrt(1 - keep))
    y, x = int(torch.randint(0, size - h + 1, (1,), generator=g)), int(torch.randint(0, size - w + 1, (1,), generator=g))
    return slice(y, y + h), slice(x, x + w), 1 - h * w / size**2


def soft_loss(logits, target):
    return -(target * logits.log_softmax(-1)).sum(-1)


def losses(out, t, idx, changed, mixed, other, keep, smooth):
    kind, product, colour, pattern, background = (o.float() for o in out)

    def label_loss(logits, label, n):
        target = F.one_hot(label, n).float() * (1 - smooth) + smooth / n
        return soft_loss(logits, target)
    k = t.kind[idx]
    loss = label_loss(kind, k, len(KINDS) + 1)
    if mixed:
        loss = keep * loss + (1 - keep) * label_loss(kind, k[other], len(KINDS) + 1)
    total = loss.mean()
    label = t.product[idx]
    one = label_loss(product, label.clamp(min=0), len(t.products)) * (label >= 0)
    if mixed:
        one = keep * one + (1 - keep) * (label_loss(product, label[other].clamp(min=0), len(t.products)) * (label[other] >= 0))
    total = total + 0.5 * one.mean()
    if not mixed:
        target = t.colour[idx]
        total = total + 0.35 * (soft_loss(colour, target) * (target.sum(1) > 0)).mean()
        for logits, label, weight in ((pattern, t.pattern[idx], 0.15), (background, torch.where(changed, -1, t.background[idx]), 0.2)):
            total = total + weight * (F.cross_entropy(logits, label.clamp(min=0), reduction="none") * (label >= 0)).mean()
    return total


@torch.no_grad()
def look(eyes, pixels, size):
    """Logits of every head for uint8 pictures."""
    eyes.eval()
    outs = []
    for x in pixels.split(128):
        x = F.interpolate(x.float(), size=(size, size), mode="bilinear", antialias=True).round() / 255
        outs.append(eyes(((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)))
    return [torch.cat(o) for o in zip(*outs)]


def report(eyes, val, size):
    kind, product, colour, *_ = look(eyes, val.large, size)
    right = kind[:, :NONE].argmax(1) == val.kind
    clothes = val.kind < len(CLOTHES)
    food = ~clothes & (val.kind < NONE)
    word = torch.from_numpy(val.word)
    known = (word >= 0)
    hue = colour.argmax(1) == word
    return (f"{size}px clothing {right[clothes].float().mean():.3f} groceries {right[food].float().mean():.3f} "
            f"colour {hue[known & clothes].float().mean():.3f} {hue[known & food].float().mean():.3f}")


def add_up(eyes, over):
    """Averages the gradients of all processes; true when any of them says that the time is over."""
    grads = [p.grad for p in eyes.parameters()]
    flat = torch.cat([g.flatten() for g in grads] + [torch.tensor([float(over)])])
    dist.all_reduce(flat)
    flat[:-1] /= dist.get_world_size()
    for grad, part in zip(grads, flat[:-1].split([g.numel() for g in grads])):
        grad.copy_(part.view_as(grad))
    return flat[-1] > 0


def train_on(rank, a, train, val):
    """One of the processes; the first one keeps the averaged weights and reports."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(a.port))
    dist.init_process_group("gloo", rank=rank, world_size=a.processes)
    torch.manual_seed(a.seed)
    eyes = Eyes(len(KINDS) + 1, len(train.products), len(COLOURS), len(PATTERNS), len(BACKGROUNDS)).to(memory_format=torch.channels_last)
    if a.begin:
        eyes.load_state_dict(torch.load(a.cache / a.begin)["eyes"])
    mean = copy.deepcopy(eyes).eval()
    seed = a.seed * 100 + rank
    torch.manual_seed(seed)
    g, rng, odds = torch.Generator().manual_seed(seed), np.random.default_rng(seed), train.odds(a.drawn)
    batch = a.batch // a.processes
    heavy = [x for x in eyes.parameters() if x.dim() > 1]
    light = [x for x in eyes.parameters() if x.dim() <= 1]
    best = torch.optim.SGD([{"params": heavy, "weight_decay": 5e-4}, {"params": light, "weight_decay": 0}], a.rate, 0.9, nesterov=True)
    step, told = 0, 1
    while True:
        done = (time.time() - a.start) / (a.minutes * 60)
        rate = a.rate * min(1, done / 0.02 + 0.02) * 0.5 * (1 + math.cos(math.pi * min(1, done)))
        for group in best.param_groups:
            group["lr"] = rate
        _, size, side = [x for x in PLAN if x[0] <= max(done, a.enter)][-1]
        idx = torch.from_numpy(rng.choice(len(odds), batch, p=odds))
        strength = a.strength * (1 if done < 0.88 else 0.5)
        x, changed = augment(train.pixels[side][idx], train.mask[idx], train.ok[idx], size, g, strength)
        dice, other, keep = rng.random(), torch.randperm(batch, generator=g), 1.0
        mix = a.mix * (1 if done < 0.88 else 0.35)
        mixed = dice < mix
        if mixed and dice < mix / 2:
            keep = float(rng.beta(0.4, 0.4))
            x = keep * x + (1 - keep) * x[other]
        elif mixed:
            rows, cols, keep = cut(size, float(rng.beta(1, 1)), g)
            x[:, :, rows, cols] = x[other][:, :, rows, cols]
        x = ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        eyes.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=not a.fp32):
            out = eyes(x)
        loss = losses(out, train, idx, changed, mixed, other, keep, 0.1)
        for x in eyes.parameters():
            x.grad = torch.zeros_like(x) if x.grad is None else x.grad.zero_()
        loss.backward()
        if add_up(eyes, done >= 1):
            break
        torch.nn.utils.clip_grad_norm_(eyes.parameters(), 5.0)
        best.step()
        step += 1
        if rank:
            continue
        with torch.no_grad():
            decay = min(0.999, (1 + step) / (20 + step))
            now = eyes.state_dict()
            for name, value in mean.state_dict().items():
                if value.dtype.is_floating_point:
                    value.lerp_(now[name], 1 - decay)
        minutes, seen = (time.time() - a.start) / 60, step * a.batch
        if minutes > told:
            told += a.tell
            line = report(mean, val, a.look) if minutes > 4 else ""
            print(f"{minutes:.1f} min, {seen / 1000:.0f}k pictures, {seen / minutes / 60:.0f}/s, loss {loss.item():.2f} {line}", flush=True)
            torch.save({"eyes": mean.state_dict(), "products": train.products}, a.cache / a.out)
    if rank == 0:
        torch.save({"eyes": mean.state_dict(), "products": train.products}, a.cache / a.out)
        print("end:", step * a.batch, "pictures,", step, "steps;", report(mean, val, a.look), flush=True)
    dist.destroy_process_group()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cache", type=Path, default=Path("cache"))
    p.add_argument("--minutes", type=float, default=65)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--batch", type=int, default=96)
    p.add_argument("--rate", type=float, default=0.1)
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--port", type=int, default=29511)
    p.add_argument("--look", type=int, default=112, help="size of the pictures in the reports")
    p.add_argument("--tell", type=float, default=6, help="minutes between two reports")
    p.add_argument("--fp32", action="store_true", help="for processors without AVX512-BF16")
    p.add_argument("--mix", type=float, default=0.3, help="share of the steps with mixup or CutMix")
    p.add_argument("--drawn", type=float, default=0.12, help="share of the drawn pictures")
    p.add_argument("--enter", type=float, default=0, help="where in the plan of sizes to begin")
    p.add_argument("--strength", type=float, default=0.9, help="of the crops and colour changes")
    p.add_argument("--begin", default="", help="a file of weights in the cache to begin with")
    p.add_argument("--out", default="eyes.pt")
    a = p.parse_args()
    torch.set_num_threads(1)  # before any work: the processes are forked and share the pictures
    a.start = time.time()
    train, val = Pictures(a.cache), Pictures(a.cache, "val")
    print("pictures", {str(s): int((train.source == s).sum()) for s in sorted(set(train.source))}, flush=True)
    torch.multiprocessing.start_processes(train_on, (a, train, val), nprocs=a.processes, start_method="fork")


if __name__ == "__main__":
    main()
