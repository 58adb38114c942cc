"""Which models Liger's kernels are put into, and what becomes of their copies; what they compute is in test_gpu.py."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import pytest
import torch

from astarpo.policy import liger
from small import small_policy


def test_a_model_whose_gate_is_another_function_is_left_alone() -> None:
    own = small_policy().model
    assert liger.why_not(own) == "the model is not on a CUDA GPU"
    own.config.hidden_act = "gelu"
    assert liger.why_not(own) == "its activation is gelu, not silu"


def test_a_copy_runs_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    layers: Any = import_module("transformers.models.qwen2.modeling_qwen2")
    monkeypatch.setattr(layers, "apply_rotary_pos_emb", layers.apply_rotary_pos_emb)
    own = small_policy().model
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = own(ids).logits
        assert liger.attach(own) == ""
        copied = copy.deepcopy(own)
        for parameter in copied.parameters():
            parameter.zero_()
        assert torch.equal(own(ids).logits, expected)
        assert not copied(ids).logits.any()
    assert any("forward" in vars(module) for module in copied.modules())
