"""From what the networks see to one noun and the probability that it is right.

Candidates are the nouns of ImageNet's classes and groups, and the own kinds. Each gets a
probability by a logistic
regression on few numbers; of those that are sure the most specific is said, else the likeliest.
The same arithmetic is
built into the encoder's graph by export.py.
"""

import json

import numpy as np

from data import CLOTHES, KINDS
from own_kinds import ALL, NEW, OTHER
from vocabulary import class_names, load
from weights import file_of, read_pth

LOW = 1e-4
LOOSE = [k for k in KINDS if k not in CLOTHES]
PACKED = {
    "Juice",
    "Milk",
    "Oatghurt",
    "Oat Milk",
    "Sour Cream",
    "Sour Milk",
    "Soyghurt",
    "Soy Milk",
    "Yoghurt",
}
T_ONE, T_BOTH = 0.8, 0.7
SPECIFIC = 0.8  # a noun as sure as this is preferred to a wider one that is surer
# Where the head of nothing is as sure as this, every confidence is multiplied by REFUSED: as few
# photos of shops that it never saw are refused as before it learned from halves.
REFUSAL, REFUSED = 1.5, 0.3
RIVALS = 32  # likeliest classes among which a noun's rival is looked for
ALIVE = 398  # classes before this one are animals, which shops seldom sell
DECAY = 10.0  # of the regressions' weights; the best with each shop left out


def softmax(x):
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def odds(p):
    p = np.clip(p, LOW, 1 - LOW)
    return np.log(p / (1 - p))


class Vocabulary:
    """The candidates: first ImageNet's, then the own kinds; `noun` is the number of the noun that
    each says."""

    def __init__(self, cache):
        self.nouns, self.own = load(class_names(cache))
        self.classes = [n for n in self.nouns if n.classes]
        self.matrix = np.zeros((1000, len(self.classes)))
        for j, n in enumerate(self.classes):
            self.matrix[sorted(n.classes), j] = 1
        self.size = self.matrix.sum(0)
        self.group = np.array([n.is_group for n in self.classes], float)
        self.distrusted = np.array([n.distrusted for n in self.classes], float)
        self.alive = np.array([min(n.classes) < ALIVE for n in self.classes], float)
        self.noun = np.array(
            [self.nouns.index(n) for n in self.classes] + [self.own[k] for k in ALL]
        )
        by_name = {n.name: n for n in self.nouns}
        worn = set().union(*(by_name[g].classes for g in ("clothing", "footwear", "headwear")))
        food = by_name["food"].classes | {582, 519, 478, 692, 790}
        packed = {
            478,
            692,
            653,
            737,
            898,
            899,
            901,
            440,
            838,
            631,
            711,
            720,
            582,
            700,
            999,
            772,
            921,
        } | by_name["bottle"].classes
        self.domain = np.zeros((1000, 3))
        for k, classes in enumerate((worn, food, packed)):
            self.domain[sorted(classes), k] = 1
        # Nouns of what a food shop shows, which the own kinds know better.
        self.food = (self.matrix.T @ self.domain[:, 1] == self.size).astype(float)
        kind_of = lambda k: 0 if k in CLOTHES else 3 if k in NEW else 2 if k in PACKED else 1
        self.family = np.array([kind_of(k) for k in ALL])
        self.length2, self.length0 = (
            lengths(read_pth(file_of(cache, n))["_fc.weight"]) for n in ("lite2", "lite0")
        )


def energy(logits):
    """How much a network sees at all: the logarithm of the sum of the exponentials."""
    high = logits.max(-1)
    return np.log(np.exp(logits.astype(np.float64) - high[..., None]).sum(-1)) + high


def lengths(weights):
    """Of each class, how far its weights are from the mean class."""
    weights = np.asarray(weights, np.float32)
    return np.linalg.norm(weights - weights.mean(0), axis=1)


def angle(logits, length, features):
    """The cosine between what is seen and the nearest class, whatever their lengths."""
    logits = logits - logits.mean(-1, keepdims=True)
    return (logits / length).max(-1) / (np.linalg.norm(features, axis=-1) + 1e-6)


def rivals(p, matrix):
    """[photos, nouns]: the probability of the likeliest class that a noun does not stand for."""
    out = np.zeros((len(p), matrix.shape[1]))
    best = np.argsort(-p, 1)[:, :RIVALS]
    for k in range(RIVALS):
        found = p[np.arange(len(p)), best[:, k], None] * (1 - matrix[best[:, k]])
        out = np.maximum(out, found)
    return out


