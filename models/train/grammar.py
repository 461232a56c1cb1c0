"""The texts: facts of a photo (noun, colour, pattern, place) become a caption, in three styles and
three languages.

A text is a row of slots, and each slot depends on few facts; `compile_decoder.py` turns the slots
into
the tables of the decoder's graph. Unknown facts are 0 and are left out. Nothing is said of a photo
but
its facts; what follows is a general statement about such things, from topics.txt.
"""

import re
from functools import cache

import numpy as np

from vocabulary import HERE, load

LANGUAGES, STYLES = ["en", "de", "fr"], ["concise", "seo", "detailed"]
COLOURS = [
    "",
    "white",
    "black",
    "grey",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "navy",
    "purple",
    "pink",
    "brown",
    "beige",
    "multicoloured",
]
PATTERNS = ["", "striped", "checked", "patterned"]
PLACES = ["", "white", "grey", "dark", "wooden", "beige", "red", "pink", "blue", "green", "shop"]

GERMAN = {
    "white": "weiß",
    "black": "schwarz",
    "grey": "grau",
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "navy": "dunkelblau",
    "purple": "violett",
    "pink": "rosafarben",
    "brown": "braun",
    "beige": "beigefarben",
    "multicoloured": "mehrfarbig",
    "dark": "dunkel",
    "striped": "gestreift",
    "checked": "kariert",
    "patterned": "gemustert",
}
GERMAN_COLOUR = {"orange": "Orange", "pink": "Rosa", "beige": "Beige"}
ENDING = {"m": "er", "f": "e", "n": "es", "p": "e"}
# m, f, mp, fp
FRENCH = {
    "white": "blanc blanche blancs blanches",
    "black": "noir noire noirs noires",
    "grey": "gris grise gris grises",
    "red": "rouge rouge rouges rouges",
    "orange": "orange orange orange orange",
    "yellow": "jaune jaune jaunes jaunes",
    "green": "vert verte verts vertes",
    "blue": "bleu bleue bleus bleues",
    "navy": "bleu_marine bleu_marine bleu_marine bleu_marine",
    "purple": "violet violette violets violettes",
    "pink": "rose rose roses roses",
    "brown": "marron marron marron marron",
    "beige": "beige beige beiges beiges",
    "multicoloured": "multicolore multicolore multicolores multicolores",
}
FRENCH_PATTERN = {"striped": "à rayures", "checked": "à carreaux", "patterned": "à motifs"}
FRENCH_COLOUR = {"orange": "l'orange", "navy": "le bleu marine"}
FRENCH_PLACE = {
    "dark": "sombre",
    "white": "blanc",
    "grey": "gris",
    "green": "vert",
    "blue": "bleu",
    "pink": "rose",
    "red": "rouge",
    "beige": "beige",
}

