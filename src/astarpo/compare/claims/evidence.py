"""Effects and their intervals, read off records; what a claim's predictions come to.

Kinds of effect; shares between 0 and 1, all intervals 95 %:

    success       arm                  held-out success at the end, over seeds and tasks
    gain          arm                  that less the start's, paired by task
    difference    first, second        success of one arm less another's, paired by seed and task
    area          first, second        mean of success on dev over the run, less the other's; t interval over seeds
    pass_at       first, second, k     chance that one of k sampled plays succeeds, less the other's; over seeds
    pass_gain     arm, k               that of an arm less the start's; over seeds
    at            arm, update          success at a checkpoint, over seeds and tasks (see `share_interval`)
    half          arm                  share of the whole gain on dev that is made by half of the run; over those seeds
                                       that gained anything, since a loss has no such share
    metric        arm, name, where     a metric of the journal: where is first, last (tenth of the run), mean or max
    metric_gap    first, second, name, where     that less another arm's, paired by seed
    ratio         ratio, first, second     signal-to-noise of one arm less another's, paired by draw
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from astarpo.compare.claims.definitions import Book, Check, Claim, Outcome, Verdict
from astarpo.compare.claims.records import unpacked
from astarpo.compare.claims.work import jobs
from astarpo.compare.intervals import LEVEL, Interval, paired_difference, success_interval
from astarpo.errors import RunError, SettingsError

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What came of one prediction.

    Attributes:
        check: the prediction.
        interval: of its effect; None where fewer than two runs of an arm are there.
        seeds: how many runs, or draws, it is over, and how many there should be.
        outcome: what it says.
    """

    check: Check
    interval: Interval | None
    seeds: tuple[int, int]
    outcome: Outcome


@dataclass(frozen=True)
class Judged:
    """A claim with what was found."""

    claim: Claim
    findings: tuple[Finding, ...]
    verdict: Verdict


class Evidence:
    """Records by arm and seed.

    Args:
        book: claims and arms.
        records: key → record; those that no definition asks for are left out.
    """

    def __init__(self, book: Book, records: Mapping[str, Record]) -> None:
        self.book = book
        self.runs: dict[str, dict[int, Record]] = {}
        self.draws: dict[str, dict[int, Record]] = {}
        self.used: dict[str, Record] = {}
        for job in jobs(book, records)[0]:
            if job.key in records:
                self.used[job.key] = records[job.key]
                if job.kind != "sweep":
                    home = self.draws if job.kind == "snr" else self.runs
                    home.setdefault(job.arm, {})[job.number] = records[job.key]

    def judge(self, claim: Claim) -> Judged:
        """The verdict on `claim`."""
        findings = tuple(self.find(check) for check in claim.checks)
        return Judged(claim, findings, claim.verdict({one.check.what: one.outcome for one in findings}))

    def find(self, check: Check) -> Finding:
        """What came of `check`.

        Raises:
            SettingsError: it names an effect that there is not.
            RunError: the runs of its arms were judged on different tasks.
        """
        kind = str(check.effect["kind"])
        if kind not in KINDS:
            raise SettingsError(f"there is no effect {kind!r}: known: {', '.join(KINDS)}.")
        interval, seen, wanted = KINDS[kind](self, check.effect)
        outcome: Outcome = "open" if interval is None else check.judge(interval.low, interval.high)
        return Finding(check, interval, (seen, wanted), outcome)

    # ---- what effects are made of ------------------------------------------------------------------------------------

    def seeds(self, *arms: str) -> tuple[list[int], int]:
        """Seeds that all of `arms` have, and how many they should have."""
        there = set.intersection(*({*self.runs.get(arm, {})} for arm in arms))
        return sorted(there), min(self.book.arms[arm].seeds for arm in arms)

    def outcomes(self, arm: str, seeds: Sequence[int], when: str = "after") -> NDArray[np.float64] | None:
        """[seeds, tasks] of 0 and 1; None where a run does not have them."""
        rows = [self.runs[arm][seed] for seed in seeds]
        if len({row["tasks"] for row in rows}) > 1:
            raise RunError(f"runs of {arm} were judged on different tasks: run the odd ones again.")
        if not all("outcomes" in row[when] for row in rows):
            return None
        return np.stack([unpacked(row[when]["outcomes"], row[when]["n"]) for row in rows])

    def each(self, arm: str, seeds: Sequence[int], value: Callable[[Record], float]) -> NDArray[np.float64]:
        """One number of each run."""
        return np.array([value(self.runs[arm][seed]) for seed in seeds], dtype=np.float64)


Found = tuple[Interval | None, int, int]


