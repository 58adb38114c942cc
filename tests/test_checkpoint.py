"""A checkpoint is there whole or not at all; the last few and the best are kept."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from astarpo.checkpoint import Checkpoints, Restored, check_version, is_run, mark_run, model_folder, read_state
from astarpo.errors import RunError
from astarpo.optimizers import Together
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.run import OptimizerSettings, PolicySettings
from astarpo.update import new_optimizer
from astarpo.value_store import PlayResult, ValueKey
from astarpo.value_table import ValueTable
from small import small_policy


def state(update: int, best: tuple[float, int] = (-1.0, 0)) -> Restored:
    return Restored(update, {"stage": update}, {"scale": [0.1 * update]}, best, 1.5 * update)


def learner(seed: int = 0, name: str = "adamw") -> tuple[HuggingFacePolicy, Together]:
    policy = small_policy(seed)
    return policy, new_optimizer(policy, OptimizerSettings.parse({"name": name, "learning_rate": 0.01}))


def move(policy: HuggingFacePolicy, optimizer: Together, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)
    optimizer.step()


def stamped(folder: Path) -> Path:
    """`folder`, marked as a run."""
    mark_run(folder)
    (folder / "settings.yaml").write_text("seed: 0\n")
    return folder


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_restored_learner_goes_on_exactly(tmp_path: Path, name: str) -> None:
    policy, optimizer = learner(name=name)
    checkpoints = Checkpoints(tmp_path, keep=3)
    for update in (1, 2):
        move(policy, optimizer, update)
    checkpoints.save(policy, optimizer, state(2, (0.5, 1)))
    other, its_optimizer = learner(seed=9, name=name)
    assert checkpoints.restore(other, its_optimizer) == state(2, (0.5, 1))
    assert other.version == 2
    for seed in (3, 4):
        move(policy, optimizer, seed)
        move(other, its_optimizer, seed)
    for (name, one), (_, two) in zip(policy.model.state_dict().items(), other.model.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_one_before_the_first_update_has_no_optimiser_state_and_is_restored_all_the_same(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(policy, optimizer, state(0))
    other, its_optimizer = learner(seed=9)
    checkpoints.restore(other, its_optimizer)
    assert its_optimizer.state_dict()["state"] == {}
    assert other.fingerprint() == policy.fingerprint()


def test_the_last_three_and_the_best_are_kept(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    for update in range(7):
        checkpoints.save(policy, optimizer, state(update, (0.7, 2) if update >= 2 else (0.1, 0)))
    assert kept(tmp_path) == [2, 4, 5, 6]


def test_without_an_evaluation_none_is_the_best(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=2)
    for update in range(4):
        checkpoints.save(policy, optimizer, state(update))
    assert kept(tmp_path) == [2, 3]
    with pytest.raises(RunError, match="was never evaluated on dev, so no checkpoint is its best there: take the last"):
        model_folder(stamped(tmp_path), "best")


def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_another(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=1)
    for update in range(3):
        checkpoints.save(policy, optimizer, state(update, (0.7, 1) if update >= 1 else (0.1, 0)))
    shutil.rmtree(checkpoints.folder / "000001")
    with pytest.raises(RunError, match="000001, the best checkpoint on dev, is gone or damaged: take the last"):
        model_folder(stamped(tmp_path), "best")


def test_the_best_and_the_last_load_as_models(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=1)
    prints = []
    for update in range(3):
        prints.append(policy.fingerprint())
        checkpoints.save(policy, optimizer, state(update, (0.7, 1) if update >= 1 else (0.1, 0)))
        move(policy, optimizer, update)
    stamped(tmp_path)
    assert (model_folder(tmp_path).name, model_folder(tmp_path, "best").name) == ("000002", "000001")
    policy.model.config.astarpo_embedded = True
    for which, expected in (("best", prints[1]), ("last", prints[2])):
        folder = model_folder(tmp_path, which)
        config = json.loads((folder / "config.json").read_text()) | {"astarpo_embedded": True}
        (folder / "config.json").write_text(json.dumps(config))
        assert load_policy(PolicySettings(model=str(folder), device="cpu"), "arithmetic").fingerprint() == expected


@pytest.mark.parametrize("lacks", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_an_interrupted_checkpoint_is_ignored_and_the_one_before_is_used(tmp_path: Path, lacks: str) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(policy, optimizer, state(1))
    checkpoints.save(policy, optimizer, state(2))
    (tmp_path / "checkpoints" / "000002" / lacks).unlink()
    shutil.copytree(tmp_path / "checkpoints" / "000001", tmp_path / "checkpoints" / ".making-000003")
    assert checkpoints.restore(*learner(seed=9)).update == 1
    # What a kill left is no obstacle to the next one.
    checkpoints.save(policy, optimizer, state(3))
    assert checkpoints.latest().name == "000003"
    assert not (tmp_path / "checkpoints" / ".making-000003").exists()


class Killed(BaseException):
    """What no handler of errors sees: the folder is left as a kill leaves it."""


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_while_a_checkpoint_is_saved_again_loses_neither_it_nor_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    """Before the older one is put aside, before the new one takes its place, and before the older one is removed."""
    policy, optimizer = learner()
    checkpoints = Checkpoints(stamped(tmp_path), keep=1)
    checkpoints.save(policy, optimizer, state(1))
    checkpoints.save(policy, optimizer, state(2))
    print_, renames, rename = policy.fingerprint(), 0, Path.rename

    def until_killed(path: Path, target: Path) -> Path:
        nonlocal renames
        if renames == renamed:
            raise Killed
        renames += 1
        done = rename(path, target)
        if renames == renamed == 2:
            raise Killed
        return done

    monkeypatch.setattr(Path, "rename", until_killed)
    with pytest.raises(Killed):
        checkpoints.save(policy, optimizer, state(2, (0.5, 2)))
    monkeypatch.undo()
    again = Checkpoints(tmp_path, keep=1)
    assert again.exists()
    other, its_optimizer = learner(seed=9)
    assert again.restore(other, its_optimizer).update == 2
    assert other.fingerprint() == print_
    # As the best on dev it outlives later ones, under whichever name, and is found; saved once more, it has its own.
    again.save(other, its_optimizer, state(3, (0.5, 2)))
    assert json.loads((model_folder(tmp_path, "best") / "state.json").read_text())["update"] == 2
    again.save(other, its_optimizer, state(2, (0.5, 2)))
    assert model_folder(tmp_path, "best").name == "000002"
    assert not list(again.folder.glob(".replaced-*"))


def test_one_that_is_damaged_does_not_count_as_kept(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=1)
    (checkpoints.save(policy, optimizer, state(7)) / "state.json").unlink()
    checkpoints.save(policy, optimizer, state(6))
    assert kept(tmp_path) == [6]


@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, file: str) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    move(policy, optimizer, 0)
    path = checkpoints.save(policy, optimizer, state(1)) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunError, match=r"checkpoint .*000001 .*delete that folder and resume again"):
        checkpoints.restore(*learner())


def test_a_checkpoint_of_another_version_or_of_another_model_is_refused(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = checkpoints.save(policy, optimizer, state(1))
    facts = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(RunError, match="was written by run version 99 and this is version 1: use the astarpo"):
        read_state(path)
    (path / "state.json").write_text(json.dumps(facts))
    del policy.model.model.layers[1]
    with pytest.raises(RunError, match="does not fit the model of this run"):
        checkpoints.restore(policy, optimizer)


def test_the_model_of_a_run_of_another_version_is_not_used(tmp_path: Path) -> None:
    Checkpoints(stamped(tmp_path), keep=3).save(*learner(), state(1))
    assert model_folder(tmp_path).name == "000001"
    (tmp_path / "version.json").write_text('{"version": 99}')
    with pytest.raises(RunError, match="is a run of version 99, this is 1: use the astarpo that wrote it"):
        model_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"version": 1, "update": 1, "best": [0, 0]}', "lacks curriculum, algorithm, seconds, optimizer: delete that"),
        ("{}", "has no readable state.json: delete that folder"),
        ("[]", "has no readable state.json: delete that folder"),
    ],
)
def test_a_state_that_lacks_something_is_named_with_what_to_do(text: str, said: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = checkpoints.save(*learner(), state(1))
    (path / "state.json").write_text(text)
    with pytest.raises(RunError, match=said):
        checkpoints.restore(*learner())


def test_no_checkpoint_at_all_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert not checkpoints.exists()
    with pytest.raises(RunError, match="holds no complete checkpoint"):
        checkpoints.latest()


@pytest.mark.parametrize("size", [2000, 20_000, 60_000])
def test_a_full_disk_leaves_the_earlier_ones_and_no_rubbish(tmp_path: Path, size: int) -> None:
    """Too small for the tokenizer, for the weights, or for the optimiser."""
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(policy, optimizer, state(1))
    move(policy, optimizer, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write checkpoint .*000002: .*; make room, then go on with"):
            checkpoints.save(policy, optimizer, state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(tmp_path) == [1]
    assert checkpoints.restore(*learner()).update == 1


def test_the_value_table_is_kept_and_put_back(tmp_path: Path) -> None:
    policy, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, keep=3)
    with ValueTable.open(tmp_path / "values.sqlite", ValueKey("r", "e", "score", 1.0)) as table:
        table.add([("a", 0)], [PlayResult(1.0, 1.0, True, "answered")])
        checkpoints.save(policy, optimizer, state(1), table)
        table.add([("a", 1), ("b", 0)], [PlayResult(0.0, 0.0, False, "answered")] * 2)
        checkpoints.restore(policy, optimizer, table)
        assert table.tasks() == ["a"]
        assert table.attempts("a") == {0}


def test_a_folder_is_known_as_a_run_by_its_stamp(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it holds no settings\.yaml and version\.json"):
        check_version(tmp_path)
    stamped(tmp_path)
    assert is_run(tmp_path)
    check_version(tmp_path)
    (tmp_path / "version.json").write_text('{"version": 7}')
    with pytest.raises(RunError, match="is a run of version 7, this is 1: use the astarpo that wrote it"):
        check_version(tmp_path)
    (tmp_path / "version.json").write_text("[")
    with pytest.raises(RunError, match=r"version\.json cannot be read"):
        check_version(tmp_path)
