"""A model folder is loaded whole or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from astarpo import native
from astarpo.errors import DataError, SettingsError
from astarpo.policy.load import load_policy
from astarpo.run import PolicySettings
from astarpo.warm_start import save
from small import small_policy


def load(model: Path | str, **over: object):  # type: ignore[no-untyped-def]
    return load_policy(PolicySettings.parse({"model": str(model), "device": "cpu", **over}), "arithmetic")


@pytest.fixture
def folder(small_model: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(small_model, tmp_path / "model"))


def test_a_folder_loads_with_the_weights_and_the_tokenizer_that_transformers_reads(small_model: Path) -> None:
    policy = load(small_model)
    plain = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    for (name, ours), (other, theirs) in zip(
        sorted(policy.model.state_dict().items()), sorted(plain.state_dict().items()), strict=True
    ):
        assert name == other
        assert torch.equal(ours, theirs)
    assert not policy.model.training
    assert next(policy.model.parameters()).dtype == torch.float32


def test_our_tokenizer_is_read_as_it_was_written(small_model: Path, tmp_path: Path) -> None:
    """AutoTokenizer would normalise to NFC and add a token that the model has no row for."""
    policy = load(small_model)
    assert len(policy.tokenizer) == policy.vocabulary
    assert policy.chat.decode(policy.chat.encode("cafe\u0301")) == "cafe\u0301"
    save(policy, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (small_model / "tokenizer.json").read_bytes()
    plain = AutoTokenizer.from_pretrained(small_model)
    assert plain.encode("12+34=1 46") == policy.chat.encode("12+34=1 46")


def test_a_model_that_grew_out_of_an_embedded_one_is_not_told_rules_and_any_other_is(folder: Path) -> None:
    assert load(folder).rules is False
    assert load(folder, rules=True).rules is True
    config = json.loads((folder / "config.json").read_text())
    del config["astarpo_embedded"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).rules is True
    assert load(folder, rules=False).rules is False


def test_weights_are_kept_in_the_precision_asked_for(small_model: Path) -> None:
    policy = load(small_model, dtype="bfloat16")
    assert next(policy.model.parameters()).dtype == torch.bfloat16
    slots = policy.open([(0,)])
    slots.extend([0], [policy.chat.first("1+1=")])
    assert len(slots.reply([0], 3, 1.0)[0].ids) >= 1


def test_a_tokenizer_without_a_pad_token_is_no_obstacle(folder: Path) -> None:
    said = json.loads((folder / "tokenizer_config.json").read_text())
    del said["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    policy = load(folder)
    assert policy.tokenizer.pad_token is None
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [policy.chat.first("1+1="), policy.chat.first("21+21=")])
    with_pad = load(folder.parent / "model").open([(0,), (1,)])
    with_pad.extend([0, 1], [policy.chat.first("1+1="), policy.chat.first("21+21=")])
    assert slots.reply([0, 1], 5, 1.0) == with_pad.reply([0, 1], 5, 1.0)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"the model folder .*model has no tokenizer: save one beside the weights"):
        load(folder)


def test_a_folder_without_config_json_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"holds no config\.json: name the folder of a Hugging Face causal model"):
        load(folder)


def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no model folder .*nowhere: check the path"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_cut_short_is_refused_in_one_sentence(folder: Path, file: str) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cannot load the model '.*model': .+") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"cannot load .*no file named model\.safetensors.*; see to the files of"):
        load(folder)


def test_weights_that_lack_a_layer_are_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if "layers.1." not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"its files lack 12 tensors, such as 'model\.layers\.1\."):
        load(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        DataError, match=r"cannot load .*: tensors have other shapes than the model's; see to the files"
    ):
        load(folder)


def test_an_embedded_variant_that_does_not_ship_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no embedded model 'tiny:purple' for arithmetic: known: "):
        load("tiny:purple")


def test_a_device_that_is_none_is_refused(small_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"policy\.device 'abacus' is not a device: write auto, cpu"):
        load(small_model, device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(small_model: Path) -> None:
    with pytest.raises(SettingsError, match="no GPU of that kind is visible to torch: use auto or cpu"):
        load(small_model, device="cuda:0")


@pytest.mark.parametrize("device", ["meta", "xpu", "mps", "cuda:99"])
def test_a_device_that_torch_knows_and_this_machine_has_not_is_refused(small_model: Path, device: str) -> None:
    if torch.accelerator.is_available() and str(torch.accelerator.current_accelerator()) == device:
        pytest.skip(f"there is one {device} here")
    with pytest.raises(SettingsError, match=f"policy.device is '{device}' but .* GPU of that kind is visible"):
        load(small_model, device=device)


def test_a_model_saved_and_loaded_has_the_same_fingerprint_and_another_seed_has_not(tmp_path: Path) -> None:
    policy = small_policy(1)
    save(policy, tmp_path)
    assert load(tmp_path).fingerprint() == policy.fingerprint()
    assert small_policy(2).fingerprint() != policy.fingerprint()


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (
            "t5",
            {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8},
            "t5 is no causal language model",
        ),
        (
            "bert",
            {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            "what it says of a token depends on tokens after it",
        ),
    ],
)
def test_a_model_that_is_not_causal_is_refused(folder: Path, kind: str, shape: dict[str, int], said: str) -> None:
    config = AutoConfig.for_model(kind, vocab_size=300, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        family: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForMaskedLM
        model = family.from_config(config)
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=random))
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    model.save_pretrained(folder)
    with pytest.raises(DataError, match=f"cannot train '.*model': {said}") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_a_chat_template_is_remarked_on(folder: Path) -> None:
    before = load(folder).remarks()
    (folder / "chat_template.jinja").unlink()
    remark, *others = (one for one in load(folder).remarks() if one not in before)
    assert others == []
    assert remark.startswith("the tokenizer has no chat template: observations and replies follow each other")


def test_a_pad_token_that_is_the_end_token_is_no_obstacle(folder: Path) -> None:
    """Nothing is masked by id, neither in playing nor where episodes are learned from (`Batch.acted`)."""
    plain = load(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "pad_token": said["eos_token"]}))
    policy = load(folder)
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id
    replies = []
    for player in (policy, plain):
        slots = player.open([(0,), (1,)])
        slots.extend([0, 1], [player.chat.first("1+1="), player.chat.first("21+21=")])
        replies.append(slots.reply([0, 1], 5, 1.0))
    assert replies[0] == replies[1]


def test_where_only_a_compiler_is_missing_the_run_says_what_that_costs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "MEANT", True)
    monkeypatch.setattr(native, "why_not", lambda: "there is no C compiler (cc)")
    (remark,) = load(folder).remarks()
    assert remark == (
        "PyTorch's kernels play and learn; astarpo's own would take half of the time or less: "
        "there is no C compiler (cc)."
    )
    with pytest.raises(SettingsError, match=r"policy.kernels is native and they cannot be run: there is no C compiler"):
        load(folder, kernels="native")
    monkeypatch.setattr(native, "MEANT", False)
    assert load(folder).remarks() == []


@pytest.mark.skipif(bool(native.why_not()), reason=f"own kernels: {native.why_not()}")
def test_own_kernels_run_by_themselves_and_are_left_out_or_insisted_on(folder: Path) -> None:
    assert load(folder).natively
    assert load(folder, kernels="native").natively
    assert not load(folder, kernels="torch").natively
    with pytest.raises(SettingsError, match="they run a Qwen2, Qwen3, Llama or Mistral"):
        load(folder, kernels="native", dtype="bfloat16")
