"""WebShop's reward modes: its score, and the step bonuses that runs on it have used, each as a pure function of steps.

Step bonuses are kept to be compared with, not recommended: ten turns of a search and clicks earn more than a worthless
purchase, and a policy finds that out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from astarpo.environments.rewards import RewardMode, partial, score, success
from astarpo.types import Step

POTENTIALS: Mapping[str, float] = MappingProxyType(
    {"index": 0.0, "search_results": 0.1, "item_page": 0.2, "item_sub_page": 0.2, "done": 0.0}
)
"""Φ of a page. An item with an option selected has `SELECTED`; where the episode ends Φ is 0."""
SELECTED = 0.3


def bonuses_described(steps: Sequence[Step], success: bool) -> list[float]:
    """+0.1 for a search, +0.2 for a click that is no purchase, −0.1 for every step, and WebShop's score when buying."""
    bonus = {"search": 0.1, "click": 0.2}
    return [step.reward + bonus.get(_kind(step), 0.0) - 0.1 for step in steps]


def bonuses_coded(steps: Sequence[Step], success: bool) -> list[float]:
    """What the same run's code paid: +0.05 a search, +0.10 a click, −0.01 × step index (from 1), −0.05 from the third
    identical search on; a purchase pays +0.50 if its score is above 0, else −0.20, and no score."""
    rewards = []
    searched: Counter[str] = Counter()
    for index, step in enumerate(steps, 1):
        reward = -0.01 * index
        if _kind(step) == "search":
            query = str(step.info.get("query", ""))
            searched[query] += 1
            reward += 0.05 - (0.05 if searched[query] > 2 else 0.0)
        elif _kind(step) == "click":
            reward += 0.10
        elif _kind(step) == "buy":
            reward += 0.50 if step.reward > 0 else -0.20
        rewards.append(reward)
    return rewards


def potential(steps: Sequence[Step], success: bool) -> list[float]:
    """Score plus F = Φ(s′) − Φ(s), with Φ = 0 at the start and wherever the episode ends, the turn limit included.

    The F of an episode sum to 0, so no policy can earn by shaping (Ng, Harada and Russell 1999, discount 1).
    """
    after = [float(step.info.get("potential", 0.0)) for step in steps]
    after[-1] = 0.0
    return [step.reward + new - old for step, new, old in zip(steps, after, [0.0, *after[:-1]], strict=True)]


def _kind(step: Step) -> str:
    return str(step.info.get("kind", ""))


MODES: Mapping[str, RewardMode] = MappingProxyType(
    {
        "score": score,
        "success": success,
        "partial": partial,
        "bonuses_described": bonuses_described,
        "bonuses_coded": bonuses_coded,
        "potential": potential,
    }
)
"""Every reward mode of WebShop, by name."""
