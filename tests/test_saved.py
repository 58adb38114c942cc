"""What one run saved another learns from, as if it had played it, and refuses where it could not have."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astarpo import plugins
from astarpo.algorithms.base import Algorithm
from astarpo.compare.arms import arms_from_file
from astarpo.environments.rewards import partial
from astarpo.errors import AstarpoError, RunError, SettingsError
from astarpo.journal import Journal, read_episodes, read_metrics
from astarpo.policy.load import load_policy
from astarpo.run import Run, environment, merge
from astarpo.saved import Draw, Part, Saved
from astarpo.trainer import load_run, resume, train
from astarpo.types import Episode
from small import small_run
from test_trainer import Listener, Stop, Stopped, assert_same

PLAYED: dict[str, Any] = {
    "algorithm": {"name": "reinforce", "group_size": 4, "baseline": "v_star"},
    "rollout": {"tasks_per_update": 6},
    "values": {"tasks": 12, "samples": 2},
    "updates": 3,
}


@pytest.fixture(scope="module")
def source(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: three updates of 6 tasks × 4 attempts at 12 tasks, with V* of each."""
    folder = tmp_path_factory.mktemp("saved") / "source"
    train(small_run(small_model, **PLAYED), folder)
    return folder


def learning(model: Path, source: Path, **over: Any) -> Run:
    """A run of four updates from `source`."""
    given: dict[str, Any] = {"episodes": str(source), "updates": 4}
    return Run.build(merge(small_run(model).dump() | given, over))


def opened(run: Run) -> Saved:
    world = environment(run)
    policy = load_policy(run.policy, run.environment.name)
    return Saved(run, environment=world, policy=policy, reward=world.reward_mode(run.environment.reward))


def all_of(folder: Path) -> list[Episode]:
    return [episode for path in sorted((folder / "episodes").glob("*.gz")) for episode in read_episodes(path)]


def changed(source: Path, to: Path, change: Callable[[Episode], Episode | None]) -> Path:
    """A folder of the episodes of `source`, each as `change` makes it; None leaves one out."""
    journal = Journal(to)
    for number, path in enumerate(sorted((source / "episodes").glob("*.gz")), start=1):
        journal.episodes(number, [new for old in read_episodes(path) if (new := change(old)) is not None])
    return to / "episodes"


# ---- what is learned from -------------------------------------------------------------------------------------------


def test_a_run_from_saved_episodes_leaves_what_a_run_leaves_and_plays_nothing(
    source: Path, small_model: Path, tmp_path: Path
) -> None:
    watch = Listener()
    result = train(learning(small_model, source), tmp_path / "run", watch=watch)
    assert result.updates == 4
    assert load_run(tmp_path / "run").episodes == str(source)
    assert json.loads((tmp_path / "run" / "saved.json").read_text())["episodes"] == 72
    assert list((tmp_path / "run" / "episodes").iterdir()) == []
    assert {"generation", "environment"} & set(result.times) == set()
    lines = [line for line in read_metrics(tmp_path / "run") if "evaluation" not in line]
    assert [line["saved/epoch"] for line in lines] == sorted(line["saved/epoch"] for line in lines)
    assert [line["used/episodes"] for line in lines] == [12, 24, 36, 48]
    assert "mismatch/mean" not in lines[0]
    assert lines[-1]["lag/mean"] > 0
    said = " ".join(watch.notes)
    assert f"72 saved episodes in 3 files of {source}: 18 times 4 attempts at one of 12 tasks, 3 of them" in said


def test_one_update_from_what_an_update_played_has_the_gradient_of_that_update(
    small_model: Path, tmp_path: Path
) -> None:
    over: dict[str, Any] = {"updates": 1, "algorithm": {"name": "rloo", "group_size": 4}}
    over["rollout"] = {"tasks_per_update": 24}
    train(small_run(small_model, **over), tmp_path / "played")
    train(small_run(small_model, **over, episodes=str(tmp_path / "played")), tmp_path / "again")
    lines = [read_metrics(tmp_path / name) for name in ("played", "again")]
    played, again = (next(line for line in found if "evaluation" not in line) for found in lines)
    assert played["grad_norm"] > 1e-3
    for name in ("loss", "grad_norm", "entropy", "reward/mean", "train/success", "reply_tokens"):
        assert again[name] == pytest.approx(played[name], rel=1e-4, abs=1e-7), name
    assert again["lag/max"] < 1e-4


