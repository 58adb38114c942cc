"""What can be said of a run, or of several, no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from astarpo.report.charts import percent
from astarpo.report.reading import Evaluated, RunFacts
from astarpo.report.shown import harmless

Tone = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Verdict:
    """The first thing on the page: a sentence, whether it is good news, and what stands below it."""

    headline: str
    tone: Tone
    more: tuple[str, ...]


def verdict(run: RunFacts) -> Verdict:
    """What `run` shows so far."""
    if run.before is not None and run.after is not None:
        return _finished(run.before, run.after)
    of = "" if run.planned is None else f" of {run.planned}"
    state = f"The run is not finished: {run.updates[-1] if run.updates else 0}{of} updates are there."
    if not run.updates:
        return Verdict("No update is there yet.", "open", (state,))
    more = [state]
    if run.before is not None:
        more.append(f"Before training {percent(run.before.success)} of {run.before.n} test tasks were solved.")
    if len(run.dev) < 2:
        return Verdict("Not yet evaluated after training began.", "open", tuple(more))
    first, last = run.dev[0], run.dev[-1]
    headline, tone = moved(first, last)
    return Verdict(f"So far: {headline}", tone, (*more, _where(last, "dev")))


class Share(Protocol):
    """A share of tasks solved with its Wilson interval."""

    @property
    def success(self) -> float:
        """The share."""

    @property
    def success_low(self) -> float:
        """Lower end."""

    @property
    def success_high(self) -> float:
        """Upper end."""


def gain(before: Share, after: Share) -> tuple[float, float, float]:
    """Difference of two shares with its 95 % interval, from the Wilson intervals of both (Newcombe 1998, method 10).

        d − √((p₂ − l₂)² + (u₁ − p₁)²)  to  d + √((u₂ − p₂)² + (p₁ − l₁)²)

    As if the two were played on different tasks; they are played on the same ones, which makes it rather wide.

    >>> from types import SimpleNamespace as E
    >>> low_high = gain(E(success=.5, success_low=.4, success_high=.6), E(success=.8, success_low=.7, success_high=.87))
    >>> [round(x, 3) for x in low_high]
    [0.3, 0.159, 0.422]
    """
    difference = after.success - before.success
    down = math.hypot(after.success - after.success_low, before.success_high - before.success)
    up = math.hypot(after.success_high - after.success, before.success - before.success_low)
    return difference, difference - down, difference + up


def points(change: tuple[float, float, float]) -> str:
    """A difference of shares in percentage points, with its interval."""
    middle, low, high = (100 * one for one in change)
    return f"{middle:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def comparison(runs: Sequence[RunFacts], names: Sequence[str]) -> Verdict:
    """What several runs show beside each other."""
    done = [(name, run) for name, run in zip(names, runs, strict=True) if run.after is not None]
    if len(done) < 2:
        return Verdict("Fewer than two of these runs are finished: nothing can be compared yet.", "open", ())
    seeds = "One seed a run says nothing of how much runs differ by chance: compare several seeds of each."
    worlds = list(dict.fromkeys(harmless(run.environment[:60]) for _, run in done))
    if len(worlds) > 1:
        where = f"{', '.join(worlds[:-1])} and {worlds[-1]}"
        return Verdict(f"These runs were evaluated on {where}: none can be said to end highest.", "open", (seeds,))
    ranked = sorted(done, key=lambda one: -(one[1].after.success if one[1].after else 0.0))
    (best, first), (second, other) = ranked[0], ranked[1]
    assert first.after is not None
    assert other.after is not None
    change = gain(other.after, first.after)
    headline = f"{best} ends highest, at {percent(first.after.success)}"
    if change[1] > 0:
        headline += f", above {second}, at {percent(other.after.success)}, by more than these evaluations vary."
    else:
        headline += f"; {second}, at {percent(other.after.success)}, cannot be told from it by these evaluations."
    more = [f"Difference of the two: {points(change)}.", seeds]
    apart = _tasks_differ_in([run for _, run in done])
    if apart:
        more.insert(
            0, f"Their environments differ in {', '.join(apart)}: beware, they may not have met the same tasks."
        )
    if len({run.after.n for _, run in done if run.after is not None}) > 1:
        more.insert(0, "They were evaluated on different numbers of tasks: beware.")
    return Verdict(headline, "open", tuple(more))


def _tasks_differ_in(runs: Sequence[RunFacts]) -> list[str]:
    """Settings of the environment in which the runs differ; what is trained on changes no success."""
    found = [run.settings.get("environment") for run in runs]
    every = [one if isinstance(one, Mapping) else {} for one in found]
    names = dict.fromkeys(str(name) for one in every for name in one if name != "reward")
    return [harmless(name[:60]) for name in names if any(one.get(name) != every[0].get(name) for one in every)][:8]


def _finished(before: Evaluated, after: Evaluated) -> Verdict:
    headline, tone = moved(before, after)
    more = [_where(after, "test")]
    if before.score is not None and after.score is not None:
        more.append(f"Score went from {before.score:.3f} to {after.score:.3f}.")
    return Verdict(headline, tone, tuple(more))


def moved(before: Share, after: Share) -> tuple[str, Tone]:
    """What two evaluations say about learning, no more than the interval of their difference allows."""
    change = gain(before, after)
    went = f"from {percent(before.success)} to {percent(after.success)}, {points(change)}"
    if change[1] > 0:
        return f"Success rose {went}.", "better"
    if change[2] < 0:
        return f"Success fell {went}.", "worse"
    return f"Success went {went}: no difference is shown.", "open"


def _where(after: Evaluated, split: str) -> str:
    return f"Greedy play of {after.n} held-out {split} tasks."
