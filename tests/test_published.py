"""The arms of the published comparisons differ in what they are about, and two budgets can be paired."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from astarpo.compare.arms import arms_from_file, differences
from astarpo.errors import RunError
from astarpo.journal import Journal

HOME = Path(__file__).resolve().parent.parent / "benchmarks"


def published() -> Any:
    spec = importlib.util.spec_from_file_location("published", HOME / "published.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted((HOME / "arms").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_arms_is_a_comparison_that_can_be_made(path: Path) -> None:
    arms = arms_from_file(path.stem.rpartition("_")[2], path)
    assert len(arms) >= 2
    assert path.read_text("utf-8").startswith("# ")


def test_gigpo_and_grpo_differ_in_the_advantage_alone() -> None:
    grpo, *others = arms_from_file("webshop", HOME / "arms" / "gigpo_webshop.yaml")
    own = {f"algorithm.{name}" for name in ("name", "omega", "gamma", "anchor", "episode_statistics", "scale_by_std")}
    for arm in others:
        assert {setting for setting, *_ in differences(grpo.run.dump(), arm.run.dump())} <= own


def test_astar_po_plays_half_the_attempts_of_grpo_at_each_task() -> None:
    for world in ("arithmetic", "webshop"):
        grpo, astar = arms_from_file(world, HOME / "arms" / f"astar_po_{world}.yaml")
        assert (grpo.run.algorithm.group_size, astar.run.algorithm.group_size) == (2, 1)
        assert grpo.run.rollout.tasks_per_update == astar.run.rollout.tasks_per_update
        for part in ("optimizer.learning_rate", "environment.reward"):
            section, name = part.split(".")
            assert getattr(getattr(grpo.run, section), name) == getattr(getattr(astar.run, section), name)


def finished(folder: Path, seed: int, solved: list[bool]) -> None:
    run = folder / "runs" / "one" / f"seed-{seed}"
    run.mkdir(parents=True)
    Journal(run).outcomes("after", {f"t{i}": (done, float(done)) for i, done in enumerate(solved)})
    seen: dict[str, Any] = {
        "success": 0.5,
        "success_low": 0.2,
        "success_high": 0.8,
        "score": 0.5,
        "score_low": 0.2,
        "score_high": 0.8,
    }
    seen |= {"n": len(solved), "split": "test", "decoding": "greedy", "turns": 1.0, "invalid": 0.0, "ended": {}}
    used = {"episodes": 100 * (seed + 1), "read": 5, "said": 7, "seconds": 1.0}
    plain = {"folder": str(run), "environment": "arithmetic", "algorithm": "grpo", "updates": 2, "seconds": 1.0}
    (run / "result.json").write_text(json.dumps({**plain, "before": seen, "after": seen, "used": used}))


def test_arms_of_two_comparisons_are_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        finished(tmp_path / "half", seed, [True, False, True, False])
        finished(tmp_path / "whole", seed, [True, False, False, False])
    module = published()
    monkeypatch.setattr("sys.argv", ["published.py", f"{tmp_path}/half:one", f"{tmp_path}/whole:one"])
    module.main()
    said = capsys.readouterr().out
    assert "half:one: 50.0 %" in said
    assert "2 updates, 150 episodes, 7 tokens said" in said
    assert "difference: +25.0 points" in said
    with pytest.raises(RunError, match="holds no finished run of an arm 'other'"):
        module.read(f"{tmp_path}/half:other")
