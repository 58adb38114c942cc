"""What there is to judge a run by, whoever wrote it: series, episodes, settings, held-out figures, what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.names import COMPONENT, RIGHT, SUCCESS_IN_PERCENT, VALID, canonical, rank
from astarpo.types import Episode

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One metric over the run.

    Attributes:
        steps: [N] int64, rising.
        values: [N] finite numbers.
        broken: steps at which NaN or infinity was logged beside metrics that were finite.
    """

    steps: NDArray[np.int64]
    values: Array
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def at(self, steps: NDArray[np.int64]) -> Array:
        """The values at `steps`; NaN where there is none."""
        found = np.full(len(steps), np.nan)
        place = np.searchsorted(self.steps, steps)
        there = (place < len(self.steps)) & (self.steps[np.minimum(place, len(self.steps) - 1)] == steps)
        found[there] = self.values[place[there]]
        return found


@dataclass(frozen=True)
class HeldOut:
    """The policy on held-out tasks after `step` updates.

    Attributes:
        success: share from 0 to 1.
        n: plays behind it; None where the log does not say.
        score: mean of the environment's score, where known.
        split: "dev", "test", or "eval" where the log does not say.
    """

    step: int
    success: float
    n: int | None = None
    score: float | None = None
    split: str = "eval"


@dataclass(frozen=True)
class Played:
    """Episodes of one update."""

    step: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class ReferencePlays:
    """Stage 1: what the reference earned, task by task."""

    rewards: Mapping[str, tuple[float, ...]]
    successes: int
    plays: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that detectors may look at.

    Attributes:
        path: where it came from.
        format: which reader read it, in words.
        series: metrics by canonical name (`names.py`); unknown ones under their own names in lower case.
        played: episodes of some updates, in order; an even sample of them where there are many.
        settings: the run's settings, ours or another trainer's, where they are there.
        held_out: figures on held-out tasks, in order of steps.
        values: stage 1's plays, where they are there.
        environment: what playing the environment found, where it was asked for: (severity, name, sentence, numbers).
        events: what the log says in words, with the step: a change of curriculum, a warning.
        notes: what the reader could not read or had to assume.
        ours: whether it is a run folder of this library.
        finished: whether the run is known to be over.
        shaping: how the return of an episode is made up, where it is known.
        turns_limit: turns after which an episode is cut, where known.
    """

    path: Path
    format: str
    series: Mapping[str, Series] = field(default_factory=dict)
    played: tuple[Played, ...] = ()
    settings: Mapping[str, Any] | None = None
    held_out: tuple[HeldOut, ...] = ()
    values: ReferencePlays | None = None
    environment: tuple[EnvironmentFact, ...] | None = None
    events: tuple[tuple[int | None, str], ...] = ()
    notes: tuple[str, ...] = ()
    ours: bool = False
    finished: bool = False
    shaping: Any = None
    turns_limit: int | None = None

    def get(self, *names: str) -> Series | None:
        """The first of `names` that was logged with at least one finite value."""
        return next((self.series[name] for name in names if name in self.series and len(self.series[name])), None)

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A setting by its dotted name; `default` where it is not there."""
        found: Any = self.settings
        for part in dotted.split("."):
            if not isinstance(found, Mapping) or part not in found:
                return default
            found = found[part]
        return found

    @cached_property
    def steps(self) -> int:
        """Updates that were logged: distinct steps of the longest training series."""
        lengths = [len(s) + len(s.broken) for name, s in self.series.items() if _of_training(name)]
        return max([len(self.played), *lengths])

    @cached_property
    def updates(self) -> int:
        """Updates that were made, where enough of them were logged to know: trainers log every tenth, say."""
        reached = max((int(s.steps[-1]) for name, s in self.series.items() if len(s) and _of_training(name)), default=0)
        return max(self.steps, reached) if self.steps >= at.POINTS_FOR_TREND.value else self.steps

    @cached_property
    def last_step(self) -> int:
        """The last step of any series or evaluation."""
        ends = [int(series.steps[-1]) for series in self.series.values() if len(series)]
        return max([0, *ends, *(seen.step for seen in self.held_out)])

    @cached_property
    def episodes(self) -> tuple[Episode, ...]:
        """All episodes that were read, in order."""
        return tuple(episode for played in self.played for episode in played.episodes)

    @cached_property
    def episodes_played(self) -> int | None:
        """Training episodes of the whole run; None where nothing tells."""
        used = self.get("used/episodes")
        if used is not None:
            return int(used.values[-1])
        tasks, size = self.setting("rollout.tasks_per_update"), self.setting("algorithm.group_size")
        if isinstance(tasks, int) and isinstance(size, int):
            return tasks * size * self.steps
        if self.played:
            return round(len(self.episodes) / len(self.played) * max(self.steps, len(self.played)))
        return None

    @cached_property
    def scale(self) -> float:
        """Span of the rewards seen, reward units: what a difference of rewards is small or large against."""
        rewards: list[float] = [episode.reward for episode in self.episodes]
        for name in ("reward", "reward/max", "reward/min", "eval/reward"):
            if name in self.series:
                rewards += [float(np.min(s)), float(np.max(s))] if len(s := self.series[name].values) else []
        spread = self.get("reward/std", "group_std")
        wide = 2.0 * float(np.max(spread.values)) if spread is not None else 0.0
        if not rewards:
            return wide
        return max(max(rewards) - min(rewards), wide)


