"""The texts: what is known about a photo (noun, colour, pattern, background) becomes a caption in each style.

A noun is what the text calls the goods: each kind has one, and some products have their own ("watermelon").
The choice of words depends only on simple things (the noun, and which facts are known), so that a small
decoder can learn it. `-1` stands for "not known"; such a fact is left out. Brands are never named.
"""
import re
from itertools import product as every

from data import CLOTHES, GROCERIES, KINDS
from measure import BACKGROUNDS, COLOURS, PATTERNS, POSSIBLE

STYLES = ["concise", "seo", "detailed"]

# kind: (singular or None, plural or None, what it is, two phrases of use)
# A garment without a singular ("trousers") is always plural.
CLOTHING = {
    "t-shirt": ("T-shirt", None, "is a light top with short sleeves that is pulled over the head",
                ("a light layer for warm days, sport and travel", "a simple layer for warm days, sport, travel and relaxed weekends at home")),
    "long-sleeved top": ("long-sleeved top", None, "covers the upper body and the arms down to the wrists",
                         ("a layer for cool days, school and evenings", "a covering layer for cool days, school, evenings and walks outdoors")),
    "trousers": (None, "trousers", "cover both legs from the waist to the ankles",
                 ("everyday legwear for work, school and travel", "everyday legwear for work, school, travel and walks in cool weather")),
    "shoes": (None, "shoes", "cover the feet and have a sole to walk on",
              ("footwear for walks, errands and days out", "footwear for walks, errands, days out and the way to work or school")),
    "shirt": ("shirt", None, "has a collar and a row of buttons down the front",
              ("a buttoned layer for office, school and dinners", "a buttoned layer with collar for office, school, dinners and family visits")),
    "dress": ("dress", None, "is one piece that covers the body and hangs down over the legs",
              ("a one-piece outfit for parties, holidays and summer", "a one-piece outfit for parties, holidays, summer walks and dinners with friends")),
    "jacket or coat": ("jacket", None, "is an outer layer with long sleeves, worn over other clothes",
                       ("an outer layer for wind, rain and cold days", "an outer layer for wind, rain, cold days and the daily way to work or school")),
    "shorts": (None, "shorts", "cover the legs from the waist to about the knees",
               ("summer legwear for sport, beach and garden", "summer legwear for sport, beach, garden and hot days in the city")),
    "hat": ("hat", None, "covers the head and keeps sun, wind or cold away",
            ("headwear for sun, wind and cold mornings", "headwear for sun, wind, cold mornings and long days in the park")),
    "skirt": ("skirt", None, "hangs from the waist and covers a part of the legs",
              ("a garment for school, office and summer days", "a garment for school, office, summer days, dances and dinners with friends")),
    "polo shirt": ("polo shirt", None, "has short sleeves, a soft collar and a few buttons at the neck",
                   ("a collared layer for golf, tennis and office", "a collared layer for golf, tennis, office days and relaxed weekends")),
    "undershirt": ("undershirt", None, "is a light top without sleeves that is worn under other clothes or alone",
                   ("a base layer for sport, sleep and warm days", "a sleeveless base layer for sport, sleep, warm days and cold winters")),
    "blazer": ("blazer", None, "is a tailored jacket with lapels, open at the chest",
               ("a formal layer for office, dinners and travel", "a formal layer with lapels for office, dinners, travel and ceremonies")),
    "hoodie": ("hoodie", None, "is a warm top with long sleeves and a hood",
               ("a hooded layer for sport, travel and cool evenings", "a hooded layer for sport, travel, cool evenings and lazy weekends at home")),
    "baby bodysuit": ("baby bodysuit", None, "is a garment for babies that closes between the legs",
                      ("a one-piece layer for babies at play and sleep", "a one-piece layer for babies at play, at sleep and on trips with the family")),
    "top": ("top", None, "is a light garment for the upper body, with or without sleeves",
            ("a light layer for summer, parties and dinners", "a light layer for summer, parties, dinners and days in the city")),
    "blouse": ("blouse", None, "is a light, loosely cut garment for the upper body",
               ("a light layer for office, dinners and summer", "a light layer for office, dinners, summer days and visits to the theatre")),
}
FRUIT = ("fresh fruit for snacks, desserts and lunch boxes", "fresh fruit for snacks, desserts, lunch boxes, smoothies and breakfast bowls")
CITRUS = ("fresh citrus fruit for drinks, cakes and dressings", "fresh citrus fruit for drinks, cakes, dressings, sauces and desserts")
MELON = ("fresh fruit for desserts, salads and picnics", "fresh fruit for desserts, salads, picnics, smoothies and hot summer days")
ROOT = ("a vegetable for soups, stews and oven trays", "a vegetable for soups, stews, oven trays, purees and winter dinners")
SALAD = ("a fresh ingredient for salads, sandwiches and snacks", "a fresh ingredient for salads, sandwiches, sauces, soups and snacks")
COOK = ("a vegetable for pans, grills and stews", "a vegetable for pans, grills, stews, curries and oven dishes with herbs")
SPICE = ("a kitchen ingredient for sauces, soups and stews", "a kitchen ingredient for sauces, soups, stews, marinades and curries")
JUICE = ("a chilled drink for breakfast, lunch and parties", "a chilled drink for breakfast, lunch, parties, picnics and fruit cocktails")
MILK = ("a drink for coffee, cereals, porridge and baking", "a drink for coffee, cereals, porridge, pancakes, sauces and home baking")
YOGHURT = ("a food for breakfast bowls, snacks and desserts", "a food for breakfast bowls with berries, snacks, sauces and desserts")
CREAM = ("an ingredient for dips, sauces and baking", "an ingredient for dips, sauces, soups, dressings and home baking")
# kind: (singular, plural, what it is in the plural, uses)
LOOSE = {
    "Apple": ("apple", "apples", "are round fruits with a thin skin and crisp flesh", FRUIT),
    "Avocado": ("avocado", "avocados", "are pear-shaped fruits with creamy flesh around one big stone", SALAD),
    "Banana": ("banana", "bananas", "are long, curved fruits with a thick peel and soft flesh", FRUIT),
    "Kiwi": ("kiwi", "kiwis", "are egg-sized fruits with a hairy skin and juicy flesh", FRUIT),
    "Lemon": ("lemon", "lemons", "are oval citrus fruits with a sour juice", CITRUS),
    "Lime": ("lime", "limes", "are small round citrus fruits with a sour juice", CITRUS),
    "Mango": ("mango", "mangoes", "are oval tropical fruits with sweet flesh around a flat stone", FRUIT),
    "Melon": ("melon", "melons", "are large round fruits with a firm rind and juicy flesh", MELON),
    "Nectarine": ("nectarine", "nectarines", "are round stone fruits with a smooth skin and juicy flesh", FRUIT),
    "Orange": ("orange", "oranges", "are round citrus fruits with a thick peel and sweet juice", CITRUS),
    "Papaya": ("papaya", "papayas", "are long tropical fruits with soft flesh and many dark seeds", FRUIT),
    "Passion Fruit": ("passion fruit", "passion fruits", "are small round fruits with a hard shell and many seeds in a tart pulp", FRUIT),
    "Peach": ("peach", "peaches", "are round stone fruits with a velvety skin and juicy flesh", FRUIT),
    "Pear": ("pear", "pears", "are fruits with a slim neck, a round base and juicy flesh", FRUIT),
    "Pineapple": ("pineapple", "pineapples", "are tropical fruits with a scaly shell and a crown of leaves", MELON),
    "Plum": ("plum", "plums", "are small stone fruits with a smooth skin and juicy flesh", FRUIT),
    "Pomegranate": ("pomegranate", "pomegranates", "are round fruits with a leathery skin and many juicy seeds", FRUIT),
    "Red Grapefruit": ("grapefruit", "grapefruits", "are big round citrus fruits with a thick peel and bitter-sweet juice", CITRUS),
    "Satsumas": ("satsuma", "satsumas", "are small citrus fruits with a loose peel and sweet segments", FRUIT),
    "Asparagus": ("asparagus", "asparagus", "is a vegetable of slim stalks with pointed tips", COOK),
    "Aubergine": ("aubergine", "aubergines", "are long, glossy vegetables with soft, pale flesh", COOK),
    "Cabbage": ("cabbage", "cabbages", "are round heads of tightly packed leaves", ROOT),
    "Carrots": ("carrot", "carrots", "are long, crunchy roots that narrow to a tip", ROOT),
    "Cucumber": ("cucumber", "cucumbers", "are long, juicy vegetables with a thin skin", SALAD),
    "Garlic": ("garlic", "garlic", "grows in bulbs of several cloves under a papery skin", SPICE),
    "Ginger": ("ginger", "ginger", "is a knobbly root with a thin skin and a hot taste", SPICE),
    "Leek": ("leek", "leeks", "are long stalks with a pale end and broad leaves", ROOT),
    "Mushroom": ("mushroom", "mushrooms", "are small, round caps on short stems", COOK),
    "Onion": ("onion", "onions", "are round bulbs of many layers under a papery skin", SPICE),
    "Pepper": ("pepper", "peppers", "are hollow, glossy vegetables with crunchy flesh", SALAD),
    "Potato": ("potato", "potatoes", "are starchy tubers with a thin skin and firm flesh", ROOT),
    "Red Beet": ("beetroot", "beetroots", "are round, earthy roots with dark flesh", ROOT),
    "Tomato": ("tomato", "tomatoes", "are round, juicy fruits with a thin, shiny skin", SALAD),
    "Zucchini": ("courgette", "courgettes", "are long, tender vegetables with a thin skin", COOK),
}
PACKED = {
    "Juice": ("fruit juice", "is a drink pressed from fruit", JUICE),
    "Milk": ("milk", "is a drink and a basic ingredient of many kitchens", MILK),
    "Oatghurt": ("oat yoghurt", "is a creamy, plant-based food made from oats", YOGHURT),
    "Oat Milk": ("oat milk", "is a plant-based drink made from oats", MILK),
    "Sour Cream": ("sour cream", "is a thick, slightly tart dairy product", CREAM),
    "Sour Milk": ("sour milk", "is a thick, slightly tart dairy product", YOGHURT),
    "Soyghurt": ("soy yoghurt", "is a creamy, plant-based food made from soy beans", YOGHURT),
    "Soy Milk": ("soy milk", "is a plant-based drink made from soy beans", MILK),
    "Yoghurt": ("yoghurt", "is a creamy dairy product", YOGHURT),
}
# Products with a name of their own. Loose: singular, plural. Packed: what is in the carton.
PRODUCTS = {
    "Golden Delicious": ("Golden Delicious apple", "Golden Delicious apples"), "Granny Smith": ("Granny Smith apple", "Granny Smith apples"),
    "Red Delicious": ("Red Delicious apple", "Red Delicious apples"), "Royal Gala": ("Royal Gala apple", "Royal Gala apples"),
    "Cantaloupe": ("cantaloupe melon", "cantaloupe melons"), "Galia Melon": ("Galia melon", "Galia melons"),
    "Honeydew Melon": ("honeydew melon", "honeydew melons"), "Watermelon": ("watermelon", "watermelons"),
    "Conference": ("Conference pear", "Conference pears"), "Kaiser": ("Kaiser pear", "Kaiser pears"), "Anjou": ("Anjou pear", "Anjou pears"),
    "Sweet Potato": ("sweet potato", "sweet potatoes"), "Beef Tomato": ("beef tomato", "beef tomatoes"), "Vine Tomato": ("vine tomato", "vine tomatoes"),
    "Red Bell Pepper": ("red pepper", "red peppers"), "Green Bell Pepper": ("green pepper", "green peppers"),
    "Orange Bell Pepper": ("orange pepper", "orange peppers"), "Yellow Bell Pepper": ("yellow pepper", "yellow peppers"),
    "Bravo Apple Juice": "apple juice", "God Morgon Apple Juice": "apple juice", "Tropicana Apple Juice": "apple juice",
    "Bravo Orange Juice": "orange juice", "God Morgon Orange Juice": "orange juice",
    "God Morgon Orange Red Grapefruit Juice": "orange and grapefruit juice", "God Morgon Red Grapefruit Juice": "grapefruit juice",
    "Tropicana Golden Grapefruit": "grapefruit juice", "Tropicana Mandarin Morning": "mandarin juice",
    "Alpro Blueberry Soyghurt": "blueberry soy yoghurt", "Alpro Vanilla Soyghurt": "vanilla soy yoghurt",
    "Arla Mild Vanilla Yoghurt": "vanilla yoghurt", "Valio Vanilla Yoghurt": "vanilla yoghurt", "Yoggi Vanilla Yoghurt": "vanilla yoghurt",
    "Yoggi Strawberry Yoghurt": "strawberry yoghurt"}
