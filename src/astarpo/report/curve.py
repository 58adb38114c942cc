"""The learning curve of a run as a picture: held-out success with its interval, and the training reward below."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astarpo.errors import RunError
from astarpo.journal import read_metrics, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEARNING, TRAINING, GREY = "#0b6e4f", "#2f5d8a", "#8a8a8a"
"""Colours: held-out success, training, words. They stay apart for the colour-blind and in grey print."""


@dataclass(frozen=True)
class Point:
    """One evaluation: after how many updates, and success with its interval, shares."""

    update: int
    success: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """What the picture shows.

    Attributes:
        title: environment and algorithm.
        dev: evaluations on dev tasks during training.
        test: the evaluations on test tasks before and after, where the run is finished.
        updates: [U] numbers of the updates.
        reward, success: [U] means over the episodes of each update; NaN where an update has none.
    """

    title: str
    dev: tuple[Point, ...]
    test: tuple[Point, ...]
    updates: np.ndarray[Any, np.dtype[np.float64]]
    reward: np.ndarray[Any, np.dtype[np.float64]]
    success: np.ndarray[Any, np.dtype[np.float64]]


def read(folder: Path) -> Curve:
    """The curve of the run in `folder`, finished or not.

    Raises:
        RunError: metrics.jsonl or result.json are damaged.
    """
    lines = read_metrics(folder)
    dev = [_point(int(line["update"]), line["evaluation"]) for line in lines if "evaluation" in line]
    played = [line for line in lines if "evaluation" not in line]
    updates = np.array([line["update"] for line in played], dtype=float)
    title, test = "", list[Point]()
    path = folder / "result.json"
    if path.exists():
        try:
            result = json.loads(path.read_text("utf-8"))
            title = f"{result['environment']} · {result['algorithm']}"
            test = [_point(0, result["before"]), _point(int(result["updates"]), result["after"])]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} is damaged ({type(error).__name__}: {error}): resume the run to write it anew."
            ) from error
    return Curve(
        title, tuple(dev), tuple(test), updates, _column(played, "reward/mean"), _column(played, "train/success")
    )


def draw(folder: Path) -> Path:
    """Draw the curve of the run in `folder` into its curve.png and return that path.

    Raises:
        RunError: the run's files are damaged, or the picture cannot be written.
    """
    # Slow to import, and `pyplot` would look for a display: figures are made directly.
    from matplotlib.figure import Figure

    curve = read(folder)
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _success(upper, curve)
    _training(lower, curve)
    if curve.title:
        upper.set_title(curve.title, loc="left", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "astarpo"})
    path = folder / "curve.png"
    write_atomically(path, buffer.getvalue())
    return path


def smooth(values: np.ndarray[Any, np.dtype[np.float64]], width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over the last `width` values at each place, NaN left out; fewer at the beginning.

    >>> smooth(np.array([0.0, 1.0, 2.0]), 2).tolist()
    [0.0, 0.5, 1.5]
    """
    known = ~np.isnan(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known).astype(float)
    sums[width:], counts[width:] = sums[width:] - sums[:-width], counts[width:] - counts[:-width]
    means: np.ndarray[Any, np.dtype[np.float64]] = np.divide(
        sums, counts, out=np.full(len(values), np.nan), where=counts > 0
    )
    return means


def _success(axes: Axes, curve: Curve) -> None:
    for points, marker, label, shift in ((curve.dev, "o", "dev tasks", ""), (curve.test, "D", "test tasks", "bold")):
        if not points:
            continue
        x = [point.update for point in points]
        y = [100 * point.success for point in points]
        if shift:
            below = [100 * (point.success - point.low) for point in points]
            above = [100 * (point.high - point.success) for point in points]
            axes.errorbar(x, y, [below, above], fmt=marker, color="black", capsize=4, ms=6, label=label, zorder=3)
            for point in points:
                axes.annotate(
                    f"{100 * point.success:.1f} %",
                    (point.update, 100 * point.success),
                    textcoords="offset points",
                    xytext=(8 if point.update == 0 else -8, -14),
                    ha="left" if point.update == 0 else "right",
                    fontsize=9,
                )
        else:
            axes.fill_between(
                x, [100 * p.low for p in points], [100 * p.high for p in points], color=LEARNING, alpha=0.18, lw=0
            )
            axes.plot(x, y, marker=marker, ms=3.5, lw=1.8, color=LEARNING, label=label)
    if curve.dev or curve.test:
        axes.legend(frameon=False, loc="lower right", title="greedy, 95 % interval", alignment="left")
    axes.set_ylim(-2, 104)
    axes.set_ylabel("held-out success, %")
    _plain(axes)


def _training(axes: Axes, curve: Curve) -> None:
    width = max(1, len(curve.updates) // 20)
    if len(curve.updates) and not np.isnan(curve.reward).all():
        axes.plot(curve.updates, curve.reward, color=TRAINING, alpha=0.3, lw=0.8)
        said = "training reward" if width == 1 else f"training reward, mean of {width} updates"
        axes.plot(curve.updates, smooth(curve.reward, width), color=TRAINING, lw=1.8, label=said)
    if len(curve.updates) and not np.isnan(curve.success).all():
        axes.plot(
            curve.updates, smooth(curve.success, width), color=GREY, lw=1.2, ls="--", label="training success, share"
        )
    if axes.lines:
        axes.legend(frameon=False, loc="lower right")
    axes.set_ylabel("sampled episodes")
    axes.set_xlabel("updates")
    axes.margins(x=0.02)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)


def _point(update: int, evaluation: Mapping[str, Any]) -> Point:
    return Point(update, evaluation["success"], evaluation["success_low"], evaluation["success_high"])


def _column(lines: Sequence[Mapping[str, Any]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([line.get(name, float("nan")) for line in lines], dtype=float)
