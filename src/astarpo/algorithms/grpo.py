"""GRPO: attempts at one task judged against each other, no critic and no V*. A family, told apart by settings.

    A_b = (r_b − mean_group r) / (std r + eps)                  std over the group, the batch, or left out: scale_by_std
    ρ_bt = exp(ln π(y_bt) − ln π_old(y_bt))                     ratio: token
    ρ_bt = exp(mean_t (ln π(y_bt) − ln π_old(y_bt)))            ratio: sequence
    J_bt = min( ρ_bt A_b, clip(ρ_bt, 1 − clip_low, 1 + clip_high) A_b )                      surrogate: clip
    J_bt = stop_gradient( clip(ρ_bt, 1 − clip_low, 1 + clip_high) ) A_b ln π(y_bt)           surrogate: cispo
    L = − aggregate_bt J_bt + kl_coef · aggregate_bt KL_bt

Source: DeepSeekMath, arXiv:2402.03300 (token mean per episode, KL by k3 at 0.04). By setting:
- Dr.GRPO, arXiv:2503.20783: no std, constant denominator;
- DAPO, arXiv:2503.14476: clip_high 0.28, token_mean, no KL; its dynamic sampling is `rollout.extra_rounds`, its penalty
  on long episodes `rollout.overlong_penalty`;
- GSPO, arXiv:2507.18071: ratio sequence, clip_low 3e-4, clip_high 4e-4, sequence_mean;
- CISPO, arXiv:2506.13585: surrogate cispo, clip_low 1 (no lower bound), token_mean;
- Lite-PPO, arXiv:2508.08221: std over the batch, token_mean.

Departures:
- the KL is off by default; the paper's is `kl_coef: 0.04` with `kl_estimator: k3`;
- groups whose attempts all earned the same have an advantage of exactly 0, where std + eps would amplify rounding;
- `token_mean` counts the tokens of the whole optimiser step; DAPO's formula writes the mean over one task's attempts;
- an entropy bonus can be added.

Clip and ratio matter only once the policy has moved since it sampled: at the first of several optimiser steps
(`optimizer.minibatches`, `optimizer.epochs`), or where there is but one, every ratio is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    ImportanceSettings,
    KlEstimator,
    SignalSettings,
    entropy_bonus,
    kl_tokens,
    needs,
    summary,
    without_gradient,
)
from astarpo.algorithms.surrogates import NEARBY, RatioLevel, cispo_surrogate, clip_metrics, clipped_surrogate
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, group_centred, group_std, masked
from astarpo.settings import When, chosen

StdOver = Literal["group", "batch", "none"]


class GRPOSettings(ImportanceSettings, SignalSettings):
    """GRPO as published, its KL aside; the variants are these settings."""

    name: str = Field("grpo", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    group_size: int = Field(8, ge=2, le=1024, description="attempts at each task in one update, compared to each other")
    scale_by_std: StdOver = Field(
        "group",
        description="which standard deviation of rewards advantages are divided by. group: of the task's attempts. "
        "batch: of all episodes of the update (Lite-PPO). none: not divided (Dr.GRPO). true is read as group, false "
        "as none",
    )
    std_eps: float = Field(1e-6, gt=0, le=1, description="added to that deviation, reward units")
    ratio: RatioLevel = Field(
        "token",
        description="what is compared with the policy that sampled. token: each token's probability. sequence: the "
        "geometric mean over the episode's tokens (GSPO)",
    )
    surrogate: Literal["clip", "cispo"] = Field(
        "clip",
        description="what the ratio does. clip: PPO's, a token whose ratio went too far has no gradient. cispo: the "
        "clipped ratio weighs the token's log-prob, no token loses its gradient",
    )
    clip_low: float = Field(0.2, ge=0, le=1, description="how far below 1 the ratio may count; 1 for no lower bound")
    clip_high: float = Field(0.2, ge=0, le=10, description="how far above 1 the ratio may count")
    old_log_probs: Literal["behaviour", "detached"] = Field(
        "behaviour",
        description="what the ratio divides by. behaviour: the sampler's log-probs. detached: the policy's own, for "
        "strictly on-policy updates, where the ratio is 1 and nothing is clipped",
    )
    aggregation: Aggregation = Field(
        "sequence_mean",
        description="tokens to one number. sequence_mean: GRPO. token_mean: DAPO. constant: Dr.GRPO. sum: over tokens, "
        "then the mean over episodes",
    )
    denominator: float = Field(64.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")
    kl_estimator: KlEstimator = Field(
        "k3", description="what stands for the KL to the reference: exact, k2, k2_sequence or k3 (the paper's)"
    )

    effects: ClassVar[Mapping[str, When]] = {
        "std_eps": chosen("scale_by_std", "group", "batch"),
        "ratio": chosen("old_log_probs", "behaviour"),
        "surrogate": chosen("old_log_probs", "behaviour"),
        "clip_low": chosen("old_log_probs", "behaviour"),
        "clip_high": chosen("old_log_probs", "behaviour"),
        # Against the sampler the ratio itself is the weight.
        "importance": chosen("old_log_probs", "detached"),
        "denominator": chosen("aggregation", "constant"),
    }

    @field_validator("scale_by_std", mode="before")
    @classmethod
    def _yes_is_the_group(cls, given: Any) -> Any:
        return {True: "group", False: "none"}[given] if isinstance(given, bool) else given


class GRPO(Algorithm[GRPOSettings]):
    """Group-relative policy optimisation; the equation stands at the top of this file."""

    Settings = GRPOSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task; the reference when the KL is on."""
        return needs(self.settings, group_size=2)

    @property
    def stops_gradient(self) -> bool:
        """In CISPO's weight, importance weights and a ratio to itself. See the base class."""
        own = self.settings
        return own.old_log_probs == "detached" or own.surrogate == "cispo"

    @property
    def misled(self) -> str | None:
        """By samples of far policies where it clips; CISPO weighs, and `importance` does."""
        own = self.settings
        if own.old_log_probs == "detached":
            return own.misled
        return NEARBY if own.surrogate == "clip" else None

    def idle(self, batch: Batch) -> Tensor:
        """Episodes of groups that all earned the same, unless a KL or entropy term reaches them. See the base class."""
        own = self.settings
        if own.kl_coef or own.entropy_coef:
            return super().idle(batch)
        return group_centred(batch.reward, batch.task) == 0

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `group_advantage`."""
        own = self.settings
        return group_advantage(batch.reward.detach(), batch.task, std_over=own.scale_by_std, eps=own.std_eps), {}

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Surrogate, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage, _ = self.advantage_of(batch)
        metrics = summary(scored, batch, advantage)
        if own.skips(advantage):
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        scored, corrected = own.corrected(scored, batch)
        logp = masked(scored.logp, batch.acted)
        old = logp.detach() if own.old_log_probs == "detached" else masked(batch.behaviour_logp, batch.acted)
        act = cispo_surrogate if own.surrogate == "cispo" else clipped_surrogate
        surrogate, clipped = act(
            logp, old, advantage, batch.acted, clip_low=own.clip_low, clip_high=own.clip_high, level=own.ratio
        )
        loss = -aggregate(surrogate, batch.acted, own.aggregation, own.denominator)
        if own.kl_coef:
            kl = kl_tokens(own.kl_estimator, scored, batch)
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        metrics |= clip_metrics(logp, old, batch.acted, clipped, level=own.ratio) | corrected
        return loss, metrics | {"signal/skipped": 0.0}


def group_advantage(reward: Tensor, task: Tensor, *, std_over: StdOver, eps: float) -> Tensor:
    """(r − mean of the task) or that over (std + eps); exactly 0 where all attempts at a task earned the same.

    Args:
        reward: [B] reward units.
        task: [B] equal for attempts at one task.
        std_over: whose unbiased standard deviation of rewards divides: the group's, the batch's, or nobody's.
        eps: reward units.

    Returns:
        [B], reward units if `std_over` is none, else standard deviations.
    """
    centred = group_centred(reward, task)
    if std_over == "none" or len(reward) < 2:
        return centred
    std = group_std(reward, task) if std_over == "group" else reward.std()
    return centred / (std + eps)
