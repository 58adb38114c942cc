"""RLOO: each attempt judged against the mean of the task's other attempts; an episode is one action.

    R_b = r_b − kl_coef · Σ_t ( ln π_old(y_bt) − ln π_ref(y_bt) )                   constants
    A_b = R_b − mean_{j ≠ b} R_j                                                      over attempts at the same task
    L = − mean_b( A_b ln π(y_b) ) − entropy_coef · H                                  surrogate: plain
    L = − mean_b min( ρ_b A_b, clip(ρ_b, 1 − clip_low, 1 + clip_high) A_b ) − …       surrogate: clip
    ρ_b = exp( Σ_t ( ln π(y_bt) − ln π_old(y_bt) ) )

The baseline leaves the episode itself out, so on samples of π the expected gradient is that of E[r] − kl_coef KL(π ‖
π_ref), the KL between whole episodes, without the (n − 1)/n of a mean that contains it. Both surrogates have that same
gradient at the first optimiser step on a batch; of later ones only the second knows that the policy has moved.

Source: Kool et al. 2019; for language models Ahmadian et al., arXiv:2402.14740, which argues that ratios and clipping
are not needed there. The ratio of whole episodes with a clip is what TRL's RLOOTrainer optimises.

Departures: the KL is off by default; an entropy bonus can be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    ImportanceSettings,
    entropy_bonus,
    sequence_log_probs,
    summary,
    without_gradient,
)
from astarpo.algorithms.surrogates import NEARBY, clip_metrics, clipped_surrogate
from astarpo.batch import Batch, Scored
from astarpo.numerics import group_centred, group_sizes, masked_sum
from astarpo.settings import When, chosen


class RLOOSettings(ImportanceSettings):
    """The paper's method, and the clipped form that is in use."""

    name: str = Field("rloo", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    group_size: int = Field(8, ge=2, le=1024, description="attempts at each task in one update, compared to each other")
    surrogate: Literal["plain", "clip"] = Field(
        "plain",
        description="plain: advantage times log-prob, as published. clip: advantage times the ratio of the episode's "
        "probability to the one it was sampled with, clipped, for several optimiser steps on one batch",
    )
    clip_low: float = Field(0.2, ge=0, le=1, description="how far below 1 the ratio may count; 1 for no lower bound")
    clip_high: float = Field(0.2, ge=0, le=10, description="how far above 1 the ratio may count")
    kl_coef: float = Field(
        0.0, ge=0, le=100, description="taken from the reward for each nat of the episode's log-ratio to the reference"
    )
    entropy_coef: float = Field(0.0, ge=0, le=10, description="bonus per nat of mean token entropy")

    effects: ClassVar[Mapping[str, When]] = {
        "clip_low": chosen("surrogate", "clip"),
        "clip_high": chosen("surrogate", "clip"),
        "importance": chosen("surrogate", "plain"),
    }


class RLOO(Algorithm[RLOOSettings]):
    """REINFORCE leave-one-out; the equations stand at the top of this file."""

    Settings = RLOOSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task; the reference when the KL is on."""
        return Needs(reference=self.settings.kl_coef > 0, group_size=2)

    @property
    def stops_gradient(self) -> bool:
        """Under importance weights. See the base class."""
        return self.settings.importance != "none"

    @property
    def misled(self) -> str | None:
        """By samples of another policy, unless they are weighed by `importance`; by far ones where it clips."""
        return NEARBY if self.settings.surrogate == "clip" else self.settings.misled

    def idle(self, batch: Batch) -> Tensor:
        """Episodes of groups that all earned the same, unless KL or entropy tell them apart. See the base class."""
        if self.settings.kl_coef or self.settings.entropy_coef:
            return super().idle(batch)
        return group_centred(batch.reward, batch.task) == 0

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `leave_one_out`; the rewards are less the KL, where it is on."""
        reward, coef = batch.reward.detach(), self.settings.kl_coef
        if not coef:
            return leave_one_out(reward, batch.task), {}
        ratio = masked_sum(batch.behaviour_logp - batch.reference(), batch.acted).detach()
        return leave_one_out(reward - coef * ratio, batch.task), {"log_ratio/mean": float(ratio.mean())}

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Surrogate over whole episodes and entropy bonus. See `Algorithm.loss`."""
        own = self.settings
        advantage, metrics = self.advantage_of(batch)
        metrics |= summary(scored, batch, advantage)
        if not bool(advantage.any()) and not own.entropy_coef:
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        scored, corrected = own.corrected(scored, batch)
        logp = sequence_log_probs(scored, batch)
        if own.surrogate == "plain":
            loss = -(advantage.detach() * logp).mean()
        else:
            # An episode is one action here: one column instead of T.
            whole, every = logp.unsqueeze(-1), batch.acted.any(-1, keepdim=True)
            old = masked_sum(batch.behaviour_logp, batch.acted).unsqueeze(-1)
            surrogate, clipped = clipped_surrogate(
                whole, old, advantage, every, clip_low=own.clip_low, clip_high=own.clip_high
            )
            loss = -surrogate.mean()
            metrics |= clip_metrics(whole, old, every, clipped)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | corrected | {"signal/skipped": 0.0}


def leave_one_out(reward: Tensor, task: Tensor) -> Tensor:
    """r_b − mean_{j ≠ b} r_j over attempts at the same task: [B] reward units to [B].

    That is n/(n − 1) times the gap to the mean of all n. Exactly 0 where all n earned the same, and for a lone attempt.
    """
    sizes = group_sizes(task)
    return group_centred(reward, task) * sizes / (sizes - 1).clamp(min=1)
