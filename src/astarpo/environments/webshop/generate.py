"""A seeded world of products in WebShop's own raw format, so that it goes through the same parser as the real one.

What makes it hard is what makes the real one hard. Products of a kind share attributes and differ in price. Their
listings differ in length and in how often they repeat their own words, so that the search engine often puts a product
first that lacks an attribute or costs too much, while the right one stands further down the same page.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from astarpo.environments.webshop.wares import BRANDS, FILLERS, ROOTS, WARES, Ware

_ASINS = 36**8
_STRIDE = 1_181_783_497_277
"""Coprime to `_ASINS`, so that multiples of it do not repeat: every product has its own asin."""
_IN_TITLE = 0.98
"""Share of attributes that the title shows; the others stand in the features alone."""
_ASKED = {False: (60, 36, 4), True: (25, 55, 20)}
"""Weights of instructions with one, two and three attributes, by whether the kind of product has options."""
_QUIET, _LOUD = (5, 40, 55), (70, 25, 5)
"""Weights of products with two, three and four attributes: loud listings have less to say."""
_FILLER = 40
"""Sentences that say nothing, in the quietest listing."""
_REPEATS = 4
"""Times that the loudest listing repeats itself."""
_DEARNESS = 0.92
"""How far the price follows from how loud a listing is: 0 not at all, 1 wholly."""
_RANGED = 0.04
"""Share of products with a price range."""

Raw = tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]
"""Records as in items_shuffle, items_ins_v2 and items_human_ins."""


def generate(products: int, seed: int) -> Raw:
    """Make `products` products. A smaller world is a prefix of a larger one with the same seed.

    Args:
        products: how many, at least 1.
        seed: any whole number; the same one gives the same world in every process.

    Returns:
        The raw records that `parse_products` reads. There are no human instructions.
    """
    made = [_product(index, seed) for index in range(products)]
    return [item for item, _ in made], {item["asin"]: told for item, told in made}, {}


def _product(index: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    # Seeded with text: hashed with SHA-512 by `random`, which is the same in every process, unlike hash().
    rng = random.Random(f"webshop world {seed}, product {index}")
    ware = rng.choice(WARES)
    brand = rng.choice(BRANDS)
    loudness = rng.random()
    attributes = _attributes(ware, loudness, rng)
    shown = [attribute for attribute in attributes if rng.random() < _IN_TITLE]
    asked = rng.sample(attributes, min(len(attributes), rng.choices((1, 2, 3), _ASKED[bool(ware.options)])[0]))
    asin = _asin(index, seed)
    item = {
        "asin": asin,
        "name": _capitals(" ".join([brand, *(a for a in shown if a in ware.kinds), ware.name, *_tail(ware, shown)])),
        "full_description": _description(ware, brand, attributes, loudness, rng),
        "small_description": _bullets(ware, attributes, rng),
        "pricing": _pricing(ware, loudness, rng),
        "images": [f"{asin}.svg"],
        "product_category": f"{ROOTS[ware.category]} › {_capitals(ware.name)}",
        "average_rating": "",
        "customization_options": {
            group.capitalize(): [{"value": value, "image": None} for value in _values(palette, loudness, rng)]
            for group, palette in ware.options
        },
        "category": ware.category,
        "query": ware.name,
        "page": index // 10 + 1,
    }
    told = {
        "attributes": attributes,
        "instruction": instruction(ware, asked),
        "instruction_attributes": [a for a in attributes if a in asked],
    }
    return item, told


def instruction(ware: Ware, asked: Sequence[str]) -> str:
    """WebShop's template: "Find me A, B backpack with C, D"; options and price are added to it later."""
    before = ", ".join(a for a in ware.kinds if a in asked)
    after = ", ".join(a for a in ware.parts if a in asked)
    return " ".join(word for word in ("Find me", before, ware.name, f"with {after}" if after else "") if word)


def _attributes(ware: Ware, loudness: float, rng: random.Random) -> list[str]:
    count = rng.choices((2, 3, 4), _QUIET if loudness < 0.5 else _LOUD)[0]
    chosen = rng.sample(ware.kinds + ware.parts, count)
    return [a for a in ware.kinds + ware.parts if a in chosen]


def _tail(ware: Ware, shown: Sequence[str]) -> list[str]:
    parts = [a for a in shown if a in ware.parts]
    return ["with", " ".join(parts)] if parts else []


def _values(palette: tuple[str, ...], loudness: float, rng: random.Random) -> list[str]:
    kept = rng.sample(palette, 3 if rng.random() < loudness else len(palette))
    return [value for value in palette if value in kept]


def _pricing(ware: Ware, loudness: float, rng: random.Random) -> str:
    # Log-uniform over the band: cheap products are common, and a bargain and a luxury of one kind share a page.
    place = loudness if rng.random() < _DEARNESS else rng.random()
    price = _rounded(ware.low * (ware.high / ware.low) ** place)
    return f"${price}.00" if rng.random() >= _RANGED else f"${price}.00${price + rng.randint(2, 6)}.00"


def _rounded(price: float) -> int:
    return round(price) if price < 50 else 5 * round(price / 5)


def _description(ware: Ware, brand: str, attributes: Sequence[str], loudness: float, rng: random.Random) -> str:
    """Loud listings are short and repeat the kind of product and one attribute; quiet ones bury both in filler."""
    sentences = rng.choices(FILLERS, k=round(_FILLER * (1 - loudness) ** 2))
    favourite = rng.choice(attributes)
    sentences += [f"{brand} {favourite} {ware.name}."] * round(_REPEATS * loudness)
    rng.shuffle(sentences)
    return " ".join(sentences)


def _bullets(ware: Ware, attributes: Sequence[str], rng: random.Random) -> list[str]:
    bullets = [f"{_capitals(a)} {ware.name}" for a in attributes]
    rng.shuffle(bullets)
    return bullets


def _asin(index: int, seed: int) -> str:
    number = ((seed * 7919 + index + 1) * _STRIDE) % _ASINS
    letters = ""
    for _ in range(8):
        number, digit = divmod(number, 36)
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + letters
    return f"B0{letters}"


def _capitals(words: str) -> str:
    return " ".join(word.capitalize() if word != "with" else word for word in words.split())