NO_COLOUR = {"Orange", "red pepper", "green pepper", "orange pepper", "yellow pepper"}
# A named variety keeps to the colours it can have.
ONLY = {"Golden Delicious apple": "yellow green", "Granny Smith apple": "green yellow", "Red Delicious apple": "",
        "Royal Gala apple": "red yellow", "watermelon": "green", "cantaloupe melon": "", "Galia melon": "yellow green", "honeydew melon": "yellow green",
        "Conference pear": "green yellow", "Kaiser pear": "", "Anjou pear": "green red yellow", "sweet potato": ""}


class Noun:
    """What the text calls the goods."""
    def __init__(self, kind, group, one, many, is_a, uses, colours):
        self.kind, self.group, self.one, self.many = kind, group, one, many
        self.is_a, self.uses, self.colours = is_a, uses, colours


def all_nouns():
    """The nouns, those of the kinds first and in their order, and the noun of each named product."""
    nouns, of_product = [], {}
    for kind in CLOTHES:
        one, many, is_a, uses = CLOTHING[kind]
        nouns.append(Noun(kind, "clothing", one, many, is_a, uses, set(COLOURS)))
    for kind in GROCERIES:
        if kind in LOOSE:
            one, many, is_a, uses = LOOSE[kind]
            colours = set() if kind in NO_COLOUR else set(POSSIBLE[kind].split())
            nouns.append(Noun(kind, "loose", one, many, is_a, uses, colours))
        else:
            name, is_a, uses = PACKED[kind]
            nouns.append(Noun(kind, "packed", f"carton of {name}", None, is_a, uses, set()))
    for name, text in PRODUCTS.items():
        packed = isinstance(text, str)
        one = f"carton of {text}" if packed else text[0]
        known = [i for i, n in enumerate(nouns) if n.one == one]
        if not known:
            kind = product_kind(name)
            base = nouns[KINDS.index(kind)]
            colours = set() if one in NO_COLOUR else set(ONLY.get(one, " ".join(base.colours)).split())
            nouns.append(Noun(kind, base.group, one, None if packed else text[1], base.is_a, base.uses, colours))
            known = [len(nouns) - 1]
        of_product[name] = known[0]
    return nouns, of_product


