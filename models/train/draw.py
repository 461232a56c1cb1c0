"""Draws product pictures: simple garments, fruit, vegetables and cartons on plain or wooden backgrounds.

`drawing(rng, thing, colour, background)` returns a Pillow picture; `--demo DIR` writes the 24 pictures that
are shipped with the project, and products.csv. Random variants of the same things join the training set.
Everything is drawn by this file, so nobody else has a right in it.
"""
import argparse, csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 640
RGB = {"white": (240, 240, 238), "black": (34, 34, 36), "grey": (136, 138, 140), "red": (200, 34, 40), "orange": (240, 130, 28),
       "yellow": (244, 206, 44), "green": (52, 140, 62), "blue": (46, 110, 200), "navy": (28, 36, 80), "purple": (118, 56, 150),
       "pink": (236, 130, 170), "brown": (120, 76, 44), "beige": (214, 194, 160)}
GROUND = {"white": (250, 250, 250), "grey": (168, 170, 172), "dark": (40, 40, 44), "beige": (226, 210, 180), "blue": (110, 160, 215),
          "pink": (240, 180, 200), "green": (120, 175, 120), "red": (190, 50, 54)}


def smooth(points, n=14):
    """A closed Catmull-Rom curve through the points."""
    p = np.array(points, float)
    a, b, c, d = (np.roll(p, k, 0) for k in (1, 0, -1, -2))
    t = np.linspace(0, 1, n, endpoint=False)[None, :, None]
    a, b, c, d = (x[:, None] for x in (a, b, c, d))
    q = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [tuple(x) for x in q.reshape(-1, 2)]


def both(points):
    """A right half, from top to bottom, mirrored to a whole outline."""
    return points + [(-x, y) for x, y in reversed(points)]


def shade(colour, by):
    return tuple(int(max(0, min(255, c * by))) for c in colour)


