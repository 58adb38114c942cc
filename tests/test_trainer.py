"""A run leaves everything behind, and one that was stopped ends exactly as one that never was."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from astarpo.errors import AstarpoError, EnvironmentContractError, RunError, SettingsError
from astarpo.evaluate import wilson
from astarpo.journal import read_episodes, read_metrics, read_outcomes
from astarpo.progress import Watch
from astarpo.run import Run, merge
from astarpo.trainer import load_run, measure_values, out_of_memory, resume, train
from small import small_run

TIMINGS = {"seconds", "tokens_per_second", "used/seconds"}

CASES: dict[str, dict[str, Any]] = {
    "grpo": {"updates": 4},
    # V*, the exact KL to a frozen reference, and a curriculum that moves. Promotion is made easy: one success does.
    "astar_po": {
        "algorithm": {"name": "astar_po", "group_size": 4},
        "curriculum": {"name": "promotion", "ladder": "target", "window": 10, "promote_at": 0.01, "demote_at": 0.0},
        "rollout": {"temperature": [1.5, 1.0]},
        "values": {"samples": 2},
        "updates": 4,
    },
    # V* of a task is played when it is first drawn; every third update is kept; the learning rate moves.
    "reinforce": {
        "algorithm": {"name": "reinforce", "group_size": 2, "baseline": "v_star"},
        "values": {"schedule": "steps"},
        "optimizer": {"schedule": "linear", "warmup": 2},
        "checkpoint_every": 3,
        "updates": 5,
    },
}


class Stopped(KeyboardInterrupt):
    """Ctrl-C, pressed by a watch."""


class Stop(Watch):
    """Presses Ctrl-C once update `update` is played and journalled, before it is checkpointed."""

    def __init__(self, update: int) -> None:
        self._at = update

    def update(self, number: int, metrics: object) -> None:  # noqa: ARG002
        """Stops here."""
        if number == self._at:
            raise Stopped


class StopIn(Watch):
    """Presses Ctrl-C at step `steps` of the first stage whose name begins with `stage`."""

    def __init__(self, stage: str, steps: int = 0) -> None:
        self._stage, self._steps, self._now = stage, steps, ""

    def stage(self, name: str, total: int) -> None:  # noqa: ARG002
        """Stops here where no step was asked for."""
        self._now = name
        if name.startswith(self._stage) and not self._steps:
            raise Stopped

    def advance(self, steps: int = 1, **shown: float | str) -> None:  # noqa: ARG002
        """Stops here."""
        if self._now.startswith(self._stage):
            self._steps -= steps
            if self._steps <= 0:
                raise Stopped


class Listener(Watch):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.metrics: list[dict[str, float]] = []

    def stage(self, name: str, total: int) -> None:  # noqa: ARG002
        self.stages.append(name)

    def update(self, number: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        self.metrics.append(dict(metrics))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_of(case: str, model: Path) -> Run:
    return small_run(model, **CASES[case])


@pytest.fixture(scope="session")
def never_stopped(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each case."""
    root = tmp_path_factory.mktemp("runs")
    for case in CASES:
        train(run_of(case, small_model), root / case)
    return {case: root / case for case in CASES}


def plays(folder: Path) -> list[tuple[Any, ...]]:
    if not (folder / "values.sqlite").exists():
        return []
    with sqlite3.connect(folder / "values.sqlite") as database:
        found = database.execute("SELECT * FROM plays ORDER BY 1, 2, 3, 4, 5, 6").fetchall()
    database.close()
    return found


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in TIMINGS}


