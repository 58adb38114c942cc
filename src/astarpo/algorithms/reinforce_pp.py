"""REINFORCE++: PPO's clip without a critic, advantages normalised over the whole batch instead of within a task.

    r_bt = [t is the last token] r_b − kl_coef · ( ln π_old(y_bt) − ln π_ref(y_bt) )     kl_placement: reward
    r_bt = [t is the last token] ( r_b − mean_group r )                                   baseline: group_mean
    A_bt = Σ_{i ≥ t} r_bi                                                                 over acted tokens, no discount
    Â_bt = (A_bt − mean A) / (std A + eps)                                                over all acted tokens at once
    L = − aggregate_bt min( ρ_bt Â_bt, clip(ρ_bt, 1 − clip_low, 1 + clip_high) Â_bt ) + kl_coef · aggregate_bt KL_bt

the last term with `kl_placement: loss`. Constants everywhere but in ρ_bt = exp(ln π − ln π_old) and KL_bt.

Source: Hu et al., arXiv:2501.03262. REINFORCE++: one attempt at each task, KL by k1 in the reward (the defaults, with
`kl_coef` above 0). Its "with baseline" form: `baseline: group_mean`, several attempts, `kl_placement: loss`,
`kl_estimator: k2`. One mean and one deviation for all tasks vanish into a constant as the batch grows, those of a small
group do not; they also mix easy tasks with hard ones, which the baseline mends and the plain form does not.

Departures:
- the KL is off by default;
- mean and deviation are taken over tokens, as the authors' code does, so long episodes count for more in them; the
  deviation is the unbiased one and eps is added to it;
- in an episode of several turns its return stands at the last token, whatever turn earned it;
- an entropy bonus can be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    KlEstimator,
    RegularisedSettings,
    entropy_bonus,
    kl_tokens,
    needs,
    require_a_group,
    summary,
    without_gradient,
)
from astarpo.algorithms.surrogates import (
    NEARBY,
    at_the_end,
    clip_metrics,
    clipped_surrogate,
    standardise_tokens,
    tokens_to_come,
)
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, group_centred, masked, masked_sum
from astarpo.settings import When, above_zero, chosen


class ReinforcePPSettings(RegularisedSettings):
    """REINFORCE++; with a baseline and the KL in the loss, its second form."""

    name: str = Field(
        "reinforce_pp", description="which algorithm: a file name in astarpo/algorithms, or a dotted path"
    )
    group_size: int = Field(
        8,
        ge=1,
        le=1024,
        description="attempts at each task in one update; the paper makes one where it has no baseline",
    )
    baseline: Literal["none", "group_mean"] = Field(
        "none", description="what is subtracted from the reward. group_mean: the mean of the task's attempts"
    )
    normalise_eps: float = Field(1e-8, gt=0, le=1, description="added to the deviation over the batch, reward units")
    clip_low: float = Field(0.2, ge=0, le=1, description="how far below 1 the ratio may count; 1 for no lower bound")
    clip_high: float = Field(0.2, ge=0, le=10, description="how far above 1 the ratio may count")
    aggregation: Aggregation = Field(
        "sequence_mean",
        description="tokens to one number. sequence_mean: the mean of the episode's tokens, as published. token_mean: "
        "the mean of all tokens of the step. constant: the episode's sum over denominator. sum: over the episode",
    )
    denominator: float = Field(64.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")
    kl_placement: Literal["reward", "loss"] = Field(
        "reward",
        description="where the KL to the reference acts. reward: each token pays for its log-ratio (k1), before "
        "advantages are normalised. loss: a term of its own, by kl_estimator",
    )
    kl_estimator: KlEstimator = Field(
        "k2", description="what stands for the KL in the loss: exact, k2 (the paper's), k2_sequence or k3"
    )

    effects: ClassVar[Mapping[str, When]] = {
        "denominator": chosen("aggregation", "constant"),
        "kl_placement": above_zero("kl_coef"),
        "kl_estimator": above_zero("kl_coef") & chosen("kl_placement", "loss"),
    }

    @model_validator(mode="after")
    def _a_group_has_two(self) -> Self:
        require_a_group(self.baseline, self.group_size)
        return self

    def _kl_is_weighted(self) -> bool:
        return self.kl_placement == "reward"


class ReinforcePP(Algorithm[ReinforcePPSettings]):
    """REINFORCE++; the equations stand at the top of this file."""

    Settings = ReinforcePPSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task where they are compared; the reference when the KL is on."""
        return needs(self.settings, group_size=2 if self.settings.baseline == "group_mean" else 1)

    @property
    def misled(self) -> str | None:
        """By samples of far policies, whose ratio is clipped."""
        return NEARBY

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Normalised returns-to-go of the tokens, [B, T]."""
        own, reward = self.settings, batch.reward.detach()
        if own.baseline == "group_mean":
            reward = group_centred(reward, batch.task)
        earned, logged = at_the_end(reward, batch.acted), {}
        if own.kl_coef and own.kl_placement == "reward":
            ratio = masked(batch.behaviour_logp - batch.reference(), batch.acted).detach()
            earned = earned - own.kl_coef * ratio
            logged["log_ratio/mean"] = float(ratio.sum(-1).mean())
        return standardise_tokens(tokens_to_come(earned, batch.acted), batch.acted, own.normalise_eps), logged

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Clipped surrogate, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage, metrics = self.advantage_of(batch)
        counts = batch.acted.sum(-1).clamp(min=1)
        metrics |= summary(scored, batch, masked_sum(advantage, batch.acted) / counts)
        if not bool(advantage.any()) and not own.kl_coef and not own.entropy_coef:
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        logp, old = scored.logp, batch.behaviour_logp
        surrogate, clipped = clipped_surrogate(
            logp, old, advantage, batch.acted, clip_low=own.clip_low, clip_high=own.clip_high
        )
        loss = -aggregate(surrogate, batch.acted, own.aggregation, own.denominator)
        if own.kl_coef and own.kl_placement == "loss":
            kl = kl_tokens(own.kl_estimator, scored, batch)
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | {"signal/skipped": 0.0} | clip_metrics(logp, old, batch.acted, clipped)