class Pen:
    """Draws in unit coordinates (-1..1) with the given rotation, scale and place."""
    def __init__(self, rng, picture, size, turn, at):
        self.rng, self.picture, self.draw = rng, picture, ImageDraw.Draw(picture)
        self.size, self.at = size, at
        self.m = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def place(self, points):
        return [tuple(x) for x in np.array(points, float) @ self.m.T * self.size + self.at]

    def fill(self, points, colour, edge=True):
        points = self.place(points)
        self.draw.polygon(points, fill=colour)
        if edge:
            self.draw.line(points + points[:2], fill=shade(colour, 0.72), width=max(2, int(self.size * 0.012)), joint="curve")

    def line(self, points, colour, width=0.012):
        self.draw.line(self.place(points), fill=colour, width=max(1, int(self.size * width)), joint="curve")

    def oval(self, x, y, rx, ry, colour, edge=False):
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.fill(np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], -1), colour, edge)

    def printed(self, points, colour, pattern):
        """The shape, with stripes or checks inside it."""
        self.fill(points, colour)
        if pattern == "plain":
            return
        mask = Image.new("L", self.picture.size)
        ImageDraw.Draw(mask).polygon(self.place(points), fill=255)
        layer = self.picture.copy()
        d = ImageDraw.Draw(layer)
        other = (245, 245, 240) if sum(colour) < 400 else shade(colour, 0.5)
        step = self.size * self.rng.uniform(0.11, 0.19)
        for k in np.arange(-8, 8):
            y, w = k * step / self.size, max(2, int(step * 0.4))
            d.line(self.place([(-2, y), (2, y)]), fill=other, width=w)
        if pattern == "checked":
            for k in np.arange(-8, 8):
                x = k * step / self.size
                d.line(self.place([(x, -2), (x, 2)]), fill=tuple((a + b) // 2 for a, b in zip(other, colour)), width=max(2, int(step * 0.4)))
        self.picture.paste(layer, mask=mask)
        self.line(list(points) + list(points)[:1], shade(colour, 0.7))


# Garments. Each takes (pen, colour, pattern).
def torso(sleeve, hem=0.66, wide=0.36, neck=0.15, flare=0.0):
    """The right half of a top's outline; `sleeve` lists the points between shoulder and armpit."""
    return [(neck, -0.64), (0.3, -0.58)] + sleeve + [(wide - 0.02, -0.1), (wide - 0.01, 0.3), (wide + flare, hem)]


SHORT = [(0.47, -0.5), (0.68, -0.2), (0.5, -0.06), (0.36, -0.26)]
LONG = [(0.46, -0.5), (0.6, 0.0), (0.7, 0.56), (0.54, 0.6), (0.44, 0.1), (0.36, -0.22)]
BARE = [(0.26, -0.5), (0.26, -0.34), (0.34, -0.22)]


def collar_round(pen, colour, depth=0.13, width=0.15):
    t = np.linspace(0, np.pi, 20)
    pts = [(width * np.cos(a), -0.645 + depth * np.sin(a)) for a in t]
    pen.fill(pts, shade(colour, 0.62))
    pen.line(pts, shade(colour, 0.85), 0.03)


def folds(pen, colour, low=0.55):
    for _ in range(pen.rng.integers(1, 4)):
        x, y = pen.rng.uniform(-0.25, 0.25), pen.rng.uniform(-0.1, low - 0.2)
        pen.line([(x, y), (x + pen.rng.uniform(-0.08, 0.08), y + 0.2)], shade(colour, 0.86), 0.014)


def tshirt(pen, c, pattern):
    pen.printed(both(torso(SHORT)), c, pattern)
    collar_round(pen, c)
    folds(pen, c)


def longsleeve(pen, c, pattern):
    pen.printed(both(torso(LONG)), c, pattern)
    collar_round(pen, c)
    for s in (-1, 1):
        pen.line([(s * 0.7, 0.5), (s * 0.53, 0.54)], shade(c, 0.75), 0.02)
    folds(pen, c)


def undershirt(pen, c, pattern):
    pen.printed(both(torso(BARE, wide=0.33, neck=0.17)), c, pattern)
    collar_round(pen, c, 0.3, 0.17)
    folds(pen, c)


def buttons(pen, c, top, low, n):
    for y in np.linspace(top, low, n):
        pen.oval(0.0, y, 0.018, 0.018, shade(c, 0.5) if sum(c) > 250 else (200, 200, 200))


def flaps(pen, c):
    for s in (-1, 1):
        pen.fill([(0, -0.5), (s * 0.17, -0.68), (s * 0.24, -0.56), (s * 0.12, -0.44)], shade(c, 1.08))


def shirt(pen, c, pattern):
    pen.printed(both(torso(LONG, hem=0.7)), c, pattern)
    pen.line([(0, -0.5), (0, 0.7)], shade(c, 0.7), 0.016)
    buttons(pen, c, -0.36, 0.58, 6)
    flaps(pen, c)
    for s in (-1, 1):
        pen.line([(s * 0.69, 0.46), (s * 0.52, 0.5)], shade(c, 0.7), 0.02)


def polo(pen, c, pattern):
    pen.printed(both(torso(SHORT)), c, pattern)
    pen.fill([(-0.04, -0.5), (0.04, -0.5), (0.04, -0.18), (-0.04, -0.18)], shade(c, 0.92))
    buttons(pen, c, -0.4, -0.24, 3)
    flaps(pen, c)


def hoodie(pen, c, pattern):
    pen.fill(smooth(both([(0.06, -0.86), (0.22, -0.8), (0.28, -0.62), (0.2, -0.46)])), shade(c, 0.9))
    pen.printed(both(torso(LONG, wide=0.4)), c, pattern)
    pen.fill(smooth(both([(0.05, -0.74), (0.16, -0.66), (0.12, -0.5), (0.03, -0.42)])), shade(c, 0.5))
    pen.fill([(-0.22, 0.22), (0.22, 0.22), (0.3, 0.5), (-0.3, 0.5)], shade(c, 0.9))
    for s in (-1, 1):
        pen.line([(s * 0.07, -0.46), (s * 0.08, -0.12)], (235, 235, 230), 0.018)
    pen.line([(-0.4, 0.6), (0.4, 0.6)], shade(c, 0.7), 0.016)


def jacket(pen, c, pattern):
    pen.printed(both(torso(LONG, wide=0.42)), c, pattern)
    pen.fill([(-0.18, -0.7), (0.18, -0.7), (0.2, -0.54), (-0.2, -0.54)], shade(c, 0.85))
    pen.line([(0, -0.68), (0, 0.66)], (180, 180, 185), 0.024)
    for s in (-1, 1):
        pen.line([(s * 0.16, 0.2), (s * 0.3, 0.42)], shade(c, 0.5), 0.022)
    for y in np.linspace(-0.3, 0.5, 5) if pen.rng.random() < 0.5 else ():
        pen.line([(-0.38, y), (0.38, y)], shade(c, 0.8), 0.014)


def blazer(pen, c, pattern):
    pen.printed(both(torso(LONG, hem=0.7, wide=0.4)), c, pattern)
    pen.fill([(-0.15, -0.65), (0.15, -0.65), (0.0, 0.12)], (245, 245, 245) if sum(c) < 600 else (200, 205, 215))
    for s in (-1, 1):
        pen.fill([(s * 0.14, -0.66), (s * 0.27, -0.44), (s * 0.2, -0.36), (s * 0.24, -0.3), (0, 0.14)], shade(c, 0.88))
        pen.line([(s * 0.16, 0.36), (s * 0.32, 0.36)], shade(c, 0.6), 0.026)
    pen.line([(0, 0.12), (0.03, 0.7)], shade(c, 0.6), 0.014)
    pen.oval(0.04, 0.2, 0.022, 0.022, shade(c, 0.4))


def dress(pen, c, pattern):
    flare = pen.rng.uniform(0.1, 0.28)
    pen.printed(both([(0.13, -0.8), (0.22, -0.76), (0.24, -0.6), (0.28, -0.46), (0.2, -0.16), (0.32, 0.3), (0.32 + flare, 0.82)]), c, pattern)
    collar_round(Pen(pen.rng, pen.picture, pen.size, np.arctan2(pen.m[1, 0], pen.m[0, 0]), np.array(pen.place([(0, -0.16)])[0])), c, 0.14, 0.12)
    pen.line([(-0.2, -0.14), (0.2, -0.14)], shade(c, 0.65), 0.03)
    for x in (-0.16, -0.05, 0.06, 0.17):
        pen.line([(x * 0.8, -0.1), (x * 2.0, 0.78)], shade(c, 0.84), 0.012)


def skirt(pen, c, pattern):
    wide = pen.rng.uniform(0.5, 0.68)
    pen.printed(both([(0.26, -0.55), (0.34, -0.3), (wide, 0.55)]), c, pattern)
    pen.fill(both([(0.26, -0.56), (0.28, -0.44)]), shade(c, 0.8))
    for x in np.linspace(-0.8, 0.8, 7):
        pen.line([(x * 0.28, -0.42), (x * wide, 0.54)], shade(c, 0.8), 0.012)


def legs(pen, c, pattern, hem, wide):
    pen.printed(both([(0.26, -0.8), (0.32, -0.5), (wide, hem), (wide - 0.22, hem), (0.02, -0.36)])[:-1] + [(-0.26, -0.8)], c, pattern)
    pen.fill(both([(0.26, -0.82), (0.27, -0.72)]), shade(c, 0.82))
    pen.line([(0, -0.72), (0, -0.38)], shade(c, 0.65), 0.014)
    for s in (-1, 1):
        pen.line([(s * 0.14, -0.72), (s * 0.2, -0.58), (s * 0.29, -0.54)], shade(c, 0.7), 0.012)


def trousers(pen, c, pattern):
    legs(pen, c, pattern, 0.84, pen.rng.uniform(0.32, 0.4))


def shorts(pen, c, pattern):
    legs(pen, c, pattern, pen.rng.uniform(0.08, 0.2), pen.rng.uniform(0.42, 0.5))


def hat(pen, c, pattern):
    if pen.rng.random() < 0.5:  # cap
        pen.fill(smooth([(-0.5, 0.2), (-0.46, -0.2), (-0.1, -0.48), (0.3, -0.36), (0.46, 0.0), (0.44, 0.22), (0, 0.26)]), c)
        pen.fill(smooth([(0.1, 0.2), (0.44, 0.1), (0.8, 0.26), (0.86, 0.36), (0.5, 0.36), (0.1, 0.34)]), shade(c, 0.8))
        pen.line([(-0.06, -0.46), (0.0, -0.1), (0.0, 0.24)], shade(c, 0.75))
        pen.oval(-0.08, -0.48, 0.05, 0.03, shade(c, 0.75))
    else:  # knitted hat
        pen.fill(smooth(both([(0.0, -0.5), (0.3, -0.42), (0.46, -0.1), (0.5, 0.3)])), c)
        pen.fill(both([(0.54, 0.2), (0.56, 0.48)]), shade(c, 0.86))
        for x in np.linspace(-0.48, 0.48, 11):
            pen.line([(x, 0.22), (x * 1.03, 0.46)], shade(c, 0.7), 0.016)
        pen.oval(0, -0.58, 0.15, 0.15, shade(c, 1.15), True)


def shoes(pen, c, pattern):
    for dx, dy in ((0.06, -0.28), (-0.06, 0.3)):
        p = lambda pts: [(x + dx, y + dy) for x, y in pts]
        pen.fill(p(smooth([(-0.62, 0.12), (-0.64, -0.24), (-0.4, -0.28), (-0.2, -0.22), (0.1, -0.04), (0.5, 0.02), (0.68, 0.14), (0.3, 0.18), (-0.4, 0.18)])), c)
        pen.fill(p([(-0.66, 0.12), (0.72, 0.12), (0.7, 0.25), (-0.64, 0.25)]), (238, 238, 235) if sum(c) < 600 else (90, 90, 95))
        for k in range(4):
            x = -0.16 + 0.09 * k
            pen.line(p([(x, -0.2 + 0.045 * k), (x + 0.1, -0.06 + 0.03 * k)]), (245, 245, 245) if sum(c) < 600 else (90, 90, 90), 0.02)


# Groceries. Each takes (pen, colour, pattern); the pattern is ignored.
def shine(pen, x, y, r, colour):
    pen.oval(x, y, r, r * 1.3, shade(colour, 1.25))


def leaf(pen, x, y, turn, colour=(64, 140, 50)):
    t = np.linspace(0, 2 * np.pi, 30)
    u, v = 0.16 * np.cos(t) + 0.14, 0.06 * np.sin(t)
    pen.fill(np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], -1), colour)