def test_tokens_log_probs_and_temperature_are_those_that_were_saved(source: Path, small_model: Path) -> None:
    saved = opened(learning(small_model, source))
    there = {
        (e.task, e.policy_version, e.attempt, tuple((t.observation_ids, t.reply) for t in e.turns), e.temperature)
        for e in all_of(source)
    }
    drawn = {
        (e.task, e.policy_version, e.attempt, tuple((t.observation_ids, t.reply) for t in e.turns), e.temperature)
        for update in range(6)
        for group in saved.batch(update)
        for e in group
    }
    assert drawn == there


def test_rewards_are_those_of_the_runs_own_mode(source: Path, small_model: Path) -> None:
    run = learning(small_model, source, environment={"name": "arithmetic", "level": "easy", "reward": "success"})
    episodes = [e for group in opened(run).batch(0) for e in group]
    assert [e.reward for e in episodes] == [float(e.success) for e in episodes]
    run = learning(small_model, source, environment={"name": "arithmetic", "level": "easy", "reward": "partial"})
    for e in (e for group in opened(run).batch(0) for e in group):
        assert e.reward == sum(partial([turn.step for turn in e.turns], e.success))


def test_a_length_penalty_is_taken_from_saved_rewards(source: Path, small_model: Path) -> None:
    over = {"overlong_penalty": 0.5, "overlong_tokens": 2, "overlong_cache": 0}
    base = {"tasks_per_update": 3, "reply_tokens": 6, "episode_tokens": 48}
    dear = opened(learning(small_model, source, rollout=base | over))
    free = opened(learning(small_model, source, rollout=base))
    for one, two in zip(chain(*dear.batch(0)), chain(*free.batch(0)), strict=True):
        said = sum(len(turn.reply.ids) for turn in one.turns)
        assert one.reward == pytest.approx(two.reward - 0.5 * (said >= 2))


def test_smaller_groups_are_cut_from_larger_ones_and_what_is_left_over_is_told(source: Path, small_model: Path) -> None:
    pairs = opened(learning(small_model, source, algorithm={"name": "grpo", "group_size": 2}))
    assert (len(pairs.parts), pairs.left_over) == (36, 0)
    threes = opened(learning(small_model, source, algorithm={"name": "grpo", "group_size": 3}))
    assert (len(threes.parts), threes.left_over) == (18, 18)
    assert "18 episodes are left out: with fewer than 3 to a task in a file" in threes.report()


def parts(tasks: int, each: int, temperatures: tuple[float, ...] = (1.0,)) -> list[Part]:
    return [Part(f"t{i}", warm, ()) for warm in temperatures for i in range(tasks) for _ in range(each)]


def test_an_epoch_goes_through_every_part_once_and_no_batch_has_a_task_twice() -> None:
    every = parts(8, 3, (1.0, 0.5))
    draw = Draw(every, 4, seed=0)
    first = [draw.batch(update) for update in range(200)]
    for batch in first:
        assert len({part.task for part in batch}) == 4
        assert len({part.temperature for part in batch}) == 1
    epochs = [draw.epoch(update) for update in range(200)]
    one = Counter(id(part) for batch, epoch in zip(first, epochs, strict=True) if epoch <= 1 for part in batch)
    assert set(one.values()) == {1}
    assert len(one) >= 48 - 2 * 2 * 3
    seen = {id(part) for batch in first for part in batch}
    assert len(seen) == 48


def test_what_an_update_learns_from_depends_on_its_number_and_the_seed_alone() -> None:
    every = parts(8, 3)
    draw, other = Draw(every, 4, seed=0), Draw(every, 4, seed=0)
    assert draw.batch(17) == other.batch(17)
    assert [draw.batch(u) for u in range(20)] == [other.batch(u) for u in range(20)]
    assert [draw.batch(u) for u in range(20)] != [Draw(every, 4, seed=1).batch(u) for u in range(20)]


def test_a_task_that_was_played_far_more_often_than_others_does_not_pile_up() -> None:
    skewed = [*parts(4, 1), *[Part("t0", 1.0, ())] * 500]
    draw = Draw(skewed, 4, seed=0)
    assert {part.task for part in draw.batch(50)} == {"t0", "t1", "t2", "t3"}
    assert draw.epoch(50) > 49


