"""An exported policy is read by transformers and says, greedily, token for token what it said in its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run_command
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from astarpo.checkpoint import model_folder
from astarpo.errors import RunError, SettingsError
from astarpo.export import export, push
from astarpo.policy.load import load_policy
from astarpo.run import PolicySettings
from astarpo.trainer import train
from small import small_run

ASKED = ["1+1=", "12+3=", "7-2=", "30-11=", "2*4="]


@pytest.fixture(scope="module", params=[0, 4], ids=["all weights", "adapter"])
def run(request: pytest.FixtureRequest, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    policy: dict[str, Any] = {"model": str(small_model), "device": "cpu"}
    lora = {"lora": {"rank": request.param}} if request.param else {}
    settings = small_run(
        small_model,
        policy=policy | lora,
        optimizer={"learning_rate": 3e-3 if request.param else 1e-3},
        evaluation={"tasks": 2, "dev_tasks": 2},
        updates=2,
    )
    train(settings, folder)
    return folder


def said_in_the_run(run: Path) -> list[tuple[int, ...]]:
    policy = load_policy(PolicySettings.parse({"model": str(model_folder(run)), "device": "cpu"}), "arithmetic")
    slots = policy.open([(i,) for i in range(len(ASKED))])
    slots.extend(range(len(ASKED)), [policy.chat.first(text) for text in ASKED])
    return [reply.ids for reply in slots.reply(range(len(ASKED)), 8, 0.0)]


def said_by_transformers(model: Any, folder: Path, run: Path) -> list[tuple[int, ...]]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = load_policy(PolicySettings.parse({"model": str(model_folder(run)), "device": "cpu"}), "arithmetic").chat
    said = []
    for text in ASKED:
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == chat.first(text)
        found = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
        )
        said.append(tuple(found[0, len(ids) :].tolist()))
    return said


def test_a_merged_folder_says_token_for_token_what_the_run_said(run: Path, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model")
    assert exported.form == "merged"
    assert "adapter_config.json" not in exported.files
    assert "optimizer.safetensors" not in exported.files
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    said = said_in_the_run(run)
    assert said_by_transformers(model, tmp_path / "model", run) == said
    assert len(set(said)) > 1
    exported_again = load_policy(
        PolicySettings.parse({"model": str(tmp_path / "model"), "device": "cpu"}), "arithmetic"
    )
    assert not any("lora" in name for name in exported_again.model.state_dict())


def test_an_adapter_laid_over_its_base_says_the_same_and_a_run_without_one_is_refused(
    run: Path, tmp_path: Path
) -> None:
    if not (model_folder(run) / "adapter_config.json").exists():
        with pytest.raises(SettingsError, match=r"has no adapter to export, since it trained all weights"):
            export(run, tmp_path / "adapter", form="adapter")
        assert not (tmp_path / "adapter").exists()
        return
    exported = export(run, tmp_path / "adapter", form="adapter")
    assert "model.safetensors" not in exported.files
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert said_by_transformers(model, tmp_path / "adapter", run) == said_in_the_run(run)


def test_a_folder_that_is_there_is_not_written_over(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is there already: choose another --out"):
        export(run, tmp_path)
    with pytest.raises(RunError, match="is not a run"):
        export(tmp_path, tmp_path / "other")


def test_a_name_that_cannot_be_is_refused_and_the_folder_is_kept(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model")
    with pytest.raises(SettingsError, match=r"cannot push to 'a/b/c': .* the folder .*model is written"):
        push(tmp_path / "model", "a/b/c")
    assert (tmp_path / "model" / "config.json").exists()


def test_a_hub_that_cannot_be_reached_is_told_and_the_folder_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, tmp_path / "model")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with pytest.raises(SettingsError, match=r"cannot push to 'a/b': .* the folder .*model is written"):
        push(tmp_path / "model", "a/b")
    assert (tmp_path / "model" / "config.json").exists()


def test_the_command_exports_and_says_what_it_wrote(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "model")
    said = run_command(["export", str(run), "--out", out, "--merge", "--json"], monkeypatch, capsys)
    assert said.code == 0
    told = json.loads(said.out)
    assert told["form"] == "merged"
    assert told["files"]["model.safetensors"] == (tmp_path / "model" / "model.safetensors").stat().st_size
    refused = run_command(["export", str(run), "--out", out], monkeypatch, capsys)
    assert refused.code == 2
    assert "is there already" in refused.err
    assert run_command(["export", str(run), "--out", out, "--merge", "--adapter"], monkeypatch, capsys).code == 2
