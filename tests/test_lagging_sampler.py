"""A sampler that lags: who played what, what the trainer sees of it, and a resumed run that goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from astarpo.errors import RunError
from astarpo.journal import read_episodes, read_metrics
from astarpo.run import Run
from astarpo.trainer import resume, train
from small import small_run


def test_a_sampler_gets_the_weights_every_few_updates_and_a_resumed_run_knows_it(
    small_model: Path, tmp_path: Path
) -> None:
    run = small_run(
        small_model,
        algorithm={"name": "oapl", "group_size": 4},
        rollout={"sync_every": 3},
        updates=5,
        keep_checkpoints=9,
    )
    train(run, tmp_path / "whole")
    train(Run.build(run.dump() | {"updates": 2}), tmp_path / "halves")
    resume(tmp_path / "halves", updates=5)
    for name in ("whole", "halves"):
        folder = tmp_path / name
        played = [read_episodes(folder / "episodes" / f"{update:06d}.jsonl.gz") for update in range(1, 6)]
        assert [{episode.policy_version for episode in episodes} for episodes in played] == [{0}, {0}, {0}, {3}, {3}]
        lines = [line for line in read_metrics(folder) if "evaluation" not in line]
        # Only where the sampler holds the policy's weights is a difference one of how the two compute.
        assert [line.get("mismatch/max", 1.0) < 1e-4 for line in lines] == [True, False, False, True, False]
        assert [line.get("lag/max", 0.0) > 1e-4 for line in lines] == [False, True, True, False, True]
    ends = [load_file(tmp_path / name / "checkpoints" / "000005" / "model.safetensors") for name in ("whole", "halves")]
    assert all(bool((ends[0][key] == ends[1][key]).all()) for key in ends[0])
    start = load_file(small_model / "model.safetensors")
    assert any(bool((weights != start[key]).any()) for key, weights in ends[0].items() if key in start)
    (tmp_path / "halves" / "checkpoints" / "000005" / "sampler.safetensors").unlink()
    with pytest.raises(RunError, match="is damaged"):
        resume(tmp_path / "halves", updates=6)


def test_a_sampler_that_keeps_up_is_the_policy_and_leaves_no_file(small_model: Path, tmp_path: Path) -> None:
    train(small_run(small_model, updates=1), tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/*/sampler.safetensors"))
