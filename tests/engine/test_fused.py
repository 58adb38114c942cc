"""The fused forward pass says what the model itself says, follows its weights, and is refused where it would not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from astarpo.engine import fused
from astarpo.engine.slots import SlotCache
from astarpo.errors import SettingsError
from astarpo.policy import adapters
from astarpo.policy.huggingface import HuggingFacePolicy
from small import small_policy, small_tokenizer

pytestmark = pytest.mark.usefixtures("kernels")

SIZE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


def model(kind: str, **given: Any) -> Any:
    config = AutoConfig.for_model(kind, **{**SIZE, **given}, eos_token_id=1, bos_token_id=None, pad_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        built = AutoModelForCausalLM.from_config(config, dtype=given.get("dtype", torch.float32))
        for parameter in built.parameters():
            # Biases begin at zero and gains at one, which would hide where they are forgotten.
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return built.eval()


ROPE_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CLAIMED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "llama": ("llama", {}),
    "llama with biases and scaled angles": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": ROPE_3},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
}


def played(policy: HuggingFacePolicy, *, whole: bool = True) -> torch.Tensor:
    """Logits of a few passes over three rows, one of which may sit out."""
    forward = policy.forward
    forward.refresh()
    cache = SlotCache(policy.layers, 3, policy.device)
    rng = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return [int(i) for i in torch.randint(250, (n,), generator=rng)]

    rows = [0, 1, 2] if whole else [2]
    with torch.inference_mode():
        said = [forward.read(cache, [0, 1, 2], [ids(3), ids(9), ids(5)])]
        for _ in range(3):
            said.append(forward.step(cache, rows, torch.tensor(ids(len(rows)), device=policy.device)))
        said.append(forward.read(cache, [2, 0], [ids(70), ids(2)]))
        said.append(forward.step(cache, [0, 1], torch.tensor(ids(2), device=policy.device)))
    return torch.cat(said)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("name", CLAIMED)
def test_its_logits_are_those_of_transformers(
    name: str, copied: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "COPIED_PARAMETERS", 10**9 if copied else 0)
    kind, given = CLAIMED[name]
    own = model(kind, **given)
    ours = HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="fused")
    theirs = HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="transformers")
    assert (ours.forward.name, theirs.forward.name) == ("fused", "transformers")
    expected = played(theirs, whole=whole)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(played(ours, whole=whole), expected, atol=1e-5, rtol=1e-5)


def test_it_follows_the_weights() -> None:
    policy = small_policy()
    before = played(policy)
    changed = small_policy(seed=7).model
    for whole in (False, True):
        if whole:
            policy.model.load_state_dict(changed.state_dict())
        else:
            policy.model.model.layers[0].mlp.up_proj.weight.data.mul_(20.0)
        after = played(policy)
        theirs = HuggingFacePolicy(policy.model, policy.tokenizer, rules=False, forward="transformers")
        torch.testing.assert_close(after, played(theirs), atol=1e-5, rtol=1e-5)
        assert float((after - before).abs().max()) > 1e-2
        before = after


class _Eager:
    """Steps of all rows as `RecordedSteps` has them, run each time: nothing is recorded on a CPU.

    Attributes:
        table: what the last step read angles from; None once it was forgotten.
    """

    def __init__(self, forward: fused.FusedForward) -> None:
        self._forward = forward
        self.table: tuple[torch.Tensor, torch.Tensor] | None = None

    def forget(self) -> None:
        self.table = None

    def step(self, cache: SlotCache, ids: torch.Tensor, seen: int) -> torch.Tensor:
        before = self._forward._turns
        logits = self._forward._whole_step(cache, ids, torch.from_numpy(cache.lengths.copy()), seen)
        # One that comes and goes while a step is recorded would be gone when it is replayed.
        assert self._forward._turns is before
        self.table = before
        return logits


def reads(recorded: _Eager) -> bool:
    """Whether what was recorded would read the angles that there are."""
    return recorded.table is not None and recorded.table is recorded._forward._turns


def eager(forward: Any) -> _Eager:
    forward._native = None
    forward._recorded = recorded = _Eager(forward)
    return recorded


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", CLAIMED)
def test_steps_of_all_rows_say_the_same_whoever_sits_out(name: str, whole: bool) -> None:
    kind, given = CLAIMED[name]
    own = HuggingFacePolicy(model(kind, **given), small_tokenizer(), rules=False, forward="fused")
    expected = played(own, whole=whole)
    eager(own.forward)
    torch.testing.assert_close(played(own, whole=whole), expected, atol=1e-5, rtol=1e-5)


def test_recordings_are_forgotten_with_the_angles_that_they_read() -> None:
    policy = small_policy()
    recorded = eager(policy.forward)
    one, other = (SlotCache(policy.layers, 1, policy.device) for _ in range(2))
    with torch.inference_mode():
        policy.forward.read(one, [0], [[40, 41]])
        policy.forward.step(one, [0], torch.tensor([42]))
        assert reads(recorded)
        policy.forward.read(other, [0], [[40] * 100])
        assert not reads(recorded)
        for _ in range(300):
            policy.forward.step(one, [0], torch.tensor([42]))
            assert reads(recorded)


def test_half_precision_is_run_and_within_its_rounding() -> None:
    own = model("qwen2", dtype=torch.bfloat16)
    ours = HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="fused")
    exact = HuggingFacePolicy(own.float(), small_tokenizer(), rules=False, forward="transformers")
    expected = played(exact)
    own.to(torch.bfloat16)
    assert float((played(ours) - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("gpt2", {"n_embd": 16, "n_head": 2, "n_layer": 1}, "gpt2 is none of llama, mistral, qwen2, qwen3"),
        ("mistral", {"sliding_window": 5}, "its attention has a sliding window"),
        ("qwen2", {"hidden_act": "gelu"}, "its activation is gelu, not silu"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "its rotary embedding is dynamic, not one of default, linear, llama3, yarn",
        ),
    ],
)
def test_another_shape_is_run_by_transformers_and_the_policy_says_why(
    kind: str, given: dict[str, Any], why: str
) -> None:
    own = model(kind, **given)
    policy = HuggingFacePolicy(own, small_tokenizer(), rules=False)
    assert (policy.forward.name, policy.unfused) == ("transformers", why)
    assert f"transformers' own forward pass plays, which is slower than the fused one: {why}." in policy.remarks()
    with pytest.raises(SettingsError, match=f"policy.forward is fused and odd cannot be run so: {why}; leave it at"):
        HuggingFacePolicy(own, small_tokenizer(), rules=False, name="odd", forward="fused")


def test_a_model_that_only_looks_like_one_of_the_claimed_is_found_out() -> None:
    own = model("llama")
    inner = own.model.layers[1].mlp.forward
    own.model.layers[1].mlp.forward = lambda x: 1.01 * inner(x)
    policy = HuggingFacePolicy(own, small_tokenizer(), rules=False)
    assert policy.forward.name == "transformers"
    assert policy.unfused.startswith("its logits came out ")


def test_projections_that_are_more_than_a_matrix_are_left_to_transformers() -> None:
    own = model("llama")

    class Adapted(torch.nn.Linear):
        """A projection with something beside it."""

    layer = own.model.layers[0].self_attn
    layer.q_proj = Adapted(24, 32, bias=False)
    assert HuggingFacePolicy(own, small_tokenizer(), rules=False).unfused == (
        f"its projections are {__name__}.Adapted, not plain linear layers"
    )


NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def learned(own: Any, names: Sequence[str], seed: int) -> None:
    """Give the adapter of `own` some weights; attach it first where there is none."""
    if not adapters.has_adapter(own):
        adapters.attach(own, rank=3, alpha=5.0, target_modules=names)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in own.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)


@pytest.mark.parametrize("names", [NAMES, ("q_proj", "v_proj", "down_proj"), ("k_proj", "up_proj")])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama with biases and scaled angles"])
def test_under_an_adapter_its_logits_are_those_of_transformers_and_follow_it(
    name: str, copied: bool, names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(fused, "COPIED_PARAMETERS", 10**9 if copied else 0)
    kind, given = CLAIMED[name]
    own = model(kind, **given)
    learned(own, names, 0)
    ours = HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="fused")
    theirs = HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="transformers")
    before = played(ours)
    torch.testing.assert_close(before, played(theirs), atol=1e-5, rtol=1e-5)
    learned(own, names, 1)
    expected = played(theirs)
    assert float((expected - before).abs().max()) > 1e-2
    torch.testing.assert_close(played(ours), expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_the_embeddings_is_left_to_transformers() -> None:
    """It changes nothing at first, so no probe would find that it was forgotten."""
    pytest.importorskip("peft")
    own = model("llama")
    adapters.attach(own, rank=2, alpha=2.0, target_modules=["embed_tokens"])
    assert HuggingFacePolicy(own, small_tokenizer(), rules=False).unfused == (
        "its embeddings are peft.tuners.lora.layer.Embedding, not a plain table"
    )


@pytest.mark.parametrize("given", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_is_more_than_two_factors_is_left_to_transformers(given: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    own = model("qwen2")
    own.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"], **given))
    assert HuggingFacePolicy(own.eval(), small_tokenizer(), rules=False).forward.name == "transformers"


def test_what_triton_lacks_to_compile_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = small_policy()
    assert not any("Triton" in remark for remark in policy.remarks())
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    why = f"Triton needs a C compiler, and there is no {tmp_path / 'cc'}"
    assert fused.why_no_triton() == why
    vars(policy.forward)["slower"] = why
    assert f"PyTorch's own kernels play, which is slower than Triton's: {why}." in policy.remarks()
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert fused.why_no_triton() == f"Triton needs Python's header files, and there is no {tmp_path / 'Python.h'}"
    (tmp_path / "Python.h").touch()
    assert fused.why_no_triton() == ""