def product_kind(name):
    for key, kind in (("Juice", "Juice"), ("Tropicana", "Juice"), ("Soyghurt", "Soyghurt"), ("Yoghurt", "Yoghurt"),
                      ("Pepper", "Pepper"), ("Tomato", "Tomato"), ("Sweet Potato", "Potato"), ("elon", "Melon"), ("Cantaloupe", "Melon")):
        if key in name:
            return kind
    return "Pear" if name in ("Conference", "Kaiser", "Anjou") else "Apple"


NOUNS, NOUN_OF_PRODUCT = all_nouns()
PATTERN_WORDS = ["", "striped", "checked", "patterned"]
STARTS = {"white": "white", "grey": "grey", "dark": "dark", "beige": "beige", "red": "red", "pink": "pink", "blue": "blue", "green": "green"}


def article(text):
    return ("an " if re.match(r"[aeiouAEIOU]", text) and not text.startswith(("uni", "one-")) else "a ") + text


def capital(text):
    return text[0].upper() + text[1:]


class Facts:
    """The words for one picture; the noun decides which of the measured words can be said of it."""
    def __init__(self, noun, colour=-1, pattern=-1, background=-1):
        n = self.noun = NOUNS[noun]
        word = COLOURS[colour] if colour >= 0 else ""
        self.colour = word if word in n.colours else ""
        self.pattern = PATTERN_WORDS[pattern] if pattern > 0 and n.group == "clothing" and n.kind not in ("shoes", "hat") else ""
        self.place = BACKGROUNDS[background] if background >= 0 else ""
        if n.group == "clothing" and self.place == "shop":
            self.place = ""
        self.many = n.one is None or n.group == "loose" and self.place in ("", "shop")
        self.uncountable = n.one == n.many

    def name(self):
        """Adjectives and noun, without an article: "navy striped T-shirt"."""
        noun = (self.noun.many if self.many else self.noun.one) or self.noun.one
        return " ".join(w for w in (self.colour, self.pattern, noun) if w)

    def full(self):
        return self.name() if self.many or self.uncountable else article(self.name())

    def where(self):
        if self.place == "shop":
            return "in a shop display" if self.noun.group == "loose" else "in a shop"
        if self.place == "wooden":
            return "on a wooden surface"
        return f"on a {self.place} background" if self.place else "on display"

    def flags(self):
        return bool(self.colour), self.colour == "multicoloured", bool(self.pattern), bool(self.place), self.place == "shop"


