"""An adapter learns in the model's stead: it starts as nothing, costs no second copy, and fits its own base alone."""

from __future__ import annotations

import json
import logging.handlers
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astarpo.errors import DataError, SettingsError
from astarpo.policy import adapters
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.run import PolicySettings
from astarpo.stage_one import frozen

LORA = {"rank": 4, "alpha": 8}


def load(model: Path | str, **over: object) -> HuggingFacePolicy:
    return load_policy(PolicySettings.parse({"model": str(model), "device": "cpu", **over}), "arithmetic")


def logits(policy: HuggingFacePolicy) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = policy.model(input_ids=torch.arange(5, 25)[None], use_cache=False).logits
    return found


def taught(policy: HuggingFacePolicy) -> HuggingFacePolicy:
    """`policy` with an adapter that says something."""
    random = torch.Generator().manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=random))
    return policy


def test_a_fresh_adapter_changes_nothing_and_is_all_that_learns(small_model: Path) -> None:
    plain, policy = load(small_model), load(small_model, lora=LORA)
    assert torch.equal(logits(plain), logits(policy))
    learning = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    # Two factors for each of seven matrices in each of two layers.
    assert len(learning) == 28
    assert all("lora_" in name for name in learning)
    assert "lm_head" not in " ".join(learning)
    assert load(small_model, lora=LORA).fingerprint() == policy.fingerprint()


def test_only_the_layers_that_are_named_get_one(small_model: Path) -> None:
    policy = load(small_model, lora={**LORA, "target_modules": ["q_proj", "v_proj"]})
    learning = {name.split(".")[4] for name, p in policy.model.named_parameters() if p.requires_grad}
    assert learning == {"q_proj", "v_proj"}
    with pytest.raises(SettingsError, match=r"names purple, of which this model has none: its layers are .*q_proj"):
        load(small_model, lora={**LORA, "target_modules": "purple"})
    with pytest.raises(SettingsError, match=r"names purple, of which this model has none: its layers are .*q_proj"):
        load(small_model, lora={**LORA, "target_modules": ["q_proj", "purple"]})
    with pytest.raises(SettingsError, match=r"target_modules input_layernorm cannot all carry an adapter: Target mod"):
        load(small_model, lora={**LORA, "target_modules": "input_layernorm"})


def test_an_adapter_of_another_kind_is_refused(small_model: Path, tmp_path: Path) -> None:
    from peft import IA3Config

    policy = load(small_model)
    named: Any = {"target_modules": ["k_proj"], "feedforward_modules": [], "task_type": "CAUSAL_LM"}
    policy.model.add_adapter(IA3Config(**named))
    policy.model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"the adapter .* is of the kind IA3 and only LoRA's learn here"):
        load(tmp_path)