class Seen:
    """What the networks say of some photos: features and logits of the two pretrained networks,
    own kinds, earlier networks, nothing."""

    def __init__(self, v, features, two, zero, own, eyes, nothing):
        self.p2, self.p0 = softmax(two / T_ONE), softmax(zero / T_ONE)
        self.both = softmax((two + zero) / 2 / T_BOTH)
        self.entropy = -(self.both * np.log(self.both + 1e-9)).sum(-1)
        self.top = self.both.max(-1)
        self.rival = rivals(self.both, v.matrix)
        self.nothing = np.clip(nothing, -6, 6)
        self.energy2, self.energy0 = energy(two), energy(zero)
        f2, f0 = np.split(np.asarray(features, np.float32), 2, -1)
        self.angle2, self.angle0 = angle(two, v.length2, f2), angle(zero, v.length0, f0)
        # A kind without photos to learn from is not said.
        self.known = own[..., :OTHER] > -5e3
        self.probe = softmax(own)
        fused = own.copy()
        fused[..., : len(KINDS)] += eyes[..., :-1]
        fused[..., OTHER] += eyes[..., -1]
        fused[..., len(KINDS) : OTHER] += eyes[..., -1:]
        self.fused, self.eyes = softmax(fused), softmax(eyes)

    def rows(self, mine):
        """The same of some of the photos."""
        out = object.__new__(Seen)
        for name, values in vars(self).items():
            setattr(out, name, values[mine])
        return out

    @staticmethod
    def joined(parts, places, count):
        """One of several, the photos of each at its places."""
        out = object.__new__(Seen)
        for name, first in vars(parts[0]).items():
            values = np.zeros((count, *first.shape[1:]), first.dtype)
            for part, place in zip(parts, places):
                values[place] = getattr(part, name)
            setattr(out, name, values)
        return out

    def common(self):
        """Numbers of the photo, each [photos, 1]."""
        numbers = self.nothing, self.energy2, self.energy0, self.angle2, self.angle0
        return [x[:, None] for x in numbers]

    def class_features(self, v):
        """[photos, candidates, numbers] of ImageNet's nouns."""
        q, q2, q0 = (odds(p @ v.matrix) for p in (self.both, self.p2, self.p0))
        wide, other = np.ones_like(q), odds(self.probe[:, OTHER])[:, None]
        return np.stack(
            [
                q,
                q2,
                q0,
                np.minimum(q2, q0),
                wide * v.group,
                wide * v.distrusted,
                wide * np.log(v.size),
                wide * v.alive,
                odds(self.rival),
                wide * self.entropy[:, None],
                wide * odds(self.top)[:, None],
                *(wide * x for x in self.common()),
                wide * other,
                v.food * other,
            ],
            -1,
        )

    def own_features(self, v):
        """[photos, own kinds, numbers]; the mass of the classes of a kind's domain stands for the
        pretrained networks."""
        n = len(KINDS)
        f, probe = odds(self.fused[:, :OTHER]), odds(self.probe[:, :OTHER])
        eyes = np.concatenate([odds(self.eyes[:, :n]), np.zeros((len(f), len(NEW)))], 1)
        mass = odds(self.both @ v.domain)
        domain = np.concatenate([mass, np.zeros((len(f), 1))], 1)[:, v.family]
        wide = np.ones_like(f)
        return np.stack(
            [
                f,
                probe,
                eyes,
                domain,
                wide * (v.family == 2),
                wide * self.entropy[:, None],
                wide * odds(self.probe[:, OTHER])[:, None],
                wide * odds(self.eyes[:, -1])[:, None],
                *(wide * x for x in self.common()),
            ],
            -1,
        )


def logistic(x, y, weight, decay=DECAY):
    """Weights (with the bias last) of a logistic regression on standardised numbers, for raw
    numbers."""
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-9] = 1
    z = np.c_[(x - mean) / deviation, np.ones(len(x))]
    b = np.zeros(z.shape[1])
    keep = np.r_[np.full(len(b) - 1, decay), 1e-6]
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(z @ b, -30, 30)))
        step = np.linalg.solve(
            (z * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ z + np.diag(keep),
            z.T @ (weight * (p - y)) + keep * b,
        )
        b -= step
    raw = b[:-1] / deviation
    return np.r_[raw, b[-1] - mean @ raw]


def apply(weights, x):
    return 1 / (1 + np.exp(-np.clip(x @ weights[:-1] + weights[-1], -30, 30)))


class Judge:
    """The regressions: one for ImageNet's nouns, one for each family of own kinds."""

    def __init__(self, classes, own):
        self.classes, self.own = classes, own

    def confidence(self, v, seen):
        """[photos, candidates], the own kinds behind."""
        a = apply(self.classes, seen.class_features(v))
        x = seen.own_features(v)
        b = np.zeros(x.shape[:2])
        for family, weights in enumerate(self.own):
            mine = v.family == family
            if weights is not None:
                b[:, mine] = apply(weights, x[:, mine])
        b[:, v.family == 3] *= seen.known[:, v.family == 3]
        c = np.concatenate([a, b], 1)
        return c * np.where(seen.nothing > REFUSAL, REFUSED, 1)[:, None]


def rank(v):
    """How specific each candidate is: the higher, the more."""
    return np.concatenate([1 / (1 + v.size), np.full(len(ALL), 1.0)])


def pick(v, confidence):
    """(candidate, its confidence): of those that are sure the most specific, else the likeliest."""
    score = np.where(confidence >= SPECIFIC, 2 + 4 * rank(v) + confidence, confidence)
    best = score.argmax(1)
    return best, confidence[np.arange(len(best)), best]
