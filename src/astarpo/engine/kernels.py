"""Triton kernels of the fused forward pass on a GPU: rotation, the gated product, and attention over the cache.

Each stands for several of PyTorch's, whose launches and trips through memory cost more than their arithmetic. They
compute in float32 and round once. Triton comes with PyTorch's CUDA builds; without it PyTorch's own are run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_BYTES = 2**14
"""Keys that are looked at together, and as many values; the compiler keeps up to four such blocks at hand.

So it needs about 70 KiB: the smallest GPUs of Ampere's generation have 99 for a program, an H100 227.
"""

PROGRAMS = 1024
"""Rows' keys are split into parts until about so many programs run side by side: several for each multiprocessor."""

PARTS = 16
"""Into so many parts at most."""


def rotate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    turns: tuple[Tensor, Tensor],
    position: Tensor,
    row: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys by their positions, and write keys and values into the cache.

    Args:
        q: [N, heads, D], k, v: [N, groups, D]; the last two dimensions lie side by side.
        turns: cosines and sines, [positions, D / 2] each.
        position, row: [N] where each token goes in the cache.
        keys, values: [rows, groups, capacity, D].

    Returns:
        The turned queries and keys, as q and k.
    """
    (n, heads, width), groups = q.shape, k.shape[1]
    turned, turned_k = torch.empty_like(q, memory_format=torch.contiguous_format), k.new_empty((n, groups, width))
    if n:
        _rotate[(n, heads + 2 * groups)](
            q,
            k,
            v,
            *turns,
            position,
            row,
            turned,
            turned_k,
            keys,
            values,
            q.stride(0),
            k.stride(0),
            v.stride(0),
            keys.stride(0),
            keys.stride(1),
            heads,
            groups,
            D=width,
            P=triton.next_power_of_2(width // 2),
            num_warps=1,
        )
    return turned, turned_k


@triton.jit
def _rotate(
    q,
    k,
    v,
    cosines,
    sines,
    position,
    row,
    turned,
    turned_k,
    keys,
    values,
    q_stride,
    k_stride,
    v_stride,
    row_stride,
    group_stride,
    heads,
    groups,
    D: tl.constexpr,
    P: tl.constexpr,
):
    n, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = D // 2
    i = tl.arange(0, P)
    inside = i < half
    at = tl.load(position + n)
    place = tl.load(row + n) * row_stride + at * D
    if head >= heads + groups:
        group = head - heads - groups
        source = v + n * v_stride + group * D
        target = values + place + group * group_stride
        tl.store(target + i, tl.load(source + i, mask=inside), mask=inside)
        tl.store(target + half + i, tl.load(source + half + i, mask=inside), mask=inside)
    else:
        cosine = tl.load(cosines + at * half + i, mask=inside).to(tl.float32)
        sine = tl.load(sines + at * half + i, mask=inside).to(tl.float32)
        source = q + n * q_stride + head * D
        target = turned + (n * heads + head) * D
        if head >= heads:
            source = k + n * k_stride + (head - heads) * D
            target = turned_k + (n * groups + head - heads) * D
        one = tl.load(source + i, mask=inside).to(tl.float32)
        two = tl.load(source + half + i, mask=inside).to(tl.float32)
        first, second = one * cosine - two * sine, two * cosine + one * sine
        tl.store(target + i, first, mask=inside)
        tl.store(target + half + i, second, mask=inside)
        if head >= heads:
            stored = keys + place + (head - heads) * group_stride
            tl.store(stored + i, first, mask=inside)
            tl.store(stored + half + i, second, mask=inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up, [N, f] each, whose rows may lie apart."""
    n, width = gate.shape
    out = gate.new_empty((n, width))
    if n:
        grid = (n, triton.cdiv(width, 1024))
        _gated[grid](gate, up, out, gate.stride(0), up.stride(0), width, B=1024, num_warps=4)
    return out


