"""The examples of docs/environments.md do what the page says, as written there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from astarpo import plugins
from astarpo.cli import main
from astarpo.environments.base import Environment
from astarpo.environments.checks import check_environment
from astarpo.environments.prompts import Prompts, PromptsSettings
from astarpo.environments.webshop import Webshop, WebshopSettings
from astarpo.environments.webshop.scripts import YARDSTICKS
from astarpo.types import SPLITS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "environments.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files that the page shows, as the current folder, importable from it."""
    for language, text in BLOCKS:
        named = re.match(r"# (\w+\.py)\n", text)
        if named is not None:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        elif language == "jsonl":
            (tmp_path / "tasks.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("my_rewards", "my_game"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def command(environment: str) -> str:
    """The page's own `astarpo train` command for `environment`."""
    lines = "".join(text for language, text in BLOCKS if language == "console").splitlines()
    (line,) = (line for line in lines if line.startswith(f"astarpo train {environment}"))
    return line


def settings_of_command(environment: str) -> dict[str, str]:
    """The settings that the command gives."""
    return dict(re.findall(r"--environment\.(\w+) (\S+)", command(environment)))


@pytest.mark.usefixtures("folder")
def test_prompts_in_ten_lines() -> None:
    given = settings_of_command("prompts")
    assert set(given) == {"data", "reward"}
    environment = Prompts(PromptsSettings.parse(given))
    (id,) = environment.ids("test")
    right, wrong = environment.task(id).step(" stop\n"), environment.task(id).step("pots")
    assert (right.success, right.reward, wrong.success, wrong.reward) == (True, 1.0, False, 0.0)
    report = check_environment(environment)
    assert not report.refuse, report.findings
    # With the field that holds solutions, the check plays them too.
    told = check_environment(Prompts(PromptsSettings.parse({**given, "solution_field": "answer"})))
    assert {finding.severity for finding in told.findings} == {"ok"}
    block = next(text for _, text in BLOCKS if "def exact" in text)
    console = next(text for language, text in BLOCKS if language == "console")
    data = next(text for language, text in BLOCKS if language == "jsonl")
    assert len((block + console + data).splitlines()) <= 10


def test_a_game_of_several_turns_in_one_file(folder: Path) -> None:
    found: type[Environment[Any]] = plugins.find("astarpo.environments", "my_game.Guess", Environment)
    assert settings_of_command("my_game.Guess") == {}
    environment = found(found.Settings.parse({"name": "my_game.Guess"}))
    report = check_environment(environment)
    assert {finding.severity for finding in report.findings} == {"ok"}, report.findings
    task = environment.task("guess/42")
    assert [task.step(word).text for word in ("50", "forty", "40")] == [
        "lower",
        "Write one number from 1 to 100.",
        "higher",
    ]
    last = [text for language, text in BLOCKS if language == "python"][-1]
    done = subprocess.run([sys.executable, "-c", last], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("environment", ["prompts", "my_game.Guess"])
def test_the_commands_that_the_page_gives_train(
    environment: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is added only shortens the run: the model is the embedded one that a newcomer gets.
    shorter = ["--updates=2", "--evaluation.tasks=4", "--evaluation.dev_tasks=4"]
    monkeypatch.setattr(sys, "argv", [*shlex.split(command(environment)), *shorter])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().err
    (run,) = (folder / "runs").iterdir()
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["environment"], result["updates"]) == (environment, 2)
    assert result["before"]["n"] == result["after"]["n"] == {"prompts": 1, "my_game.Guess": 4}[environment]
    assert len((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) >= 2


def test_the_episode_shown_of_webshop_is_played_as_written() -> None:
    shown = next(text for language, text in BLOCKS if language == "text" and text.startswith("find me "))
    shop = Webshop(WebshopSettings())
    id = re.findall(r"`(webshop/\S+)`", PAGE.read_text(encoding="utf-8"))[0]
    task = shop.task(id)
    told = [task.start()]
    for reply in re.findall("^> (.*)$", shown, re.MULTILINE):
        told += [f"> {reply}", task.step(reply).text]
    assert "\n".join(told) == shown


def test_webshops_tables_name_its_settings_modes_and_tasks() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## `webshop`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    settings = set(WebshopSettings.model_fields) - {"name"}
    assert sorted(rows) == sorted([*settings, *Webshop.rewards])
    for name, default in re.findall(r"^\| `(\w+)` \| ([\w-]+) \|", section, re.MULTILINE):
        if name in settings:
            known = WebshopSettings.model_fields[name].default
            assert default == ("none" if known is None else str(known))
    shop = Webshop(WebshopSettings())
    assert f"| generated, 1000 products | {' | '.join(str(len(shop.ids(split))) for split in SPLITS)} |" in section
    assert all(label in section for label in YARDSTICKS)