@dataclass(frozen=True)
class EnvironmentFact:
    """One thing that playing the environment showed. `kind` says which detector it is for."""

    kind: str
    severity: str
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


class Builder:
    """Gathers rows of a log into an `Evidence`. Readers put in what they find, under whatever names it has."""

    def __init__(self, path: Path, format: str) -> None:
        self.path, self.format = path, format
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[float]] = {}
        self._broken: dict[str, set[int]] = {}
        self._ranks: dict[str, tuple[int, str]] = {}
        self._percent: set[str] = set()
        self._names: dict[str, str] = {}
        self.held_out: list[HeldOut] = []
        self.events: list[tuple[int | None, str]] = []
        self.notes: list[str] = []

    def name(self, raw: str) -> str:
        """The name under which values called `raw` are kept."""
        known = self._names.get(raw)
        if known is not None:
            return known
        name = canonical(raw)
        if VALID.fullmatch(name):
            name = "invalid"
        place = rank(raw)
        best = self._ranks.get(name)
        if best is None or (place, raw) == best:
            self._ranks[name] = (place, raw)
        elif place < best[0]:
            # A better source of the same metric came later: what was kept steps back under its own name.
            old = best[1].strip().lower()
            if name in self._values:
                self._steps[old], self._values[old] = self._steps.pop(name), self._values.pop(name)
            if name in self._broken:
                self._broken[old] = self._broken.pop(name)
            self._names[best[1]] = old
            self._ranks[name] = (place, raw)
        else:
            name = raw.strip().lower()
        self._names[raw] = name
        return name

    def add(self, step: int, raw: str, value: float) -> None:
        """One finite value of the metric called `raw`."""
        name = self._names.get(raw) or self.name(raw)
        if name not in self._values:
            self._steps[name], self._values[name] = [], []
        self._steps[name].append(step)
        self._values[name].append(value)

    def row(self, step: int, values: Mapping[str, Any], but: Container[str] = ()) -> None:
        """Everything logged at `step`, but for some names. What is no number is left out; NaN counts where others are
        finite."""
        finite = False
        broken: list[str] = []
        for raw, value in values.items():
            # A log may have a million rows. The type of a bool is not int, and inf − inf is not 0.
            if (type(value) is not float and type(value) is not int) or raw in but:
                continue
            if type(value) is float:
                if value - value != 0.0:
                    broken.append(raw)
                    continue
            elif not -LARGEST < value < LARGEST:
                continue
            name = self._names.get(raw) or self.name(raw)
            if name not in self._values:
                self._steps[name], self._values[name] = [], []
            self._steps[name].append(step)
            self._values[name].append(value)
            finite = finite or name in TOLD_TOGETHER
        for raw in broken:
            # A log that writes NaN into the columns of an evaluation's line says that they are absent there.
            if finite and self.name(raw) in TOLD_TOGETHER:
                self._broken.setdefault(self.name(raw), set()).add(step)

    def broke(self, step: int, raw: str) -> None:
        """Say that NaN or infinity was logged, where a log writes nothing for what is absent."""
        self._broken.setdefault(self.name(raw), set()).add(step)

    def percent(self, raw: str) -> None:
        """Say that values called `raw` were written in per cent and have been divided already."""
        self._percent.add(self.name(raw))

    @property
    def rows(self) -> int:
        """Values kept so far."""
        return sum(len(values) for values in self._values.values())

    def build(self, **more: Any) -> Evidence:
        """The evidence. Rows are put in order of steps; of several values at one step the last counts."""
        series: dict[str, Series] = {}
        backwards = 0
        for name in dict.fromkeys((*self._values, *self._broken)):
            steps = np.asarray(self._steps.get(name, ()), dtype=np.int64)
            values = np.asarray(self._values.get(name, ()), dtype=np.float64)
            if len(steps) > 1:
                backwards = max(backwards, int((np.diff(steps) < 0).sum()))
                order = np.argsort(steps, kind="stable")
                steps, values = steps[order], values[order]
                last = np.append(steps[1:] != steps[:-1], True)
                steps, values = steps[last], values[last]
            if raw_valid(self._ranks.get(name)):
                values = 1.0 - values
            if name in SUCCESS_IN_PERCENT and name not in self._percent and len(values) and values.max() > 1.5:
                values = values / 100.0
                self.notes.append(f"{name} goes above 1.5 and is read as per cent.")
            series[name] = Series(steps, values, tuple(sorted(self._broken.get(name, ()))))
        told = _success_among(series) if "success" not in series else None
        if told is not None:
            series["success"] = series[told]
        if backwards:
            times = "once" if backwards == 1 else f"{backwards} times"
            self.notes.append(
                f"steps go backwards {times}: the log holds a resumed run or several runs; of values logged twice for "
                "a step the later one was read."
            )
        held_out = sorted(self.held_out, key=lambda seen: (seen.step, seen.split != "test"))
        if not held_out and "eval/success" in series:
            shown = series["eval/success"]
            held_out = [HeldOut(int(s), float(v)) for s, v in zip(shown.steps, shown.values, strict=True)]
        return Evidence(
            self.path,
            self.format,
            series=series,
            held_out=tuple(held_out),
            events=tuple(self.events),
            notes=tuple(self.notes),
            **more,
        )


