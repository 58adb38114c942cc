"""`list` names what can be named, and says what it is."""

from __future__ import annotations

import json

import pytest
from command_line import run_command

from astarpo import plugins
from astarpo.run import load_preset


def test_list_as_json_holds_everything_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_command(["list", "--json"], monkeypatch, capsys)
    listed = json.loads(said.out)
    assert said.err == ""
    for kind, package in (("environments", "environments"), ("algorithms", "algorithms"), ("curricula", "curriculum")):
        assert [entry["name"] for entry in listed[kind]] == plugins.names(f"astarpo.{package}")
        assert all(entry["summary"] for entry in listed[kind])
    assert all(load_preset(entry["environment"], entry["preset"]) for entry in listed["presets"])


def test_environments_come_with_their_reward_modes_and_ladders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_command(["list", "environments"], monkeypatch, capsys)
    assert "reward modes: " in said.out
    assert "ladders: " in said.out
    assert "algorithms" not in said.out
