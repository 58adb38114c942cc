"""A run with a budget ends after the update that uses it up, stage 1 counted, resumed or not; controls say nothing."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from astarpo.budget import BudgetSettings, Used
from astarpo.controls import controlled
from astarpo.errors import RunError, SettingsError
from astarpo.journal import read_episodes, read_metrics
from astarpo.plan import plan
from astarpo.result import Result
from astarpo.run import Run
from astarpo.trainer import resume, train
from small import small_run
from test_trainer import Listener, Stop, Stopped, assert_same

V_STAR: dict[str, Any] = {
    "algorithm": {"name": "reinforce", "group_size": 2, "baseline": "v_star"},
    "values": {"samples": 2, "tasks": 5},
    "updates": 100,
}
"""Ten reference plays, then updates of 3 × 2 episodes."""


def lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if "evaluation" not in line]


def counted(folder: Path) -> tuple[int, int, int]:
    """Episodes, tokens read and tokens said of the updates, from the stored episodes themselves."""
    episodes = [e for path in sorted((folder / "episodes").iterdir()) for e in read_episodes(path)]
    turns = [turn for episode in episodes for turn in episode.turns]
    return len(episodes), sum(len(t.observation_ids) for t in turns), sum(len(t.reply.ids) for t in turns)


# ---- what ends a run -------------------------------------------------------------------------------------------------


def test_a_run_ends_after_the_update_that_uses_up_its_episodes_and_says_what_it_used(
    small_model: Path, tmp_path: Path
) -> None:
    run = small_run(small_model, budget={"episodes": 25}, updates=100)
    result = train(run, tmp_path / "run")
    # 3 tasks × 4 attempts: 12, 24, 36.
    assert result.updates == 3
    assert result.used is not None
    assert (result.used.episodes, result.used.read, result.used.said) == counted(tmp_path / "run")
    assert result.used.episodes == 36
    stored = Result.read(tmp_path / "run")
    assert stored is not None
    assert (stored.used, stored.updates) == (result.used, 3)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["used"]["said"] == result.used.said
    assert [line["used/episodes"] for line in lines(tmp_path / "run")] == [12, 24, 36]


def test_updates_end_it_where_they_are_first(small_model: Path, tmp_path: Path) -> None:
    assert train(small_run(small_model, budget={"tokens": 10**9}, updates=1), tmp_path / "run").updates == 1


def test_reference_plays_of_stage_one_are_counted(small_model: Path, tmp_path: Path) -> None:
    result = train(small_run(small_model, **V_STAR, budget={"episodes": 21}), tmp_path / "run")
    assert result.updates == 2
    assert result.used is not None
    episodes, read, said = counted(tmp_path / "run")
    assert (episodes, result.used.episodes) == (12, 22)
    # A prompt of easy arithmetic and a reply of at most 6 tokens each.
    assert result.used.read > read
    assert said < result.used.said <= said + 60
    assert result.used.seconds > 0


def test_tokens_end_a_run_too(small_model: Path, tmp_path: Path) -> None:
    train(small_run(small_model, **V_STAR, budget={"episodes": 40}), tmp_path / "long")
    used = [line["used/tokens_read"] + line["used/tokens_said"] for line in lines(tmp_path / "long")]
    result = train(small_run(small_model, **V_STAR, budget={"tokens": int(used[2])}), tmp_path / "run")
    assert result.updates == 3


def test_seconds_end_a_run_too(small_model: Path, tmp_path: Path) -> None:
    result = train(small_run(small_model, budget={"seconds": 0.3}, updates=10_000), tmp_path / "run")
    used = [line["used/seconds"] for line in lines(tmp_path / "run")]
    assert used[-1] >= 0.3
    assert all(seconds < 0.3 for seconds in used[:-1])
    assert result.updates == len(used) < 10_000


def test_stage_one_alone_may_use_up_the_budget_and_that_is_said(small_model: Path, tmp_path: Path) -> None:
    watch = Listener()
    result = train(small_run(small_model, **V_STAR, budget={"episodes": 10}), tmp_path / "run", watch=watch)
    assert result.updates == 0
    assert any("use up the whole budget" in warning for warning in watch.warnings)


def test_schedules_and_temperatures_go_by_the_share_of_the_budget(small_model: Path, tmp_path: Path) -> None:
    run = small_run(
        small_model,
        budget={"episodes": 48},
        updates=100,
        optimizer={"learning_rate": 1e-3, "schedule": "linear"},
        rollout={"temperature": [1.5, 1.0]},
    )
    train(run, tmp_path / "run")
    # Shares 0, 1/4, 1/2, 3/4 before each update.
    rates = [line.get("learning_rate") for line in lines(tmp_path / "run")]
    wanted = [1e-3 * (1 - 0.9 * share) for share in (0, 0.25, 0.5, 0.75)]
    assert all(rate is None or rate == pytest.approx(want) for rate, want in zip(rates, wanted, strict=True))
    assert any(rate is not None for rate in rates[1:])
    assert [line["temperature"] for line in lines(tmp_path / "run")] == [1.5, 1.5, 1.0, 1.0]


def test_a_budget_longer_than_the_run_changes_nothing_where_no_schedule_reads_it(
    small_model: Path, tmp_path: Path
) -> None:
    train(small_run(small_model), tmp_path / "without")
    train(small_run(small_model, budget={"episodes": 10**6}), tmp_path / "with")
    assert_same(tmp_path / "without", tmp_path / "with")


def test_dev_is_seen_at_equal_shares_of_the_budget(small_model: Path, tmp_path: Path) -> None:
    run = small_run(small_model, budget={"episodes": 60, "evaluations": 2}, updates=100, evaluation={"every": 1})
    train(run, tmp_path / "run")
    # 12 episodes an update: half of 60 is passed in update 3.
    assert [line["update"] for line in read_metrics(tmp_path / "run") if "evaluation" in line] == [0, 3, 5]


@pytest.mark.parametrize("budget", [{"episodes": 40}, {"tokens": 500}])
def test_a_run_with_a_budget_stopped_and_resumed_ends_as_one_that_never_stopped(
    budget: dict[str, int], small_model: Path, tmp_path: Path
) -> None:
    run = small_run(
        small_model,
        **V_STAR,
        budget=budget,
        optimizer={"learning_rate": 1e-3, "schedule": "linear"},
        rollout={"temperature": [1.5, 1.0]},
        checkpoint_every=2,
    )
    never = train(run, tmp_path / "never")
    with pytest.raises(Stopped):
        train(run, tmp_path / "run", watch=Stop(2))
    for stop in (1, 4):
        if stop < never.updates:
            with pytest.raises(Stopped):
                resume(tmp_path / "run", watch=Stop(stop if stop > 2 else 3))
    result = resume(tmp_path / "run")
    assert_same(tmp_path / "never", tmp_path / "run")
    assert result.used is not None
    assert never.used is not None
    assert replace(result.used, seconds=0) == replace(never.used, seconds=0)
    watch = Listener()
    assert resume(tmp_path / "run", watch=watch).updates == never.updates
    assert watch.stages == []


def test_plays_of_an_older_table_are_counted_as_episodes_and_refused_where_tokens_matter(
    small_model: Path, tmp_path: Path
) -> None:
    run = small_run(small_model, **V_STAR, budget={"episodes": 16})
    train(run, tmp_path / "run")
    old = tmp_path / "old"
    for folder, budget in ((old, {"tokens": 10**6}), (tmp_path / "older", {"episodes": 16})):
        folder.mkdir()
        (folder / "values.sqlite").write_bytes((tmp_path / "run" / "checkpoints/000000/values.sqlite").read_bytes())
        with sqlite3.connect(folder / "values.sqlite") as database:
            database.execute("DROP TABLE costs")
        database.close()
        changed = Run.build(run.dump() | {"budget": budget, "updates": 2})
        if "tokens" in budget:
            with pytest.raises(RunError, match=r"holds 10 plays whose tokens and seconds were not kept"):
                train(changed, folder)
        else:
            result = train(changed, folder)
            assert result.used is not None
            assert (result.updates, result.used.episodes) == (1, 16)


def test_one_measure_ends_a_run() -> None:
    with pytest.raises(SettingsError, match=r"budget\.episodes and budget\.seconds cannot both end a run"):
        BudgetSettings.parse({"episodes": 3, "seconds": 4})
    with pytest.raises(SettingsError, match="evaluations does nothing unless one of episodes, tokens and seconds"):
        BudgetSettings.parse({"evaluations": 3})


def test_a_dry_run_judges_the_length_by_the_budget(small_model: Path) -> None:
    said = " ".join(plan(small_run(small_model, **V_STAR, budget={"episodes": 40})).lines)
    # (40 − 10) / 6 episodes an update.
    assert "until 40 episodes are used, about 5 updates" in said


# ---- controls --------------------------------------------------------------------------------------------------------


def test_a_control_leaves_no_signal_in_the_batch(small_model: Path, tmp_path: Path) -> None:
    from astarpo.collate import collate

    train(small_run(small_model, updates=1, rollout={"tasks_per_update": 12}), tmp_path / "run")
    batch = collate(read_episodes(tmp_path / "run" / "episodes" / "000001.jsonl.gz"))
    assert float(batch.reward.mean()) > 0
    assert controlled(batch, "none", seed=0, update=0) is batch
    shuffled = controlled(batch, "shuffled_rewards", seed=0, update=0)
    assert not torch.equal(shuffled.reward, batch.reward)
    assert torch.equal(shuffled.reward.sort().values, batch.reward.sort().values)
    for given in (shuffled, controlled(batch, "constant_reward", seed=0, update=0)):
        assert torch.equal(given.turn_rewards().sum(1), given.reward)
    again, other, later = (
        controlled(batch, "shuffled_rewards", seed=seed, update=update).reward
        for seed, update in ((0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(again, shuffled.reward)
    assert not torch.equal(other, again)
    assert not torch.equal(later, again)


def test_a_constant_reward_moves_no_group_method_and_the_run_says_loudly_that_it_is_a_control(
    small_model: Path, tmp_path: Path
) -> None:
    watch = Listener()
    result = train(small_run(small_model, control="constant_reward"), tmp_path / "run", watch=watch)
    assert any("this run is a control" in warning for warning in result.warnings)
    assert watch.warnings == list(result.warnings)
    assert all(line["signal/skipped"] == 1.0 for line in lines(tmp_path / "run"))
    start, end = ((tmp_path / "run/checkpoints" / n / "model.safetensors").read_bytes() for n in ("000000", "000003"))
    assert start == end


def test_a_shuffled_run_resumes_exactly(small_model: Path, tmp_path: Path) -> None:
    run = small_run(small_model, control="shuffled_rewards", algorithm={"name": "weighted_sft", "group_size": 4})
    train(run, tmp_path / "never")
    with pytest.raises(Stopped):
        train(run, tmp_path / "run", watch=Stop(2))
    resume(tmp_path / "run")
    assert_same(tmp_path / "never", tmp_path / "run")


def test_used_adds_up() -> None:
    one = Used(1, 2, 3, 0.5)
    assert one + one - one == one
    assert one.tokens == 5
    assert Used.from_metrics(one.metrics()) == one
