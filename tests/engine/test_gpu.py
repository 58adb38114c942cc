"""What only a CUDA GPU runs says the same as what runs anywhere: attention, recorded steps, kernels, whole runs.

python -m pytest tests/engine/test_gpu.py on a machine with one. Nothing is read but the repository.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fused import CLAIMED, model, played
from torch import Tensor, nn

from astarpo import attention
from astarpo.batch import Batch
from astarpo.policy import liger, scoring
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run, merge
from astarpo.trainer import train
from small import small_policy, small_tokenizer
from test_update import batch as played_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
HALF = torch.bfloat16


def on_gpu(kind: str, given: dict[str, Any], dtype: torch.dtype = torch.float32) -> HuggingFacePolicy:
    own = model(kind, **given).to("cuda", dtype)
    return HuggingFacePolicy(own, small_tokenizer(), rules=False, forward="fused")


def apart(found: Tensor, expected: Tensor) -> float:
    """The error's norm over what is expected."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return float((found - expected).norm() / expected.norm())


def moved(batch: Batch) -> Batch:
    """`batch` on the GPU."""
    columns: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    there: dict[str, Any] = {name: x.cuda() for name, x in columns.items() if isinstance(x, Tensor)}
    return replace(batch, **there)


@pytest.mark.parametrize("window", [None, 20])
def test_attention_in_one_call_is_that_of_each_sequence(window: int | None) -> None:
    torch.manual_seed(0)
    asked, seen, heads, groups, width = (5, 70, 33), (5, 170, 64), 8, 2, 32
    q, k, v = (
        torch.randn(n, h, width, device="cuda", dtype=HALF, requires_grad=True)
        for n, h in ((sum(asked), heads), (sum(seen), groups), (sum(seen), groups))
    )
    assert attention.fits(q)
    ends = [attention.ends(lengths, q.device) for lengths in (asked, seen)]
    found = attention.ragged(q, k, v, ends[0], ends[1], (max(asked), max(seen)), scale=0.2, window=window)
    slope = torch.randn_like(found)
    found.backward(slope)  # type: ignore[no-untyped-call]
    exact = [one.detach().float().requires_grad_() for one in (q, k, v)]
    parts = []
    for a, b, n, m in zip((0, 5, 75), (0, 5, 175), asked, seen, strict=True):
        own = exact[0][a : a + n].transpose(0, 1)
        keys, values = (x[b : b + m].transpose(0, 1).repeat_interleave(heads // groups, 0) for x in exact[1:])
        back = torch.arange(n, device="cuda")[:, None] + m - n - torch.arange(m, device="cuda")
        mask = (back >= 0) & (back < (window or m))
        parts.append(nn.functional.scaled_dot_product_attention(own, keys, values, mask, scale=0.2).transpose(0, 1))
    expected = torch.cat(parts)
    expected.backward(slope.float())  # type: ignore[no-untyped-call]
    assert apart(found, expected) < 5e-3
    for own, other in zip((q, k, v), exact, strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert apart(own.grad, other.grad) < 1e-2


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("name", CLAIMED)
def test_recorded_steps_and_kernels_say_what_a_cpu_says(
    name: str, copied: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, given = CLAIMED[name]
    monkeypatch.setattr("astarpo.engine.fused.COPIED_PARAMETERS", 10**9 if copied else 0)
    expected = played(HuggingFacePolicy(model(kind, **given), small_tokenizer(), rules=False), whole=whole)
    policy = on_gpu(kind, given)
    assert policy.forward.ahead
    torch.testing.assert_close(played(policy, whole=whole).cpu(), expected, atol=2e-4, rtol=2e-4)
    half = played(on_gpu(kind, given, HALF), whole=whole)
    assert float((half.cpu() - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
def test_attention_over_the_cache_takes_heads_of_any_width(width: int, dtype: torch.dtype) -> None:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    kernels = import_module("astarpo.engine.kernels")
    torch.manual_seed(0)
    rows, heads, groups, positions = 3, 6, 2, 150
    q = torch.randn(rows, heads, width, device="cuda", dtype=dtype)
    keys, values = (torch.randn(rows, groups, positions, width, device="cuda", dtype=dtype) for _ in range(2))
    position = torch.tensor([0, 77, 149], device="cuda")
    found = kernels.attend(q, keys, values, position, positions, 0.1)
    mask = (torch.arange(positions, device="cuda") <= position[:, None])[:, None, None]
    asked, k, v = (one.float() for one in (q[:, :, None], keys, values))
    expected = nn.functional.scaled_dot_product_attention(asked, k, v, mask, scale=0.1, enable_gqa=True)
    assert apart(found, expected.flatten(1)) < (1e-5 if dtype == torch.float32 else 5e-3)


def test_recordings_go_with_the_cache() -> None:
    policy = on_gpu("qwen2", {})
    recorded: Any = vars(policy.forward)["_recorded"]
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [[40, 41], [42]])
    slots.reply([0, 1], 3, 1.0)
    assert recorded._recordings
    del slots
    assert not recorded._recordings


def test_recorded_steps_follow_the_weights_and_the_cache() -> None:
    policy = on_gpu("qwen2", {})
    before = played(policy)
    policy.model.model.layers[0].mlp.up_proj.weight.data.mul_(20.0)
    theirs = HuggingFacePolicy(policy.model, policy.tokenizer, rules=False, forward="transformers")
    torch.testing.assert_close(played(policy), played(theirs), atol=2e-4, rtol=2e-4)
    assert float((played(policy) - before).abs().max()) > 1e-2


def test_conversations_say_what_they_say_on_a_cpu() -> None:
    """Random weights whose replies end at stop tokens, at all lengths: what is stepped in vain must leave no trace."""

    def said(device: str) -> list[list[tuple[int, ...]]]:
        policy = small_policy(stops=40)
        moved = HuggingFacePolicy(policy.model.to(device), policy.tokenizer, rules=False)
        conversations = moved.open([(7, row) for row in range(12)])
        found = []
        for turn in range(4):
            slots = list(range(12)) if turn != 2 else [1, 4, 11]
            conversations.extend(slots, [[5 + slot, 30, 40 + turn] * (1 + slot) for slot in slots])
            found.append([reply.ids for reply in conversations.reply(slots, 25, 1.0)])
        return found

    here, there = said("cpu"), said("cuda")
    lengths = {len(ids) for turn in here for ids in turn}
    assert {1, 25} < lengths
    alike = [a == b for one, other in zip(here, there, strict=True) for a, b in zip(one, other, strict=True)]
    assert sum(alike) >= len(alike) - 1  # a draw may fall between two roundings


@pytest.mark.parametrize("kernels", ["torch", "liger"])
@pytest.mark.parametrize("forgetting", [False, True])
def test_scores_and_gradients_are_those_of_a_cpu(kernels: str, forgetting: bool) -> None:
    if kernels == "liger" and find_spec("liger_kernel") is None:
        pytest.skip("liger-kernel is not installed")
    expected = small_policy(0, stops=120)
    batch = played_batch(expected, small_policy(1))
    scored = expected.log_probs(batch, tokens=10**6)
    (scored.logp.sum() + 0.1 * scored.entropy.sum()).backward()  # type: ignore[no-untyped-call]
    exact = {name: p.grad for name, p in expected.model.named_parameters()}
    for dtype, bound in ((torch.float32, 2e-4), (HALF, 0.06)):
        own = small_policy(0, stops=120).model.to("cuda", dtype)
        if forgetting:
            scoring.forget_activations(own)
        if kernels == "liger":
            assert liger.why_not(own) == ""
            assert liger.attach(own) == ""
        policy = HuggingFacePolicy(own, small_tokenizer(), rules=False)
        assert policy.traits.packed
        for tokens in (10**6, 40):
            own.zero_grad()
            found = policy.log_probs(moved(batch), tokens=tokens)
            (found.logp.sum() + 0.1 * found.entropy.sum()).backward()  # type: ignore[no-untyped-call]
            assert apart(found.logp, scored.logp) < bound
            for name, p in own.named_parameters():
                assert p.grad is not None
                assert apart(p.grad, exact[name]) < 2 * bound, name


def test_liger_kernels_leave_a_model_on_a_cpu_alone() -> None:
    if find_spec("liger_kernel") is None:
        pytest.skip("liger-kernel is not installed")
    before = small_policy()
    ids = torch.arange(5, 25)[None]
    expected = before.model(ids).logits
    own = small_policy().model.to("cuda")
    assert liger.attach(own) == ""
    assert torch.equal(before.model(ids).logits, expected)
    torch.testing.assert_close(own.to("cpu")(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"policy": {"dtype": "bfloat16", "gradient_checkpointing": True}},
        {"policy": {"dtype": "bfloat16", "lora": {"rank": 4}}},
        {"policy": {"dtype": "bfloat16", "lora": {"rank": 4}, "quantize": "nf4"}},
    ],
    ids=["float32", "bfloat16", "lora", "qlora"],
)
def test_a_run_goes_through_on_the_gpu(over: dict[str, Any], tmp_path: Path) -> None:
    if over.get("policy", {}).get("quantize") and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    if over.get("policy", {}).get("lora") and find_spec("peft") is None:
        pytest.skip("peft is not installed")
    given = {
        "environment": "arithmetic",
        "algorithm": {"name": "grpo", "group_size": 8},
        "policy": {"device": "cuda"},
        "rollout": {"tasks_per_update": 8},
        "evaluation": {"tasks": 40, "samples": 0, "every": 0},
        "updates": 4,
    }
    train(Run.build(merge(given, over)), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["updates"] == 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["mismatch/mean"] for line in lines if "mismatch/mean" in line]
    assert gaps
    assert max(gaps) < (0.05 if over else 1e-3)
