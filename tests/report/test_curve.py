"""The learning curve shows what the run folder holds, and is there whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astarpo.errors import RunError
from astarpo.report.curve import draw, read, smooth

PNG = b"\x89PNG\r\n\x1a\n"


def evaluation(success: float) -> dict[str, Any]:
    return {
        "success": success,
        "success_low": success - 0.05,
        "success_high": success + 0.05,
        "score": success,
        "n": 100,
    }


def make_run(folder: Path, updates: int = 40, *, finished: bool = True) -> Path:
    """A run folder with a rising curve."""
    lines: list[dict[str, Any]] = [{"update": 0, "evaluation": evaluation(0.1)}]
    for update in range(1, updates + 1):
        share = update / updates
        lines.append({"update": update, "reward/mean": share, "train/success": share / 2})
        if update % 10 == 0:
            lines.append({"update": update, "evaluation": evaluation(0.1 + 0.8 * share)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        result = {
            "environment": "arithmetic",
            "algorithm": "grpo",
            "updates": updates,
            "before": evaluation(0.1),
            "after": evaluation(0.9),
        }
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_the_curve_holds_dev_test_and_training(tmp_path: Path) -> None:
    curve = read(make_run(tmp_path))
    assert [point.update for point in curve.dev] == [0, 10, 20, 30, 40]
    assert [point.success for point in curve.test] == [0.1, 0.9]
    assert [curve.dev[0].low, curve.dev[0].high] == pytest.approx([0.05, 0.15])
    assert curve.updates.tolist() == list(range(1, 41))
    assert curve.reward[-1] == 1.0
    assert curve.success[-1] == 0.5
    assert curve.title == "arithmetic · grpo"


@pytest.mark.parametrize("finished", [True, False])
def test_the_picture_is_written_whole(tmp_path: Path, finished: bool) -> None:
    path = draw(make_run(tmp_path, finished=finished))
    assert path == tmp_path / "curve.png"
    assert path.read_bytes().startswith(PNG)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"metrics.jsonl", "result.json", "curve.png"}


def test_a_run_without_updates_has_a_picture_too(tmp_path: Path) -> None:
    assert draw(make_run(tmp_path, updates=0)).read_bytes().startswith(PNG)


def test_the_same_run_is_the_same_picture(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert draw(tmp_path).read_bytes() == draw(tmp_path).read_bytes()


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "result.json").write_text('{"environment": "arith')
    with pytest.raises(RunError, match=r"result\.json is damaged"):
        draw(tmp_path)


def test_smoothing_is_the_mean_over_the_last_values_and_leaves_gaps_out() -> None:
    given = np.array([2.0, 4.0, math.nan, 8.0])
    assert smooth(given, 2).tolist() == [2.0, 3.0, 4.0, 8.0]
    assert smooth(given, 1)[:2].tolist() == [2.0, 4.0]
    assert np.isnan(smooth(np.array([math.nan]), 3)).all()
