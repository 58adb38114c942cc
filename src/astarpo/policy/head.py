"""The output head in chunks: ln π, entropy and exact KL from hidden states, without all logits at once.

    z = h Wᵀ / temperature      ln π = z_y − lse z      H = −Σ_v π_v ln π_v      KL = Σ_v π_v (ln π_v − ln q_v)

Backward computes a chunk's logits again, so that memory is that of one chunk however many tokens and words there are:

    ∂ ln π / ∂z = 1_y − π        ∂H / ∂z = −π (ln π + H)        ∂KL / ∂z = π (ln π − ln q − KL)
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from astarpo import native

CHUNK = 2**23
"""Logits that exist at a time, 32 MiB in float32; a few temporaries of that size stand beside them."""

CHUNK_ON_GPU = 2**26
"""The same on a GPU, 256 MiB: every chunk reads the head's weights and adds to their gradient anew."""


def chunk_on(device: torch.device) -> int:
    """Logits that exist at a time on `device`."""
    return CHUNK_ON_GPU if device.type == "cuda" else CHUNK


def acted_scores(
    given: tuple[Tensor, nn.Module | None],
    target: Tensor,
    temperature: float,
    *,
    reference: tuple[Tensor, nn.Module | None] | None = None,
    chunk: int | None = None,
    own_kernels: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """ln π of `target`, entropy and, where there is a reference, KL(π ‖ π_ref), each [A] float32, nats.

    Args:
        given: hidden states [A, H] and the head, or logits [A, V] and None.
        target: [A] ids.
        temperature: logits are divided by it.
        reference: the same of π_ref; no gradient goes there.
        chunk: logits that may exist at a time; `chunk_on` the device where not given.
        own_kernels: whether float32 products are `astarpo.native`'s.
    """
    hidden, head = given
    chunk = chunk_on(hidden.device) if chunk is None else chunk
    away, theirs = reference if reference is not None else (hidden, head)
    if not (_plain(head) and _plain(theirs)):
        return _by_checkpoints(given, target, temperature, reference, chunk)
    other = None if reference is None else (away, theirs.weight, theirs.bias)
    rows = max(1, chunk // head.weight.shape[0])
    logp, entropy, kl = _Head.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, target, temperature, rows, other, own_kernels and _runs(hidden, head.weight)
    )
    return logp, entropy, kl if reference is not None else None


def _plain(head: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether the head is one product and nothing else: a subclass may add an adapter or unpack its weights first."""
    return type(head) is nn.Linear


class _Head(torch.autograd.Function):
    """The three columns under a plain linear head; see the equations on top."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        temperature: float,
        rows: int,
        other: tuple[Tensor, Tensor, Tensor | None] | None,
        own: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        logp, entropy, lse, kl = (torch.empty(len(hidden), device=hidden.device) for _ in range(4))
        kept = None
        for begin in range(0, len(hidden), rows):
            part = slice(begin, begin + rows)
            z = _logits(hidden[part], weight, bias, temperature, own=own)
            lse[part] = torch.logsumexp(z, -1)
            logp[part] = z.gather(-1, target[part, None])[:, 0] - lse[part]
            log_p = z.sub_(lse[part, None])
            p = log_p.exp()
            entropy[part] = -torch.linalg.vecdot(p, log_p)
            if other is not None:
                log_q = _log_q(other, part, temperature, own=own)
                kl[part] = torch.linalg.vecdot(p, log_p - log_q)
            # One chunk is all there is: keeping it costs no more than the pass had, and saves a product.
            kept = (log_p, p) if len(hidden) <= rows else None
        ctx.save_for_backward(hidden, weight, bias, target, lse, entropy, kl, *(kept or ()))
        ctx.temperature, ctx.rows, ctx.other, ctx.own = temperature, rows, other, own
        return logp, entropy, kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, lse, entropy, kl, *kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        g_logp, g_entropy, g_kl = grads
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Sums over many chunks are kept in float32 whatever the weights are.
        d_weight = torch.zeros(weight.shape, device=weight.device) if wants_weight else None
        d_bias = torch.zeros(bias.shape, device=weight.device) if wants_bias else None
        for begin in range(0, len(hidden), ctx.rows):
            part = slice(begin, begin + ctx.rows)
            if kept:
                log_p, p = kept
            else:
                log_p = _logits(hidden[part], weight, bias, ctx.temperature, own=ctx.own).sub_(lse[part, None])
                p = log_p.exp()
            # Everything that is a multiple of π is gathered first: d = π · (…), then the one at the target.
            factor: Tensor | None = None
            if g_entropy is not None:
                factor = (log_p + entropy[part, None]).mul_(-g_entropy[part, None])
            if g_kl is not None and ctx.other is not None:
                gap = (
                    (log_p - _log_q(ctx.other, part, ctx.temperature, own=ctx.own))
                    .sub_(kl[part, None])
                    .mul_(g_kl[part, None])
                )
                factor = gap if factor is None else factor.add_(gap)
            if g_logp is not None:
                minus = g_logp[part, None]
                d = p * (-minus if factor is None else factor.sub_(minus))
                d.scatter_add_(-1, target[part, None], minus)
            elif factor is not None:
                d = p * factor
            else:
                d = torch.zeros_like(p)
            d = d.div_(ctx.temperature).to(hidden.dtype)
            if d_hidden is not None:
                if ctx.own:
                    native.times(d, weight, d_hidden[part])
                else:
                    torch.mm(d, weight, out=d_hidden[part])
            if d_weight is not None:
                if ctx.own:
                    native.add_outer(d_weight, d, hidden[part])
                elif weight.dtype == torch.float32:
                    d_weight.addmm_(d.T, hidden[part])
                else:
                    d_weight += d.T @ hidden[part]
            if d_bias is not None:
                d_bias += d.float().sum(0)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _runs(*given: Tensor) -> bool:
    """Whether these are tensors that `astarpo.native` multiplies."""
    return all(one.device.type == "cpu" and one.dtype == torch.float32 and one.is_contiguous() for one in given)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, *, own: bool) -> Tensor:
    if own and _runs(hidden, weight):
        z = native.linear(hidden, weight, bias)
    else:
        z = nn.functional.linear(hidden, weight, bias).float()
    return z if temperature == 1.0 else z.div_(temperature)


def _log_q(other: tuple[Tensor, Tensor, Tensor | None], part: slice, temperature: float, *, own: bool) -> Tensor:
    hidden, weight, bias = other
    return torch.log_softmax(_logits(hidden[part], weight, bias, temperature, own=own), -1)


def _by_checkpoints(
    given: tuple[Tensor, nn.Module | None],
    target: Tensor,
    temperature: float,
    reference: tuple[Tensor, nn.Module | None] | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same for any head, such as one with an adapter, and for logits that are there already."""
    hidden, head = given
    width = hidden.shape[-1] if head is None else int(getattr(head, "out_features", hidden.shape[-1]))
    rows = max(1, chunk // width)

    def scores(part: Tensor, said: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax((part if head is None else head(part)).float() / temperature, -1)
        p = log_p.exp()
        logp = log_p.gather(-1, said[:, None])[:, 0]
        if other is None:
            return logp, -(p * log_p).sum(-1), torch.zeros_like(logp)
        with torch.no_grad():
            away = other if reference is None or reference[1] is None else reference[1](other)
            log_q = torch.log_softmax(away.float() / temperature, -1)
        return logp, -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1)

    found = []
    for begin in range(0, len(hidden), rows):
        part = slice(begin, begin + rows)
        other = None if reference is None else reference[0][part]
        found.append(checkpoint(scores, hidden[part], target[part], other, use_reentrant=False))
    logp, entropy, kl = (torch.cat(column) for column in zip(*found, strict=True))
    return logp, entropy, kl if reference is not None else None
