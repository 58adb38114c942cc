"""Presets, files and overrides end as one validated run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from astarpo.errors import SettingsError
from astarpo.run import Run, load_file, load_preset, merge, override, preset_names

SHELVES = sorted(shelf.name for shelf in (files("astarpo") / "presets").iterdir() if shelf.is_dir())
PRESETS = [(shelf, name) for shelf in SHELVES for name in preset_names(shelf)]


def build(**over: Any) -> Run:
    return Run.build({"environment": "arithmetic", "algorithm": "reinforce", **over})


@pytest.mark.parametrize(("shelf", "name"), PRESETS)
def test_every_preset_is_a_run_that_survives_being_written_down(shelf: str, name: str) -> None:
    home = "arithmetic" if shelf == "any" else shelf
    run = Run.build(merge({"environment": {"name": home}}, load_preset(shelf, name)))
    assert Run.build(run.dump()) == run


@pytest.mark.parametrize(("shelf", "name"), PRESETS)
def test_every_preset_says_on_its_first_line_what_it_is(shelf: str, name: str) -> None:
    first = (files("astarpo") / "presets" / shelf / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_values_on_the_command_line_are_read_as_yaml_and_numbers_as_people_write_them() -> None:
    assert override("a.b", "3") == {"a": {"b": 3}}
    assert override("a", "1e-4") == {"a": 1e-4}
    assert override("a", "[1.5, 1.0]") == {"a": [1.5, 1.0]}
    assert override("a", "true") == {"a": True}
    assert override("a", "tasks.jsonl") == {"a": "tasks.jsonl"}


def test_a_value_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--a\.b=\[1 cannot be read"):
        override("a.b", "[1")


def test_naming_another_part_drops_the_settings_of_the_first() -> None:
    base = {"algorithm": {"name": "grpo", "clip_low": 0.1}}
    assert merge(base, {"algorithm": {"name": "reinforce"}}) == {"algorithm": {"name": "reinforce"}}
    assert merge(base, {"algorithm": {"kl_coef": 1}}) == {"algorithm": {"name": "grpo", "clip_low": 0.1, "kl_coef": 1}}


def test_merging_changes_neither_side() -> None:
    base: dict[str, Any] = {"a": {"b": 1}}
    merge(base, {"a": {"c": 2}})
    assert base == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"updatess": 3}, "run has no setting 'updatess': did you mean 'updates'?"),
        ({"updates": -1}, "updates must be 0 or more, got -1"),
        ({"environment": "aritmetic"}, "there is no environment 'aritmetic': did you mean 'arithmetic'?"),
        ({"environment": {"levels": 1}}, "environment.name is required"),
        ({"curriculum": "unifrm"}, "there is no curriculum 'unifrm': did you mean 'uniform'?"),
        ({"algorithm": {"name": "grpo", "group_size": 1}}, "algorithm.group_size must be 2 or more, got 1"),
        (
            {"algorithm": {"name": "reinforce", "baseline": "group_mean", "group_size": 1}},
            "group_mean needs a group_size of 2 or more, got 1",
        ),
        ({"rollout": {"temperature": 0}}, "rollout.temperature must lie above 0"),
        ({"policy": 3}, "policy must hold settings by name, got 3"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_played(over: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build(**over)
    assert sentence in str(refused.value)


def test_temperature_phases_are_equally_long() -> None:
    run = build(rollout={"temperature": [1.5, 1.0, 0.8]})
    assert [run.rollout.temperature_at(update, 9) for update in range(9)] == [1.5] * 3 + [1.0] * 3 + [0.8] * 3


def test_one_temperature_needs_no_list() -> None:
    assert build(rollout={"temperature": 0.7}).rollout.temperature == (0.7,)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none\.yaml: No such file"):
        load_file(tmp_path / "none.yaml")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("updates: 3\nalgorithm: [1, 2\nseed: 1\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml is not YAML \(line 3\)"):
        load_file(path)


def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(SettingsError, match=r"list\.yaml must hold settings by name, got list"):
        load_file(path)


def test_settings_files_read_1e_4_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("optimizer:\n  learning_rate: 1e-4\n")
    assert load_file(path) == {"optimizer": {"learning_rate": 1e-4}}
