"""Whether something rose, fell or stayed, and whether the run learned: what most detectors must rule out first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Array, Evidence, Series

Change = Literal["rose", "fell", "flat", "unknown"]


@dataclass(frozen=True)
class Trend:
    """First fifth of a series against its last.

    Attributes:
        first, last: means of the two.
        error: standard error of their difference, from differences of neighbouring points.
        points: in the whole series.
        halves: second half less first half, in standard errors: a chance wave at one end does not carry them.
    """

    first: float
    last: float
    error: float
    points: int
    halves: float

    @property
    def difference(self) -> float:
        """Last less first."""
        return self.last - self.first

    def change(self, least: float = 0.0) -> Change:
        """Whether it changed by three standard errors and by more than `least`, and its halves by two the same way."""
        if self.points < at.POINTS_FOR_TREND.value:
            return "unknown"
        if abs(self.difference) <= max(at.RISE_IN_ERRORS.value * self.error, least):
            return "flat"
        if self.halves * math.copysign(1.0, self.difference) < at.HALVES_IN_ERRORS.value:
            return "flat"
        return "rose" if self.difference > 0 else "fell"


def ends(values: Array) -> tuple[Array, Array]:
    """The first and the last fifth, at least two points each where there are four."""
    n = max(len(values) // 5, min(2, len(values) // 2), 1)
    return values[:n], values[-n:]


def at_first(series: Series) -> float:
    """The first value: what the policy was before it was trained, and no fault of training."""
    return float(series.values[0])


def trend(series: Series) -> Trend:
    """First fifth against last. Any series with a value."""
    first, last = ends(series.values)
    noise = float(np.std(np.diff(series.values))) / math.sqrt(2.0) if len(series) > 2 else 0.0
    error = noise * math.sqrt(1.0 / len(first) + 1.0 / len(last))
    middle = len(series) // 2
    apart = float(series.values[-middle:].mean() - series.values[:middle].mean()) if middle else 0.0
    halves = apart / (noise * math.sqrt(2.0 / middle)) if noise > 0.0 else math.copysign(math.inf, apart)
    return Trend(float(first.mean()), float(last.mean()), error, len(series), halves)


@dataclass(frozen=True)
class Learned:
    """Whether the policy got better.

    Attributes:
        held_out: on held-out tasks: first figure against last, with 95 % intervals; "unknown" without two of them.
        training: by success or reward in training.
        words: the sentence.
        low, high: 95 % interval of the held-out difference, shares; None without.
        level: success at the end, held out where known, else in training; None where neither is.
        plays: behind the last held-out figure; None where `held_out` is unknown.
    """

    held_out: Change
    training: Change
    words: str
    low: float | None = None
    high: float | None = None
    level: float | None = None
    plays: int | None = None

    @property
    def gained(self) -> bool:
        """Held-out figures decide where there are any."""
        return self.held_out == "rose" or (self.held_out == "unknown" and self.training == "rose")

    @property
    def lost(self) -> bool:
        """As `gained`, downwards."""
        return self.held_out == "fell" or (self.held_out == "unknown" and self.training == "fell")

    @cached_property
    def mastered(self) -> bool:
        """Whether there was little left to learn at the end."""
        return self.level is not None and self.level >= at.MASTERED.value

    @property
    def good(self) -> bool:
        """Whether a clean bill may be given: it gained, or there was little left to gain."""
        return self.gained or (self.mastered and not self.lost)

    @property
    def excuse(self) -> bool:
        """Whether symptoms that come with success are no faults. What is learned may carry over or not."""
        return self.good or self.training == "rose"


def difference_interval(p1: float, n1: int, p2: float, n2: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of p2 − p1 for independent shares, 95 % by default: Newcombe's hybrid of Wilson's (1998, method 10).

    >>> low, high = difference_interval(0.5, 100, 0.7, 100)
    >>> round(low, 3), round(high, 3)
    (0.064, 0.326)
    """
    (l1, u1), (l2, u2) = wilson(p1, n1, z), wilson(p2, n2, z)
    d = p2 - p1
    return d - math.hypot(p2 - l2, u1 - p1), d + math.hypot(u2 - p2, p1 - l1)


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson interval of a share seen over `n` plays, 95 % by default."""
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@lru_cache(maxsize=4)
def learned(evidence: Evidence) -> Learned:
    """Whether the run of `evidence` learned, by the best figures that it has."""
    told, training = _held_out(evidence), training_change(evidence)
    words, level = told.words, told.level
    if not words:
        series = evidence.get("success", "reward")
        if series is None:
            words = "nothing logged says whether the policy got better"
        else:
            name = "success" if series is evidence.get("success") else "reward"
            seen = trend(series)
            state = {"rose": "rose", "fell": "fell", "flat": "did not change", "unknown": "has too few points"}
            words = f"training {name} {state[training]}: {seen.first:.3g} to {seen.last:.3g} over {seen.points} points"
    success = evidence.get("success")
    if level is None and success is not None:
        level = trend(success).last
    return replace(told, training=training, words=words, level=level)


def training_change(evidence: Evidence) -> Change:
    """What training success did, or else reward."""
    success, reward = evidence.get("success"), evidence.get("reward")
    answers = []
    if success is not None and len(success) >= at.POINTS_FOR_TREND.value:
        answers.append(trend(success).change(0.02))
    if reward is not None and (success is None or not answers):
        answers.append(trend(reward).change(at.RISE_IN_SCALE.value * evidence.scale))
    return answers[0] if answers else "unknown"


def unlearned(evidence: Evidence, n: int | None = None) -> bool:
    """Whether the first of `n` updates (all, if not given) succeeds now and then, and no later one does."""
    won = evidence.get("success", "reward")
    if won is None or (len(won) if n is None else n) < 3:
        return False
    first, rest = float(won.values[0]), won.values[1 : None if n is None else max(n, 3)]
    return first >= at.UNLEARNED.value and len(rest) > 1 and float(np.abs(rest).max()) == 0.0


@dataclass(frozen=True)
class Fall:
    """The end of a curve against its own best level before it, both smoothed.

    Attributes:
        what: the curve, in words.
        best, last: the levels: means over as many neighbouring figures each, which share none.
        low, high: 95 % interval of `best` less `last`, widened for the best of several levels being chosen.
        share: of the best level that was lost; of its height above the lowest level where that is below 0.
        step: of the last figure of the best level.
        levels: that the best was chosen from.
        plays: behind each figure; None where the interval is from the scatter of neighbouring figures.
    """

    what: str
    best: float
    last: float
    low: float
    high: float
    share: float
    step: int
    levels: int
    plays: int | None

    @property
    def real(self) -> bool:
        """Whether more was lost than chance and the choice of the best explain, and more than a trifle."""
        return self.low > 0.0 and self.share >= at.FELL_BACK.value


@lru_cache(maxsize=4)
def fell_back(evidence: Evidence) -> Fall | None:
    """By held-out figures between the first and the last; without them by training, where its tasks stay the same.

    None: too few figures, or a curriculum, under which success in training says nothing about the policy alone.
    """
    for split in ("dev", "eval"):
        seen = [one for one in evidence.held_out if one.split == split and one.n is not None]
        if len(seen) >= at.FIGURES_FOR_A_FALL.value:
            steps = np.array([one.step for one in seen])
            values = np.array([one.success for one in seen])
            # Not the plays of all figures that a level is the mean of: they are the same tasks each time.
            plays = min(one.n or 0 for one in seen)
            return _fall(f"held-out success ({split})", steps, values, min(3, len(seen) // 2), plays)
    temperature = evidence.setting("rollout.temperature")
    changes = evidence.setting("curriculum.name") not in (None, "uniform") or (
        isinstance(temperature, list | tuple) and len(temperature) > 1
    )
    name = next((n for n in ("success", "reward") if evidence.get(n) is not None), None)
    series = None if name is None else evidence.get(name)
    if changes or series is None or len(series) < at.UPDATES_TO_JUDGE.value:
        return None
    return _fall(f"{name} in training", series.steps, series.values, len(series) // 5, None)


def _fall(what: str, steps: NDArray[np.int64], values: Array, width: int, plays: int | None) -> Fall:
    # Running means by running sums: a log may have a million lines.
    sums = np.concatenate([[0.0], np.cumsum(values)])
    smooth = (sums[width:] - sums[:-width]) / width
    before, last = smooth[:-width], float(smooth[-1])
    peak = int(np.argmax(before))
    best, floor = float(before[peak]), min(float(smooth.min()), 0.0)
    # Levels that share figures are hardly a choice of their own; with plays told there are few, and all are counted.
    levels = len(before) if plays is not None else max(len(before) // width, 1)
    z = NormalDist().inv_cdf(1.0 - 0.025 / levels)
    if plays is not None:
        low, high = difference_interval(min(max(last, 0.0), 1.0), plays, min(max(best, 0.0), 1.0), plays, z)
    else:
        # Neighbours tell of noise and nothing of slow waves, hence the three errors of every trend at the least.
        reach = max(z, at.RISE_IN_ERRORS.value) * float(np.std(np.diff(values))) / math.sqrt(width)
        low, high = best - last - reach, best - last + reach
    share = (best - last) / max(best - floor, 1e-12)
    return Fall(what, best, last, low, high, share, int(steps[peak + width - 1]), levels, plays)


def _held_out(evidence: Evidence) -> Learned:
    """By held-out figures alone: of the first split of test, dev and what has no name whose figures tell anything."""
    nothing = Learned("unknown", "unknown", "")
    for split in ("test", "dev", "eval"):
        seen = [one for one in evidence.held_out if one.split == split]
        if len(seen) < 2 or seen[0].step == seen[-1].step:
            continue
        first, last = seen[0], seen[-1]
        if first.n is None or last.n is None:
            return replace(nothing, level=last.success)
        low, high = difference_interval(first.success, first.n, last.success, last.n)
        change: Change = "rose" if low > 0 else "fell" if high < 0 else "flat"
        if change == "flat" and high - low > at.HELD_OUT_WIDTH.value:
            continue
        words = (
            f"held-out success ({split}) {first.success:.1%} to {last.success:.1%}, n = {last.n}: a difference of "
            f"{100 * low:+.1f} to {100 * high:+.1f} points (95 %)"
        )
        return Learned(change, "unknown", words, low, high, last.success, last.n)
    return nothing
