"""A comparison of small real runs, from the command line to its page; killed on the way, it ends as if never killed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Said, run_command

from astarpo.cli import main
from astarpo.compare.charts import interpolated
from astarpo.compare.conduct import PAGE, read_document, write_page
from astarpo.compare.design import points
from astarpo.compare.intervals import paired_difference, success_interval
from astarpo.compare.jobs import _sentence, alone, finished
from astarpo.compare.page import page
from astarpo.compare.results import verdict
from astarpo.errors import RunError
from astarpo.evaluate import wilson
from astarpo.journal import read_metrics, read_outcomes
from astarpo.trainer import load_run, train
from test_trainer import assert_same

ARMS = """
grpo: {}
sft: {algorithm: {name: weighted_sft, group_size: 4, baseline: v_star}, values: {tasks: 6, samples: 2}}
"""


def arguments(model: Path, arms: Path, out: Path) -> list[str]:
    return [
        "compare",
        "arithmetic",
        f"--arms={arms}",
        "--seeds=2",
        "--budget=episodes=40",
        "--sweep=none",
        "--jobs=2",
        f"--out={out}",
        "--json",
        f"--policy.model={model}",
        "--environment.level=easy",
        "--rollout.tasks_per_update=3",
        "--rollout.reply_tokens=6",
        "--rollout.episode_tokens=48",
        "--optimizer.warmup=0",
        "--evaluation.tasks=12",
        "--evaluation.samples=0",
        "--evaluation.dev_tasks=4",
    ]


@pytest.fixture(scope="module")
def killed(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Said]:
    """A comparison whose process was killed while its first runs trained, and what the same command then said."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "arms.yaml").write_text(ARMS)
    command = arguments(small_model, folder / "arms.yaml", folder / "out")
    running = subprocess.Popen(
        [sys.executable, "-m", "astarpo", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(folder.glob("out/runs/*/*/version.json")):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not list(folder.glob("out/runs/*/*/result.json"))
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setattr(sys, "argv", ["astarpo", *command])
        try:
            main()
        except SystemExit as ended:
            return folder / "out", command, Said(int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends by leaving")


def test_a_killed_comparison_goes_on_and_its_runs_end_as_if_it_had_not_been(
    killed: tuple[Path, list[str], Said], tmp_path: Path
) -> None:
    folder, _, said = killed
    assert said.code == 0, said.err
    run = load_run(folder / "runs/grpo/seed-0")
    train(run, tmp_path / "alone")
    assert_same(tmp_path / "alone", folder / "runs/grpo/seed-0")


def test_every_arm_has_the_same_budget_tasks_and_start_and_stage_one_counts(
    killed: tuple[Path, list[str], Said],
) -> None:
    folder, _, said = killed
    found = json.loads(said.out)
    assert read_document(folder) == {key: value for key, value in found.items() if key not in {"folder", "page"}}
    grpo, sft = found["arms"]
    # grpo: 3 × 8 an update; sft: 6 × 2 reference plays, then 3 × 4 an update.
    assert [run["episodes"] for run in grpo["runs"]] == [48, 48]
    assert [(run["episodes"], run["updates"]) for run in sft["runs"]] == [(48, 3), (48, 3)]
    runs = [folder / run["folder"] for arm in found["arms"] for run in arm["runs"]]
    assert len({json.dumps(read_outcomes(run, "before")) for run in runs}) == 1
    assert len({tuple(read_outcomes(run, "after")) for run in runs}) == 1
    for run in runs:
        curve = next(one["curve"] for arm in found["arms"] for one in arm["runs"] if folder / one["folder"] == run)
        on_dev = [line["evaluation"]["success"] for line in read_metrics(run) if "evaluation" in line]
        assert [point["success"] for point in curve] == on_dev
        assert curve[0]["episodes"] == 0
        assert curve[-1]["episodes"] == 48


def test_intervals_and_differences_are_those_of_the_outcomes(killed: tuple[Path, list[str], Said]) -> None:
    folder, _, _ = killed
    found = read_document(folder)
    tasks = sorted(read_outcomes(folder / "runs/grpo/seed-0", "after"))

    def outcomes(arm: str) -> Any:
        seen = [read_outcomes(folder / f"runs/{arm}/seed-{seed}", "after") for seed in (0, 1)]
        return np.array([[float(one[task][0]) for task in tasks] for one in seen])

    for arm in found["arms"]:
        interval = success_interval(outcomes(arm["name"]))
        assert (arm["success"]["mean"], arm["success"]["low"]) == pytest.approx((interval.mean, interval.low))
    (pair,) = found["pairs"]
    apart = paired_difference(outcomes("grpo"), outcomes("sft"))
    assert (pair["mean"], pair["low"], pair["high"]) == pytest.approx((apart.mean, apart.low, apart.high))
    before = found["untrained"]["success"]
    assert (before["low"], before["high"]) == pytest.approx(wilson(round(12 * before["mean"]), 12))


def test_a_finished_comparison_asked_again_plays_nothing_and_draws_its_table(
    killed: tuple[Path, list[str], Said], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, _ = killed
    written = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/result.json")}
    assert len(written) == 4
    said = run_command([one for one in command if one != "--json"], monkeypatch, capsys, width=160)
    assert said.code == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    found = read_document(folder)
    for arm in found["arms"]:
        line = next(line for line in said.out.splitlines() if line.startswith(arm["name"]))
        assert f"{100 * arm['success']['mean']:.1f} %" in line
        assert "48" in line
    assert "untrained" in said.out
    assert " ".join(found["verdict"].replace("\u00a0", " ").split()) in " ".join(
        said.out.replace("\u00a0", " ").split()
    )


class Tags(HTMLParser):
    """Every tag with its attributes, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it_and_says_what_the_data_say(killed: tuple[Path, list[str], Said]) -> None:
    folder, _, _ = killed
    text, found = (folder / PAGE).read_text("utf-8"), read_document(folder)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe"} == set()
    assert not [
        value for _, attrs in tags.seen for value in attrs.values() if re.match(r"(https?:)?//\S+\.js", value or "")
    ]
    assert [tag for tag, _ in tags.seen].count("svg") == 2
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    for arm in found["arms"]:
        assert f"{100 * arm['success']['low']:.1f} to {100 * arm['success']['high']:.1f}\u00a0%" in text
        assert f"{arm['snr']['start']['snr']:.2f}" in text
    assert found["pairs"][0]["verdict"] in text
    assert "algorithm.baseline" in text
    assert "undecided" in found["verdict"] or "better" in found["verdict"]
    # The page can be made again from the data alone.
    assert page(found) == text


def test_controls_failures_and_a_sweep_stand_on_the_page(killed: tuple[Path, list[str], Said], tmp_path: Path) -> None:
    found = read_document(killed[0])
    arm = found["arms"][0]
    up = {"mean": 0.3, "low": 0.2, "high": 0.4, "verdict": "better"}
    found["controls"] = [
        {
            "control": "shuffled_rewards",
            "arm": "grpo",
            "success": {"mean": 0.432, "low": 0.4, "high": 0.5},
            "over_untrained": up,
            "runs": arm["runs"],
        }
    ]
    found["failures"] = [{"run": "runs/sft/seed-1", "why": "<disk> is full."}]
    arm["sweep"] = [
        {"rate": 3e-4, "temperature": [1.0], "dev": 0.5, "chosen": True},
        {"rate": 1e-4, "temperature": [1.0], "dev": None, "chosen": False},
    ]
    found["arms"][1]["success"] = found["arms"][1]["cost"] = None
    found["arms"][1]["runs"] = []
    found["verdict"] = verdict(found)
    assert found["verdict"].endswith("Rose without any signal: grpo under shuffled_rewards.")
    text = write_page(found, tmp_path).read_text("utf-8")
    for said in (
        "grpo, shuffled rewards",
        "43.2\u00a0%",
        "&lt;disk&gt; is full.",
        "0.0003",
        "failed",
        "fewer than two",
    ):
        assert said in text


def test_a_second_comparison_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(RunError, match="another comparison is at work"), alone(tmp_path):
        pass


def test_why_a_run_failed_is_one_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("stage 1\nastarpo: optimizer.clip must be above 0,\ngot -1.\n")
    assert _sentence(log, 2) == "optimizer.clip must be above 0, got -1."
    assert "ended by SIGKILL" in _sentence(log, -9)
    log.write_text("Traceback\n  ...\nKeyError: 'x'\n")
    assert _sentence(log, 1) == f"its process ended with code 1: KeyError: 'x' (all of it is in {log})."


def test_a_curve_is_drawn_as_far_as_every_seed_goes() -> None:
    one = [{"episodes": 0, "success": 0.0}, {"episodes": 10, "success": 1.0}]
    two = [{"episodes": 0, "success": 0.0}, {"episodes": 20, "success": 1.0}]
    x, y = interpolated([one, two], "episodes")
    assert x[-1] == 10
    assert y[:, -1].tolist() == [1.0, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_failed_arm_does_not_stop_the_others_and_ctrl_c_stops_all(
    how: signal.Signals,
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    arms = tmp_path / "arms.yaml"
    arms.write_text("good: {}\nbad: {rollout: {episode_tokens: 8}}\n")
    command = [one for one in arguments(small_model, arms, tmp_path / "out") if "episode_tokens" not in one]
    running = subprocess.Popen(
        [sys.executable, "-m", "astarpo", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests are a background job, Ctrl-C would be ignored by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "out/runs/good/seed-0/version.json").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(how)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert f"Go on with the same command and --out {tmp_path / 'out'}" in err
    said = run_command(command, monkeypatch, capsys)
    assert said.code == 1
    found = json.loads(said.out)
    assert [one["run"] for one in found["failures"]] == ["runs/bad/seed-0", "runs/bad/seed-1"]
    assert "rollout.episode_tokens is 8" in found["failures"][0]["why"]
    assert "\n" not in found["failures"][0]["why"]
    assert [len(arm["runs"]) for arm in found["arms"]] == [2, 0]


@pytest.mark.slow
def test_the_sweep_chooses_on_dev_and_the_runs_use_what_it_chose(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    arms = tmp_path / "arms.yaml"
    arms.write_text("grpo: {}\n")
    command = [one for one in arguments(small_model, arms, tmp_path / "out") if not one.startswith("--sweep")]
    said = run_command([*command, "--controls=constant_reward"], monkeypatch, capsys)
    assert said.code == 0, said.err
    (arm,) = json.loads(said.out)["arms"]
    assert len(arm["sweep"]) == len(points())
    (chosen,) = [one for one in arm["sweep"] if one["chosen"]]
    assert chosen["dev"] == max(one["dev"] for one in arm["sweep"])
    run = load_run(tmp_path / "out/runs/grpo/seed-0")
    assert (run.optimizer.learning_rate, list(run.rollout.temperature)) == (chosen["rate"], chosen["temperature"])
    (control,) = json.loads(said.out)["controls"]
    # GRPO has nothing to learn from equal rewards: the policy is the untrained one.
    assert control["over_untrained"]["mean"] == 0.0
    assert finished(tmp_path / "out/controls/constant_reward/grpo/seed-1") is not None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([], "compare needs either --algorithms A,B,... or --arms FILE"),
        (["--algorithms=grpo", "--seeds=1"], "--seeds must be 2 or more, got 1: one seed has no interval"),
        (["--algorithms=grpo", "--sweep=large"], "--sweep must be none or small, got 'large'"),
        (["--algorithms=grpo", "--jobs=0"], "--jobs must be 1 or more, got 0"),
        (["--algorithms=grpo", "--controls=untrained"], "--controls knows shuffled_rewards, constant_reward"),
        (["--algorithms=grpo", "--snr-at=/nowhere"], "--snr-at must be a run or a model folder"),
        (["--algorithms=grpo,rlo"], "did you mean 'rloo'?"),
        (["--algorithms=grpo", "--optimizer.clipp=1"], "optimizer has no setting 'clipp': did you mean 'clip'?"),
        (["--algorithms=grpo", "--budget.episodes=3"], "budget"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_played(
    more: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run_command(["compare", "arithmetic", "--budget=episodes=100", *more], monkeypatch, capsys)
    assert said.code == 2
    assert why in said.err
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []
