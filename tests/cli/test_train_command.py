"""`train` and what follows it, from end to end through the command line, with a model of a few thousand parameters."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Said, run_command
from rich.console import Console

from astarpo.cli.train import show, stopped
from astarpo.evaluate import summarise
from astarpo.result import Result
from astarpo.types import Ended, Episode, Reply, Step, Turn

Command = Callable[..., Said]

SMALL = [
    "--evaluation.tasks=6",
    "--evaluation.dev_tasks=4",
    "--evaluation.every=2",
    "--rollout.tasks_per_update=2",
    "--rollout.reply_tokens=12",
    "--algorithm=grpo",
    "--algorithm.group_size=2",
]
TWO_REWARDS = ["--algorithm=astar_po", "--values.tasks=2", "--values.samples=1", "--values.reward=partial"]


@pytest.fixture
def astarpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """`astarpo ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(list(arguments), monkeypatch, capsys)


def episode(*, success: bool) -> Episode:
    turn = Turn("", (1,), Reply((2,), (-1.0,), "", True), Step(), 0.0)
    return Episode("a", 0, (turn,), Ended.ANSWERED, success, float(success), 1.0, 0)


def finished(said: Said) -> Said:
    assert said.code == 0, said.err
    return said


def test_a_run_ends_with_one_table_and_leaves_a_result_and_a_curve(
    astarpo: Command, small_model: Path, tmp_path: Path
) -> None:
    said = finished(astarpo("train", "arithmetic", f"--policy.model={small_model}", "--updates=2", *SMALL))
    rows = [line for line in said.out.splitlines() if "greedy" in line or "sampled" in line]
    assert [("before" in row, "after" in row, "sampled" in row) for row in rows[:4]] == [
        (True, False, False),
        (False, False, True),
        (False, True, False),
        (False, False, True),
    ]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("arithmetic-default-")
    assert f"run    runs/{folder.name}" in said.out
    assert f"curve  runs/{folder.name}/curve.png" in said.out
    assert (folder / "curve.png").stat().st_size > 1000
    assert "training: 2/2" in said.err


def test_train_resume_evaluate_and_watch_as_json(astarpo: Command, small_model: Path) -> None:
    trained = astarpo(
        "train", "arithmetic", f"--policy.model={small_model}", "--updates=2", "--out=run", "--json", *SMALL
    )
    result = json.loads(finished(trained).out)
    assert {"environment", "algorithm", "updates", "seconds", "before", "after"} <= set(result)
    for when in ("before", "after"):
        assert {"success", "success_low", "success_high", "score", "n", "sampled"} <= set(result[when])
    assert (result["environment"], result["algorithm"], result["updates"]) == ("arithmetic", "grpo", 2)
    assert json.loads(Path("run/result.json").read_text())["after"] == result["after"]

    again = astarpo("train", "arithmetic", "--out=run", f"--policy.model={small_model}", *SMALL)
    assert again.code == 2
    assert "run holds a run already" in again.err
    assert json.loads(Path("run/result.json").read_text())["updates"] == 2

    other = astarpo("train", "countdown", "--resume", "run")
    assert other.code == 2
    assert "the run in run is one of 'arithmetic', not of 'countdown'" in other.err

    resumed = json.loads(finished(astarpo("train", "--resume", "run", "--updates=3", "--json")).out)
    assert resumed["updates"] == 3

    seen = json.loads(finished(astarpo("evaluate", "run", "arithmetic", "--json")).out)
    assert seen["success"] == resumed["after"]["success"]
    assert seen["n"] == 6

    best = finished(astarpo("evaluate", "run", "arithmetic", "--checkpoint=best", "--split=dev"))
    assert "best of run" in best.out

    watched = json.loads(finished(astarpo("play", "arithmetic", "--policy=run", "--json")).out)
    assert watched["turns"][0]["observation"]
    assert "score" in watched

    shown = finished(astarpo("play", "arithmetic", "--policy=run"))
    assert "ended: " in shown.out


@pytest.mark.parametrize("command", [["evaluate", "run", "arithmetic"], ["play", "arithmetic", "--policy=run"]])
def test_a_run_of_another_version_is_refused_by_what_would_use_it(
    command: list[str], astarpo: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    # Another version may know settings that this one does not.
    (run / "settings.yaml").write_text("environment: {name: arithmetic}\nlearning_speed: 3\n")
    (run / "version.json").write_text('{"version": 99}')
    said = astarpo(*command)
    assert said.code == 2
    assert said.err == "astarpo: run is a run of version 99, this is 1: use the astarpo that wrote it.\n"


def test_a_dry_run_says_what_an_update_costs_and_leaves_nothing(
    astarpo: Command, small_model: Path, tmp_path: Path
) -> None:
    said = finished(astarpo("train", "arithmetic", f"--policy.model={small_model}", "--dry-run", *SMALL))
    assert "group_size: 2" in said.out
    assert "2 tasks × 2 attempts = 4 episodes" in said.out
    planned = json.loads(
        finished(astarpo("train", "arithmetic", f"--policy.model={small_model}", "--dry-run", "--json", *SMALL)).out
    )
    assert planned["plan"]["episodes"] == 4
    assert planned["settings"]["algorithm"]["group_size"] == 2
    assert planned["plan"]["warnings"] == []
    two = astarpo("train", "arithmetic", "--dry-run", f"--policy.model={small_model}", *SMALL[:-2], *TWO_REWARDS)
    assert "WARNING: V* is estimated under the reward 'partial'" in finished(two).out
    assert list(tmp_path.iterdir()) == []


def test_values_plays_the_reference_and_goes_on_where_it_stopped(astarpo: Command, small_model: Path) -> None:
    command = ["values", "arithmetic", f"--policy.model={small_model}", "--out=table", "--json"]
    few = ["--values.tasks=3", "--values.samples=2", "--rollout.reply_tokens=8", "--rollout.tasks_per_update=2"]
    first = json.loads(finished(astarpo(*command, *few)).out)
    assert first["plays"] == 6
    assert json.loads(finished(astarpo(*command, *few)).out)["plays"] == 6
    assert "plays of 3 tasks" in finished(astarpo(*[word for word in command if word != "--json"], *few)).out


def test_values_works_with_a_preset_whose_algorithm_uses_none(astarpo: Command, small_model: Path) -> None:
    few = ["--values.tasks=3", "--values.samples=2", "--rollout.reply_tokens=8", "--rollout.tasks_per_update=2"]
    told = finished(astarpo("values", "arithmetic", f"--policy.model={small_model}", "--json", "--out=table", *few))
    assert json.loads(told.out)["plays"] == 6
    assert [path.name for path in Path("table").iterdir()] == ["values.sqlite"]


def test_ctrl_c_before_the_first_checkpoint_says_that_resuming_starts_over(tmp_path: Path) -> None:
    assert stopped(tmp_path) == "stopped before anything was kept."
    (tmp_path / "version.json").write_text("{}")
    assert stopped(tmp_path) == (
        "stopped before the first checkpoint. Start over, reference plays kept, with: "
        f"astarpo train --resume {tmp_path}"
    )
    (tmp_path / "checkpoints" / "000000").mkdir(parents=True)
    assert stopped(tmp_path) == f"stopped. Go on with: astarpo train --resume {tmp_path}"


def test_warnings_stand_under_the_table() -> None:
    seen = summarise([episode(success=False)], split="test", decoding="greedy")
    result = Result(Path("run"), "arithmetic", "astar_po", 1, 1.0, seen, seen, warnings=("two [rewards]",))
    console = Console(file=io.StringIO(), width=80)
    show(result, Path("run/curve.png"), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines.index("WARNING: two [rewards]") > max(i for i, line in enumerate(lines) if "greedy" in line)


def test_two_rewards_are_loud_and_a_refused_run_names_no_folder(astarpo: Command, small_model: Path) -> None:
    few, model = ["--updates=1", *SMALL[:-2], *TWO_REWARDS], f"--policy.model={small_model}"
    said = finished(astarpo("train", "arithmetic", model, "--out=run", *few))
    assert "WARNING: V* is estimated under the reward 'partial' and the policy is trained on 'score'" in said.err
    assert "WARNING: V* is estimated under the reward 'partial'" in said.out
    assert "run folder: run" in said.err
    refused = astarpo("train", "small.Talk", model, "--out=other", *SMALL)
    assert refused.code == 2
    assert "fails its pre-flight check" in refused.err
    assert "run folder" not in refused.err
    assert not Path("other").exists()


def test_ctrl_c_says_how_to_go_on(small_model: Path, tmp_path: Path) -> None:
    command = ["train", "arithmetic", f"--policy.model={small_model}", "--updates=10000", "--out=run", *SMALL]
    running = subprocess.Popen(
        [sys.executable, "-m", "astarpo", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoints" / "000002").exists():
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "stopped. Go on with: astarpo train --resume run"
    assert "Traceback" not in err
    assert out == ""
