"""Importance ratios and what is done with them: PPO's clip and CISPO's clipped weight, per token, to be maximised."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from astarpo.numerics import masked, require_same_shape, standardise

RatioLevel = Literal["token", "sequence"]


NEARBY = (
    "corrects by a clipped ratio, which reaches nearby policies only: what is said far more or less often moves nothing"
)
"""See `Algorithm.misled`."""


def importance_ratio(logp: Tensor, old_logp: Tensor, acted: Tensor, *, level: RatioLevel = "token") -> Tensor:
    """How much likelier the policy makes what was sampled than the policy that sampled it.

        token      ρ_bt = exp(ln π(y_bt) − ln π_old(y_bt))
        sequence   ρ_bt = exp(mean_t (ln π(y_bt) − ln π_old(y_bt)))      one number for the whole episode; GSPO

    Args:
        logp: [B, T] under π, nats; carries the gradient.
        old_logp: [B, T] under the policy that sampled, nats; a constant here.
        acted: [B, T] bool.
        level: which of the two.

    Returns:
        [B, T], 1 where not acted in the first case, the episode's own in the second.

    Raises:
        ShapeError: the three are not one shape.
    """
    require_same_shape(logp=logp, old_logp=old_logp, acted=acted)
    gap = masked(logp, acted) - masked(old_logp, acted).detach()
    if level == "sequence":
        gap = (gap.sum(-1, keepdim=True) / acted.sum(-1, keepdim=True).clamp(min=1)).expand_as(gap)
    return gap.exp()


def clipped_surrogate(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    acted: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: RatioLevel = "token",
) -> tuple[Tensor, Tensor]:
    """min( ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A ) for each token. Source: PPO, arXiv:1707.06347, eq. 7.

    Args:
        logp: [B, T] under π, nats; carries the gradient.
        old_logp: [B, T] under the policy that sampled, nats; a constant here.
        advantage: [B] or [B, T]; a constant here.
        acted: [B, T] bool.
        clip_low, clip_high: distances from 1; with a `clip_low` of 1 there is no lower bound.
        level: of the ratio ρ; see `importance_ratio`.

    Returns:
        The surrogate [B, T], 0 where not acted, and where the clip cut the gradient off, [B, T] bool.

    Raises:
        ShapeError: the token columns are not one shape.
    """
    weight = per_token(advantage, acted)
    ratio = importance_ratio(logp, old_logp, acted, level=level)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * weight, clipped * weight)
    beyond = ((weight > 0) & (ratio > 1 + clip_high)) | ((weight < 0) & (ratio < 1 - clip_low))
    return masked(surrogate, acted), beyond & acted


def cispo_surrogate(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    acted: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    level: RatioLevel = "token",
) -> tuple[Tensor, Tensor]:
    """stop_gradient( clip(ρ, 1 − clip_low, 1 + clip_high) ) A ln π for each token.

    The clip bounds how much a token weighs and never takes it out. Source: MiniMax-M1, arXiv:2506.13585, eq. 4 and 5,
    whose runs have no lower bound.

    Args, Raises: as `clipped_surrogate`.

    Returns:
        The surrogate [B, T], 0 where not acted, and where the weight was clipped, [B, T] bool.
    """
    ratio = importance_ratio(logp, old_logp, acted, level=level).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = weight * per_token(advantage, acted) * masked(logp, acted)
    return masked(surrogate, acted), (weight != ratio) & acted


def per_token(advantage: Tensor, acted: Tensor) -> Tensor:
    """[B] or [B, T] advantages as constants that multiply [B, T] terms; an episode's own is that of its every token."""
    fixed = advantage.detach()
    return fixed.unsqueeze(-1) if fixed.dim() == 1 else masked(fixed, acted)


def clip_metrics(
    logp: Tensor, old_logp: Tensor, acted: Tensor, clipped: Tensor, *, level: RatioLevel = "token"
) -> dict[str, float]:
    """clip_frac (share of acted tokens), ratio/mean and ratio/max over acted tokens. Arguments: [B, T] as above."""
    held = importance_ratio(logp.detach(), old_logp, acted, level=level)[acted]
    return {
        "clip_frac": float(clipped.sum() / acted.sum().clamp(min=1)),
        "ratio/mean": float(held.mean()),
        "ratio/max": float(held.max()),
    }


def tokens_to_come(reward: Tensor, acted: Tensor) -> Tensor:
    """Sum of what is earned at a token and at the acted ones after it: [B, T] reward units to [B, T], no discount."""
    return masked(masked(reward, acted).flip(-1).cumsum(-1).flip(-1), acted)


def standardise_tokens(values: Tensor, acted: Tensor, eps: float) -> Tensor:
    """(values − mean) / (std + eps) over all acted tokens of the batch, unbiased std: [B, T] to [B, T]; 0 elsewhere.

    All zero where all values are equal.
    """
    return torch.zeros_like(values).masked_scatter(acted, standardise(values[acted], eps))


def at_the_end(reward: Tensor, acted: Tensor) -> Tensor:
    """An episode's return laid on its last acted token: [B] to [B, T], 0 elsewhere."""
    places = torch.arange(acted.shape[1], device=acted.device).expand_as(acted)
    last = masked(places, acted).amax(-1, keepdim=True)
    return torch.where((places == last) & acted, reward.unsqueeze(-1), torch.zeros_like(reward).unsqueeze(-1))