# Of screens the picture on them would be named; of glass what is behind it.
PATTERNED_TOPICS = {
    "top",
    "outer",
    "trousers",
    "dress",
    "underwear",
    "swimwear",
    "sock",
    "accessory",
    "bed",
    "curtain",
    "towel",
}
COLOURLESS_TOPICS = {
    "people",
    "landscape",
    "building",
    "shop",
    "dish",
    "dessert",
    "drink",
    "food",
    "juice",
    "milk",
    "yoghurt",
    "cream",
    "street",
    "party",
    "bread",
    "screen",
    "computer",
    "phone",
    "glass",
}
COLOUR_WORD = re.compile(
    r"\b(black|white|red|green|orange|yellow|gold|golden|polar)|black|golden|robin|ladybird|zebra|"
    r"flamingo|panda|dalmatian|goldfish|\blime\b",
    re.I,
)
# The colours that loose groceries can have.
POSSIBLE = {
    "Apple": "red green yellow",
    "Avocado": "green black",
    "Banana": "yellow green",
    "Kiwi": "brown",
    "Lemon": "yellow",
    "Lime": "",
    "Mango": "green red yellow",
    "Melon": "green yellow",
    "Nectarine": "red orange",
    "Orange": "",
    "Papaya": "green yellow orange",
    "Passion Fruit": "purple",
    "Peach": "orange red",
    "Pear": "green yellow red",
    "Pineapple": "brown green",
    "Plum": "purple red",
    "Pomegranate": "red",
    "Red Grapefruit": "orange",
    "Satsumas": "orange",
    "Asparagus": "green",
    "Aubergine": "purple",
    "Cabbage": "green white",
    "Carrots": "orange",
    "Cucumber": "green",
    "Garlic": "white",
    "Ginger": "brown",
    "Leek": "green",
    "Mushroom": "brown white",
    "Onion": "brown",
    "Pepper": "red green yellow orange",
    "Potato": "brown",
    "Red Beet": "purple",
    "Tomato": "red",
    "Zucchini": "green",
    "Golden Delicious": "yellow green",
    "Granny Smith": "green yellow",
    "Red Delicious": "",
    "Royal Gala": "red yellow",
    "Watermelon": "green",
    "Cantaloupe": "",
    "Galia Melon": "yellow green",
    "Honeydew Melon": "yellow green",
    "Conference": "green yellow",
    "Kaiser": "",
    "Anjou": "green red yellow",
    "Sweet Potato": "",
    "Beef Tomato": "red",
    "Vine Tomato": "red",
    "Red Bell Pepper": "",
    "Green Bell Pepper": "",
    "Orange Bell Pepper": "",
    "Yellow Bell Pepper": "",
}
PACKED_TOPICS = {"juice", "milk", "yoghurt", "cream"}
LOOSE_TOPICS = {"fruit", "citrus", "vegetable", "spice"}


def read_topics():
    topics, name = {}, None
    for line in (HERE / "topics.txt").read_text().splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            topics[name] = {}
        elif line and not line.startswith("#"):
            language, _, rest = line.partition(": ")
            topics[name][language] = [x.strip() for x in rest.split("|")]
    for name, languages in topics.items():
        assert all(len(languages[x]) == 4 for x in LANGUAGES), name
    return topics


TOPICS = read_topics()
NOUNS, OWN = load()
TOPIC_NAMES = sorted(TOPICS)
for number, noun in enumerate(NOUNS):
    noun.number = number
    noun.loose = any(OWN[k] == number for k in POSSIBLE)
    own = [k for k in POSSIBLE if OWN[k] == number]
    if own:
        noun.colours = set(POSSIBLE[own[0]].split())
    elif (
        noun.topic in COLOURLESS_TOPICS
        or noun.topic in LOOSE_TOPICS
        or COLOUR_WORD.search(noun.en_many)
    ):
        noun.colours = set()
    else:
        noun.colours = set(COLOURS[1:])
    noun.patterned = noun.topic in PATTERNED_TOPICS
PERSON = NOUNS[OWN["person"]]


def capital(text):
    return text[:1].upper() + text[1:]


def is_many(language, noun, place):
    """Whether the noun is written in the plural."""
    one = {"en": noun.en_one, "de": noun.de_one, "fr": noun.fr_one}[language]
    return one is None or noun.loose and PLACES[place] in ("", "shop")


def noun_text(language, noun, many):
    one, more = {
        "en": (noun.en_one, noun.en_many),
        "de": (noun.de_one, noun.de_many),
        "fr": (noun.fr_one, noun.fr_many),
    }[language]
    return more if many or one is None else one


def vowel(word):
    return (
        bool(re.match(r"[aeiouAEIOU]", word))
        and not re.match(r"(uni|one-|eu|ute)", word, re.I)
        or bool(re.match(r"(hour|SLR|X-)", word))
    )


def signature(noun):
    """What the words around a noun depend on."""
    return (
        noun.de_gender,
        noun.fr_gender,
        vowel(noun.en_one or noun.en_many),
        noun.en_one is None,
        noun.loose,
        noun.patterned,
        noun.number % 3,
        noun.topic == "people" and noun.en_one is None,
    )


for number, noun in enumerate(NOUNS):
    noun.signature = signature(noun)