def test_the_adapter_is_float32_over_a_model_that_is_not(small_model: Path) -> None:
    policy = load(small_model, lora=LORA, dtype="bfloat16")
    kinds = {p.dtype for p in policy.model.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    assert policy.model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_the_reference_shares_the_base_and_keeps_the_adapter_that_it_started_from(small_model: Path) -> None:
    policy = taught(load(small_model, lora=LORA))
    before, reference = logits(policy), frozen(policy)
    ours, theirs = (dict(player.model.named_parameters()) for player in (policy, reference))
    for name, parameter in ours.items():
        assert (theirs[name] is parameter) == (not parameter.requires_grad), name
        parameter.data.mul_(0.5 if parameter.requires_grad else 1.0)
    assert torch.equal(logits(reference), before)
    assert not torch.equal(logits(policy), before)


@pytest.mark.parametrize("lora", [{}, LORA])
def test_the_reference_plays_by_its_own_weights_when_the_policy_has_learned(
    small_model: Path, lora: dict[str, object]
) -> None:
    policy = load(small_model, lora=lora)
    reference = frozen(policy)

    def said(player: HuggingFacePolicy) -> tuple[float, ...]:
        slots = player.open([(0,)])
        slots.extend([0], [player.chat.first("12+3=")])
        return tuple(slots.reply([0], 4, 1.0)[0].log_probs)

    before = said(reference)
    assert said(policy) == pytest.approx(before, abs=1e-5)
    for parameter in policy.model.parameters():
        parameter.data.add_(0.2 if parameter.requires_grad else 0.0)
    assert said(reference) == before
    assert said(policy) != pytest.approx(before, abs=1e-3)


def test_a_saved_adapter_goes_on_learning_over_the_base_that_it_names(small_model: Path, tmp_path: Path) -> None:
    policy = taught(load(small_model, lora=LORA))
    policy.model.save_pretrained(tmp_path)
    adapters.stamp(policy.model, tmp_path)
    again = load(tmp_path)
    assert torch.equal(logits(again), logits(policy))
    assert sum(p.requires_grad for p in again.model.parameters()) == 28
    again.model.save_pretrained(tmp_path / "again")
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    with pytest.raises(SettingsError, match=r"is an adapter already and policy\.lora\.rank asks for another"):
        load(tmp_path, lora=LORA)


@pytest.mark.parametrize("printed", [True, False])
def test_an_adapter_for_another_base_is_refused(small_model: Path, tmp_path: Path, printed: bool) -> None:
    base, other = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(small_model, base)
    policy = taught(load(base, lora=LORA))
    policy.model.save_pretrained(other)
    if printed:
        adapters.stamp(policy.model, other)
    said = json.loads((other / "adapter_config.json").read_text())
    said["base_model_name_or_path"] = str(Path(adapters.__file__).parent / "tiny" / "weights" / "arithmetic")
    (other / "adapter_config.json").write_text(json.dumps(said))
    told = logging.handlers.BufferingHandler(100)
    transformers = logging.getLogger("transformers")
    transformers.addHandler(told)
    try:
        with pytest.raises(DataError, match=r"the adapter .* (was trained on another model than|does not fit the mod)"):
            load(other)
    finally:
        transformers.removeHandler(told)
    # transformers has a table of all tensors that did not fit: one sentence is enough.
    assert [record.getMessage() for record in told.buffer] == []


def test_an_adapter_whose_base_is_gone_says_so(small_model: Path, tmp_path: Path) -> None:
    load(small_model, lora=LORA).model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "/gone/base"}))
    with pytest.raises(DataError, match=r"the adapter .* was trained on the model /gone/base, which is not there"):
        load(tmp_path)


def test_a_merged_copy_says_the_same_without_an_adapter(small_model: Path) -> None:
    policy = taught(load(small_model, lora=LORA))
    whole = adapters.merged(policy.model)
    assert not adapters.has_adapter(whole)
    assert adapters.has_adapter(policy.model)
    assert not [name for name in whole.state_dict() if "lora" in name or "base_layer" in name]
    merged = HuggingFacePolicy(whole, policy.tokenizer, rules=False)
    torch.testing.assert_close(logits(merged), logits(policy), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(merged), logits(load(small_model)), atol=0.01)


def test_a_package_that_is_missing_is_named(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError, match=r"needs the package peft, which is not installed: pip install 'astarpo"):
        load(small_model, lora=LORA)


def test_four_bits_need_an_adapter_and_a_package(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"quantize nf4 leaves weights that cannot learn and lora\.rank is 0"):
        load(small_model, quantize="nf4")
    monkeypatch.setattr("astarpo.policy.load.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"policy\.quantize nf4 needs the package bitsandbytes"):
        load(small_model, quantize="nf4", lora=LORA)
    monkeypatch.setattr("astarpo.policy.load.find_spec", lambda _: True)
    with pytest.raises(SettingsError, match=r"policy\.quantize nf4 needs a GPU: on a processor bitsandbytes packs"):
        load(small_model, quantize="nf4", lora=LORA)
    with pytest.raises(SettingsError, match=r"lora\.alpha does nothing unless rank is above 0"):
        load(small_model, lora={"alpha": 16})
