"""What a shopper is asked to buy: WebShop's synthetic goals and its crowd workers' (webshop.md, section 2).

The original draws range prices and price limits from an unseeded generator; here both follow from a seed and the
asin alone, so a goal does not change when the catalogue around it does.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astarpo.environments.webshop.catalogue import Product

NO_LIMIT = 1_000_000.0
"""Dollars; the limit of a goal whose text names none."""
LIMITS = tuple(float(limit) for limit in range(10, 1000, 10))
"""Dollars a goal may name."""
SHUFFLE_SEED = 233
"""The original shuffles its goals with this seed, which fixes what goal number 314 is."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One instruction and what satisfies it.

    Attributes:
        id: stable across processes and catalogues: the asin and the options, or the asin and the number of the
            crowd worker's instruction.
        name: the title of the product the goal was made from.
        instruction: the whole text, with options and price limit.
        options: (group, value) pairs; the group is empty in human goals, which name values alone.
        price_upper: dollars; 1,000,000 is no limit.
        weight: relative probability that the original draws this goal.
    """

    id: str
    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    price_upper: float
    weight: float
    human: bool


def realised_prices(products: Iterable[Product], seed: int = 0) -> dict[str, float]:
    """The one price each product sells at, dollars: as written, or uniform between the two ends of a range."""
    return {product.asin: _realised(product, seed) for product in products}


def _realised(product: Product, seed: int) -> float:
    if len(product.prices) == 1:
        return product.prices[0]
    low, high = product.prices[:2]
    return _random("price", seed, product.asin).uniform(low, high)


def synthetic_goals(
    products: Iterable[Product],
    prices: Mapping[str, float],
    seed: int = 0,
    *,
    limits: Mapping[str, float] | None = None,
) -> list[Goal]:
    """One goal for every combination of options of every product with a template instruction.

    Args:
        products: in catalogue order; with a fixed list, the order of the goals is the original's.
        prices: asin to realised price, dollars.
        seed: of the price limits.
        limits: asin to a recorded limit, instead of drawing one; for comparison with the original.

    Returns:
        Goals in the original's order, so that a place in the list is its goal number.
    """
    goals: list[Goal] = []
    for product in products:
        if product.instruction is None:
            continue
        limit = _limit(prices[product.asin], seed, product.asin) if limits is None else limits[product.asin]
        goals += _combinations(product, product.instruction, limit)
    return _shuffled(_weighted(goals))


def human_goals(
    products: Iterable[Product],
    prices: Mapping[str, float],
    seed: int = 0,
    *,
    limits: Mapping[str, float] | None = None,
) -> list[Goal]:
    """One goal for every crowd worker's instruction that names an attribute. Arguments as for `synthetic_goals`,
    but `limits` goes by goal id."""
    goals: list[Goal] = []
    for product in products:
        for number, told in enumerate(product.human):
            if not told.attributes:
                continue
            id = f"{product.asin}/human/{number}"
            limit = _limit(prices[product.asin], seed, id) if limits is None else limits[id]
            text = told.instruction.strip(".") + _limit_in_words(limit)
            options = tuple(("", value) for value in told.options)
            goals.append(_goal(product, id, text, told.attributes, options, limit, human=True))
    return _shuffled(goals)


def _combinations(product: Product, instruction: str, limit: float) -> list[Goal]:
    groups = sorted(product.options)
    goals = []
    seen: Counter[str] = Counter()
    for values in itertools.product(*(product.options[group] for group in groups)):
        options = tuple(zip(groups, values, strict=True))
        id = "/".join((product.asin, *(f"{group}={value}" for group, value in options)))
        seen[id] += 1
        if seen[id] > 1:
            # A product that lists a value twice has the same goal twice, as in the original.
            id = f"{id}/{seen[id]}"
        wanted = ", and ".join(f"{group}: {value}" for group, value in options)
        text = instruction + (f" with {wanted}" if wanted else "") + _limit_in_words(limit)
        goals.append(_goal(product, id, text, product.instruction_attributes, options, limit, human=False))
    return goals


def _goal(
    product: Product,
    id: str,
    instruction: str,
    attributes: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    limit: float,
    *,
    human: bool,
) -> Goal:
    return Goal(
        id=id,
        asin=product.asin,
        category=product.category,
        query=product.query,
        name=product.title,
        product_category=product.product_category,
        instruction=instruction,
        attributes=attributes,
        options=options,
        price_upper=limit,
        weight=1.0,
        human=human,
    )


def _weighted(goals: Sequence[Goal]) -> list[Goal]:
    """Weight: mean over the goal's attributes of 1 / (number of goals with that attribute); 1 without attributes."""
    count = Counter(attribute for goal in goals for attribute in goal.attributes)
    rarity = {id(goal): [1 / count[attribute] for attribute in goal.attributes] for goal in goals}
    return [replace(goal, weight=sum(rarity[id(goal)]) / max(1, len(rarity[id(goal)]))) for goal in goals]


def _shuffled(goals: list[Goal]) -> list[Goal]:
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals


def _limit(price: float, seed: int, key: str) -> float:
    """The larger of two of the first four multiples of 10 above `price`; no limit where fewer than two are left."""
    candidates = [limit for limit in LIMITS if limit > price][:4]
    if len(candidates) < 2:
        return NO_LIMIT
    return max(_random("limit", seed, key).sample(candidates, 2))


def _limit_in_words(limit: float) -> str:
    return "" if limit >= NO_LIMIT else f", and price lower than {limit:.2f} dollars"


def _random(purpose: str, seed: int, key: str) -> random.Random:
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
