"""What every environment promises, checked on every environment there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from astarpo import plugins
from astarpo.environments.base import Environment
from astarpo.environments.checks import check_environment
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.types import SPLITS

NAMES = plugins.names("astarpo.environments")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records for `prompts`, the one environment that cannot be built without any."""
    path = tmp_path_factory.mktemp("data") / "tasks.jsonl"
    lines = [json.dumps({"prompt": f"Say {n}.", "answer": str(n)}) for n in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def build(name: str, data: Path, **given: Any) -> Environment[Any]:
    kind: type[Environment[Any]] = plugins.find("astarpo.environments", name, Environment)
    needs_data = kind.Settings.model_fields.get("data") is not None
    return kind(kind.Settings.parse({"name": name, **({"data": str(data)} if needs_data else {}), **given}))


@pytest.mark.parametrize("name", NAMES)
def test_every_check_passes(name: str, data: Path) -> None:
    report = check_environment(build(name, data))
    broken = [found for found in report.findings if found.severity == "error"]
    assert not broken, broken
    assert report.unreachable == ()


@pytest.mark.parametrize("observation", ["compact", "text_rich"])
def test_every_check_passes_on_the_real_catalogue(observation: str, webshop_small: Path, data: Path) -> None:
    environment = build("webshop", data, catalogue=str(webshop_small), observation=observation)
    report = check_environment(environment, tasks=30, quick=True)
    assert not report.refuse, report.findings
    assert report.unreachable == ()


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_bounds_defaults_and_descriptions(name: str, data: Path) -> None:
    environment = build(name, data)
    kind = type(environment.settings)
    assert all(field.description for field in kind.model_fields.values())
    assert environment.settings.name == name
    assert kind.model_validate(environment.settings.model_dump(mode="json")) == environment.settings


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_distinct_where_they_are_held_out_and_name_their_level(name: str, data: Path) -> None:
    environment = build(name, data)
    for split in SPLITS:
        for levels in (None, *environment.ladders.values()):
            for level in levels or (None,):
                ids = environment.ids(split, level)
                assert split == "train" or len(set(ids)) == len(ids)
                assert all(environment.task(id).id == id for id in ids[:20])
                if level is not None and environment.level(ids[0]):
                    assert {environment.level(id) for id in ids[:200]} == {level}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_task_or_reward_mode_is_refused_in_a_sentence(name: str, data: Path) -> None:
    environment = build(name, data)
    for id in ("", "nothing", f"{name}/", f"{name}/x/y/z"):
        with pytest.raises(EnvironmentContractError, match="no task"):
            environment.task(id)
    with pytest.raises(SettingsError, match="known: "):
        environment.reward_mode("gold")


@pytest.mark.parametrize("name", NAMES)
def test_every_style_plays_any_task_through_the_text(name: str, data: Path) -> None:
    environment = build(name, data)
    for style in environment.styles:
        for id in environment.ids("train")[:5]:
            replies = environment.demonstrate(id, style, 1)
            assert replies == environment.demonstrate(id, style, 1)
            assert 1 <= len(replies) <= environment.settings.max_turns
            task = environment.task(id)
            task.start()
            steps = [task.step(reply) for reply in replies]
            assert all(step.valid for step in steps)
            assert all(step.ended is None for step in steps[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_is_the_same_for_the_same_settings(name: str, data: Path) -> None:
    assert build(name, data).fingerprint() == build(name, data).fingerprint()