@triton.jit
def _gated(gate, up, out, gate_stride, up_stride, width, B: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * B + tl.arange(0, B)
    inside = i < width
    x = tl.load(gate + n * gate_stride + i, mask=inside).to(tl.float32)
    y = tl.load(up + n * up_stride + i, mask=inside).to(tl.float32)
    tl.store(out + n * width + i, x / (1.0 + tl.exp(-x)) * y, mask=inside)


def attend(q: Tensor, keys: Tensor, values: Tensor, position: Tensor, span: int, scale: float) -> Tensor:
    """Each row's one query attends to its own keys, up to `position`; no row pays for a longer one.

        o = Σ_s e^(m_s − m) l_s o_s / Σ_s e^(m_s − m) l_s

    Parts s of a row's keys are attended to side by side, each with its own largest score m_s and normaliser l_s, and
    put together as above: FlashAttention, arXiv:2205.14135, with the keys split as in Flash-Decoding.

    Args:
        q: [rows, heads, D].
        keys, values: [rows, groups, capacity, D].
        position: [rows] of the last key seen.
        span: positions that any row sees at most.
        scale: of the products.

    Returns:
        [rows, heads · D].
    """
    (rows, heads, width), groups = q.shape, keys.shape[1]
    each = heads // groups
    block = _block(width, keys.element_size())
    blocks = triton.cdiv(span, block)
    parts = max(1, min(triton.cdiv(PROGRAMS, rows * groups), blocks, PARTS))
    size = triton.cdiv(blocks, parts) * block
    found = torch.empty((rows, heads, parts, width), dtype=torch.float32, device=q.device)
    largest, total = (torch.empty((rows, heads, parts), dtype=torch.float32, device=q.device) for _ in range(2))
    out = q.new_empty((rows, heads * width))
    padded: dict[str, Any] = {"D": width, "P": max(16, triton.next_power_of_2(width))}
    _attend[(rows, groups, parts)](
        q,
        keys,
        values,
        position,
        found,
        largest,
        total,
        keys.stride(0),
        keys.stride(1),
        heads,
        parts,
        size,
        scale,
        EACH=each,
        M=max(16, triton.next_power_of_2(each)),
        BLOCK=block,
        num_warps=4,
        **padded,
    )
    _together[(rows, heads)](found, largest, total, out, heads, parts, S=triton.next_power_of_2(parts), **padded)
    return out


def _block(width: int, each: int) -> int:
    """Positions in `BLOCK_BYTES` for a head of `width` numbers of `each` bytes: 16 to 64."""
    padded = max(16, int(triton.next_power_of_2(width)))
    return max(16, min(64, BLOCK_BYTES // (padded * each)))


@triton.jit
def _attend(
    q,
    keys,
    values,
    position,
    found,
    largest,
    total,
    row_stride,
    group_stride,
    heads,
    parts,
    size,
    scale,
    EACH: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, group, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    head, i, j = tl.arange(0, M), tl.arange(0, P), tl.arange(0, BLOCK)
    real, inside = head < EACH, i < D
    which = row * heads + group * EACH + head
    end = tl.load(position + row) + 1
    begin = part * size
    end = tl.minimum(end, begin + size)
    asked = tl.load(q + which[:, None] * D + i[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    most = tl.full([M], float("-inf"), tl.float32)
    sums = tl.zeros([M], tl.float32)
    gathered = tl.zeros([M, P], tl.float32)
    base = row * row_stride + group * group_stride
    for at in range(begin, end, BLOCK):
        seen = at + j < end
        there = seen[:, None] & inside[None, :]
        where = base + (at + j)[:, None] * D + i[None, :]
        k = tl.load(keys + where, mask=there, other=0.0)
        v = tl.load(values + where, mask=there, other=0.0)
        scores = tl.dot(asked, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(most - higher)
        sums = sums * shrink + tl.sum(weights, 1)
        gathered = gathered * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = higher
    slot = which * parts + part
    tl.store(largest + slot, most, mask=real)
    tl.store(total + slot, sums, mask=real)
    tl.store(found + slot[:, None] * D + i[None, :], gathered, mask=real[:, None] & inside[None, :])


@triton.jit
def _together(found, largest, total, out, heads, parts, S: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    which = tl.program_id(0).to(tl.int64) * heads + tl.program_id(1)
    s, i = tl.arange(0, S), tl.arange(0, P)
    part, inside = s < parts, i < D
    # A part beyond the row's end has seen nothing: its largest score is -inf and it weighs nothing.
    m = tl.load(largest + which * parts + s, mask=part, other=float("-inf"))
    weight = tl.exp(m - tl.max(m, 0))
    below = tl.sum(weight * tl.load(total + which * parts + s, mask=part, other=0.0), 0)
    o = tl.load(found + (which * parts + s)[:, None] * D + i[None, :], mask=part[:, None] & inside[None, :], other=0.0)
    tl.store(out + which * D + i, tl.sum(o * weight[:, None], 0) / below, mask=inside)