def concise(f):
    text = f"{capital(f.name())} {f.where()}"
    return text if len(text) >= 15 else f"{capital(f.name())} shown {f.where()}"


TAILS = {
    "clothing": ["", "For everyday outfits.", "For everyday outfits at home and outdoors.", "Part of a wardrobe for everyday outfits at home and outdoors."],
    "loose": ["", "Good for meals at home.", "For the kitchen and for family meals at home.", "Part of the weekly shopping for the kitchen and for family meals at home."],
    "packed": ["", "For the fridge at home.", "For the fridge and the family breakfast table.", "Part of the weekly shopping for the fridge and the family breakfast table."]}
JOIN = [": ", ", ", ". "]


def seo_with(f, use, tail):
    join = JOIN[NOUNS.index(f.noun) % 3]
    if join == ". " and tail:
        join = ": "
    return f"{capital(f.name())} {f.where()}{join}{capital(use) if join == '. ' else use}. {tail}".strip()


def plan_seo():
    """For each noun and each set of known facts, the use and tail with which every wording has 110 to 160 characters."""
    plan = {}
    for i, n in enumerate(NOUNS):
        groups = {}
        for facts in every(range(-1, len(COLOURS)), range(-1, len(PATTERNS)), range(-1, len(BACKGROUNDS))):
            f = Facts(i, *facts)
            groups.setdefault(f.flags(), {})[f.name(), f.where()] = f
        for flags, group in groups.items():
            fits = []
            for use, tail in every(n.uses, TAILS[n.group]):
                lengths = [len(seo_with(f, use, tail)) for f in group.values()]
                if 110 <= min(lengths) and max(lengths) <= 160:
                    fits.append((use, tail))
            if not fits:
                raise SystemExit(f"no seo wording fits for {n.one or n.many} {flags}")
            plan[i, flags] = fits[i % len(fits)]
    return plan


