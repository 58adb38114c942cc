"""`play`: a person types replies and sees pages and the score."""

from __future__ import annotations

import io
import sys

import pytest
from command_line import Said, run_command

from astarpo.cli.common import resolve
from astarpo.run import environment


def play(
    replies: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    monkeypatch.setattr(sys, "stdin", io.StringIO(replies))
    return run_command(["play", *arguments], monkeypatch, capsys)


def test_the_known_solution_earns_the_full_score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = environment(resolve("countdown", "default", [], []))
    id = world.ids("train")[3]
    solution = world.task(id).solution()
    assert solution is not None
    said = play("\n".join(solution) + "\n", ["countdown", "--task", id], monkeypatch, capsys)
    assert said.code == 0
    assert f"task {id}" in said.out
    assert "score 1.000, solved." in said.out


def test_giving_up_ends_the_game(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = play("", ["countdown"], monkeypatch, capsys)
    assert said.code == 0
    assert "given up." in said.out
    assert "score 0.000, not solved." in said.out