def apple(pen, c, _):
    pen.fill(smooth(both([(0.08, -0.42), (0.34, -0.52), (0.6, -0.2), (0.5, 0.28), (0.22, 0.58), (0.04, 0.52)])), c)
    pen.fill(smooth([(-0.12, -0.4), (0, -0.34), (0.12, -0.4), (0, -0.3)]), shade(c, 0.6), False)
    pen.line([(0, -0.36), (0.05, -0.66)], (96, 64, 36), 0.04)
    leaf(pen, 0.03, -0.58, -0.3)
    shine(pen, -0.28, -0.2, 0.09, c)


def banana(pen, c, _):
    pen.fill(smooth([(-0.7, -0.3), (-0.5, 0.1), (-0.05, 0.34), (0.45, 0.24), (0.74, -0.16), (0.8, -0.14), (0.62, 0.36), (0.1, 0.62), (-0.45, 0.42), (-0.78, -0.24)]), c)
    pen.line([(-0.6, -0.02), (-0.3, 0.34), (0.15, 0.47), (0.6, 0.18)], shade(c, 0.78), 0.02)
    pen.fill([(0.72, -0.18), (0.74, -0.36), (0.82, -0.36), (0.82, -0.14)], (110, 90, 40))
    pen.oval(-0.75, -0.28, 0.05, 0.05, (90, 66, 34))


