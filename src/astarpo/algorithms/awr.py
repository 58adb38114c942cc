"""AWR and RWR: imitate one's own samples, each by the exponential of its advantage (or reward), clipped.

    w_b = min( exp((r_b − baseline_b) / β), ceiling )
    L = aggregate_bt( − w_b ln π(y_bt) ) + kl_coef · aggregate_bt KL_bt − entropy_coef · H

Source: reward-weighted regression, Peters & Schaal 2007 (`baseline: none`); advantage-weighted regression, Peng et al.,
arXiv:1910.00177 (a learned V as baseline, weights clipped at 20).

The fit is a projection: with data of a policy μ it moves towards μ exp((r − b) / β), so it is valid on stale data. On
fresh samples, where each sum of log-probs is of π itself, its expected gradient is that of E[w]: rare good attempts
count more than under E[r]. β → ∞ makes every weight 1, the imitation of everything; the advantage then only shows in
1 + A / β, and the ceiling decides how far small β may lean on one attempt.

Departures: no learned V: the baseline is V*, the mean of the task's attempts, or none; no replay buffer; a batch whose
advantages are all equal is left alone (`skip_zero_variance`), since it would be imitated as it is; β is ours, 0.5
reward units; KL and entropy terms can be added. `weighted_sft` with `scheme: exp` divides by the batch's mean weight
instead of clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    RegularisedSettings,
    entropy_bonus,
    kl_tokens,
    needs,
    require_a_group,
    summary,
    weight_metrics,
    without_gradient,
)
from astarpo.algorithms.weighted_sft import weighted_sft_loss
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, group_centred
from astarpo.settings import When, chosen


class AWRSettings(RegularisedSettings):
    """Temperature, ceiling, baseline."""

    name: str = Field("awr", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    baseline: Literal["v_star", "group_mean", "none"] = Field(
        "group_mean",
        description="what is subtracted from the reward. v_star: the task's V*. group_mean: the mean of the task's "
        "attempts in this update. none: nothing, which is reward-weighted regression",
    )
    beta: float = Field(0.5, gt=0, le=1e6, description="temperature of the weights, reward units")
    ceiling: float = Field(20.0, gt=0, le=1e6, description="largest weight of an episode")
    aggregation: Aggregation = Field(
        "sum",
        description="tokens to one number. sum: over the episode. constant: that sum over denominator. sequence_mean: "
        "the mean of the episode's tokens. token_mean: the mean of all tokens of the batch",
    )
    denominator: float = Field(32.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")
    skip_zero_variance: bool = Field(
        True, description="leave the weights alone when all advantages of the batch are equal, instead of imitating it"
    )

    effects: ClassVar[Mapping[str, When]] = {"denominator": chosen("aggregation", "constant")}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        require_a_group(self.baseline, self.group_size)
        return self


class AWR(Algorithm[AWRSettings]):
    """Exponentially weighted regression; the equation stands at the top of this file."""

    Settings = AWRSettings

    @property
    def needs(self) -> Needs:
        """V* or two attempts at each task, as the baseline asks; the reference when the KL is on."""
        baseline = self.settings.baseline
        return needs(self.settings, values=baseline == "v_star", group_size=2 if baseline == "group_mean" else 1)

    @property
    def misled(self) -> str | None:
        """No: the weights make a target of any sampler."""
        return None

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross-entropy, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage = self._advantage(batch).detach()
        weight = clipped_weights(advantage, beta=own.beta, ceiling=own.ceiling)
        metrics = summary(scored, batch, advantage) | weight_metrics(weight, batch)
        metrics["weights/clip_frac"] = float((weight == own.ceiling).double().mean())
        if own.skip_zero_variance and bool((advantage == advantage[0]).all()):
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        loss = weighted_sft_loss(
            scored.logp, weight, batch.acted, aggregation=own.aggregation, denominator=own.denominator
        )
        if own.kl_coef:
            kl = kl_tokens(own.kl_estimator, scored, batch)
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | {"signal/skipped": 0.0}

    def _advantage(self, batch: Batch) -> Tensor:
        baseline = self.settings.baseline
        if baseline == "v_star":
            return batch.reward - batch.values()
        if baseline == "group_mean":
            return group_centred(batch.reward, batch.task)
        return batch.reward


def clipped_weights(advantage: Tensor, *, beta: float, ceiling: float) -> Tensor:
    """min( exp(A / β), ceiling ): [B] reward units to [B]. The exponent is held first, so nothing overflows."""
    limit = torch.tensor(ceiling, dtype=advantage.dtype, device=advantage.device)
    return torch.where(advantage / beta >= limit.log(), limit, (advantage / beta).exp())
