"""`astarpo plan`: terms, what fits where, and exit codes a script can read."""

from __future__ import annotations

import json

import pytest
from command_line import run_command

from astarpo.footprint import GPUS

LARGE = ["--policy.model=Qwen/Qwen2.5-3B-Instruct", "--rollout.episode_tokens=4000"]


def test_the_terms_and_every_gpu_are_one_json_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_command(["plan", "webshop/grpo", *LARGE, "--json"], monkeypatch, capsys)
    assert (said.code, said.err) == (0, "")
    told = json.loads(said.out)
    assert told["settings"]["preset"] == "grpo"
    assert told["parameters"] == 3_085_938_688
    assert {term["name"]: term["bytes"] for term in told["terms"]}["weights"] == 4 * 3_085_938_688
    always = sum(term["bytes"] for term in told["terms"] if term["when"] == "always")
    assert told["peak"] == always + sum(term["bytes"] for term in told["terms"] if term["when"] == told["worst"])
    assert [gpu["gigabytes"] for gpu in told["gpus"]] == list(GPUS)
    assert not told["gpus"][0]["fits"]


def test_the_table_names_the_term_to_lower_and_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_command(["plan", "webshop", *LARGE, "--policy.dtype=bfloat16"], monkeypatch, capsys)
    assert "The largest term that a setting lowers:" in said.out
    assert "80 GB: fits with --policy.gradient_checkpointing=true (" in said.out
    small = run_command(["plan", "webshop"], monkeypatch, capsys)
    assert "24 GB: fits\n" in small.out


def test_a_script_reads_from_the_exit_code_whether_it_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["plan", "webshop", "--gpu", "24"], monkeypatch, capsys).code == 0
    assert run_command(["plan", "webshop", *LARGE, "--gpu", "24"], monkeypatch, capsys).code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["webshop/grpo", "--preset", "rloo"], "webshop/grpo names a preset and --preset rloo another"),
        (["grpo"], "grpo is a preset of several environments: write arithmetic/grpo or webshop/grpo."),
        (["webshop/nosuch"], "webshop has no preset 'nosuch': known: "),
        (["webshop", "--policy.model=./nowhere"], "there is no config.json in ./nowhere: name the folder"),
        (["webshop", "--rollout.slot=3"], "has no setting 'slot'"),
        (["webshop", "--rollout.backend=openai"], "plays a model whose weights are elsewhere"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_command(["plan", *arguments], monkeypatch, capsys)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err


def test_a_preset_that_one_environment_has_needs_no_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(run_command(["plan", "gigpo", "--json"], monkeypatch, capsys).out)
    assert (told["settings"]["environment"]["name"], told["settings"]["preset"]) == ("webshop", "gigpo")