def citrus_dots(pen, c, rx, ry):
    for _ in range(90):
        a, r = pen.rng.uniform(0, 6.28), np.sqrt(pen.rng.random()) * 0.9
        pen.oval(r * rx * np.cos(a), r * ry * np.sin(a), 0.008, 0.008, shade(c, 0.84))


def lemon(pen, c, _):
    pen.fill(smooth([(-0.76, 0.0), (-0.6, -0.12), (-0.3, -0.42), (0.3, -0.42), (0.58, -0.14), (0.74, 0.0), (0.58, 0.14), (0.3, 0.42), (-0.3, 0.42), (-0.6, 0.12)]), c)
    citrus_dots(pen, c, 0.5, 0.4)
    shine(pen, -0.2, -0.18, 0.08, c)


def orange(pen, c, _):
    pen.oval(0, 0, 0.56, 0.54, c, True)
    citrus_dots(pen, c, 0.54, 0.52)
    pen.oval(0.02, -0.4, 0.05, 0.03, (70, 110, 40))
    shine(pen, -0.22, -0.2, 0.09, c)
    if pen.rng.random() < 0.6:
        leaf(pen, 0.02, -0.42, -0.5)


def pear(pen, c, _):
    pen.fill(smooth(both([(0.07, -0.66), (0.17, -0.44), (0.24, -0.12), (0.46, 0.22), (0.36, 0.6), (0.08, 0.7)])), c)
    pen.line([(0, -0.64), (0.06, -0.86)], (96, 64, 36), 0.04)
    shine(pen, -0.16, 0.2, 0.08, c)
    for _ in range(40):
        pen.oval(pen.rng.uniform(-0.25, 0.25), pen.rng.uniform(0, 0.55), 0.008, 0.008, shade(c, 0.8))


