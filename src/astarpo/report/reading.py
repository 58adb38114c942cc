"""One run folder, read for people: what is damaged or missing becomes a remark, not the end. Nothing is written."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from astarpo.errors import AstarpoError, RunError
from astarpo.journal import RUN_VERSION, metric_lines
from astarpo.report.curve import smooth
from astarpo.value_store import PlayResult, ValueKey
from astarpo.value_summary import ValueSummary, summarise
from astarpo.values import Estimator, v_star

T = TypeVar("T")

LONGEST_FILE = 64 * 1024 * 1024
"""Bytes of a text file beside metrics.jsonl; what is larger is not read."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        update: after how many updates.
        success, success_low, success_high: shares, with the 95 % interval.
        score, score_low, score_high: the environment's own score, with its interval where it was kept.
        n: plays.
        ended: how many of them ended for which reason.
        turns: mean turns a play.
        invalid: share of replies that could not be read or done.
        sampled: the same policy sampled, beside a greedy evaluation.
    """

    update: int
    success: float
    success_low: float
    success_high: float
    score: float | None
    score_low: float | None
    score_high: float | None
    n: int
    ended: Mapping[str, int]
    turns: float | None
    invalid: float | None
    sampled: Evaluated | None = None

    @classmethod
    def of(cls, update: int, plain: Mapping[str, Any]) -> Evaluated:
        """From JSON. Raises KeyError, TypeError or ValueError where it is no evaluation."""
        sampled = plain.get("sampled")
        return cls(
            update=update,
            success=float(plain["success"]),
            success_low=float(plain["success_low"]),
            success_high=float(plain["success_high"]),
            score=number(plain.get("score")),
            score_low=number(plain.get("score_low")),
            score_high=number(plain.get("score_high")),
            n=int(plain["n"]),
            ended={str(why): int(count) for why, count in dict(plain.get("ended", {})).items()},
            turns=number(plain.get("turns")),
            invalid=number(plain.get("invalid")),
            sampled=cls.of(update, sampled) if sampled else None,
        )


@dataclass(frozen=True)
class Values:
    """What stage 1 left of the tasks.

    Attributes:
        summary: over tasks.
        of: task id → V*, reward units.
    """

    summary: ValueSummary
    of: Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """What a run folder says.

    Attributes:
        folder: the run.
        settings: as nested mappings; empty where they cannot be read.
        updates: [U] numbers of the updates, ascending.
        lines: [U] their metrics.
        dev: evaluations during training.
        before, after: the evaluations on test; None where the run has not come so far.
        result: result.json, empty before the run is finished.
        notes: remarks of the run, as they were shown.
        values: stage 1; None where there was none.
        remarks: what could not be read, one sentence each.
    """

    folder: Path
    settings: Mapping[str, Any]
    updates: tuple[int, ...]
    lines: tuple[Mapping[str, Any], ...]
    dev: tuple[Evaluated, ...]
    before: Evaluated | None
    after: Evaluated | None
    result: Mapping[str, Any]
    notes: str
    values: Values | None
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the run is called: its folder."""
        return self.folder.resolve().name

    @property
    def environment(self) -> str:
        """Name of the environment."""
        return _named(self.settings, "environment")

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return _named(self.settings, "algorithm")

    @property
    def planned(self) -> int | None:
        """Updates that the run was set to; None where the settings do not say."""
        planned = self.settings.get("updates")
        return planned if isinstance(planned, int) else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.after is not None

    @cached_property
    def columns(self) -> dict[str, list[float | None]]:
        """Metric → [U] values in the order of the updates; None where an update has none, or no finite one."""
        names = dict.fromkeys(name for line in self.lines for name in line if name != "update")
        return {name: [number(line.get(name)) for line in self.lines] for name in names}