PLAN = plan_seo()


def seo(f):
    return seo_with(f, *PLAN[NOUNS.index(f.noun), f.flags()])


FILLER = {"clothing": "{It} can be combined with other clothes for many occasions.",
          "loose": "{It} keep fresh longest in a cool and dry place.", "packed": "An open carton is best kept in the fridge."}


def detailed_with(f, use):
    n = f.noun
    be = "are" if f.many and not f.uncountable else "is"
    it = "They" if be == "are" else "It"
    verb = [f"{be} shown", f"{be} in view", "can be seen"][NOUNS.index(n) % 3]
    first = f"{capital(f.full())} {verb} {f.where()}." if f.place else f"{capital(f.full())} {be} the main subject."
    if f.colour == "multicoloured":
        look = "Several colours are mixed, and none of them stands out from the others."
    elif f.colour and f.pattern:
        look = f"{capital(f.colour)} is the main colour, with a {f.pattern} design."
    elif f.colour:
        look = f"{capital(f.colour)} is the main colour, seen on most of the surface."
    elif f.pattern:
        look = f"The design is {f.pattern} on most of the surface."
    else:
        look = FILLER[n.group].format(It=it)
        look = look if it == "They" else look.replace("It keep fresh", "It keeps fresh")
    if n.group == "packed":
        what = f"{capital(n.one.removeprefix('carton of '))} {n.is_a}."
    elif n.group == "loose":
        what = f"{capital(LOOSE[n.kind][1])} {n.is_a}."
    else:
        what = f"{capital(article(n.one) if n.one else n.many)} {n.is_a}."
    serve = "The contents" if n.group == "packed" else it
    return f"{first} {look} {what} {serve} can serve as {n.uses[use]}."