def carrot(pen, c, _):
    for a in np.linspace(-0.5, 0.5, 5):
        pen.line([(0, -0.46), (a * 0.7, -0.9 + abs(a) * 0.3)], (60, 140, 50), 0.05)
    pen.fill(smooth(both([(0.1, -0.52), (0.2, -0.42), (0.17, -0.1), (0.1, 0.4), (0.02, 0.84)])), c)
    for y in np.linspace(-0.3, 0.6, 7):
        x = pen.rng.uniform(-0.12, 0.06) * (0.8 - y)
        pen.line([(x, y), (x + 0.1 * (0.9 - y), y + 0.01)], shade(c, 0.8), 0.014)


def tomato(pen, c, _):
    pen.fill(smooth(both([(0.1, -0.42), (0.4, -0.44), (0.62, -0.1), (0.52, 0.3), (0.2, 0.5)])), c)
    for a in np.linspace(0, 2 * np.pi, 6)[:5]:
        pen.fill([(-0.05, -0.38), (0.3 * np.sin(a), -0.4 - 0.18 * np.cos(a)), (0.05, -0.38)], (50, 130, 50))
    pen.line([(0, -0.4), (0.04, -0.6)], (60, 120, 50), 0.04)
    shine(pen, -0.3, -0.14, 0.1, c)


def cucumber(pen, c, _):
    bend = pen.rng.uniform(0.0, 0.14)
    pen.fill(smooth([(-0.86, 0.0), (-0.76, -0.16), (0, -0.2 - bend), (0.76, -0.16), (0.86, 0.0), (0.76, 0.14), (0, 0.18 - bend), (-0.76, 0.16)]), c)
    for y in (-0.1, 0.0, 0.1):
        pen.line([(-0.74, y * 0.8), (0, y - bend), (0.74, y * 0.8)], shade(c, 1.2), 0.014)
    for _ in range(26):
        pen.oval(pen.rng.uniform(-0.7, 0.7), pen.rng.uniform(-0.14, 0.1) - bend / 2, 0.01, 0.01, shade(c, 0.7))


def aubergine(pen, c, _):
    pen.fill(smooth(both([(0.1, -0.5), (0.2, -0.3), (0.32, 0.2), (0.28, 0.6), (0.08, 0.74)])), c)
    pen.fill(smooth(both([(0.06, -0.6), (0.22, -0.46), (0.16, -0.3), (0.06, -0.38)])), (70, 120, 50))
    pen.line([(0, -0.56), (0.04, -0.8)], (80, 120, 50), 0.06)
    pen.oval(-0.14, 0.1, 0.04, 0.2, shade(c, 1.5))


def avocado(pen, c, _):
    pen.fill(smooth(both([(0.08, -0.64), (0.22, -0.4), (0.44, 0.16), (0.36, 0.5), (0.08, 0.62)])), c)
    pen.fill(smooth(both([(0.06, -0.56), (0.18, -0.36), (0.37, 0.16), (0.3, 0.44), (0.06, 0.54)])), (222, 224, 140))
    pen.oval(0, 0.18, 0.21, 0.23, (122, 76, 40), True)
    shine(pen, -0.06, 0.1, 0.05, (150, 104, 60))


def watermelon(pen, c, _):
    pen.oval(0, 0, 0.74, 0.6, c, True)
    for x in np.linspace(-0.6, 0.6, 7):
        t = np.linspace(-1.3, 1.3, 14)
        pts = [(x * np.cos(a) * 1.1 + pen.rng.uniform(-0.02, 0.02), 0.57 * np.sin(a)) for a in t]
        pen.line(pts, shade(c, 0.5), 0.06)


def pineapple(pen, c, _):
    for a in np.linspace(-0.9, 0.9, 9):
        pen.fill([(a * 0.2 - 0.05, -0.3), (a * 0.5, -0.92 + abs(a) * 0.3), (a * 0.2 + 0.05, -0.3)], (60, 130, 56))
    body = smooth(both([(0.16, -0.36), (0.36, -0.1), (0.38, 0.36), (0.18, 0.72)]))
    pen.fill(body, (176, 122, 46))
    mask = Image.new("L", pen.picture.size)
    ImageDraw.Draw(mask).polygon(pen.place(body), fill=255)
    layer = pen.picture.copy()
    d = ImageDraw.Draw(layer)
    for k in np.linspace(-1.6, 1.6, 17):
        for s in (-1, 1):
            d.line(pen.place([(-1 + k, -s), (1 + k, s)]), fill=(116, 76, 30), width=max(2, int(pen.size * 0.016)))
    pen.picture.paste(layer, mask=mask)