# ---- resumed, V*, warnings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        {"algorithm": {"name": "astar_po", "group_size": 2}},
        {"algorithm": {"name": "reinforce", "group_size": 2, "baseline": "moving_average", "importance": "token"}},
    ],
    ids=["astar_po", "reinforce"],
)
def test_a_run_from_saved_episodes_that_was_stopped_ends_as_one_that_never_was(
    method: dict[str, Any], source: Path, small_model: Path, tmp_path: Path
) -> None:
    train(learning(small_model, source, **method), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(learning(small_model, source, **method), tmp_path / "run", watch=Stop(3))
    assert resume(tmp_path / "run").updates == 4
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_v_star_is_that_of_the_saved_runs_table(source: Path, small_model: Path, tmp_path: Path) -> None:
    watch = Listener()
    train(learning(small_model, source, algorithm={"name": "astar_po", "group_size": 4}), tmp_path / "run", watch=watch)
    assert "stage 1: reference plays" not in watch.stages
    assert any("24 plays of 12 tasks" in note for note in watch.notes), watch.notes
    assert any("rests where V* says" in warning for warning in watch.warnings)


def test_saved_tasks_without_v_star_are_left_out_and_said(source: Path, small_model: Path, tmp_path: Path) -> None:
    # Two updates more, of tasks that stage 1 did not play.
    other = small_run(
        small_model, **{**PLAYED, "algorithm": {"name": "rloo", "group_size": 4}, "values": {}, "seed": 5}
    )
    train(other, tmp_path / "other")
    both = tmp_path / "both"
    shutil.copytree(source, both)
    shutil.copy(tmp_path / "other" / "episodes" / "000001.jsonl.gz", both / "episodes" / "000004.jsonl.gz")
    watch = Listener()
    run = learning(small_model, both, algorithm={"name": "astar_po", "group_size": 4}, updates=1)
    train(run, tmp_path / "run", watch=watch)
    unknown = {e.task for e in read_episodes(both / "episodes" / "000004.jsonl.gz")} - {e.task for e in all_of(source)}
    assert unknown
    assert any(f"{len(unknown)} have no reference play" in note for note in watch.notes), watch.notes


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "reinforce", "baseline": "batch_mean"}, "takes every sample for one of its own: set algorithm.imp"),
        ({"name": "reinforce", "baseline": "batch_mean", "importance": "sequence"}, None),
        ({"name": "raft", "group_size": 4}, None),
        ({"name": "raft", "group_size": 4, "negative": 1}, "takes every sample for one of its own"),
        ({"name": "grpo", "group_size": 4}, "clipped ratio"),
        ({"name": "grpo", "group_size": 4, "surrogate": "cispo"}, None),
        ({"name": "grpo", "group_size": 4, "old_log_probs": "detached"}, "takes every sample for one of its own"),
        ({"name": "small.Explodes", "group_size": 4}, "takes every sample for one of its own"),
        ({"name": "weighted_sft", "group_size": 4}, None),
        ({"name": "oapl", "group_size": 4}, None),
    ],
    ids=str,
)
def test_a_method_says_whether_samples_of_another_policy_mislead_it(method: dict[str, Any], words: str | None) -> None:
    kind = plugins.find("astarpo.algorithms", method["name"], Algorithm)
    why = kind(kind.Settings.parse(method)).misled
    assert (why is None) if words is None else (why is not None and words in why)


def test_the_warning_stands_in_the_result(source: Path, small_model: Path, tmp_path: Path) -> None:
    method = {"name": "reinforce", "baseline": "batch_mean", "group_size": 1}
    result = train(learning(small_model, source, algorithm=method, updates=1), tmp_path / "run")
    (warning,) = result.warnings
    assert warning.startswith("reinforce learns from episodes that other policies played and takes every sample")


# ---- refused, in one sentence ---------------------------------------------------------------------------------------


