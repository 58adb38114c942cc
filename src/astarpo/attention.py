"""Causal attention over sequences laid end to end, each by itself, in one call: PyTorch's FlashAttention on a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

try:  # since PyTorch 2.10
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn: Any = None  # type: ignore[no-redef]

_NAMES = frozenset() if varlen_attn is None else frozenset(inspect.signature(varlen_attn).parameters)
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _NAMES else {}
"""Some versions take fewer heads of keys than of queries only where they are told to, others have no such argument."""


def fits(query: Tensor) -> bool:
    """Whether `ragged` takes such queries: on a CUDA GPU of Ampere's generation or later, in sixteen bits."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
        and {"scale", "window_size"} <= _NAMES
        and torch.cuda.get_device_capability(query.device)[0] >= 8
    )


def ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where sequences of these lengths begin and end when they lie end to end: [n + 1] int32, from 0."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)


def ragged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    asked: Tensor,
    seen: Tensor,
    longest: tuple[int, int],
    *,
    scale: float | None,
    window: int | None = None,
) -> Tensor:
    """Each sequence's last queries attend to the keys up to their own: a mask whose corner is at the bottom right.

    Args:
        query: [Q, heads, D], sequences end to end.
        key, value: [K, groups, D]; as many heads or fewer.
        asked, seen: [n + 1] where the sequences' queries and keys end; see `ends`.
        longest: queries and keys of the longest.
        scale: of the products; None for 1 / √D.
        window: how many positions back a token sees, itself included; None for all.

    Returns:
        [Q, heads, D].
    """
    found: Any = varlen_attn(
        query,
        key,
        value,
        asked,
        seen,
        *longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **_GROUPED,
    )
    attended: Tensor = found
    return attended
