"""Preset, then files, then overrides, then named options; overrides mean the same in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from astarpo.cli import app
from astarpo.cli.common import SECTIONS, EnvironmentCommand, SettingsCommand, resolve, split_overrides
from astarpo.cli.evaluate import EvaluateCommand
from astarpo.cli.play import PlayCommand
from astarpo.cli.settings_help import sections
from astarpo.cli.train import new_folder
from astarpo.cli.values import ValuesCommand
from astarpo.cli.warm_start import RecipeCommand
from astarpo.errors import SettingsError
from astarpo.run import Run
from astarpo.warm_start import Recipe

OPTIONS = {"--updates", "--json", "--keep-checkpoints"}


def split(*arguments: str) -> tuple[list[str], list[tuple[str, str]]]:
    return split_overrides(arguments, OPTIONS, SECTIONS, "astarpo train")


def test_the_sections_of_the_command_line_are_those_of_a_run() -> None:
    assert {name for name in Run.model_fields if name not in {"updates", "seed", "preset"}} == {
        *SECTIONS,
        "episodes",
        "control",
        "sinks",
        "checkpoint_every",
        "keep_checkpoints",
    }


def test_the_sections_of_warm_start_are_those_of_a_recipe() -> None:
    assert {section.partition(".")[0] for section in RecipeCommand.sections} == set(Recipe.model_fields)


@pytest.mark.parametrize("command", [EnvironmentCommand, EvaluateCommand, PlayCommand, ValuesCommand])
def test_the_settings_a_command_takes_are_those_of_a_run(command: type[SettingsCommand]) -> None:
    known = {
        line.name for _, _, lines in sections({"environment": "arithmetic", "algorithm": "grpo"}) for line in lines
    }
    # A section within a section stands for all in it.
    known |= {name.rsplit(".", 1)[0] for name in known}
    assert all(section in {*SECTIONS, *known} for section in command.sections)


def test_settings_are_told_from_options() -> None:
    assert split("arithmetic", "--updates", "3", "--optimizer.clip=2", "--json") == (
        ["arithmetic", "--updates", "3", "--json"],
        [("optimizer.clip", "2")],
    )


def test_a_setting_takes_its_value_from_the_next_word_even_a_negative_number() -> None:
    assert split("--algorithm.beta", "-1", "arithmetic") == (["arithmetic"], [("algorithm.beta", "-1")])


@pytest.mark.parametrize("argument", ["--optimizer.clip=2", "--policy.model=/nowhere", "--evaluation=1"])
def test_a_setting_that_a_command_does_not_read_is_refused(argument: str) -> None:
    with pytest.raises(SettingsError) as refused:
        split_overrides([argument], OPTIONS, ["environment", "policy.rules"], "astarpo look")
    written = argument.partition("=")[0]
    assert str(refused.value) == (
        f"astarpo look would ignore {written!r}: of settings it reads environment, policy.rules only; leave it out."
    )


def test_a_slip_in_a_setting_that_a_command_reads_is_mended() -> None:
    with pytest.raises(SettingsError, match=r"has no option '--policy\.rule': did you mean '--policy\.rules'\?"):
        split_overrides(["--policy.rule=1"], OPTIONS, ["environment", "policy.rules"], "astarpo look")


def test_dashes_in_a_setting_are_underscores() -> None:
    assert split("--optimizer.weight-decay=0.1")[1] == [("optimizer.weight_decay", "0.1")]


def test_an_equals_sign_in_a_value_stays() -> None:
    assert split("--environment.data=a=b")[1] == [("environment.data", "a=b")]


def test_nothing_after_two_dashes_is_a_setting() -> None:
    assert split("--", "--optimizer.clip=2") == (["--", "--optimizer.clip=2"], [])


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--optimizer\.clip needs a value"):
        split("--optimizer.clip", "--json")


def test_later_layers_win(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("updates: 11\nseed: 1\noptimizer: {clip: 0.1, weight_decay: 0.1}\n")
    two.write_text("optimizer: {clip: 0.2}\n")
    overrides = [("optimizer.clip", "0.3")]
    assert resolve("countdown", "default", [one], []).optimizer.clip == 0.1
    assert resolve("countdown", "default", [one, two], []).optimizer.clip == 0.2
    run = resolve("countdown", "default", [one, two], overrides, updates=33, seed=None)
    assert (run.updates, run.seed, run.optimizer.clip, run.optimizer.weight_decay) == (33, 1, 0.3, 0.1)
    assert run.preset == "default"


def test_another_backend_leaves_the_settings_of_the_one_before(tmp_path: Path) -> None:
    own = tmp_path / "settings.yaml"
    own.write_text("rollout: {slots: 7, backend: vllm, vllm: {url: 'http://somewhere:8000'}}\n")
    here = resolve("countdown", "default", [own], [("rollout.backend", "huggingface")]).rollout
    assert (here.backend, here.vllm.url, here.slots) == ("huggingface", "", 7)
    same = resolve("countdown", "default", [own], [("rollout.backend", "vllm"), ("rollout.vllm.timeout", "9")]).rollout
    assert (same.backend, same.vllm.url, same.vllm.timeout) == ("vllm", "http://somewhere:8000", 9.0)
    with pytest.raises(SettingsError, match=r"rollout\.vllm\.url does nothing unless backend is vllm"):
        resolve("countdown", "default", [], [("rollout.backend", "huggingface"), ("rollout.vllm.url", "http://x")])


@pytest.mark.parametrize("name", ["algorithm", "algorithm.name"])
def test_overrides_of_a_part_hold_in_whatever_order_they_are_typed(name: str) -> None:
    chosen, detail = (name, "reinforce"), ("algorithm.loss_scale", "3")
    assert resolve("countdown", "default", [], [chosen, detail]) == resolve(
        "countdown", "default", [], [detail, chosen]
    )


def test_an_environment_without_presets_starts_from_the_general_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_layers_case.py").write_text(
        "from astarpo.environments.arithmetic import Arithmetic\nclass Mine(Arithmetic): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = resolve("own_layers_case.Mine", "default", [], [])
    assert run.environment.name == "own_layers_case.Mine"
    assert run.algorithm.name == "grpo"


def test_a_run_folder_is_never_one_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20250101-120000")
    run = resolve("countdown", "default", [], [])
    first = new_folder(run, tmp_path)
    assert first == tmp_path / "countdown-default-20250101-120000"
    first.mkdir()
    assert new_folder(run, tmp_path) == tmp_path / "countdown-default-20250101-120000-2"


def test_a_switch_is_known_both_ways() -> None:
    # `--help` ends the command before it does anything.
    assert CliRunner().invoke(app, ["compare", "arithmetic", "--no-snr", "--help"]).exit_code == 0