def _success(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    arm = str(effect["arm"])
    seeds, wanted = evidence.seeds(arm)
    if len(seeds) < 2:
        return None, len(seeds), wanted
    whole = evidence.outcomes(arm, seeds)
    if whole is None:
        shares = evidence.each(arm, seeds, lambda one: one["after"]["success"])
        return share_interval(shares, evidence.runs[arm][seeds[0]]["after"]["n"]), len(seeds), wanted
    return success_interval(whole), len(seeds), wanted


def _gain(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    arm = str(effect["arm"])
    seeds, wanted = evidence.seeds(arm)
    if len(seeds) < 2:
        return None, len(seeds), wanted
    after, before = (evidence.outcomes(arm, seeds, when) for when in ("after", "before"))
    if after is None or before is None:
        return None, len(seeds), wanted
    found = paired_difference(after, before)
    if effect.get("sign", 1) < 0:
        found = Interval(-found.mean, -found.high, -found.low)
    return found, len(seeds), wanted


def _difference(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    first, second = str(effect["first"]), str(effect["second"])
    seeds, wanted = evidence.seeds(first, second)
    if len(seeds) < 2:
        return None, len(seeds), wanted
    a, b = evidence.outcomes(first, seeds), evidence.outcomes(second, seeds)
    if a is None or b is None:
        x, y = (evidence.each(arm, seeds, lambda one: one["after"]["success"]) for arm in (first, second))
        return seed_interval(x - y), len(seeds), wanted
    tasks = [evidence.runs[arm][seeds[0]]["tasks"] for arm in (first, second)]
    if tasks[0] != tasks[1]:
        raise RunError(f"{first} and {second} were judged on different tasks, so they cannot be paired.")
    return paired_difference(a, b), len(seeds), wanted


def _over_seeds(value: Callable[[Mapping[str, Any], Record], float]) -> Callable[[Evidence, Mapping[str, Any]], Found]:
    """An effect that is a number of each run, or the difference of those of two arms."""

    def found(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
        arms = [str(effect[key]) for key in ("arm", "first", "second") if key in effect]
        seeds, wanted = evidence.seeds(*arms)
        if len(seeds) < 2:
            return None, len(seeds), wanted
        values = [evidence.each(arm, seeds, lambda one: value(effect, one)) for arm in arms]
        return seed_interval(values[0] - values[1] if len(values) > 1 else values[0]), len(seeds), wanted

    return found


def _area(effect: Mapping[str, Any], one: Record) -> float:  # noqa: ARG001
    """Mean of the curve on dev over the run, by trapezes."""
    updates, success = zip(*one["curve"], strict=True)
    pairs = pairwise(zip(updates, success, strict=True))
    under = sum((b - a) * (y + z) / 2 for (a, y), (b, z) in pairs)
    return float(under / (updates[-1] - updates[0]))


def _half(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    arm = str(effect["arm"])
    seeds, wanted = evidence.seeds(arm)
    shares = []
    for seed in seeds:
        updates, success = zip(*evidence.runs[arm][seed]["curve"], strict=True)
        gain = float(success[-1]) - float(success[0])
        if gain > 0:
            shares.append((float(np.interp(updates[-1] / 2, updates, success)) - float(success[0])) / gain)
    return (seed_interval(shares) if len(shares) > 1 else None), len(shares), wanted


def _pass_at(effect: Mapping[str, Any], one: Record) -> float:
    k = str(effect["k"])
    last = float(one["after"]["pass_at"][k])
    return last - float(one["before"]["pass_at"][k]) if effect["kind"] == "pass_gain" else last


def _metric(effect: Mapping[str, Any], one: Record) -> float:
    values = one["metrics"][str(effect["name"])]
    where = str(effect.get("where", "mean"))
    picked = {"first": values[0], "last": values[-1], "mean": sum(values) / len(values), "max": max(values)}
    return float(picked[where]) * float(effect.get("sign", 1))


def _at(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    arm, update = str(effect["arm"]), str(effect["update"])
    seeds, wanted = evidence.seeds(arm)
    seeds = [seed for seed in seeds if update in evidence.runs[arm][seed]["checkpoints"]]
    if len(seeds) < 2:
        return None, len(seeds), wanted
    shares = evidence.each(arm, seeds, lambda one: one["checkpoints"][update]["success"])
    return share_interval(shares, evidence.runs[arm][seeds[0]]["after"]["n"]), len(seeds), wanted


def _ratio(evidence: Evidence, effect: Mapping[str, Any]) -> Found:
    name = str(effect["ratio"])
    draws, wanted = evidence.draws.get(name, {}), evidence.book.ratios[name].draws
    pairs = [
        [one["ratios"][str(effect[key])]["snr"] for key in ("first", "second")]
        for one in draws.values()
        if all(one["ratios"][str(effect[key])] is not None for key in ("first", "second"))
    ]
    if len(pairs) < 2:
        return None, len(pairs), wanted
    return seed_interval([a - b for a, b in pairs]), len(pairs), wanted


KINDS: Mapping[str, Callable[[Evidence, Mapping[str, Any]], Found]] = {
    "success": _success,
    "gain": _gain,
    "difference": _difference,
    "area": _over_seeds(_area),
    "half": _half,
    "pass_at": _over_seeds(_pass_at),
    "pass_gain": _over_seeds(_pass_at),
    "metric": _over_seeds(_metric),
    "metric_gap": _over_seeds(_metric),
    "at": _at,
    "ratio": _ratio,
}


def seed_interval(values: Sequence[float] | NDArray[np.float64]) -> Interval:
    """Student's t interval of a mean, from two values on.

    >>> seed_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    n, mean = len(values), float(np.mean(values))
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def share_interval(shares: Sequence[float] | NDArray[np.float64], tasks: int) -> Interval:
    """Success over seeds where only each seed's share of `tasks` was kept, and not which tasks it solved.

        half² = ( t(n−1) · s / √n )² + ( t(T−1) · √(p (1 − p) / T) )²

    Seeds and tasks add up, each with the quantile of its own degrees of freedom. Since s holds part of what the tasks
    do, it is a little too wide.
    """
    p = float(np.mean(shares))
    seeds = seed_interval(shares).high - p
    half = math.hypot(seeds, float(student.ppf((1 + LEVEL) / 2, tasks - 1)) * math.sqrt(p * (1 - p) / tasks))
    return Interval(p, max(p - half, 0.0), min(p + half, 1.0))
