"""An algorithm that somebody adds, as docs/algorithms.md has it, is one for the command line too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run_command

import astarpo.algorithms

PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's algorithm, which also stands among the algorithms as `imitate.py`."""
    code = PAGE.read_text("utf-8").split("```python\n")[1].split("```")[0]
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "imitate.py").write_text(code)
    monkeypatch.setattr(astarpo.algorithms, "__path__", [*astarpo.algorithms.__path__, str(tmp_path / "added")])
    yield code
    sys.modules.pop("astarpo.algorithms.imitate", None)
    vars(astarpo.algorithms).pop("imitate", None)


@pytest.mark.parametrize("by_path", [False, True], ids=["a file among the algorithms", "a dotted path"])
def test_the_command_line_trains_with_it(
    by_path: bool,
    code: str,
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_methods.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = "my_methods.Imitate" if by_path else "imitate"
    few = [f"--policy.model={small_model}", "--environment.level=easy", "--environment.reward=partial"]
    few += ["--rollout.tasks_per_update=3", "--rollout.reply_tokens=6", "--algorithm.threshold=0.1"]
    few += ["--evaluation.tasks=4", "--evaluation.samples=0", "--evaluation.every=0", "--updates=2", "--out=run"]
    said = run_command(["train", "arithmetic", f"--algorithm.name={name}", *few, "--json"], monkeypatch, capsys)
    assert said.code == 0, said.err
    result: dict[str, Any] = json.loads(said.out)
    assert (result["algorithm"], result["updates"]) == (name, 2)
    if not by_path:
        listed = run_command(["list", "--json"], monkeypatch, capsys)
        algorithms = {one["name"]: one["summary"] for one in json.loads(listed.out)["algorithms"]}
        assert algorithms[name] == "Imitate what earned enough."
