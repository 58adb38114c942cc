"""Liger's Triton kernels in a model's layers on a GPU: norms, rotation and the gated product, each in one pass.

transformers writes them as a dozen operations through memory each; the gradient then needs another two dozen. What is
replaced is the forward of single layers of one model, and where that model is on a CPU they are as before. Rotation is
a function that transformers' layers look up by name; ours asks where its tensors are. Source: arXiv:2410.10989.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from astarpo.engine.fused import TOLERANCE, why_no_triton

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral": "Mistral"}
"""`config.model_type` of the models whose layers these kernels stand for, and what their classes' names begin with."""


def why_not(model: Any) -> str:
    """Why `attach` would not do; empty where it would."""
    kind = str(model.config.get_text_config().model_type)
    if kind not in FAMILIES:
        return f"a {kind} is none of {', '.join(FAMILIES)}"
    # In sixteen bits another activation may come out as near as `attach` asks for.
    if (activation := model.config.get_text_config().hidden_act) != "silu":
        return f"its activation is {activation}, not silu"
    if next(iter(model.parameters())).device.type != "cuda":
        return "the model is not on a CUDA GPU"
    if find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed (pip install 'astarpo[liger]')"
    return why_no_triton()


@torch.no_grad()
def attach(model: Any) -> str:
    """Let the layers of `model` run Liger's kernels.

    Returns:
        Why its logits came out different, and then nothing has changed; empty where they are the same.
    """
    kind = str(model.config.get_text_config().model_type)
    layers: Any = import_module(f"transformers.models.{kind}.modeling_{kind}")
    norm, gated = (getattr(layers, FAMILIES[kind] + name) for name in ("RMSNorm", "MLP"))
    probe = torch.arange(1, 17, device=next(iter(model.parameters())).device)[None]
    own = model(input_ids=probe, use_cache=False).logits.float()
    # Instances, not classes: another model of this process may be on a CPU.
    changed = []
    for module in model.modules():
        if type(module) is norm:
            module.forward = MethodType(_norm, module)
        elif type(module) is gated:
            module.forward = MethodType(_gated, module)
        else:
            continue
        changed.append(module)
    usual = layers.apply_rotary_pos_emb
    if not isinstance(usual, _Rotation):
        layers.apply_rotary_pos_emb = _Rotation(usual)
    found = model(input_ids=probe, use_cache=False).logits.float()
    apart = float((found - own).abs().max() / own.abs().max().clamp_min(1e-30))
    if apart <= TOLERANCE.get(model.dtype, 0.0):
        return ""
    for module in changed:
        del module.forward
    layers.apply_rotary_pos_emb = usual
    return f"with Liger's kernels its logits came out {apart:.1e} of the largest apart"


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if not hidden_states.is_cuda:
        plain: Tensor = type(self).forward(self, hidden_states)
        return plain
    from liger_kernel.ops import LigerRMSNormFunction

    # No offset of the gain, float32 as Llama has it, and the gradient that comes in is left as it is.
    found: Tensor = LigerRMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", False)
    return found


def _gated(self: Any, x: Tensor) -> Tensor:
    if not x.is_cuda:
        plain: Tensor = type(self).forward(self, x)
        return plain
    from liger_kernel.ops import LigerSiLUMulFunction

    found: Tensor = self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))
    return found


class _Rotation:
    """Rotary positions of queries and keys: Liger's on a GPU, `usual` elsewhere."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        """q and k [batch, heads, N, D], turned by cos and sin [batch, N, D]."""
        if not q.is_cuda:
            plain: tuple[Tensor, Tensor] = self._usual(q, k, cos, sin, unsqueeze_dim)
            return plain
        from liger_kernel.ops import LigerRopeFunction

        found: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin, None, unsqueeze_dim)
        return found
