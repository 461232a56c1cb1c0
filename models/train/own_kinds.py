"""Which noun of the project's own a photo of the small shops shows, by what the shop calls it;
None where it is another."""

import json, re
from pathlib import Path

from data import KINDS, NONE, other_kind

# (shop, what its category and title must match, kind)
RULES = [
    ("aws-retail-demo-store", r"Bracelet|Bracelt", "bracelet"),
    ("contoso-traders", r"^Mobiles", "smartphone"),
    ("dotnet-eshop", r"Goggles", "ski goggles"),
    ("dotnet-eshop", r"Harness", "climbing harness"),
    ("dotnet-eshop", r"Snowboard(?!.*(Goggles|Helmet|Boot|Jacket))", "snowboard"),
    ("dotnet-eshop", r"Poles", "trekking poles"),
    ("dotnet-eshop", r"Bike Helmet|Cycling.*Helmet", "bicycle helmet"),
    ("tailwind-traders", r"(?i)plier", "pliers"),
    ("tailwind-traders", r"Faucet", "tap"),
    ("tailwind-traders", r"(?i)gnome", "garden gnome"),
    ("saleor-demo", r"Plimsolls|Dash Force", "shoes"),
]
NEW = sorted({kind for _, _, kind in RULES} - set(KINDS))
ALL = KINDS + NEW
OTHER = len(ALL)


def shop_kind(row):
    """The number of the kind among ALL, OTHER for goods of no own kind."""
    text = f"{row['category']} {row['title']}"
    for shop, pattern, kind in RULES:
        if row["set"] == shop and re.search(pattern, text):
            return ALL.index(kind)
    kind = other_kind(row)
    return ALL.index(kind) if kind else OTHER


def labels(training):
    """(set, file) to the number of its kind among ALL."""
    out = {}
    for line in open(Path(training) / "labels.jsonl"):
        row = json.loads(line)
        if row["set"] == "clothing-cc0":
            kind = KINDS.index(row["kind"])
        elif row["set"] == "grocery-store":
            kind = KINDS.index(row["subcategory"].split(" / ")[1])
        else:
            kind = shop_kind(row)
        out[row["set"], row["file"]] = kind
    return out


if __name__ == "__main__":
    from collections import Counter

    found = Counter(
        (key[0], ALL[k] if k < OTHER else "other")
        for key, k in labels("../shared/training").items()
        if key[0] not in ("clothing-cc0", "grocery-store")
    )
    for key, count in sorted(found.items()):
        print(*key, count)
