"""The benchmark against TRL runs, both of its sides compute the same, and the page says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / "benchmarks" / "against_trl.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("against_trl", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["against_trl"] = module
    spec.loader.exec_module(module)
    return module


def smoke(out: Path, *parts: str) -> dict[str, Any]:
    """Figures of a run of seconds; it ends in an error where TRL's gradient is not ours."""
    command = [sys.executable, str(SCRIPT), "--smoke", "--parts", *parts, "--out", str(out / "figures.json")]
    subprocess.run(command, check=True, capture_output=True)
    found: dict[str, Any] = json.loads((out / "figures.json").read_text("utf-8"))
    return found


def test_on_one_turn_both_sides_do_the_same_work(tmp_path: Path) -> None:
    found = smoke(tmp_path, "arithmetic")["arithmetic"]
    # float32 in two orders of summation; another loss, mask or advantage is off by a thousand times as much.
    assert max(row["gradient_gap"] for row in found.values()) < 1e-4
    assert found["16"]["trl"] > 0.0


@pytest.mark.slow
def test_on_several_turns_and_under_astar_po_they_do_too(tmp_path: Path) -> None:
    found = smoke(tmp_path, "webshop", "a2po", "memory")
    assert found["webshop"]["8"]["gradient_gap"] < 1e-4
    assert found["a2po"]["gradient_gap"] < 1e-4
    assert [point["bytes"] > 0 for side in found["memory"].values() for point in side] == [True] * 3


def test_the_page_says_what_is_stored(benchmark: ModuleType) -> None:
    page = benchmark.PAGE.read_text("utf-8")
    told = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0]
    assert told == f"\n{benchmark.section(json.loads(benchmark.STORED.read_text('utf-8')))}\n"


def test_the_interval_of_a_ratio_holds_the_ratio_of_the_medians(benchmark: ModuleType) -> None:
    found = benchmark.ratio([1.0, 1.0, 2.0], [3.0, 4.0, 4.0])
    assert (found["ours"], found["trl"], found["faster"]) == (1.0, 4.0, 4.0)
    # At most three times TRL's largest over our smallest, at least its smallest over our largest.
    assert 1.5 <= found["interval"][0] <= 4.0 <= found["interval"][1] <= 4.0


def test_gradients_that_differ_are_no_comparison(benchmark: ModuleType) -> None:
    assert benchmark.near(1e-6, 0.25, 0.25) == 1e-6
    with pytest.raises(SystemExit, match="compute other things"):
        benchmark.near(0.1, 0.25, 0.25)
    with pytest.raises(SystemExit, match="compute other things"):
        benchmark.near(1e-6, 0.25, 0.5)


def test_unlike_amounts_of_work_are_no_comparison(benchmark: ModuleType) -> None:
    benchmark.alike({"ours": 104.0, "trl": 100.0}, loosely=False)
    with pytest.raises(SystemExit, match="same work"):
        benchmark.alike({"ours": 110.0, "trl": 100.0}, loosely=False)


def test_earlier_ratios_stay_when_a_part_is_measured_again(benchmark: ModuleType) -> None:
    row = {"ours": 1.0, "trl": 2.0, "faster": 2.0, "interval": [1.9, 2.1], "n": 3}
    once = benchmark.keep({"webshop": {"64": row}}, {})
    twice = benchmark.keep({"webshop": {"64": row | {"faster": 4.0}}}, once)
    assert twice["webshop"]["figures"]["64"]["faster"] == 4.0
    assert [e["faster"] for e in twice["webshop"]["earlier"]] == [{"64": 2.0}]
