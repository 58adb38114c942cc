"""Parts are found by file name, by dotted path, and refused with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from astarpo import plugins
from astarpo.algorithms.base import Algorithm
from astarpo.environments.base import Environment
from astarpo.errors import SettingsError


def test_a_file_name_is_a_key() -> None:
    found = plugins.find("astarpo.environments", "arithmetic", Environment)
    assert found.__module__ == "astarpo.environments.arithmetic"


@pytest.mark.parametrize("package", ["astarpo.environments", "astarpo.algorithms", "astarpo.curriculum"])
def test_shared_modules_are_not_parts(package: str) -> None:
    assert "base" not in plugins.names(package)
    assert plugins.names(package) == sorted(plugins.names(package))


def test_a_near_miss_is_named() -> None:
    with pytest.raises(SettingsError, match="there is no algorithm 'reinforc': did you mean 'reinforce'"):
        plugins.find("astarpo.algorithms", "reinforc", Algorithm)


def test_far_off_names_are_answered_with_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"known: .*grpo"):
        plugins.find("astarpo.algorithms", "zzz", Algorithm)


def test_a_dotted_path_finds_a_users_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_plugin_case.py").write_text(
        "from astarpo.environments.arithmetic import Arithmetic\nclass Mine(Arithmetic): pass\nclass Other: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("own_plugin_case.Mine", "own_plugin_case:Mine"):
        assert plugins.find("astarpo.environments", path, Environment).__name__ == "Mine"
    with pytest.raises(SettingsError, match="not a subclass of"):
        plugins.find("astarpo.environments", "own_plugin_case.Other", Environment)
    with pytest.raises(SettingsError, match="did you mean 'Mine'"):
        plugins.find("astarpo.environments", "own_plugin_case.Mime", Environment)


def test_a_module_that_raises_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin_case.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="it raised ZeroDivisionError: division by zero; mend that module"):
        plugins.load("broken_plugin_case.thing")


@pytest.mark.parametrize("path", ["exact", ".exact", "a..b", "my rewards.exact"])
def test_what_is_no_dotted_path_is_said_to_be_none(path: str) -> None:
    with pytest.raises(SettingsError, match="is not a dotted path"):
        plugins.load(path)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(SettingsError, match="no module named 'no_such_module_here'"):
        plugins.load("no_such_module_here.exact")


OWN = """
from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs

class Unfinished(Algorithm[AlgorithmSettings]):
    Settings = AlgorithmSettings
    needs = Needs()

class Bare(Algorithm[AlgorithmSettings]):
    needs = Needs()
    def loss(self, scored, batch):
        return scored.logp.sum(), {}
"""


def test_what_a_class_of_ones_own_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_method_case.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="Unfinished' does not define loss, which every Algorithm must"):
        plugins.find("astarpo.algorithms", "own_method_case.Unfinished", Algorithm)
    with pytest.raises(SettingsError, match="Bare' does not say which settings it has"):
        plugins.find("astarpo.algorithms", "own_method_case.Bare", Algorithm)
    with pytest.raises(SettingsError, match=r"name the class too: own_method_case\.ClassName"):
        plugins.find("astarpo.algorithms", "own_method_case", Algorithm)
