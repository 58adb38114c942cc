"""A reference whose weights wait elsewhere says and scores what one at hand does, and holds no memory meanwhile."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

import astarpo.trainer
from astarpo.collate import collate
from astarpo.errors import SettingsError
from astarpo.policy.load import load_policy
from astarpo.policy.offload import Offloaded, offload
from astarpo.rollout import Play, collect
from astarpo.run import Run
from astarpo.stage_one import frozen
from astarpo.trainer import train
from small import riddles, small_policy, small_run
from test_trainer import assert_same


def played(policy, run: Run):  # type: ignore[no-untyped-def]
    plays = [Play(f"riddle/{number}", 0, (1,)) for number in range(6)]
    return collect(
        policy, riddles(), plays, rollout=run.rollout, temperature=1.0, reward=riddles().reward_mode("score")
    )


def test_weights_that_were_away_play_and_score_bit_for_bit_as_those_that_stayed(small_model: Path) -> None:
    policy, run = small_policy(stops=40), small_run(small_model)
    stayed, away = frozen(policy), frozen(policy)
    near = Offloaded(away)
    for _ in range(2):
        with near():
            assert away.fingerprint() == stayed.fingerprint()
            episodes = played(away, run)
            batch = collate(episodes)
            scored = away.log_probs(batch)
        assert episodes == played(stayed, run)
        assert torch.equal(scored.logp, stayed.log_probs(batch).logp)
        assert torch.equal(scored.entropy, stayed.log_probs(batch).entropy)


def test_weights_that_are_away_take_no_memory_there_and_cannot_be_asked(small_model: Path) -> None:
    away, run = frozen(small_policy()), small_run(small_model)
    near = Offloaded(away)
    with near():
        batch = collate(played(away, run))
        there = [weakref.ref(weights.data.untyped_storage()) for weights in away.model.parameters()]
        assert sum(weights.numel() for weights in away.model.parameters()) > 5000
    gc.collect()
    assert sum(weights.numel() for weights in away.model.parameters()) == 0
    assert [one() for one in there] == [None] * len(there)
    with pytest.raises(RuntimeError):
        away.log_probs(batch)


def test_what_breaks_off_inside_leaves_the_weights_away() -> None:
    away = frozen(small_policy())
    near = Offloaded(away)
    with pytest.raises(ZeroDivisionError), near():
        raise ZeroDivisionError
    assert sum(weights.numel() for weights in away.model.parameters()) == 0
    with near():
        assert sum(weights.numel() for weights in away.model.parameters()) > 5000


@pytest.mark.parametrize(
    "algorithm",
    [{"name": "astar_po", "group_size": 2}, {"name": "grpo", "group_size": 4, "kl_coef": 0.1, "kl_estimator": "exact"}],
    ids=["stage 1 and log-probs", "exact KL"],
)
def test_a_run_whose_reference_is_elsewhere_is_the_run_whose_reference_is_at_hand(
    algorithm: dict[str, object], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There need be no GPU to see that nothing is asked of weights that are away.
    monkeypatch.setattr(astarpo.trainer, "offload", Offloaded)
    run = small_run(small_model, algorithm=algorithm)
    train(run, tmp_path / "at hand")
    other = run.dump()
    other["policy"]["reference_device"] = "cpu"
    train(Run.build(other), tmp_path / "elsewhere")
    assert_same(tmp_path / "at hand", tmp_path / "elsewhere")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_only_the_time_in_use_costs_its_memory() -> None:
    policy = small_policy()
    policy.model.to("cuda")
    away = frozen(policy)
    torch.cuda.synchronize()
    size = sum(weights.numel() * weights.element_size() for weights in away.model.parameters())
    before = torch.cuda.memory_allocated()
    near = offload(away)
    assert before - torch.cuda.memory_allocated() >= size
    assert away.device.type == "cuda"
    gone = torch.cuda.memory_allocated()
    with near():
        assert torch.cuda.memory_allocated() >= gone + size
    assert torch.cuda.memory_allocated() < gone + size


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_where_nothing_would_be_moved_it_is_refused(small_model: Path, tmp_path: Path) -> None:
    over = {"policy": {"model": str(small_model), "device": "cpu", "reference_device": "cpu"}}
    run = small_run(small_model, algorithm={"name": "astar_po", "group_size": 1}, **over)
    with pytest.raises(SettingsError, match="and the policy itself is there, so nothing would be moved"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_refused(small_model: Path) -> None:
    pytest.importorskip("peft")
    given = {"model": str(small_model), "device": "cpu", "lora": {"rank": 2}}
    policy = load_policy(small_run(small_model, policy=given).policy, "arithmetic")
    with pytest.raises(SettingsError, match="is an adapter, whose reference shares all weights that do not learn"):
        offload(frozen(policy))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"algorithm": {"name": "grpo", "group_size": 4}}, "unless a reference stands beside the policy"),
        ({"algorithm": {"name": "astar_po"}, "policy": {"lora": {"rank": 4}}}, "unless reference is start and lora.ra"),
        (
            {"algorithm": {"name": "grpo", "group_size": 4}, "policy": {"reference": "none"}},
            "unless reference is start",
        ),
        ({"algorithm": {"name": "astar_po", "group_size": 2}, "episodes": "runs/first"}, "unless a reference stands"),
    ],
    ids=["no reference", "an adapter", "none kept", "saved episodes"],
)
def test_where_no_copy_is_kept_the_setting_is_idle(small_model: Path, over: dict[str, object], words: str) -> None:
    policy = {"model": str(small_model), "reference_device": "cpu", **over.pop("policy", {})}  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match="reference_device does nothing") as error:
        small_run(small_model, policy=policy, **over)
    assert words in str(error.value)