class Signature:
    """The words around a noun, by its signature alone."""

    def __init__(self, key):
        (
            self.de_gender,
            self.fr_gender,
            self.vowel,
            self.en_plural,
            self.loose,
            self.patterned,
            self.variant,
            self.counted,
        ) = key

    def many(self, language, place):
        only = {"en": self.en_plural, "de": self.de_gender == "p", "fr": "p" in self.fr_gender}[
            language
        ]
        return only or self.loose and PLACES[place] in ("", "shop")

    def before(self, language, style, many, colour, pattern):
        """Article and adjectives before the noun, each with a blank behind it; capitalised."""
        c, p = COLOURS[colour], PATTERNS[pattern]
        full = style == "detailed"
        if language == "en":
            words = [w for w in (c, p) if w]
            if full and not many:
                an = vowel(words[0]) if words else self.vowel
                words.insert(0, "an" if an else "a")
        elif language == "de":
            g = "p" if many else self.de_gender
            words = [GERMAN[w] + ENDING[g] for w in (c, p) if w]
            words = [w.replace("dunkeler", "dunkler") for w in words]
            if len(words) == 2:
                words[0] += ","
            if full and not many:
                words.insert(0, {"m": "ein", "f": "eine", "n": "ein"}[g])
        else:
            g = self.fr_gender[0]
            words = (
                ["des" if many else "un" if g == "m" else "une"]
                if full and not self.counted
                else []
            )
        return capital("".join(w + " " for w in words))

    def after(self, language, many, colour, pattern):
        """Adjectives behind the noun, each with a blank before it."""
        if language != "fr":
            return ""
        form = {"m": 0, "f": 1}[self.fr_gender[0]] + 2 * many
        words = [FRENCH[COLOURS[colour]].split()[form].replace("_", " ")] if colour else []
        words += [FRENCH_PATTERN[PATTERNS[pattern]]] if pattern else []
        return "".join(" " + w for w in words)

    def where(self, language, style, many, place):
        """Where the thing is; in the detailed style with the verb and the full stop."""
        b = PLACES[place]
        if language == "en":
            text = {
                "": "in the foreground",
                "wooden": "on a wooden surface",
                "shop": "in a shop display" if self.loose else "in a shop",
            }.get(b, f"on a {b} background")
            if style != "detailed":
                return " " + text
            be = "are" if many else "is"
            return (
                " "
                + [f"{be} shown {text}", f"can be seen {text}", f"{be} in view {text}"][
                    self.variant
                ]
                + "."
            )
        if language == "de":
            text = {
                "": "im Vordergrund",
                "wooden": "auf einer Holzfläche",
                "shop": "in einer Auslage",
            }.get(b)
            if text is None:
                adjective = {"dark": "dunkl"}.get(b, GERMAN.get(b, b))
                text = f"auf {adjective}em Hintergrund"
            if style != "detailed":
                return " " + text
            be, become = ("sind", "werden") if many else ("ist", "wird")
            return (
                " "
                + [f"{be} {text} zu sehen", f"{become} {text} gezeigt", f"{be} {text} abgebildet"][
                    self.variant
                ]
                + "."
            )
        text = {
            "": "au premier plan",
            "wooden": "sur une surface en bois",
            "shop": "dans un rayon de magasin",
        }.get(b)
        text = text or f"sur fond {FRENCH_PLACE[b]}"
        if style != "detailed":
            return " " + text
        if b in ("", "wooden", "shop"):
            verb = ["se trouve", "se voit", "se trouve"][self.variant] + ("nt" if many else "")
            verb = verb.replace("voitnt", "voient")
        else:
            verb = "se détache" + ("nt" if many else "")
        return f" {verb} {text}."

    def look(self, language, colour, pattern):
        """The sentence about colour and pattern, with a blank before it."""
        c, p = COLOURS[colour], PATTERNS[pattern]
        if language == "en":
            first = {"": "", "multicoloured": "Several colours are mixed"}.get(
                c, f"{capital(c)} is the main colour"
            )
            also = {
                "": "",
                "striped": "with stripes",
                "checked": "with a check",
                "patterned": "with a pattern",
            }[p]
            alone = {
                "striped": "The fabric has stripes",
                "checked": "The fabric has a check",
                "patterned": "The fabric has a pattern",
            }
        elif language == "de":
            first = {"": "", "multicoloured": "Mehrere Farben sind gemischt"}.get(
                c, f"Die Hauptfarbe ist {GERMAN_COLOUR.get(c) or GERMAN.get(c, '').capitalize()}"
            )
            also = {
                "": "",
                "striped": "mit Streifen",
                "checked": "mit Karos",
                "patterned": "mit einem Muster",
            }[p]
            alone = {
                "striped": "Der Stoff hat Streifen",
                "checked": "Der Stoff hat Karos",
                "patterned": "Der Stoff hat ein Muster",
            }
        else:
            first = {"": "", "multicoloured": "Plusieurs couleurs se mêlent"}.get(
                c,
                f"La couleur principale est {FRENCH_COLOUR.get(c) or 'le ' + FRENCH.get(c, '').split(' ')[0]}",
            )
            also = {
                "": "",
                "striped": "avec des rayures",
                "checked": "avec des carreaux",
                "patterned": "avec des motifs",
            }[p]
            alone = {
                "striped": "Le tissu a des rayures",
                "checked": "Le tissu a des carreaux",
                "patterned": "Le tissu a des motifs",
            }
        if first:
            return " " + first + (", " + also if also else "") + "."
        return " " + alone[p] + "." if p else ""

    def they(self, language, rest):
        """A further sentence about such things, from a statement."""
        if language == "de":
            rest = re.sub(r"^(\w+) man (?!sie )", r"Man \1 sie ", rest)
            rest = re.sub(r"^gibt es ", "Es gibt sie ", rest)
            return " " + (rest if rest[0].isupper() else "Sie " + rest) + "."
        word = "They" if language == "en" else "Ils" if self.fr_gender[0] == "m" else "Elles"
        return f" {word} {rest}."


@cache
def signed_by(key):
    s = Signature(key)
    s.before, s.after, s.where, s.look = (cache(f) for f in (s.before, s.after, s.where, s.look))
    return s


def signed(noun):
    return signed_by(noun.signature)


def by_object(text):
    """German: "trägt man" and "gibt es" have the thing as their object."""
    return bool(re.match(r"(\w+ man|gibt es)\b", text))


def joined(language, female, first, second):
    """The second statement behind the first; in German "trägt man" and "gibt es" have the thing as
    their object."""
    if language == "en":
        return "; they " + second
    if language == "fr":
        return ("; elles " if female else "; ils ") + second
    if not by_object(first) and not by_object(second) and " und " not in first:
        return " und " + second
    second = re.sub(r"^(\w+) man (?!sie )", r"man \1 sie ", second)
    second = re.sub(r"^gibt es ", "es gibt sie ", second)
    return "; " + (second if second.startswith(("man ", "es gibt ")) else "sie " + second)


def statements(language, topic, female):
    """The 16 things that can be said: each of the four, and each two of them."""
    four = TOPICS[topic][language]
    return list(four) + [
        four[i] + joined(language, female, four[i], four[j])
        for i in range(4)
        for j in range(4)
        if i != j
    ]


STATEMENTS = {
    (x, t, f): statements(x, t, f) for x in LANGUAGES for t in TOPICS for f in (False, True)
}
PAIRS = [(i, j) for i in range(4) for j in range(4) if i != j]
SINGLE, PAIR, USED = range(4), range(4, 16), [{i} for i in range(4)] + [set(p) for p in PAIRS]


def subject(language, noun):
    many = noun_text(language, PERSON if noun.topic == "people" else noun, True)
    return ("Les " if language == "fr" else "") + (many if language == "fr" else capital(many))


DETAILED = [
    [(i, k) for i in PAIR for k in second if not USED[i] & USED[k]] for second in (SINGLE, PAIR)
]


def choices(language, style, noun, length, seed):
    """Which statement is used, for arrays of lengths of what stands before and of seeds; -1 where
    none fits. In the
    detailed style two of them, as 16 * first + second."""
    said = np.array([len(x) for x in STATEMENTS[language, noun.topic, noun.fr_gender[0] == "f"]])
    start = length + len(subject(language, noun))
    if style == "seo":
        total = start[..., None] + 4 + said
        return picked((total >= 110) & (total <= 160), np.arange(16), seed)
    out = np.full(length.shape, -1)
    for options in DETAILED:
        sizes = np.array([said[i] + said[k] for i, k in options])
        found = picked(
            start[..., None] + 9 + sizes >= 205, np.array([16 * i + k for i, k in options]), seed
        )
        out = np.where(out < 0, found, out)
    return out