def onion(pen, c, _):
    pen.fill(smooth(both([(0.03, -0.7), (0.1, -0.48), (0.44, -0.2), (0.5, 0.16), (0.26, 0.44), (0.05, 0.52)])), c)
    for x in (-0.5, -0.25, 0.0, 0.25, 0.5):
        pen.line([(x * 0.1, -0.52), (x * 0.9, 0.0), (x * 0.2, 0.48)], shade(c, 0.78), 0.014)
    for a in (-0.1, -0.04, 0.03, 0.09):
        pen.line([(a * 0.3, 0.5), (a, 0.64)], (150, 120, 80), 0.014)


def pepper(pen, c, _):
    pen.fill(smooth(both([(0.06, -0.42), (0.3, -0.5), (0.5, -0.28), (0.44, 0.2), (0.3, 0.56), (0.1, 0.54)])), c)
    for s in (-1, 1):
        pen.line([(s * 0.1, -0.4), (s * 0.2, 0.0), (s * 0.1, 0.5)], shade(c, 0.76), 0.018)
    pen.fill(smooth([(-0.14, -0.42), (0, -0.5), (0.14, -0.42), (0, -0.36)]), (60, 130, 50))
    pen.line([(0, -0.44), (0.06, -0.7)], (60, 130, 50), 0.08)
    shine(pen, -0.3, -0.16, 0.06, c)


def mushroom(pen, c, _):
    pen.fill(smooth(both([(0.14, -0.1), (0.16, 0.3), (0.2, 0.56)])), (240, 230, 212))
    pen.fill(smooth([(-0.58, 0.02), (-0.46, -0.34), (0, -0.56), (0.46, -0.34), (0.58, 0.02), (0.3, 0.08), (-0.3, 0.08)]), c)
    shine(pen, -0.2, -0.3, 0.08, c)


def carton(pen, body, label, draw_label, words):
    pen.fill([(-0.34, -0.4), (0.18, -0.4), (0.18, 0.84), (-0.34, 0.84)], body)
    pen.fill([(0.18, -0.4), (0.4, -0.46), (0.4, 0.76), (0.18, 0.84)], shade(body, 0.8))
    pen.fill([(-0.34, -0.4), (-0.24, -0.72), (0.14, -0.72), (0.18, -0.4)], shade(body, 0.93))
    pen.fill([(0.18, -0.4), (0.14, -0.72), (0.24, -0.74), (0.4, -0.46)], shade(body, 0.7))
    pen.fill([(-0.24, -0.84), (0.2, -0.84), (0.2, -0.72), (-0.24, -0.72)], shade(body, 0.97))
    if pen.rng.random() < 0.6:
        pen.oval(-0.06, -0.56, 0.1, 0.08, label, True)
    draw_label()
    if words:
        x, y = pen.place([(-0.3, -0.3)])[0]
        if abs(pen.m[1, 0]) < 0.2:
            pen.draw.text((x, y), words, fill=shade(label, 0.8), font_size=int(pen.size * 0.17))


def milk(pen, c, _):
    """White, with a band or a drop in the given colour."""
    body = (246, 246, 244)

    def label():
        style = pen.rng.integers(3)
        if style == 0:
            pen.fill([(-0.34, 0.36), (0.18, 0.28), (0.18, 0.84), (-0.34, 0.84)], c)
            pen.fill([(0.18, 0.28), (0.4, 0.24), (0.4, 0.76), (0.18, 0.84)], shade(c, 0.8))
        elif style == 1:
            pen.fill(smooth([(-0.08, -0.06), (0.08, 0.3), (-0.08, 0.5), (-0.24, 0.3)]), c)
        else:
            for y in (0.1, 0.3, 0.5):
                pen.fill([(-0.34, y), (0.18, y), (0.18, y + 0.1), (-0.34, y + 0.1)], c)
                pen.fill([(0.18, y), (0.4, y - 0.03), (0.4, y + 0.07), (0.18, y + 0.1)], shade(c, 0.8))
    carton(pen, body, c, label, "MILK")


def juice(pen, c, _):
    """In the colour of the fruit, with the fruit on it."""
    def label():
        pen.oval(-0.08, 0.36, 0.2, 0.2, (250, 240, 220))
        pen.oval(-0.08, 0.36, 0.16, 0.16, c, True)
        for a in np.linspace(0, 2 * np.pi, 9)[:8]:
            pen.line([(-0.08, 0.36), (-0.08 + 0.15 * np.cos(a), 0.36 + 0.15 * np.sin(a))], (250, 240, 220), 0.012)
        leaf(pen, -0.02, 0.18, -0.5)
    body = shade(c, 1.05) if pen.rng.random() < 0.6 else (250, 236, 200)
    carton(pen, body, (250, 245, 235) if sum(body) < 560 else (60, 120, 50), label, "JUICE")


