"""Advantage-weighted SFT: imitate one's own samples, each as much as its advantage says.

    A_b = r_b − baseline_b
    z_b = clamp( (A_b − mean A) / (std A + eps), ± z_clamp )              normalise: batch; else clamp(A_b, ± z_clamp)
    w_b = exp          exp(A_b / β) / mean_b exp(A_b / β)
          shifted      z_b + z_clamp                                      in [0, 2 z_clamp]
          normalized   clamp(z_b + shift, floor, ceiling)                 the default: clamp(z + 1, 0.1, 5)
    L = aggregate_bt( − w_b ln π(y_bt) )  +  kl_coef · aggregate_bt( KL_bt )          kl_placement: outside
    L = aggregate_bt( w_b (− ln π(y_bt) + kl_coef · KL_bt) )                          kl_placement: inside

Source: the weighted-SFT trainer that this project began with. In the literature: `exp` is advantage-weighted regression
(arXiv:1910.00177) on fresh samples; the linear schemes are REINFORCE with a shifted baseline and a floor. On samples of
π a constant added to every weight leaves the expected gradient alone and adds variance, so with a floor that does not
bind `normalized` is batch-normalised REINFORCE. Where it binds, failures are imitated: with one success in eight the
weights are 3.47 and 0.65, and 57 % of the weight is on the failures.

As described: `baseline: v_star`, `normalise: batch`, `kl_placement: inside`, `aggregation: sequence_mean`,
`skip_zero_variance: false`, `kl_coef: 0.02`, `kl_estimator: exact`. Batch normalisation cancels any V* that all tasks
share, and so does the mean that `exp` divides by.

Departures, the defaults (the repaired form): the baseline is the mean of the task's own attempts and only the scale is
the batch's; log-probs are summed with a constant denominator, since a token mean favours short replies; the KL stands
outside the weight, which would switch it off exactly on bad samples; a batch whose advantages are all equal is left
alone, since it would be imitated at weight 1. An entropy bonus can be added.
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
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, group_centred, masked, require_same_shape, standardise
from astarpo.settings import When, above_zero, chosen

READS_Z = chosen("scheme", "shifted", "normalized")
"""The schemes whose weights come from z; exp reads the advantage itself."""


class WeightedSFTSettings(RegularisedSettings):
    """Every constant of the form first described; the defaults are the repaired form."""

    name: str = Field(
        "weighted_sft", description="which algorithm: a file name in astarpo/algorithms, or a dotted path"
    )
    scheme: Literal["exp", "shifted", "normalized"] = Field(
        "normalized",
        description="weight from advantage. exp: exp(A/beta) over its batch mean. shifted: z + z_clamp. normalized: "
        "clamp(z + shift, floor, ceiling)",
    )
    baseline: Literal["v_star", "group_mean", "none"] = Field(
        "group_mean",
        description="what is subtracted from the reward. v_star: the task's V*. group_mean: the mean of the task's "
        "attempts in this update. none: nothing",
    )
    normalise: Literal["none", "batch"] = Field(
        "batch",
        description="how z comes from the advantage. batch: minus the batch mean, over the batch standard deviation. "
        "none: the advantage itself. Scheme exp reads the advantage and not z",
    )
    normalise_eps: float = Field(1e-6, gt=0, le=1, description="added to that deviation, reward units")
    beta: float = Field(0.5, gt=0, le=1e6, description="temperature of scheme exp, reward units")
    z_clamp: float = Field(3.0, gt=0, le=1e6, description="z is held within plus and minus this")
    shift: float = Field(1.0, ge=0, le=1e6, description="added to z by scheme normalized")
    floor: float = Field(0.1, ge=0, le=1e6, description="smallest weight of scheme normalized")
    ceiling: float = Field(5.0, gt=0, le=1e6, description="largest weight of scheme normalized")
    aggregation: Aggregation = Field(
        "constant",
        description="tokens to one number. sum: over the episode. constant: that sum over denominator. sequence_mean: "
        "the mean of the episode's tokens. token_mean: the mean of all tokens of the batch",
    )
    denominator: float = Field(32.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")
    kl_coef: float = Field(0.02, ge=0, le=100, description="weight of the KL to the reference, per nat")
    kl_placement: Literal["outside", "inside"] = Field(
        "outside", description="inside: the KL is multiplied by the episode's weight, weakest on bad samples"
    )
    skip_zero_variance: bool = Field(
        True, description="leave the weights alone when all advantages of the batch are equal, instead of imitating it"
    )

    effects: ClassVar[Mapping[str, When]] = {
        "normalise": READS_Z,
        "normalise_eps": READS_Z & chosen("normalise", "batch"),
        "z_clamp": READS_Z,
        "beta": chosen("scheme", "exp"),
        "shift": chosen("scheme", "normalized"),
        "floor": chosen("scheme", "normalized"),
        "ceiling": chosen("scheme", "normalized"),
        "denominator": chosen("aggregation", "constant"),
        "kl_placement": above_zero("kl_coef"),
    }

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.floor > self.ceiling:
            raise ValueError(
                f"floor {self.floor} is above ceiling {self.ceiling}: every weight would be the ceiling; lower floor."
            )
        require_a_group(self.baseline, self.group_size)
        return self

    def _kl_is_weighted(self) -> bool:
        return self.kl_placement == "inside"


class WeightedSFT(Algorithm[WeightedSFTSettings]):
    """Advantage-weighted SFT on fresh samples; the equations stand at the top of this file."""

    Settings = WeightedSFTSettings

    @property
    def needs(self) -> Needs:
        """V* or two attempts at each task, as the baseline asks; the reference when the KL is on."""
        baseline = self.settings.baseline
        return needs(self.settings, values=baseline == "v_star", group_size=2 if baseline == "group_mean" else 1)

    @property
    def misled(self) -> str | None:
        """No: positive weights imitate, whoever played."""
        return None

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross-entropy, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage = self._advantage(batch).detach()
        weight = self.weights(advantage)
        metrics = summary(scored, batch, advantage) | weight_metrics(weight, batch)
        if own.skip_zero_variance and bool((advantage == advantage[0]).all()):
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        kl = kl_tokens(own.kl_estimator, scored, batch) if own.kl_coef else None
        inside = own.kl_coef * kl if kl is not None and own.kl_placement == "inside" else None
        loss = weighted_sft_loss(
            scored.logp, weight, batch.acted, extra=inside, aggregation=own.aggregation, denominator=own.denominator
        )
        if kl is not None and own.kl_placement == "outside":
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | {"signal/skipped": 0.0}

    def weights(self, advantage: Tensor) -> Tensor:
        """The weight of each episode under the chosen scheme: [B] reward units to [B], none below 0."""
        own = self.settings
        if own.scheme == "exp":
            return exp_weights(advantage, beta=own.beta)
        z = standardise(advantage, own.normalise_eps) if own.normalise == "batch" else advantage
        z = z.clamp(-own.z_clamp, own.z_clamp)
        return z + own.z_clamp if own.scheme == "shifted" else (z + own.shift).clamp(own.floor, own.ceiling)

    def _advantage(self, batch: Batch) -> Tensor:
        baseline = self.settings.baseline
        if baseline == "v_star":
            return batch.reward - batch.values()
        if baseline == "group_mean":
            return group_centred(batch.reward, batch.task)
        return batch.reward


def exp_weights(advantage: Tensor, *, beta: float) -> Tensor:
    """exp(A / β) / mean_b exp(A / β): [B] reward units to [B] weights of mean 1. A constant added to A changes nothing.

    A softmax times B, so nothing overflows.
    """
    return torch.softmax(advantage / beta, dim=0) * len(advantage)


def weighted_sft_loss(
    logp: Tensor,
    weight: Tensor,
    acted: Tensor,
    *,
    extra: Tensor | None = None,
    aggregation: Aggregation,
    denominator: float = 1.0,
) -> Tensor:
    """Cross-entropy on the acted tokens, each episode times its weight.

        L = aggregate_bt( w_b (− ln π(y_bt) + extra_bt) )

    Args:
        logp: [B, T] under π, nats; carries the gradient.
        weight: [B]; a constant here.
        acted: [B, T] bool.
        extra: [B, T] terms that share the weight, nats.
        aggregation, denominator: see `numerics.aggregate`.

    Raises:
        ShapeError: the token columns are not one shape.
    """
    require_same_shape(logp=logp, acted=acted)
    term = -masked(logp, acted)
    if extra is not None:
        term = term + masked(extra, acted)
    return aggregate(weight.detach().unsqueeze(-1) * term, acted, aggregation, denominator)
