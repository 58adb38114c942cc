"""What the tests of WebShop share: recordings of the original, the shop they were made in, and made-up products."""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from astarpo.environments.webshop.catalogue import Product, load_catalogue
from astarpo.environments.webshop.goals import Goal, human_goals, synthetic_goals
from astarpo.environments.webshop.reward import Fidelity
from astarpo.environments.webshop.search import Index
from astarpo.environments.webshop.session import Session, Shop


@cache
def records(folder: Path, name: str) -> list[dict[str, Any]]:
    """The recording `name` of the original, one dictionary a line."""
    file = folder / "goldens" / f"{name}.jsonl.gz"
    if not file.exists():
        reason = f"no recording {file.name} in {file.parent}: the tests of equality need the goldens"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def products(folder: Path) -> tuple[Product, ...]:
    return load_catalogue(folder)


@cache
def by_asin(folder: Path) -> dict[str, Product]:
    return {product.asin: product for product in products(folder)}


@cache
def prices(folder: Path) -> dict[str, float]:
    """The prices that the original drew, dollars."""
    drawn: dict[str, float] = json.loads(gzip.decompress((folder / "goldens" / "prices.json.gz").read_bytes()))
    return drawn


@cache
def index(folder: Path) -> Index:
    return Index.build(products(folder))


@cache
def recorded_goals(folder: Path) -> list[Goal]:
    """The synthetic goals with the price limits that the original drew."""
    limits = {record["asin"]: record["price_upper"] for record in records(folder, "goals")}
    return synthetic_goals(products(folder), prices(folder), limits=limits)


@cache
def recorded_human_goals(folder: Path) -> list[Goal]:
    """The crowd workers' goals with the price limits that the original drew."""
    limit_of = {_words(record["instruction_text"]): record["price_upper"] for record in records(folder, "goals_human")}
    ours = human_goals(products(folder), prices(folder))
    limits = {goal.id: limit_of[_words(goal.instruction)] for goal in ours}
    return human_goals(products(folder), prices(folder), limits=limits)


def _words(instruction: str) -> str:
    return instruction.split(", and price lower than")[0]


@cache
def real_shop(folder: Path, fidelity: Fidelity, *, show_attributes: bool = False) -> Shop:
    return Shop(
        products(folder),
        prices(folder),
        recorded_goals(folder),
        index(folder),
        fidelity=fidelity,
        show_attributes=show_attributes,
    )


def recorded_session(folder: Path, record: dict[str, Any]) -> Session:
    """A session as the one recorded began."""
    goals = recorded_goals(folder) if record["goals"] == "synthetic" else recorded_human_goals(folder)
    shop = real_shop(folder, Fidelity.ORIGINAL, show_attributes=record["show_attrs"])
    return Session(shop, goals[record["goal_index"]], record["session"])


def a_product(asin: str = "B000000001", **fields: Any) -> Product:
    """A made-up product; name the fields that matter."""
    plain: dict[str, Any] = {
        "title": "red lamp",
        "description": "a lamp that is red",
        "bullets": ("bright",),
        "category": "garden",
        "query": "lamps",
        "product_category": "Home › Lighting › Lamps",
        "attributes": ("easy clean",),
        "options": {},
        "option_images": {},
        "image": "",
        "prices": (27.0,),
        "price_text": "$27.0",
        "instruction": "Find me easy clean lamps",
        "instruction_attributes": ("easy clean",),
    }
    return Product(asin=asin, **(plain | fields))


def a_shop(*sold: Product, fidelity: Fidelity = Fidelity.REPAIRED) -> Shop:
    """A shop that sells `sold`, with the goals that follow from them."""
    costs = {product.asin: product.prices[0] for product in sold}
    return Shop(sold, costs, synthetic_goals(sold, costs), Index.build(sold), fidelity=fidelity)
