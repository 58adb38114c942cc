"""Run the command line as a user does, in this process: importing torch anew for every refusal would take minutes."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from astarpo.cli import main


class Said(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


def run_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int = 100
) -> Said:
    """`astarpo ARGUMENTS`, with a terminal `width` columns wide."""
    monkeypatch.setattr(sys, "argv", ["astarpo", *arguments])
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return Said(code, said.out, said.err)
