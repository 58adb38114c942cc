"""`train --episodes` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run_command

from astarpo.trainer import load_run, train
from small import small_run


def test_the_command_takes_a_run_and_leaves_out_what_a_preset_says_of_playing(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {
        "algorithm": {"name": "reinforce", "group_size": 4},
        "rollout": {"tasks_per_update": 6},
        "values": {"samples": 2},
    }
    train(small_run(small_model, **own, updates=3), tmp_path / "first")
    few = [f"--policy.model={small_model}", "--rollout.tasks_per_update=3", "--algorithm.group_size=2", "--updates=2"]
    few += ["--environment.level=easy", "--rollout.reply_tokens=6", "--rollout.episode_tokens=48"]
    few += ["--evaluation.tasks=4", "--evaluation.samples=0", "--evaluation.every=0"]
    # The preset climbs a ladder, samples at two temperatures and has a stage 1 of its own.
    command = ["train", "arithmetic", "--preset=reinforce", "--episodes=first", "--out=run", *few]
    planned = run_command([*command, "--dry-run"], monkeypatch, capsys)
    assert planned.code == 0, planned.err
    assert "36 times 2 attempts at one of 12 tasks, 3 of them an update" in planned.out
    said = run_command([*command, "--json"], monkeypatch, capsys)
    assert said.code == 0, said.err
    assert json.loads(said.out)["updates"] == 2
    run = load_run(tmp_path / "run")
    assert run.episodes == str(tmp_path / "first")
    assert run.rollout.temperature == (1.0,)
    monkeypatch.chdir(tmp_path / "first")
    more = run_command(["train", "--resume", "../run", "--updates=3", "--json"], monkeypatch, capsys)
    assert more.code == 0, more.err
    both = run_command(["train", "--resume", "../run", "--episodes=.."], monkeypatch, capsys)
    assert (both.code, both.err.startswith("astarpo: --episodes cannot go with --resume")) == (2, True)
    lost = run_command(["train", "arithmetic", "--episodes=nowhere", "--out=other", *few], monkeypatch, capsys)
    assert lost.code == 2
    assert "nowhere is no folder: name a run, or a folder of episode files" in lost.err