def picked(fits, options, seed):
    """One of the fitting options in turn, by the seed."""
    count = fits.sum(-1)
    nth = np.cumsum(fits, -1) == (seed % np.maximum(count, 1) + 1)[..., None]
    return np.where(count > 0, options[(nth & fits).argmax(-1)], -1)


def seed_of(noun, colour, pattern, place):
    return noun.number * 7 + colour * 11 + place * 5 + pattern


def choose(language, style, noun, *facts):
    length = np.array([len(beginning(language, style, noun, *facts))])
    choice = int(choices(language, style, noun, length, np.array([seed_of(noun, *facts)]))[0])
    if choice < 0:
        raise ValueError(f"no statement fits: {language} {style} {noun.en_many} {facts} {length}")
    return choice


def beginning(language, style, noun, colour, pattern, place):
    s = signed(noun)
    many = s.many(language, place)
    before = s.before(language, style, many, colour, pattern)
    text = noun_text(language, noun, many)
    text = before + (text if before else capital(text)) + s.after(language, many, colour, pattern)
    text += s.where(language, style, many, place)
    return text + s.look(language, colour, pattern) if style == "detailed" else text


def possible(noun, colour, pattern, place):
    """The facts that can be said of a noun."""
    shop = noun.loose or noun.topic in PACKED_TOPICS
    return (
        colour if COLOURS[colour] in noun.colours else 0,
        pattern if noun.patterned else 0,
        place if PLACES[place] != "shop" or shop else 0,
    )


def caption(language, style, number, colour=0, pattern=0, place=0):
    noun = NOUNS[number]
    colour, pattern, place = possible(noun, colour, pattern, place)
    text = beginning(language, style, noun, colour, pattern, place)
    if style == "concise":
        return text
    choice = choose(language, style, noun, colour, pattern, place)
    said = STATEMENTS[language, noun.topic, noun.fr_gender[0] == "f"]
    if style == "seo":
        return f"{text}. {subject(language, noun)} {said[choice]}."
    more = signed(noun).they(language, said[choice % 16])
    return f"{text} {subject(language, noun)} {said[choice // 16]}.{more}"


LIMITS = {"concise": (15, 125), "seo": (110, 160), "detailed": (200, 1000)}
OPENER = re.compile(
    r"^(this|the|an?)?\s*(close-?up\s+)?(image|photo(graph)?|picture|pic|snapshot)\s+(of|shows?|showing|depicts?)\s+",
    re.I,
)


def broken_rule(style, text):
    """The first style rule that a text breaks, or None."""
    low, high = LIMITS[style]
    sentences = len(re.findall(r"[.!?](?:\s|$)", text))
    if not low <= len(text) <= high:
        return f"length {len(text)}"
    if OPENER.match(text) or "\n" in text or text != text.strip() or "  " in text or " ." in text:
        return "form"
    if style == "concise" and sentences:
        return "sentences"
    if style == "seo" and not (1 <= sentences <= 2 and text.endswith(".")):
        return "sentences"
    if style == "detailed" and not (2 <= sentences <= 5 and text.endswith(".")):
        return "sentences"
    return None


if __name__ == "__main__":
    import random

    random.seed(4)
    bad, count = {}, 0
    for n in NOUNS:
        facts = {possible(n, c, p, b) for c in range(15) for p in range(4) for b in range(11)}
        for language in LANGUAGES:
            for style in STYLES:
                for c, p, b in facts:
                    count += 1
                    try:
                        rule = broken_rule(style, caption(language, style, n.number, c, p, b))
                    except ValueError as error:
                        rule = str(error)
                    if rule:
                        bad.setdefault((language, style, n.en_many), []).append(rule)
    print(len(NOUNS), "nouns;", count, "texts; broken rules:", sum(map(len, bad.values())))
    for key, rules in list(bad.items())[:30]:
        print(*key, len(rules), rules[0])
