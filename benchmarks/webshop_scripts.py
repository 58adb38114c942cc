"""How hard a WebShop catalogue is: scripted shoppers, one goal per product, with 95 % Wilson intervals.

    python benchmarks/webshop_scripts.py                 the generated world, and the real one where it is found
    python benchmarks/webshop_scripts.py --products 100

The real catalogue is the folder named by ASTARPO_WEBSHOP_SMALL, or ../shared/webshop-small beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from astarpo.environments.webshop import Webshop, WebshopSettings
from astarpo.environments.webshop.scripts import YARDSTICKS, Shopper
from astarpo.types import SPLITS


@dataclass(frozen=True)
class Measured:
    """What one script did on one catalogue. Shares in [0, 1], `words` and `steps` are means per episode."""

    script: str
    n: int
    success: float
    low: float
    high: float
    score: float
    words: float
    steps: float
    milliseconds: float


def one_goal_per_product(shop: Webshop) -> list[str]:
    """The first goal of every product, of all splits: what the first round of `ids` deals."""
    ids = []
    for split in SPLITS:
        seen: set[str] = set()
        for id in shop.ids(split):
            product = id.partition("#")[0]
            if product in seen:
                break
            seen.add(product)
            ids.append(id)
    return ids


def measure(shop: Webshop, ids: list[str], script: str, shopper: Callable[[int], Shopper] | None) -> Measured:
    """Play `ids` with a script; without a shopper, with each task's own solution."""
    solved, score, words, steps, seconds = 0, 0.0, 0, 0, 0.0
    for id in ids:
        made = shop.task(id)
        actions = made.solution() if shopper is None else made.played_by(shopper(shop.settings.max_turns))
        if actions is None:
            continue
        task = shop.task(id)
        texts = [task.start()]
        began = time.perf_counter()
        played = [task.step(action) for action in actions]
        seconds += time.perf_counter() - began
        texts += [text for action, step in zip(actions, played, strict=True) for text in (action, step.text)]
        words += sum(len(text.split()) for text in texts)
        steps += len(played)
        score += sum(step.reward for step in played)
        solved += bool(played[-1].success)
    interval = binomtest(solved, len(ids)).proportion_ci(method="wilson")
    n = len(ids)
    return Measured(
        script, n, solved / n, interval.low, interval.high, score / n, words / n, steps / n, 1e3 * seconds / steps
    )


def rows(shop: Webshop) -> Iterator[Measured]:
    """Every yardstick on `shop`, then the solutions."""
    ids = one_goal_per_product(shop)
    for script, shopper in YARDSTICKS.items():
        yield measure(shop, ids, script, shopper)
    yield measure(shop, ids, "told the answer", None)


def real_catalogue() -> Path | None:
    """The folder with the real products, where there is one."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "webshop-small"
    folder = Path(os.environ.get("ASTARPO_WEBSHOP_SMALL", beside))
    return folder if folder.is_dir() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--catalogue-seed", type=int, default=0)
    given = parser.parse_args()
    shops = [WebshopSettings(products=given.products, catalogue_seed=given.catalogue_seed)]
    folder = real_catalogue()
    if folder is not None:
        shops.append(WebshopSettings(products=given.products, catalogue=folder))
    columns = ("catalogue", "script", "n", "success % (95 %)", "score", "words", "steps", "ms a step")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for settings in shops:
        shop = Webshop(settings)
        for row in rows(shop):
            share = f"{100 * row.success:.1f} ({100 * row.low:.1f} to {100 * row.high:.1f})"
            print(
                f"| {shop.world} | {row.script} | {row.n} | {share} | {100 * row.score:.1f} "
                f"| {row.words:.0f} | {row.steps:.1f} | {row.milliseconds:.2f} |"
            )


if __name__ == "__main__":
    main()