def read_run(folder: Path) -> RunFacts:
    """What `folder` says, finished or not.

    Raises:
        RunError: it holds no run, or one of another version.
    """
    _check(folder)
    told = _Remarks()
    nothing: dict[str, Any] = {}
    settings = told(nothing, lambda: _settings(folder / "settings.yaml"))
    lines = told(list[dict[str, Any]](), lambda: _metrics(folder, told))
    evaluations = [line for line in lines if "evaluation" in line]
    dev = [told(None, partial(_evaluation, folder / "metrics.jsonl", line)) for line in evaluations]
    played = {int(line["update"]): line for line in lines if "evaluation" not in line}
    result = told(nothing, lambda: _json(folder / "result.json"))
    before = told(None, lambda: _end(folder / "before.json", _json(folder / "before.json"), 0))
    before = before or told(None, lambda: _end(folder / "result.json", result.get("before"), 0))
    return RunFacts(
        folder=folder,
        settings=settings,
        updates=tuple(sorted(played)),
        lines=tuple(played[update] for update in sorted(played)),
        dev=tuple(one for one in dev if one is not None),
        before=before,
        after=told(None, lambda: _end(folder / "result.json", result.get("after"), result.get("updates", 0))),
        result=result,
        notes=told("", lambda: _text(folder / "notes.txt")),
        values=told(None, lambda: _values(folder / "values.sqlite", settings)),
        remarks=tuple(told.remarks),
    )


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}: name the folder of a run, for example runs/webshop-default-...")
    path = folder / "version.json"
    if not path.is_file():
        raise RunError(f"{folder} is not a run: it holds no version.json; name the folder that `astarpo train` made.")
    try:
        version = json.loads(path.read_text("utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: the folder is damaged.") from error
    if version != RUN_VERSION:
        raise RunError(
            f"{folder} is a run of version {version!r}, this is {RUN_VERSION}: use the astarpo that wrote it."
        )


class _Remarks:
    """Collects the sentences about what cannot be read."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def __call__(self, instead: T, read: Callable[[], T]) -> T:
        """What `read` gives, or `instead`."""
        try:
            return read()
        except AstarpoError as error:
            self.remarks.append(str(error))
            return instead


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        if path.stat().st_size > LONGEST_FILE:
            raise RunError(f"{path} is larger than {LONGEST_FILE // 1024**2} MiB and was not read.")
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}).") from error


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    if not text:
        return {}
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON ({error}): it was cut short or changed.") from None
    if not isinstance(read, dict):
        raise RunError(f"{path} must hold values by name, got {type(read).__name__}.")
    return read


def _settings(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError):
        raise RunError(f"{path} is not YAML: the settings of the run are not known.") from None
    if not isinstance(read, dict):
        raise RunError(f"{path} must hold settings by name, got {type(read).__name__}.")
    return {str(name): value for name, value in read.items()}


def _evaluation(path: Path, line: Mapping[str, Any]) -> Evaluated:
    try:
        return Evaluated.of(int(line["update"]), line["evaluation"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the evaluation after update {line['update']} in {path} cannot be read ({type(error).__name__}: {error})."
        ) from None


def _end(path: Path, plain: Any, update: Any) -> Evaluated | None:
    if not plain:
        return None
    try:
        return Evaluated.of(int(update), plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the evaluation in {path} cannot be read ({type(error).__name__}: {error}).") from None


def _metrics(folder: Path, told: _Remarks) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; those that are damaged are told of. The last one may be on its way."""
    lines = list(metric_lines(folder))
    damaged = [number for number, line in enumerate(lines[:-1], start=1) if line is None]
    if damaged:
        one = len(damaged) == 1
        which = "1 line is not that of an update" if one else f"{len(damaged):,} lines are not those of updates"
        told.remarks.append(
            f"{folder / 'metrics.jsonl'}: {which} and {'was' if one else 'were'} left out, the first of them line "
            f"{damaged[0]:,}: the file was damaged after it was written."
        )
    return [line for line in lines if line is not None]


def _values(path: Path, settings: Mapping[str, Any]) -> Values | None:
    """V* of the tasks, read off the plays in `path`. Raises RunError where the file cannot be read."""
    if not path.is_file():
        return None
    own = settings.get("values")
    own = own if isinstance(own, Mapping) else {}
    beta, estimator = own.get("beta", 0.5), own.get("estimator", "log_mean_exp")
    try:
        # Opened as it is: without a log beside it SQLite would make one.
        log = path.with_name(path.name + "-wal")
        how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as database:
            rows = database.execute(
                "SELECT reference, environment, reward_mode, temperature, task, attempt, reward, score, success, ended"
                " FROM plays ORDER BY task, attempt"
            ).fetchall()
        plays: dict[ValueKey, dict[str, list[PlayResult]]] = {}
        for row in rows:
            play = PlayResult(float(row[6]), float(row[7]), bool(row[8]), str(row[9]))
            plays.setdefault(ValueKey(*row[:4]), {}).setdefault(str(row[4]), []).append(play)
        if not plays:
            return None
        # A table may be shared with runs that measured something else.
        most = max(plays.values(), key=lambda tasks: sum(map(len, tasks.values())))
        how_read: Estimator = estimator if estimator in ("mean", "max") else "log_mean_exp"
        of = {
            task: v_star([play.reward for play in made], estimator=how_read, beta=beta) for task, made in most.items()
        }
        return Values(summarise(list(most.values()), estimator=how_read, beta=beta), of)
    except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as error:
        raise RunError(f"the value table {path} cannot be read ({error}).") from None


def _named(settings: Mapping[str, Any], section: str) -> str:
    found = settings.get(section)
    return str(found.get("name", "unknown")) if isinstance(found, Mapping) else str(found or "unknown")


def number(value: Any) -> float | None:
    """`value` where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def smoothed(values: Sequence[float | None], width: int) -> list[float | None]:
    """Mean over the last `width` values at each place, the missing ones left out.

    >>> smoothed([0.0, None, 2.0, 4.0], 2)
    [0.0, 0.0, 2.0, 3.0]
    """
    known = np.array([math.nan if value is None else value for value in values], dtype=float)
    return [None if math.isnan(value) else value for value in smooth(known, width).tolist()]