def refused(run: Run, out: Path) -> str:
    """The sentence with which `run` is refused; nothing of it is left."""
    with pytest.raises(AstarpoError) as error:
        train(run, out)
    assert not out.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_holds_no_episodes_is_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    out, empty, file = tmp_path / "run", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("")
    assert "is no folder: name a run" in refused(learning(small_model, tmp_path / "nowhere"), out)
    assert "is no folder: name a run" in refused(learning(small_model, file), out)
    assert "is neither a run nor a folder of episode files" in refused(learning(small_model, empty), out)
    bare = tmp_path / "bare"
    shutil.copytree(source, bare)
    shutil.rmtree(bare / "episodes")
    assert "holds no episodes (none were kept)" in refused(learning(small_model, bare), out)
    train(learning(small_model, source, updates=1), tmp_path / "second")
    said = refused(learning(small_model, tmp_path / "second"), out)
    assert "holds no episodes (it learned from saved episodes itself)" in said


def test_damaged_files_are_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    out, torn = tmp_path / "run", tmp_path / "torn"
    shutil.copytree(source / "episodes", torn)
    path = torn / "000002.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} does not hold readable episodes" in refused(learning(small_model, torn), out)
    line = json.loads(gzip.decompress((source / "episodes" / "000002.jsonl.gz").read_bytes()).splitlines()[0])
    path.write_bytes(gzip.compress((json.dumps(line | {"schema": "other/1"}) + "\n").encode()))
    assert "holds episodes of schema 'other/1'" in refused(learning(small_model, torn), out)


def said_otherwise(episode: Episode, **over: Any) -> Episode:
    first, *rest = episode.turns
    return replace(episode, turns=(replace(first, reply=first.reply._replace(**over)), *rest))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: replace(e, temperature=0.0), "was played greedily"),
        (lambda e: said_otherwise(e, log_probs=()), "without a log-prob for each token said"),
        (lambda e: said_otherwise(e, log_probs=tuple(1.0 for _ in e.turns[0].reply.ids)), "a log-prob that is none"),
        (lambda e: said_otherwise(e, ids=(9999, *e.turns[0].reply.ids[1:])), "token 9999 where"),
        (lambda e: said_otherwise(e, text="other"), "replies that"),
        (lambda e: replace(e, turns=(replace(e.turns[0], observation_ids=(5, 6)),)), "would write in other tokens"),
        (lambda e: replace(e, task="no such sum"), "are episodes of another environment"),
        (lambda e: replace(e, turns=(replace(e.turns[0], observation="Buy a hat."),)), "tells task"),
        (
            lambda e: None if e.task != "" and e.attempt else e,
            "has at most 1 attempts of one policy at one task in a file",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_episodes_that_are_not_what_they_should_be_are_refused(
    change: Callable[[Episode], Episode | None], words: str, source: Path, small_model: Path, tmp_path: Path
) -> None:
    said = refused(learning(small_model, changed(source, tmp_path / "changed", change)), tmp_path / "run")
    assert words.replace("are episodes", "holds episodes") in said or words in said, said


def test_episodes_of_held_out_tasks_are_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    run = learning(small_model, source)
    held_out = environment(run).ids("test")[0]
    folder = changed(source, tmp_path / "changed", lambda episode: replace(episode, task=held_out))
    said = refused(run.model_copy(update={"episodes": str(folder)}), tmp_path / "run")
    assert f"holds an episode of {held_out!r}, a held-out task of arithmetic" in said


def test_another_environment_is_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    run = learning(small_model, source, environment={"name": "countdown"}, rollout={"episode_tokens": 200})
    for place in (source, source / "episodes"):
        over = run.model_copy(update={"episodes": str(place)})
        assert "are of 'arithmetic' and this run trains on 'countdown'" in refused(over, tmp_path / "run")


def test_too_few_tasks_for_an_update_are_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    said = refused(learning(small_model, source, rollout={"tasks_per_update": 13}), tmp_path / "run")
    assert "learns from rollout.tasks_per_update = 13 tasks sampled at one temperature" in said
    assert "has 12 that can be learned from at 1: lower it" in said


def test_without_a_value_table_v_star_is_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "episodes", tmp_path / "bare" / "episodes")
    run = learning(small_model, tmp_path / "bare" / "episodes", algorithm={"name": "astar_po", "group_size": 4})
    said = refused(run, tmp_path / "run")
    assert "V* of each task is needed and" in said
    assert "holds no values.sqlite: choose a baseline without V*" in said


