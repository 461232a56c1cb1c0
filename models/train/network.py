"""The two networks: an encoder that is a small residual network with its heads inside, and a tiny text decoder.

The encoder's features are a sequence of four vectors that say, as embeddings: the noun, the colour, the
pattern, the background. Each is chosen by the heads (or is "not known"), so the text always agrees with the
kind whose confidence gates it.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

DIM, HEADS, LAYERS = 128, 4, 3
FACTS = 4  # noun, colour, pattern, background


class Squeeze(nn.Module):
    """Squeeze-and-excitation: each channel is weighted by what the whole picture shows."""
    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 8, 1), nn.Conv2d(width // 8, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.squeeze = Squeeze(width)
        self.skip = nn.Identity()
        if stride == 2 or before != width:
            self.skip = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity(),
                                      nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.squeeze(self.norm2(self.conv2(y))) + self.skip(x))


class Eyes(nn.Module):
    """Pixels [b, 3, s, s] (s a multiple of 32) to the logits of each head."""
    def __init__(self, kinds, products, colours, patterns, backgrounds, stem=24, widths=(32, 64, 136, 272), depths=(1, 2, 3, 2)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        stages, before = [], stem
        for width, depth in zip(widths, depths):
            stages.append(nn.Sequential(*(Block(before if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth))))
            before = width
        self.stages = nn.ModuleList(stages)
        self.drop = nn.Dropout(0.2)
        self.kind, self.product = nn.Linear(before, kinds), nn.Linear(before, products)
        looks = widths[1] * 2 + widths[2] * 2 + before
        self.looks = nn.Sequential(nn.Linear(looks, 160), nn.ReLU(), nn.Dropout(0.1))
        self.colour, self.pattern, self.background = (nn.Linear(160, n) for n in (colours, patterns, backgrounds))

    @staticmethod
    def middle_and_edge(x):
        """Means over the middle and over the rim, where goods and background are."""
        h, w = x.shape[2:]
        t, l = h // 4, w // 4
        inner = x[:, :, t:h - t, l:w - l]
        whole, middle = x.sum((2, 3)), inner.sum((2, 3))
        count = (h - 2 * t) * (w - 2 * l)
        return torch.cat([middle / count, (whole - middle) / (h * w - count)], 1)

    def forward(self, x):
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = x.mean((2, 3))
        head = self.drop(pooled)
        look = self.looks(torch.cat([self.middle_and_edge(maps[1]), self.middle_and_edge(maps[2]), pooled], 1))
        return self.kind(head), self.product(head), self.colour(look), self.pattern(look), self.background(look)


class Pair(nn.Module):
    """Two networks that were trained apart, the second of which looks at the mirror image: their mistakes differ."""
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return tuple((a + b) / 2 for a, b in zip(self.one(x), self.other(x.flip(3))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM) for _ in range(4))

    def split(self, x):
        return x.reshape(x.shape[0], -1, HEADS, DIM // HEADS).transpose(1, 2)

    def forward(self, x, keys, values, mask=None):
        scores = self.split(self.query(x)) @ keys.transpose(2, 3) / math.sqrt(DIM // HEADS)
        if mask is not None:
            scores = scores + mask
        y = scores.softmax(-1) @ values
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1, DIM))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(DIM) for _ in range(3))
        self.own, self.cross = Attention(), Attention()
        self.wide, self.narrow = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x, facts, past_key, past_value, mask):
        y = self.norm1(x)
        key = torch.cat([past_key, self.own.split(self.own.key(y))], 2)
        value = torch.cat([past_value, self.own.split(self.own.value(y))], 2)
        x = x + self.own(y, key, value, mask)
        x = x + self.cross(self.norm2(x), self.cross.split(self.cross.key(facts)), self.cross.split(self.cross.value(facts)))
        return x + self.narrow(F.gelu(self.wide(self.norm3(x)), approximate="tanh")), key, value


class Writer(nn.Module):
    """Token ids and the four facts to the next token's logits; one graph with and without a past."""
    def __init__(self, vocabulary, positions=320):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, DIM), nn.Embedding(positions, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(DIM)
        nn.init.normal_(self.token.weight, std=0.05)
        nn.init.normal_(self.position.weight, std=0.05)

    def forward(self, ids, facts, past):
        length, before = ids.shape[1], past[0].shape[2]
        places = torch.arange(length, device=ids.device) + before
        x = self.token(ids) + self.position(places)
        mask = torch.where(torch.arange(length + before, device=ids.device)[None] <= places[:, None], 0.0, -1e9)
        present = []
        for i, layer in enumerate(self.layers):
            x, key, value = layer(x, facts, past[2 * i], past[2 * i + 1], mask)
            present += [key, value]
        return self.norm(x) @ self.token.weight.T, present


def empty_past(batch):
    return [torch.zeros(batch, HEADS, 0, DIM // HEADS) for _ in range(2 * LAYERS)]


class FactTable(nn.Module):
    """One vector for each noun, colour, pattern and background, and one each for "not known" (the last row)."""
    def __init__(self, nouns, colours, patterns, backgrounds):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n + 1, DIM) for n in (nouns, colours, patterns, backgrounds))

    def forward(self, facts):
        """facts: i64 [b, 4], -1 where not known."""
        return torch.stack([t(torch.where(facts[:, i] < 0, t.num_embeddings - 1, facts[:, i])) for i, t in enumerate(self.tables)], 1)