# thing: (drawing function, kind, colours, says its colour, can have a pattern)
WEAR = "white black grey red orange yellow green blue navy purple pink brown beige".split()
THINGS = {
    "t-shirt": (tshirt, "t-shirt", WEAR, 1), "long-sleeved top": (longsleeve, "long-sleeved top", WEAR, 1), "shirt": (shirt, "shirt", WEAR, 1),
    "polo shirt": (polo, "polo shirt", WEAR, 1), "undershirt": (undershirt, "undershirt", WEAR, 1), "hoodie": (hoodie, "hoodie", WEAR, 0),
    "jacket": (jacket, "jacket or coat", WEAR, 0), "blazer": (blazer, "blazer", WEAR, 0), "dress": (dress, "dress", WEAR, 1),
    "skirt": (skirt, "skirt", WEAR, 1), "trousers": (trousers, "trousers", WEAR, 0), "shorts": (shorts, "shorts", WEAR, 1),
    "hat": (hat, "hat", WEAR, 0), "shoes": (shoes, "shoes", WEAR, 0),
    "apple": (apple, "Apple", ["red", "green", "yellow"], 0), "banana": (banana, "Banana", ["yellow"], 0), "lemon": (lemon, "Lemon", ["yellow"], 0),
    "lime": (lemon, "Lime", ["green"], 0), "orange": (orange, "Orange", ["orange"], 0), "pear": (pear, "Pear", ["green", "yellow"], 0),
    "carrot": (carrot, "Carrots", ["orange"], 0), "tomato": (tomato, "Tomato", ["red"], 0), "cucumber": (cucumber, "Cucumber", ["green"], 0),
    "aubergine": (aubergine, "Aubergine", ["purple"], 0), "avocado": (avocado, "Avocado", ["green"], 0), "watermelon": (watermelon, "Melon", ["green"], 0),
    "pineapple": (pineapple, "Pineapple", ["brown"], 0), "onion": (onion, "Onion", ["brown"], 0), "pepper": (pepper, "Pepper", ["red", "green", "yellow", "orange"], 0),
    "mushroom": (mushroom, "Mushroom", ["brown"], 0), "milk": (milk, "Milk", ["blue", "green", "red"], 0), "juice": (juice, "Juice", ["orange", "yellow", "green"], 0)}


def ground(rng, background, size):
    if background == "wooden":
        base = np.array([186, 134, 84]) * rng.uniform(0.75, 1.12)
        picture = Image.new("RGB", size)
        d = ImageDraw.Draw(picture)
        plank = size[1] // int(rng.integers(5, 9))
        for y in range(0, size[1], plank):
            tone = base * rng.uniform(0.9, 1.1)
            d.rectangle((0, y, size[0], y + plank), fill=tuple(int(min(255, v)) for v in tone))
            for _ in range(14):
                yy, x = y + rng.uniform(2, plank), rng.uniform(-80, size[0])
                d.line([(x, yy), (x + rng.uniform(60, 260), yy + rng.uniform(-3, 3))], fill=tuple(int(v) for v in tone * 0.9), width=1)
            d.line([(0, y), (size[0], y)], fill=tuple(int(v) for v in base * 0.6), width=2)
            x = rng.uniform(0, size[0])
            d.line([(x, y), (x, y + plank)], fill=tuple(int(v) for v in base * 0.6), width=2)
        return picture
    base = np.array(GROUND[background]) * rng.uniform(0.94, 1.03)
    y, x = np.mgrid[0:size[1], 0:size[0]]
    slope = 1 + rng.uniform(-0.06, 0.06) * (y / size[1] - 0.5) + rng.uniform(-0.04, 0.04) * (x / size[0] - 0.5)
    return Image.fromarray(np.clip(base * slope[..., None], 0, 255).astype(np.uint8))


def jitter(rng, colour):
    return tuple(int(np.clip(c * rng.uniform(0.93, 1.07), 0, 255)) for c in colour)