LARGEST = 1e300
"""Whole numbers beyond it, which JSON may hold, are no metric: no float holds them."""

TOLD_TOGETHER = frozenset({"reward", "loss", "grad_norm", "entropy", "kl", "advantage", "reward/std"})
"""Metrics that a training update logs together: NaN in one of them beside numbers in the others is a NaN."""


def batch_spread(evidence: Evidence) -> Array | None:
    """How far the rewards of an update lie apart, over all its tasks: 0 where all earned the same. None: not told."""
    for name in ("reward/std", "group_std"):
        if (spread := evidence.get(name)) is not None:
            return spread.values
    high, low, mean = evidence.get("reward/max"), evidence.get("reward/min"), evidence.get("reward")
    if high is not None and low is not None:
        apart = high.values - low.at(high.steps)
        return apart[~np.isnan(apart)]
    # Means that never differ by a digit are those of rewards that never do.
    constant = mean is not None and len(mean) > 1 and float(np.ptp(mean.values)) == 0.0
    return np.zeros(len(mean)) if mean is not None and constant else None


def _of_training(name: str) -> bool:
    return not name.startswith(("eval", "val"))


def _success_among(series: Mapping[str, Series]) -> str | None:
    """The reward function that says whether the task was done, by its name and its range; None where none does."""
    for name, one in series.items():
        part = COMPONENT.fullmatch(name)
        if (
            part is not None
            and RIGHT.fullmatch(part[1])
            and len(one)
            and one.values.min() >= 0
            and one.values.max() <= 1
        ):
            return name
    return None


def raw_valid(source: tuple[int, str] | None) -> bool:
    """Whether a series was logged as the share of valid actions."""
    return source is not None and VALID.fullmatch(canonical(source[1])) is not None


def spread_over(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of `items`: the first and last few and an even sample of the rest.

    >>> spread_over(range(10), 4)
    [0, 1, 8, 9]
    """
    if len(items) <= most:
        return list(items)
    edge = max(1, most // 4)
    middle = np.linspace(edge, len(items) - 1 - edge, max(most - 2 * edge, 0)).round()
    chosen = sorted({*range(edge), *(int(i) for i in middle), *range(len(items) - edge, len(items))})
    return [items[i] for i in chosen]


def mean(values: Iterable[float]) -> float:
    """Mean of at least one number."""
    return float(np.mean(list(values)))
