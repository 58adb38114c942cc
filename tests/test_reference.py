"""What the starting policy says of saved episodes: the numbers are its own, found out once and read again."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from astarpo.collate import collate
from astarpo.errors import RunError
from astarpo.policy.load import load_policy
from astarpo.progress import Watch
from astarpo.reference import FILE, KeptLogProbs
from astarpo.run import Run
from astarpo.saved import Saved
from astarpo.stage_one import frozen
from astarpo.trainer import Trainer, resume, train
from test_saved import learning, opened, source
from test_trainer import Listener

__all__ = ["source"]

METHOD = {"algorithm": {"name": "astar_po", "group_size": 4}}


def kept(run: Run, folder: Path, updates: int = 4, watch: Watch | None = None) -> tuple[Saved, KeptLogProbs]:
    saved = opened(run)
    policy = load_policy(run.policy, run.environment.name)
    return saved, KeptLogProbs(folder, saved, policy, updates=updates, watch=watch or Watch())


def test_kept_log_probs_are_those_of_a_frozen_copy(source: Path, small_model: Path, tmp_path: Path) -> None:
    run = learning(small_model, source, **METHOD)
    saved, found = kept(run, tmp_path)
    copy = frozen(load_policy(run.policy, "arithmetic"))
    by_itself = by_others = 0.0
    for update in range(4):
        batch = collate([episode for group in saved.batch(update) for episode in group])
        column = found.column(update, batch)
        assert torch.allclose(column, copy.log_probs(batch).logp, rtol=0, atol=1e-5)
        assert not column[~batch.acted].any()
        # What the reference itself played it says with the log-probs that it was sampled with.
        version = torch.tensor([e.policy_version for group in saved.batch(update) for e in group])[:, None]
        gap = (column - batch.behaviour_logp).abs()
        by_itself = max(by_itself, float((gap * (version == 0)).max()))
        by_others = max(by_others, float((gap * (version > 0)).max()))
    assert by_itself < 1e-4 < 1e-3 < by_others


def test_they_are_scored_once_and_then_read(source: Path, small_model: Path, tmp_path: Path) -> None:
    run, first, second, third = learning(small_model, source, **METHOD), Listener(), Listener(), Listener()
    saved, found = kept(run, tmp_path, updates=1, watch=first)
    there = load_file(tmp_path / FILE)
    assert sorted(there["numbers"].tolist()) == sorted(saved.numbers(0))
    _, again = kept(run, tmp_path, updates=1, watch=second)
    batch = collate([episode for group in saved.batch(0) for episode in group])
    assert torch.equal(found.column(0, batch), again.column(0, batch))
    assert (first.stages, second.stages) == (["reference: saved episodes"], [])
    # More updates draw more; what was found out stays as it was.
    _, more = kept(run, tmp_path, updates=6, watch=third)
    assert third.stages == first.stages
    assert len(load_file(tmp_path / FILE)["numbers"]) == len(saved.parts)
    assert torch.equal(found.column(0, batch), more.column(0, batch))


@pytest.fixture(scope="module")
def finished(source: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    train(learning(small_model, source, **METHOD), folder)
    return folder


def test_a_copy_of_the_policy_is_made_for_an_exact_kl_alone(
    source: Path, small_model: Path, tmp_path: Path, finished: Path
) -> None:
    assert json.loads((finished / "result.json").read_text())["times"]["reference"] > 0
    exact = {"name": "grpo", "group_size": 4, "kl_coef": 0.1, "kl_estimator": "exact"}
    for name, algorithm, copied in (("kept", METHOD["algorithm"], False), ("exact", exact, True)):
        (tmp_path / name).mkdir()
        with closing(Trainer(learning(small_model, source, algorithm=algorithm), tmp_path / name, Watch())) as trainer:
            assert (trainer.reference is not None, trainer.kept is None) == (copied, copied)


@pytest.mark.parametrize("how", ["torn", "another count", "not a number"])
def test_a_damaged_file_is_told(how: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / FILE
    there = load_file(path)
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif how == "another count":
        there["counts"][0] -= 1
        save_file(there | {"logp": there["logp"][1:]}, path)
    else:
        there["logp"][0] = float("nan")
        save_file(there, path)
    with pytest.raises(RunError, match="is damaged or of other episodes: remove it, and they are scored again"):
        resume(tmp_path / "run", updates=5)