def assert_same(one: Path, two: Path) -> None:
    """Weights, optimiser, curriculum, metrics but timings, episodes and V* are the same, bit for bit."""
    (last,) = {sorted(path.name for path in (folder / "checkpoints").glob("[0-9]*"))[-1] for folder in (one, two)}
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = (folder / "checkpoints" / last / name for folder in (one, two))
        assert a.read_bytes() == b.read_bytes(), name
    states = [json.loads((folder / "checkpoints" / last / "state.json").read_text()) for folder in (one, two)]
    assert untimed(states[0]) == untimed(states[1])
    assert [untimed(line) for line in read_metrics(one)] == [untimed(line) for line in read_metrics(two)]
    files = [sorted((folder / "episodes").iterdir()) for folder in (one, two)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for a, b in zip(*files, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    for when in ("before", "after"):
        assert (one / "outcomes" / f"{when}.json").read_bytes() == (two / "outcomes" / f"{when}.json").read_bytes()
    assert plays(one) == plays(two)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert (results[0]["before"], results[0]["after"]) == (results[1]["before"], results[1]["after"])


# ---- what a run leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_run_leaves_every_file_and_they_agree(case: str, never_stopped: dict[str, Path], small_model: Path) -> None:
    folder, run = never_stopped[case], run_of(case, small_model)
    there = {path.name for path in folder.iterdir()}
    assert {"settings.yaml", "version.json", "metrics.jsonl", "episodes", "checkpoints", "result.json"} <= there
    assert ("values.sqlite" in there) == (case != "grpo")
    assert not [name for name in there if name.startswith(".")]
    assert Run.build(yaml.safe_load((folder / "settings.yaml").read_text())) == run == load_run(folder)
    lines = read_metrics(folder)
    updates = [line["update"] for line in lines if "evaluation" not in line]
    assert updates == list(range(1, run.updates + 1))
    assert [line["update"] for line in lines if "evaluation" in line] == sorted({0, 2, 4, run.updates})
    for update in updates:
        episodes = read_episodes(folder / "episodes" / f"{update:06d}.jsonl.gz")
        assert len(episodes) == 3 * run.algorithm.group_size
        assert {episode.policy_version for episode in episodes} == {update - 1}
        assert {episode.temperature for episode in episodes} == {run.rollout.temperature_at(update - 1, run.updates)}
        line = next(line for line in lines if line["update"] == update and "evaluation" not in line)
        assert line["reward/mean"] == pytest.approx(sum(e.reward for e in episodes) / len(episodes), abs=1e-6)
        assert line["train/success"] == pytest.approx(sum(e.success for e in episodes) / len(episodes))
        assert line["mismatch/max"] < 1e-4
        assert sum(value for name, value in line.items() if name.startswith("ended/")) == pytest.approx(1.0)


def test_result_json_says_what_was_trained_and_how_good_it_was_before_and_after(
    never_stopped: dict[str, Path],
) -> None:
    result = json.loads((never_stopped["grpo"] / "result.json").read_text())
    assert (result["environment"], result["algorithm"], result["updates"]) == ("arithmetic", "grpo", 4)
    assert result["seconds"] > 0
    assert result["peak_memory"] > 10**7
    assert {"generation", "environment", "training", "evaluation on test"} <= set(result["times"])
    for when in ("before", "after"):
        for seen in (result[when], result[when]["sampled"]):
            assert seen["n"] == 6
            assert seen["split"] == "test"
            assert [seen["success_low"], seen["success_high"]] == pytest.approx(wilson(round(6 * seen["success"]), 6))
    assert result["before"]["decoding"] == "greedy"


def test_outcomes_task_by_task_add_up_to_the_result(never_stopped: dict[str, Path]) -> None:
    folder = never_stopped["grpo"]
    result = json.loads((folder / "result.json").read_text())
    whens: tuple[Literal["before", "after"], ...] = ("before", "after")
    for when in whens:
        seen = read_outcomes(folder, when)
        assert len(seen) == 6
        assert sum(success for success, _ in seen.values()) == pytest.approx(6 * result[when]["success"])
        assert sum(score for _, score in seen.values()) == pytest.approx(6 * result[when]["score"])
    assert read_outcomes(folder, "before").keys() == read_outcomes(folder, "after").keys()


def test_the_weights_moved_and_the_curriculum_too(never_stopped: dict[str, Path], small_model: Path) -> None:
    folder = never_stopped["astar_po"]
    start = (small_model / "model.safetensors").read_bytes()
    assert (folder / "checkpoints" / "000004" / "model.safetensors").read_bytes() != start
    levels = {e.level for path in sorted((folder / "episodes").iterdir()) for e in read_episodes(path)}
    assert len(levels) > 1


def test_the_last_three_checkpoints_and_the_best_are_kept(never_stopped: dict[str, Path]) -> None:
    kept = sorted(int(path.name) for path in (never_stopped["grpo"] / "checkpoints").iterdir())
    best = json.loads((never_stopped["grpo"] / "checkpoints" / "000004" / "state.json").read_text())["best"]
    assert kept == sorted({int(best[1]), 2, 3, 4})
    scores = {
        line["update"]: line["evaluation"]["success"]
        for line in read_metrics(never_stopped["grpo"])
        if "evaluation" in line
    }
    assert best[0] == max(scores.values())
    assert scores[int(best[1])] == best[0]


def test_two_runs_with_one_seed_are_the_same_and_with_two_seeds_are_not(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    train(run_of("grpo", small_model), tmp_path / "again")
    assert_same(never_stopped["grpo"], tmp_path / "again")
    train(small_run(small_model, updates=1, seed=1), tmp_path / "other")
    one, two = (folder / "episodes" / "000001.jsonl.gz" for folder in (tmp_path / "again", tmp_path / "other"))
    assert one.read_bytes() != two.read_bytes()


def test_success_on_dev_is_said_after_each_evaluation_and_kept_in_sight(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    watch = Listener()
    train(run_of("grpo", small_model), tmp_path / "run", watch=watch)
    on_dev = {e["update"]: e["evaluation"]["success"] for e in read_metrics(never_stopped["grpo"]) if "evaluation" in e}
    said = [f"dev after {update} updates: {100 * success:.1f} % (n = 4)" for update, success in on_dev.items()]
    assert [note for note in watch.notes if note.startswith("dev after")] == said
    # Beside the bar stands the latest there was when an update ended: that of update 0 for the first two.
    assert [m["dev/success"] for m in watch.metrics] == [on_dev[0], on_dev[0], on_dev[2], on_dev[2]]
    assert not any("dev/success" in line for line in read_metrics(tmp_path / "run"))


# ---- stopped and resumed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "stops"),
    [("grpo", [3]), ("grpo", [1]), ("astar_po", [2, 3]), ("reinforce", [2, 5])],
)
def test_a_run_stopped_and_resumed_ends_as_one_that_never_stopped(
    case: str, stops: list[int], never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(run_of(case, small_model), folder, watch=Stop(stops[0]))
    for stop in stops[1:]:
        with pytest.raises(Stopped):
            resume(folder, watch=Stop(stop))
    assert not (folder / "result.json").exists()
    result = resume(folder)
    assert result.updates == CASES[case]["updates"]
    assert_same(never_stopped[case], folder)
    assert (folder / "notes.txt").read_text().count("resumed after update") == len(stops)


def test_reference_plays_that_a_kill_cut_short_are_played_again(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    """Killed between two commits to the value table, a task has some of its plays; V* of those would be another."""
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(run_of("reinforce", small_model), folder, watch=Stop(5))
    checkpoint = folder / "checkpoints" / "000003" / "values.sqlite"
    with sqlite3.connect(checkpoint) as database:
        before = {row[0] for row in database.execute("SELECT DISTINCT task FROM plays")}
    database.close()
    with sqlite3.connect(folder / "values.sqlite") as database:
        after = {row[0] for row in database.execute("SELECT DISTINCT task FROM plays")}
        assert before < after
        database.execute("DELETE FROM plays WHERE attempt > 0 AND task = ?", (min(after - before),))
    database.close()
    resume(folder)
    assert_same(never_stopped["reinforce"], folder)


@pytest.mark.parametrize("where", ["evaluation on 6 test", "evaluation on 4 dev", "stage 1"])
def test_a_run_stopped_before_its_first_checkpoint_starts_over_and_keeps_its_reference_plays(
    where: str, never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = small_run(small_model, **(CASES["astar_po"] | {"values": {"samples": 2, "batch": 8}}))
    with pytest.raises(Stopped):
        train(run, folder, watch=StopIn(where, steps=16 if where == "stage 1" else 0))
    assert list((folder / "checkpoints").iterdir()) == []
    kept = plays(folder)
    assert len(kept) == (16 if where == "stage 1" else 0)
    if kept:
        # A play that were made again would be refused by the table: it stores no pair twice.
        assert set(kept) < set(plays(never_stopped["astar_po"]))
    resume(folder)
    assert "started over" in (folder / "notes.txt").read_text()
    assert_same(never_stopped["astar_po"], folder)


def test_an_interrupted_checkpoint_is_passed_over(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(run_of("grpo", small_model), folder, watch=Stop(4))
    newest = folder / "checkpoints" / "000003"
    (newest / "state.json").unlink()
    shutil.copytree(newest, folder / "checkpoints" / ".making-000004")
    resume(folder)
    assert "resumed after update 2" in (folder / "notes.txt").read_text()
    assert_same(never_stopped["grpo"], folder)


def test_a_finished_run_resumed_is_unchanged_and_may_be_trained_further(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    folder, watch = Path(shutil.copytree(never_stopped["grpo"], tmp_path / "run")), Listener()
    again = resume(folder, watch=watch)
    assert_same(never_stopped["grpo"], folder)
    # The test split is touched once before and once after a run, and not whenever somebody looks.
    assert watch.stages == []
    assert again.as_dict() == json.loads((folder / "result.json").read_text()) | {"folder": str(folder)}
    (folder / "result.json").write_text("{")
    resume(folder, watch=watch)
    assert watch.stages == ["training", "evaluation on 6 test tasks"]
    assert_same(never_stopped["grpo"], folder)
    assert resume(folder, updates=6).updates == 6
    train(small_run(small_model, updates=6), tmp_path / "six")
    last = [(f / "checkpoints" / "000006" / "model.safetensors").read_bytes() for f in (folder, tmp_path / "six")]
    assert last[0] == last[1]
    assert load_run(folder).updates == 6
    with pytest.raises(RunError, match="has done 6 updates, so it cannot be trained to 5"):
        resume(folder, updates=5)
    with pytest.raises(SettingsError, match="updates must be 0 or more, got -1"):
        resume(folder, updates=-1)
    assert load_run(folder).updates == 6


RUN = """
import sys
from pathlib import Path
import yaml
from astarpo.run import Run
from astarpo.trainer import resume, train
folder = Path(sys.argv[2])
if folder.exists():
    resume(folder)
else:
    train(Run.build(yaml.safe_load(Path(sys.argv[1]).read_text())), folder)
"""


def test_kill_9_at_any_moment_loses_only_what_came_after_the_last_checkpoint(small_model: Path, tmp_path: Path) -> None:
    run = small_run(small_model, updates=60, evaluation={"every": 7})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run.dump()))
    folder = tmp_path / "run"
    for _ in range(2):
        before = len(read_metrics(folder))
        running = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "run.yaml"), str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 300
        # Any moment of an early update: counted in updates, since how long one takes depends on the machine.
        wanted = before + random.randint(1, 15)
        while running.poll() is None and len(read_metrics(folder)) <= wanted:
            assert time.monotonic() < deadline
        time.sleep(random.uniform(0.0, 0.02))
        running.send_signal(signal.SIGKILL)
        assert running.communicate()[1] == b""
    assert not (folder / "result.json").exists(), "both kills came after the end: give the run more updates"
    resume(folder)
    train(run, tmp_path / "never")
    assert_same(tmp_path / "never", folder)


# ---- unreachable tasks ---------------------------------------------------------------------------------------------


def riddles_run(model: Path, **over: Any) -> Run:
    return small_run(model, environment={"name": "small.Riddles"}, **over)


def drawn(folder: Path) -> set[str]:
    return {e.task for path in (folder / "episodes").iterdir() for e in read_episodes(path)}


def test_unreachable_tasks_are_named_and_never_drawn(small_model: Path, tmp_path: Path) -> None:
    train(riddles_run(small_model, rollout={"tasks_per_update": 95}, updates=1), tmp_path / "run")
    assert len(drawn(tmp_path / "run")) == 95
    assert not any(int(task.removeprefix("riddle/")) % 20 == 3 for task in drawn(tmp_path / "run"))
    assert "left out of training, unreachable: riddle/3, riddle/23" in (tmp_path / "run" / "notes.txt").read_text()
    unreachable = [f"riddle/{number}" for number in (3, 23, 43, 63, 83)]
    assert json.loads((tmp_path / "run" / "unreachable.json").read_text()) == {"unreachable": unreachable}


def test_unreachable_tasks_are_not_played_for_v_star(small_model: Path, tmp_path: Path) -> None:
    train(riddles_run(small_model, algorithm={"name": "astar_po"}, values={"samples": 1}, updates=1), tmp_path / "run")
    numbers = {int(row[4].removeprefix("riddle/")) for row in plays(tmp_path / "run")}
    assert numbers == {0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12}


@pytest.mark.parametrize("stop", ["evaluation on 6 test", "training"])
def test_a_resumed_run_leaves_out_what_it_left_out_before(stop: str, small_model: Path, tmp_path: Path) -> None:
    """Found in limited time, another survey might find another set, and the curriculum draw other tasks."""
    run = riddles_run(small_model, rollout={"tasks_per_update": 50}, updates=2)
    with pytest.raises(Stopped):
        train(run, tmp_path / "run", watch=StopIn(stop) if stop != "training" else Stop(2))
    kept = tmp_path / "run" / "unreachable.json"
    kept.write_text(json.dumps({"unreachable": [f"riddle/{n}" for n in range(40)]}))
    shutil.rmtree(tmp_path / "run" / "episodes")
    resume(tmp_path / "run")
    assert not drawn(tmp_path / "run") & {f"riddle/{n}" for n in range(40)}


# ---- V* and what is trained on ---------------------------------------------------------------------------------------

TWO_REWARDS: dict[str, Any] = {
    "algorithm": {"name": "astar_po", "group_size": 2},
    "values": {"samples": 2, "reward": "success"},
    "updates": 1,
}


def test_the_reference_is_scored_at_the_temperature_that_sampled(never_stopped: dict[str, Path]) -> None:
    """Before the first step policy and reference are one, so their log-probs differ only if something else does."""
    first = next(line for line in read_metrics(never_stopped["astar_po"]) if line["update"] == 1)
    assert first["temperature"] == 1.5
    assert first["log_ratio/mean"] == pytest.approx(0.0, abs=1e-5)
    assert first["log_ratio/std"] == pytest.approx(0.0, abs=1e-5)


def test_reference_plays_are_paid_with_the_reward_of_v_star(small_model: Path, tmp_path: Path) -> None:
    for name, how in (("two", {"reward": "success"}), ("one", {})):
        run = small_run(small_model, algorithm={"name": "astar_po"}, values={"samples": 8, **how})
        measure_values(run, tmp_path / name)
    paid = {name: [row[6] for row in plays(tmp_path / name)] for name in ("two", "one")}
    solved = {name: [float(row[8]) for row in plays(tmp_path / name)] for name in ("two", "one")}
    assert solved["two"] == solved["one"] == paid["two"]
    assert paid["one"] != solved["one"]  # the very same plays earn partial credit, which is what is trained on


def test_two_rewards_are_said_loudly_at_the_start_and_beside_the_result(small_model: Path, tmp_path: Path) -> None:
    watch = Listener()
    result = train(small_run(small_model, **TWO_REWARDS), tmp_path / "run", watch=watch)
    (said,) = watch.warnings
    assert "V* is estimated under the reward 'success' and the policy is trained on 'partial'" in said
    assert said in (tmp_path / "run" / "notes.txt").read_text()
    assert result.warnings == (said,)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["warnings"] == [said]
    alone = Listener()
    measure_values(small_run(small_model, **TWO_REWARDS), tmp_path / "alone", watch=alone)
    assert alone.warnings == [said]


def test_plays_of_a_v_star_with_a_reward_of_its_own_outlive_a_change_of_the_training_reward(
    small_model: Path, tmp_path: Path
) -> None:
    measure_values(small_run(small_model, **TWO_REWARDS), tmp_path / "run")
    before = plays(tmp_path / "run")
    watch = Listener()
    changed = small_run(small_model, **TWO_REWARDS, environment={"reward": "score"})
    train(changed, tmp_path / "run", watch=watch)
    assert plays(tmp_path / "run") == before
    assert any(note.startswith("values.sqlite holds 24 plays of these 12 tasks") for note in watch.notes)


def test_plays_under_the_training_reward_do_not(small_model: Path, tmp_path: Path) -> None:
    one = {**TWO_REWARDS, "values": {"samples": 2}}
    measure_values(small_run(small_model, **one), tmp_path / "run")
    watch = Listener()
    train(small_run(small_model, **one, environment={"reward": "score"}), tmp_path / "run", watch=watch)
    assert len(plays(tmp_path / "run")) == 48
    assert any(note.startswith("values.sqlite holds 0 plays of these 12 tasks") for note in watch.notes)


def test_plays_under_other_token_limits_are_not_used(small_model: Path, tmp_path: Path) -> None:
    for reply_tokens in (4, 6, 4):
        limits = {"rollout": {"tasks_per_update": 4, "reply_tokens": reply_tokens, "episode_tokens": 64}}
        measure_values(small_run(small_model, **TWO_REWARDS, **limits), tmp_path / "run")
    assert len(plays(tmp_path / "run")) == 48


def test_plays_of_a_reference_that_was_not_told_the_rules_are_not_used(small_model: Path, tmp_path: Path) -> None:
    for rules in (False, True, False):
        told = {
            "policy": {"rules": rules},
            "environment": {"observation": "words"},
            "rollout": {"tasks_per_update": 3, "reply_tokens": 6, "episode_tokens": 200},
        }
        measure_values(small_run(small_model, **merge(TWO_REWARDS, told)), tmp_path / "run")
    assert len(plays(tmp_path / "run")) == 48


def test_a_folder_of_values_alone_is_trained_in_and_its_plays_are_used(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    measure_values(run_of("astar_po", small_model), tmp_path / "run")
    kept = plays(tmp_path / "run")
    train(run_of("astar_po", small_model), tmp_path / "run")
    assert kept == plays(tmp_path / "run")
    assert_same(never_stopped["astar_po"], tmp_path / "run")


def test_a_folder_of_values_is_refused_where_no_v_star_is_used_and_kept_where_training_is(
    small_model: Path, tmp_path: Path
) -> None:
    measure_values(run_of("astar_po", small_model), tmp_path / "run")
    kept = plays(tmp_path / "run")
    with pytest.raises(RunError, match="holds files already"):
        train(run_of("grpo", small_model), tmp_path / "run")
    bad = small_run(small_model, environment={"name": "small.Riddles", "unsolvable": 5}, algorithm={"name": "astar_po"})
    with pytest.raises(EnvironmentContractError, match="unreachable"):
        train(bad, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["values.sqlite"]
    assert plays(tmp_path / "run") == kept


def test_tasks_that_the_value_filters_leave_out_are_never_drawn(small_model: Path, tmp_path: Path) -> None:
    given = {"algorithm": {"name": "astar_po", "group_size": 2}, "updates": 4}
    folder = tmp_path / "run"
    measure_values(small_run(small_model, **given, values={"samples": 2}), folder)
    with sqlite3.connect(folder / "values.sqlite") as database:
        tasks = sorted(row[0] for row in database.execute("SELECT DISTINCT task FROM plays"))
        database.execute("UPDATE plays SET success = 0, reward = 0")
        database.executemany(
            "UPDATE plays SET success = 1, reward = 1 WHERE task = ? AND attempt = 1", [(task,) for task in tasks[:5]]
        )
    database.close()
    train(small_run(small_model, **given, values={"samples": 2, "drop_all_failed": True}), folder)
    assert drawn(folder) == set(tasks[:5])


# ---- refused -----------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_not_written_into(
    never_stopped: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    run = small_run(small_model)
    with pytest.raises(RunError, match="holds a run already: resume it with --resume"):
        train(run, never_stopped["grpo"])
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(RunError, match="holds files already: choose another --out"):
        train(run, tmp_path)
    with pytest.raises(RunError, match=r"cannot make the folder .*diary\.txt: .*; choose another --out"):
        train(run, tmp_path / "diary.txt")
    with pytest.raises(RunError, match=r"cannot make the folder .*diary\.txt: .*; choose another --out"):
        measure_values(run_of("astar_po", small_model), tmp_path / "diary.txt")
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize(
    ("over", "error", "sentence"),
    [
        ({"policy": {"model": "./nowhere"}}, AstarpoError, "there is no model folder"),
        ({"environment": {"reward": "kindness"}}, SettingsError, "has no reward mode 'kindness'"),
        ({"environment": {"name": "small.Talk"}}, EnvironmentContractError, "fails its pre-flight check"),
        (
            {"curriculum": {"name": "promotion", "ladder": "career"}},
            SettingsError,
            "curriculum.ladder 'career' is not one of arithmetic's ladders: known: difficulty, target",
        ),
    ],
)
def test_a_run_refused_before_anything_was_trained_leaves_no_folder_and_names_none(
    over: dict[str, Any], error: type[AstarpoError], sentence: str, small_model: Path, tmp_path: Path
) -> None:
    if over.get("environment", {}).get("name"):
        over = over | {"algorithm": {"group_size": 4}}
    watch = Listener()
    with pytest.raises(error, match=sentence):
        train(small_run(small_model, **over), tmp_path / "run", watch=watch)
    assert not (tmp_path / "run").exists()
    assert not [note for note in watch.notes if "run folder" in note]


def test_a_run_folder_of_another_version_or_none_at_all_is_refused(
    never_stopped: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(never_stopped["grpo"], tmp_path / "run"))
    (folder / "version.json").write_text('{"version": 2}')
    with pytest.raises(RunError, match="is a run of version 2, this is 1: use the astarpo that wrote it"):
        resume(folder)
    with pytest.raises(RunError, match="is not a run"):
        resume(tmp_path)


@pytest.mark.parametrize("text", ["seed: [", "- 1\n- 2\n", "\xff"])
def test_settings_that_were_damaged_are_named(text: str, never_stopped: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(never_stopped["grpo"], tmp_path / "run"))
    (folder / "settings.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"settings\.yaml cannot be read: the folder is damaged"):
        resume(folder)


def test_checkpoints_that_are_all_gone_do_not_start_a_trained_run_over(
    never_stopped: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(never_stopped["grpo"], tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RunError, match="holds no complete checkpoint"):
        resume(folder)
    assert len(read_metrics(folder)) == len(read_metrics(never_stopped["grpo"]))


def test_a_lost_evaluation_before_training_is_named(never_stopped: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(never_stopped["grpo"], tmp_path / "run"))
    (folder / "before.json").unlink()
    watch = Listener()
    with pytest.raises(RunError, match=r"before\.json, the evaluation before training, is missing or damaged"):
        resume(folder, updates=5, watch=watch)
    assert watch.stages == []  # said before the training, not after it


def test_a_gradient_that_is_not_finite_is_left_out_and_told(small_model: Path, tmp_path: Path) -> None:
    watch = Listener()
    run = small_run(small_model, algorithm={"name": "small.Explodes", "group_size": 2}, updates=2)
    result = train(run, tmp_path / "run", watch=watch)
    assert [said[:44] for said in result.warnings] == [
        "the gradient of update 1 was not finite and ",
        "the gradient of update 2 was not finite and ",
    ]
    first, last = (
        load_file(tmp_path / "run" / "checkpoints" / f"{update:06d}" / "model.safetensors") for update in (0, 2)
    )
    assert all(torch.equal(tensor, last[name]) for name, tensor in first.items())
    assert [line.get("signal/not_finite") for line in read_metrics(tmp_path / "run") if "loss" in line] == [1.0, 1.0]


def test_three_gradients_in_a_row_that_are_not_finite_stop_the_run_with_what_to_do(
    small_model: Path, tmp_path: Path
) -> None:
    run = small_run(small_model, algorithm={"name": "small.Explodes", "group_size": 2}, updates=5)
    with pytest.raises(
        RunError, match=r"update 3 stopped the run because its gradient .* not finite.*; lower optimizer\.learning"
    ):
        train(run, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints" / "000002" / "model.safetensors"
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(kept).values())


def test_a_gpu_that_is_too_small_is_told_what_to_lower_and_the_checkpoint_is_kept(
    small_model: Path, tmp_path: Path
) -> None:
    run = small_run(small_model, algorithm={"name": "small.Hoards", "group_size": 2})
    with pytest.raises(RunError, match=r"ran out of GPU memory .* optimizer\.microbatch_tokens \(now 16384\)") as said:
        train(run, tmp_path / "run")
    assert "policy.gradient_checkpointing=true" in str(said.value)
    assert "policy.lora.rank=16" in str(said.value)
    assert (tmp_path / "run" / "checkpoints" / "000000" / "state.json").exists()
    frugal = small_run(
        small_model,
        policy={"model": str(small_model), "dtype": "bfloat16", "gradient_checkpointing": True, "lora": {"rank": 2}},
        optimizer={"name": "adamw_8bit"},
    )
    assert "policy." not in out_of_memory(frugal, 4)
    assert "adamw_8bit" not in out_of_memory(frugal, 4)


def test_a_run_with_an_adapter_stops_and_goes_on_bit_for_bit(small_model: Path, tmp_path: Path) -> None:
    over: dict[str, Any] = {
        "policy": {"model": str(small_model), "device": "cpu", "lora": {"rank": 4}, "gradient_checkpointing": True},
        "algorithm": {"name": "grpo", "group_size": 4, "kl_coef": 0.1},
        "optimizer": {"learning_rate": 1e-2},
        "evaluation": {"tasks": 4},
    }
    train(small_run(small_model, **over, updates=4), tmp_path / "never")
    train(small_run(small_model, **over, updates=2), tmp_path / "stopped")
    resume(tmp_path / "stopped", updates=4)
    one, two = (
        load_file(tmp_path / name / "checkpoints" / "000004" / "adapter_model.safetensors")
        for name in ("never", "stopped")
    )
    start = load_file(tmp_path / "never" / "checkpoints" / "000000" / "adapter_model.safetensors")
    assert len(one) == 28
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, start[name]) for name, tensor in one.items())
    assert not (tmp_path / "never" / "checkpoints" / "000004" / "model.safetensors").exists()
    lines = [
        [line["kl/reference"] for line in read_metrics(tmp_path / name) if "loss" in line]
        for name in ("never", "stopped")
    ]
    assert lines[0] == lines[1]
    # The reference is the model without the adapter, so the first update is at no distance from it.
    assert abs(lines[0][0]) < 1e-6 < abs(lines[0][-1])


# ---- stage 1 alone -----------------------------------------------------------------------------------------------


def test_stage_one_alone_goes_on_where_it_stopped(small_model: Path, tmp_path: Path) -> None:
    run = small_run(small_model, algorithm={"name": "astar_po"}, values={"samples": 2, "batch": 8})
    with pytest.raises(Stopped):
        measure_values(run, tmp_path / "stopped", watch=StopIn("stage 1", steps=16))
    assert len(plays(tmp_path / "stopped")) == 16
    summary = measure_values(run, tmp_path / "stopped")
    assert (summary.tasks, summary.plays) == (12, 24)
    assert summary == measure_values(run, tmp_path / "never")
    assert plays(tmp_path / "stopped") == plays(tmp_path / "never")


def without_values(run: Run) -> Run:
    """`run` under an algorithm that uses no V*, which on a command line would refuse its settings of stage 1."""
    return run.model_copy(update={"algorithm": small_run(Path()).algorithm})


def test_stage_one_alone_asks_no_algorithm_whether_it_uses_v_star(small_model: Path, tmp_path: Path) -> None:
    run = small_run(small_model, algorithm={"name": "astar_po"}, values={"samples": 2})
    alone = measure_values(without_values(run), tmp_path / "grpo")
    assert (alone.tasks, alone.plays) == (12, 24)
    assert alone == measure_values(run, tmp_path / "astar_po")
    assert plays(tmp_path / "grpo") == plays(tmp_path / "astar_po")
    assert [path.name for path in (tmp_path / "grpo").iterdir()] == ["values.sqlite"]


def test_stage_one_alone_leaves_unreachable_tasks_out(small_model: Path, tmp_path: Path) -> None:
    measure_values(riddles_run(small_model, algorithm={"name": "astar_po"}, values={"samples": 1}), tmp_path / "run")
    assert {row[4] for row in plays(tmp_path / "run")} == {f"riddle/{n}" for n in range(13) if n != 3}


def bars(notes: str) -> list[int]:
    """Tasks in each bar of the histograms in `notes`."""
    return [int(found[1]) for found in re.finditer(r"^ *[\d.]+ to +[\d.]+ +(\d+)", notes, re.MULTILINE)]


def test_stage_one_ends_with_a_summary_and_a_histogram_in_the_notes(never_stopped: dict[str, Path]) -> None:
    notes, played = (never_stopped["astar_po"] / "notes.txt").read_text(), plays(never_stopped["astar_po"])
    solved, tasks = sum(row[8] for row in played), len({row[4] for row in played})
    succeeded = f"{solved} of {len(played)} reference plays of {tasks} tasks succeeded"
    none = f"No reference play ever succeeded: 0 of {len(played)} plays of {tasks} tasks"
    assert (succeeded if solved else none) in notes
    assert len(bars(notes)) == 10
    assert sum(bars(notes)) == tasks


def test_under_steps_what_was_played_is_summed_up_at_the_end(never_stopped: dict[str, Path]) -> None:
    notes, played = (never_stopped["reinforce"] / "notes.txt").read_text(), plays(never_stopped["reinforce"])
    assert notes.count(f" of {len(played)} ") == 1
    assert sum(bars(notes)) == len({row[4] for row in played})
    assert not (never_stopped["grpo"] / "notes.txt").read_text().count("V*")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_a_process_does_not_count_the_memory_of_the_one_that_started_it() -> None:
    code = "from astarpo.result import peak_memory; print(peak_memory())"
    large = f"held = b'x' * (2 * 2**30); import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    said = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True).stdout
    assert int(said) < 2**30
