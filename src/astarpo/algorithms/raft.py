"""RAFT and Reinforce-Rej: imitate successes, unlearn failures, drop groups that say nothing, as the settings choose.

    c_b = positive                   where r_b ≥ threshold
        − negative                   elsewhere
          0                          where the task's group is rejected
    L = aggregate_bt( − c_b ln π(y_bt) )     over the episodes with c_b ≠ 0 (`over: kept`) or over all

| method | settings |
|---|---|
| RAFT, rejection sampling; positive-only, PSR | the defaults: positive 1, negative 0 |
| NSR, negative-only | positive 0, negative 1 |
| Weighted-REINFORCE of the NSR paper | positive 0.1, negative 1 |
| REINFORCE on rewards of 1 and −1 | positive 1, negative 1 |
| Reinforce-Rej | positive 1, negative 1, reject both |

Sources: RAFT, Dong et al., arXiv:2304.06767; Reinforce-Rej, Xiong et al., arXiv:2504.11343; PSR, NSR and
Weighted-REINFORCE, arXiv:2506.01347. On fresh samples and over all episodes RAFT's expected gradient is that of the
success rate p, NSR's is the same (−∇(1 − p)), and with both it is twice that: on-policy they differ in noise alone.

Departures: success is a reward of `threshold` or more, so that a control that shuffles rewards reaches this too; the
papers' mean over each reply's tokens is `aggregation: sequence_mean`, the default sums; they clip a token ratio, for
which stale data have `importance` here; KL and entropy terms can be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    ImportanceSettings,
    SignalSettings,
    entropy_bonus,
    kl_tokens,
    needs,
    summary,
    without_gradient,
)
from astarpo.algorithms.weighted_sft import weighted_sft_loss
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, uniform_groups
from astarpo.settings import When, chosen

Reject = Literal["none", "all_wrong", "all_right", "both"]


class RAFTSettings(ImportanceSettings, SignalSettings):
    """What counts as a success, how much either kind counts, and which groups are dropped."""

    name: str = Field("raft", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    threshold: float = Field(1.0, ge=-1e6, le=1e6, description="reward from which on an episode is a success")
    positive: float = Field(1.0, ge=0, le=1000, description="how much a success is imitated")
    negative: float = Field(0.0, ge=0, le=1000, description="how much a failure is unlearned")
    reject: Reject = Field(
        "none",
        description="tasks that are dropped by what their attempts did in this update. all_wrong: none succeeded. "
        "all_right: none failed. both: either",
    )
    over: Literal["kept", "all"] = Field(
        "kept", description="which episodes the mean is over. kept: those that count for something. all: of the update"
    )
    aggregation: Aggregation = Field(
        "sum",
        description="tokens to one number. sum: over the episode. constant: that sum over denominator. sequence_mean: "
        "the mean of the episode's tokens, as in the papers. token_mean: the mean of all tokens",
    )
    denominator: float = Field(32.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")

    effects: ClassVar[Mapping[str, When]] = {"denominator": chosen("aggregation", "constant")}

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.positive == 0 and self.negative == 0:
            raise ValueError("positive and negative are both 0, so no episode counts: raise one of them.")
        if self.reject != "none" and self.group_size < 2:
            raise ValueError(
                f"reject {self.reject} needs a group_size of 2 or more, got {self.group_size}: one attempt is all "
                "right or all wrong by itself; raise group_size or set reject to none."
            )
        return self


class RAFT(Algorithm[RAFTSettings]):
    """Signed imitation of whole groups; the equation stands at the top of this file."""

    Settings = RAFTSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task where groups are rejected; the reference when the KL is on."""
        return needs(self.settings, group_size=1 if self.settings.reject == "none" else 2)

    def idle(self, batch: Batch) -> Tensor:
        """Episodes that count for nothing, unless a KL or entropy term reaches them. See the base class."""
        if self.settings.kl_coef or self.settings.entropy_coef:
            return super().idle(batch)
        return self.coefficients(batch) == 0

    def coefficients(self, batch: Batch) -> Tensor:
        """c of each episode, [B]."""
        own, reward = self.settings, batch.reward.detach()
        success = reward >= own.threshold
        one = success.to(reward.dtype)
        coefficient = own.positive * one - own.negative * (1 - one)
        alike = uniform_groups(one, batch.task)
        wrong, right = alike & ~success, alike & success
        rejected = {"none": wrong & right, "all_wrong": wrong, "all_right": right, "both": alike}[own.reject]
        return torch.where(rejected, 0.0, coefficient)

    @property
    def stops_gradient(self) -> bool:
        """Under importance weights. See the base class."""
        return self.settings.importance != "none"

    @property
    def misled(self) -> str | None:
        """Not where successes alone are imitated: that is supervised learning, whoever played."""
        return self.settings.misled if self.settings.negative else None

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Signed cross-entropy, KL and entropy terms. See `Algorithm.loss`."""
        own, coefficient = self.settings, self.coefficients(batch)
        kept = coefficient != 0
        metrics = summary(scored, batch, coefficient) | {"kept/share": float(kept.double().mean())}
        if own.skips(coefficient):
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        scored, corrected = own.corrected(scored, batch)
        loss = without_gradient(scored, batch)
        rows = kept if own.over == "kept" else torch.ones_like(kept)
        if kept.any():
            loss = weighted_sft_loss(
                scored.logp[rows],
                coefficient[rows],
                batch.acted[rows],
                aggregation=own.aggregation,
                denominator=own.denominator,
            )
        if own.kl_coef:
            kl = kl_tokens(own.kl_estimator, scored, batch)
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | corrected | {"signal/skipped": 0.0}
