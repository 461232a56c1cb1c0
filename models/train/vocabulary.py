"""Reads nouns.txt and own_nouns.txt: what the model can say, and which classes each noun stands
for."""

import json, re
from pathlib import Path

HERE = Path(__file__).parent
GENDERS = {"m", "f", "n", "p", "mp", "fp"}


class Noun:
    """One noun in three languages. A form that does not exist is None."""

    def __init__(self, name, en, de, fr, topic):
        self.name, self.topic = name, topic
        self.en_one, self.en_many = pair(en, english_plural)
        self.de_gender, de = de.split(" ", 1)
        self.fr_gender, fr = fr.split(" ", 1)
        assert self.de_gender in "mfnp" and self.fr_gender in ("m", "f", "mp", "fp"), name
        self.de_one, self.de_many = (None, de) if self.de_gender == "p" else pair(de, None)
        self.fr_one, self.fr_many = (None, fr) if "p" in self.fr_gender else pair(fr, french_plural)
        self.classes, self.members, self.is_group, self.distrusted = set(), [], False, False
        self.parents, self.source = [], "class"
        self.loose = self.packed = False

    def texts(self):
        return self.en_one, self.en_many, self.de_one, self.de_many, self.fr_one, self.fr_many


def pair(text, plural):
    one, _, many = text.partition("/")
    if not many:
        if plural is None:
            raise ValueError(f"{text}: no plural")
        many = plural(one)
    return (None if one == "-" else one), many


def english_plural(word):
    if re.search(r"(s|x|ch|sh|[^aeiou]y)$", word):
        raise ValueError(f"{word}: state the plural")
    return word + "s"


def french_plural(word):
    if " " in word or re.search(r"(s|x|z|al|eau|eu)$", word):
        raise ValueError(f"{word}: state the plural")
    return word + "s"


def numbers(text):
    out = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        low, _, high = part.partition("-")
        out.update(range(int(low), int(high or low) + 1))
    return out


def lines(name):
    for line in (HERE / name).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield [field.strip() for field in line.split("|")]


def load(class_names=None):
    """(nouns, kinds, products): a list of Noun; kind or product to the number of its noun.

    A line whose words equal those of an earlier one is the same noun. With the clean names of the
    classes
    a member is named as its class is, so that the catalogue's truth can be compared.
    """
    nouns, by_words, group, groups = [], {}, None, {}

    def noun(name, en, de, fr, topic, source):
        n = Noun(name, en, de, fr, topic)
        n.source = source
        if n.texts() in by_words and source != "group" and not by_words[n.texts()].is_group:
            return by_words[n.texts()]
        by_words[n.texts()] = n
        nouns.append(n)
        return n

    for fields in lines("nouns.txt"):
        if fields[0].startswith("@"):
            name, topic, parents, classes, *words = fields
            group = noun(name.lstrip("@!"), *words, topic, "group")
            group.distrusted = name.startswith("@!")
            group.is_group, group.classes = True, numbers(classes)
            group.parents = [p.strip() for p in parents.split(",") if p.strip()]
            groups[group.name] = group
            continue
        classes, en, de, fr, *topic = fields
        number = sorted(numbers(classes.lstrip("!")))
        name = class_names[number[0]] if class_names else f"class {number[0]}"
        n = noun(name, en, de, fr, topic[0] if topic else group.topic, "class")
        n.classes |= set(number)
        n.distrusted |= classes.startswith("!")
        n.members = n.members
        if group.name != "other":
            group.members.append(n)
    nouns = [n for n in nouns if n.name != "other"]
    for g in groups.values():
        for parent in g.parents:
            groups[parent].members.append(g)
    done = set()

    def collect(g):
        if g.name not in done:
            done.add(g.name)
            for m in g.members:
                if m.is_group:
                    collect(m)
                g.classes |= m.classes

    for g in groups.values():
        collect(g)
    kinds = {}
    for names, en, de, fr, topic in lines("own_nouns.txt"):
        n = noun("own " + names.split(",")[0], en, de, fr, topic, "own")
        for name in names.split(","):
            kinds[name.strip()] = nouns.index(n) if n in nouns else None
    return nouns, kinds


def class_names(cache):
    from weights import file_of

    return json.loads(file_of(cache, "names").read_text())


if __name__ == "__main__":
    nouns, kinds = load()
    groups = [n for n in nouns if n.is_group]
    print(len(nouns), "nouns,", len(groups), "groups,", len(kinds), "own")
    covered = set().union(*(n.classes for n in nouns))
    print("classes without a noun:", sorted(set(range(1000)) - covered))
    print("topics:", sorted({n.topic for n in nouns}))