def plan_detailed():
    """For each noun and each set of known facts: the short phrase of use where every wording has 205 characters with it."""
    plan = {}
    for i in range(len(NOUNS)):
        for facts in every(range(-1, len(COLOURS)), range(-1, len(PATTERNS)), range(-1, len(BACKGROUNDS))):
            f = Facts(i, *facts)
            key = i, f.flags()
            plan[key] = max(plan.get(key, 0), int(len(detailed_with(f, 0)) < 205))
    return plan


PLAN_DETAILED = plan_detailed()


def detailed(f):
    return detailed_with(f, PLAN_DETAILED[NOUNS.index(f.noun), f.flags()])


WRITERS = {"concise": concise, "seo": seo, "detailed": detailed}


def caption(style, noun, colour=-1, pattern=-1, background=-1):
    return WRITERS[style](Facts(noun, colour, pattern, background))


LIMITS = {"concise": (15, 125), "seo": (110, 160), "detailed": (200, 1000)}
OPENER = re.compile(r"^(this|the|an?)?\s*(close-?up\s+)?(image|photo(graph)?|picture|pic|snapshot)\s+(of|shows?|showing|depicts?)\s+", re.I)


def broken_rule(style, text):
    """The first style rule that a text breaks, or None."""
    low, high = LIMITS[style]
    sentences = len(re.findall(r"[.!?](?:\s|$)", text))
    if not low <= len(text) <= high:
        return f"length {len(text)}"
    if OPENER.match(text) or "\n" in text or text != text.strip():
        return "form"
    if style == "concise" and sentences:
        return "sentences"
    if style == "seo" and not (1 <= sentences <= 2 and text.endswith(".")):
        return "sentences"
    if style == "detailed" and not (2 <= sentences <= 4 and text.endswith(".")):
        return "sentences"
    return None


if __name__ == "__main__":
    import random
    from collections import Counter
    random.seed(1)
    bad = Counter()
    shown = 0
    for i in range(len(NOUNS)):
        for c, p, b in every(range(-1, len(COLOURS)), range(-1, len(PATTERNS)), range(-1, len(BACKGROUNDS))):
            for style in STYLES:
                text = caption(style, i, c, p, b)
                rule = broken_rule(style, text)
                if rule:
                    bad[style, rule, NOUNS[i].one] += 1
            if random.random() < 0.0005:
                print(*(caption(s, i, c, p, b) for s in STYLES), sep="\n", end="\n\n")
    print(len(NOUNS), "nouns; broken rules:", dict(bad.most_common(30)))
