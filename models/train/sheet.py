"""Prints every noun in three languages, with the words that must agree with it, to be read by a
person.

Each line: the detailed style's first words (article, colour), singular and plural.
"""

import grammar as G

for noun in G.NOUNS:
    s = G.signed(noun)
    colour = G.COLOURS.index("green")
    colour, _, _ = G.possible(noun, colour, 0, 0)
    cells = []
    for x in G.LANGUAGES:
        many = s.many(x, 1)
        full = s.before(x, "detailed", many, colour, 0)
        word = G.noun_text(x, noun, many)
        cells.append(
            (full + (word if full else G.capital(word)) + s.after(x, many, colour, 0))
            + " / "
            + G.subject(x, noun)
        )
    print(" | ".join(cells), f"[{noun.topic}]")