def drawing(rng, thing, colour, background, pattern="plain", size=(SIZE, SIZE), calm=False):
    """One picture of the thing. `calm`: upright and in the middle."""
    draw = THINGS[thing][0]
    picture = ground(rng, background, size)
    side = min(size)
    turn = rng.normal(0, 0.03 if calm else 0.14)
    scale = side * (rng.uniform(0.45, 0.5) if calm else rng.uniform(0.32, 0.54))
    at = np.array(size) / 2 + (0 if calm else 1) * rng.uniform(-0.05, 0.05, 2) * side
    before = picture.copy()
    rgb = (56, 36, 74) if thing == "aubergine" else (62, 98, 50) if thing == "avocado" else (176, 122, 60) if thing == "onion" else \
        (150, 110, 76) if thing == "mushroom" else (118, 176, 52) if thing == "apple" and colour == "green" else \
        (168, 190, 70) if thing == "pear" and colour == "green" else (120, 180, 60) if thing == "lime" else RGB[colour]
    draw(Pen(rng, picture, scale, turn, at), jitter(rng, rgb), pattern)
    mask = ImageChops.difference(picture, before).convert("L").point(lambda v: 255 if v > 6 else 0)
    shadow = ImageChops.offset(mask, int(side * 0.012), int(side * 0.018)).filter(ImageFilter.GaussianBlur(side * 0.015)).point(lambda v: int(v * 0.35))
    result = Image.composite(Image.new("RGB", size, (20, 20, 24)), before, shadow)
    result.paste(picture, mask=mask.filter(ImageFilter.MaxFilter(3)))
    light = np.linspace(rng.uniform(0.94, 1.04), rng.uniform(0.9, 1.02), size[0])[None, :, None]
    grain = rng.normal(0, rng.uniform(0.5, 4), (size[1], size[0], 1))
    out = np.clip(np.asarray(result, np.float32) * light + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(out).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))


PLACES = ["white", "grey", "dark", "wooden", "beige", "blue", "pink", "green", "red"]
PLACE_ODDS = [0.34, 0.14, 0.07, 0.18, 0.09, 0.08, 0.04, 0.03, 0.03]


def random_drawing(rng):
    """(picture, thing, colour, pattern, background) for the training set."""
    thing = list(THINGS)[rng.integers(len(THINGS))]
    _, _, colours, patterned = THINGS[thing]
    colour = colours[rng.integers(len(colours))]
    pattern = ["striped", "checked"][rng.integers(2)] if patterned and rng.random() < 0.3 else "plain"
    while True:
        place = rng.choice(PLACES, p=PLACE_ODDS)
        same = {"white": ("white",), "dark": ("black", "navy")}.get(place, (place,))
        if colour not in same and not (thing == "milk" and place == "white" and rng.random() < 0.5):
            break
    size = [(SIZE, SIZE), (560, 720), (720, 560)][rng.integers(3)]
    return drawing(rng, thing, colour, place, pattern, size), thing, colour, pattern, place


DEMO = [("t-shirt", "red", "white", "plain"), ("t-shirt", "navy", "wooden", "striped"), ("long-sleeved top", "green", "white", "plain"),
        ("trousers", "blue", "wooden", "plain"), ("trousers", "black", "white", "plain"), ("dress", "purple", "white", "plain"),
        ("dress", "yellow", "grey", "plain"), ("skirt", "pink", "wooden", "plain"), ("hat", "blue", "white", "plain"),
        ("shoes", "red", "wooden", "plain"), ("shoes", "navy", "white", "plain"), ("shorts", "orange", "white", "plain"),
        ("apple", "red", "white", "plain"), ("apple", "green", "wooden", "plain"), ("banana", "yellow", "white", "plain"),
        ("lemon", "yellow", "blue", "plain"), ("orange", "orange", "white", "plain"), ("carrot", "orange", "wooden", "plain"),
        ("tomato", "red", "white", "plain"), ("cucumber", "green", "white", "plain"), ("milk", "blue", "wooden", "plain"),
        ("juice", "orange", "white", "plain"), ("aubergine", "purple", "wooden", "plain"), ("hoodie", "grey", "white", "plain")]


def demo(folder):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    shapes = [(800, 800), (720, 900), (640, 640), (600, 750)]
    with open(folder / "products.csv", "w", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["file", "title"])
        for i, (thing, colour, place, pattern) in enumerate(DEMO):
            picture = drawing(np.random.default_rng(90_000 + i), thing, colour, place, pattern, shapes[i % 4], calm=True)
            name = f"{i + 1:02d}-{thing}-{colour}.jpg".replace(" ", "-")
            for quality in (88, 80, 70, 55, 40):
                picture.save(folder / "images" / name, quality=quality)
                if (folder / "images" / name).stat().st_size < 60_000:
                    break
            table.writerow([name, f"Sample {i + 1}: {thing}"])


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--demo", type=Path, required=True, help="folder for images/ and products.csv")
    demo(p.parse_args().demo)