def test_a_value_table_of_another_reference_is_refused(source: Path, small_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(small_model, other)
    from safetensors.torch import save_file

    weights = load_file(other / "model.safetensors")
    save_file(
        {k: v + 1e-3 * torch.ones_like(v) for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    said = refused(learning(other, source, algorithm={"name": "astar_po", "group_size": 4}), tmp_path / "run")
    assert "those in the table are of another reference" in said


def test_a_source_that_has_changed_since_is_refused_on_resuming(
    source: Path, small_model: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "source"
    shutil.copytree(source, mine)
    with pytest.raises(Stopped):
        train(learning(small_model, mine), tmp_path / "run", watch=Stop(2))
    (mine / "episodes" / "000003.jsonl.gz").unlink()
    with pytest.raises(RunError, match="are not those that the run in"):
        resume(tmp_path / "run")
    shutil.copy(source / "episodes" / "000003.jsonl.gz", mine / "episodes")
    (tmp_path / "run" / "saved.json").write_text("{")
    with pytest.raises(RunError, match="which saved episodes the run learns from, is damaged"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"rollout": {"temperature": [1.5, 1.0]}}, "rollout.temperature does nothing unless episodes is unset"),
        ({"rollout": {"sync_every": 2}}, "rollout.sync_every does nothing unless episodes is unset"),
        ({"rollout": {"extra_rounds": 2}}, "rollout.extra_rounds does nothing unless episodes is unset"),
        ({"curriculum": {"name": "promotion", "ladder": "target"}}, "curriculum.name promotion chooses tasks to play"),
        (
            {"algorithm": {"name": "astar_po"}, "values": {"samples": 3}},
            "values.samples does nothing unless episodes is unset",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_of_playing_are_refused_beside_saved_episodes(over: dict[str, Any], words: str) -> None:
    base: dict[str, Any] = {"environment": "arithmetic", "algorithm": {"name": "grpo"}, "episodes": "runs/first"}
    with pytest.raises(SettingsError) as error:
        Run.build(base | over)
    assert words in str(error.value)


def test_an_arm_of_a_comparison_may_learn_from_saved_episodes(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    # Both presets choose tasks by a ladder, and each has plays of its own.
    file.write_text(
        "off-policy: {preset: reinforce, episodes: runs/first}\nhybrid: {preset: hybrid, episodes: runs/first}\n"
    )
    for arm in arms_from_file("arithmetic", file):
        assert arm.run.episodes == "runs/first"
        assert arm.run.curriculum.name == "uniform"


# ---- it learns ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_methods_learn_arithmetic_from_what_the_untrained_policy_played(tmp_path: Path) -> None:
    """2,048 episodes of a policy that does not move, one in seven of them right; 32 updates from them, four epochs."""
    limits = {"reply_tokens": 24, "episode_tokens": 96}
    played: dict[str, Any] = {
        "environment": {"name": "arithmetic", "reward": "score"},
        "algorithm": {"name": "astar_po", "group_size": 8},
        "values": {"tasks": 256, "samples": 4},
        "rollout": {"tasks_per_update": 64, **limits},
        "optimizer": {"learning_rate": 1e-12},
        "evaluation": {"tasks": 20, "samples": 0, "every": 0},
        "updates": 4,
    }
    train(Run.build(played), tmp_path / "played")
    methods: dict[str, dict[str, Any]] = {
        "astar_po": {"beta": 0.25},
        "weighted_sft": {"baseline": "group_mean"},
        "reinforce": {"baseline": "v_star", "importance": "sequence"},
    }
    for name, own in methods.items():
        run = {
            "environment": {"name": "arithmetic", "reward": "score"},
            "algorithm": {"name": name, "group_size": 8, **own},
            "rollout": {"tasks_per_update": 32, **limits},
            "optimizer": {"learning_rate": 3e-4, "warmup": 3},
            "evaluation": {"tasks": 300, "samples": 0, "every": 0},
            "episodes": str(tmp_path / "played"),
            "updates": 32,
            **({"values": {"beta": 0.25}} if name == "astar_po" else {}),
        }
        result = train(Run.build(run), tmp_path / name)
        assert result.after.success_low > result.before.success_high, f"{name}: {result.after.success:.1%}"
