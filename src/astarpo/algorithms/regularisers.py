"""What several algorithms share: the pull to the reference, the entropy bonus, advantage clipping, common metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from astarpo.algorithms.base import AlgorithmSettings, Needs
from astarpo.batch import Batch, Scored
from astarpo.numerics import (
    group_sizes,
    kl_k1,
    kl_k2,
    kl_k3,
    masked,
    masked_mean,
    masked_sum,
    uniform_groups,
)
from astarpo.settings import When, above_zero, chosen

KlEstimator = Literal["exact", "k1", "k2", "k3", "k2_sequence"]


class RegularisedSettings(AlgorithmSettings):
    """The regularisers that every algorithm but the paper's A*-PO (whose KL is in the regression) may carry."""

    kl_coef: float = Field(0.0, ge=0, le=100, description="weight of the KL to the reference, reward units per nat")
    kl_estimator: KlEstimator = Field(
        "exact",
        description="what stands for KL(policy || reference) in the loss. exact: whole vocabulary at each token. k2: "
        "half the squared log-ratio of the token, the same gradient with sampling noise. k2_sequence: half the square "
        "of the episode's summed log-ratio, the gradient of the KL between whole episodes. k3: GRPO's, the gradient of "
        "the other direction. k1: no expected gradient, allowed only where a weight multiplies it",
    )
    entropy_coef: float = Field(0.0, ge=0, le=10, description="bonus per nat of mean token entropy")

    effects: ClassVar[Mapping[str, When]] = {"kl_estimator": above_zero("kl_coef")}

    @model_validator(mode="after")
    def _the_kl_restrains(self) -> Self:
        if self.kl_coef > 0 and self.kl_estimator == "k1" and not self._kl_is_weighted():
            raise ValueError(
                "kl_estimator k1 restrains nothing as a loss term, its expected gradient is zero: choose exact, k2, "
                "k2_sequence or k3, or set kl_coef to 0."
            )
        return self

    def _kl_is_weighted(self) -> bool:
        return False

    def kl_needs(self) -> dict[str, bool]:
        """What the KL term asks of the batch, as keyword arguments of `Needs`."""
        return {"reference": self.kl_coef > 0, "exact_kl": self.kl_coef > 0 and self.kl_estimator == "exact"}


class SignalSettings(RegularisedSettings):
    """For methods whose gradient vanishes with the advantages: whether the regularisers may then act alone."""

    skip_without_signal: bool = Field(
        False, description="leave the weights alone when no episode has an advantage, though KL or entropy could act"
    )

    effects: ClassVar[Mapping[str, When]] = {"skip_without_signal": above_zero("kl_coef", "entropy_coef")}

    def skips(self, advantage: Tensor) -> bool:
        """Whether an update with these advantages [B] would move nothing, or is not wanted."""
        silent = not bool(advantage.any())
        return silent and (self.skip_without_signal or (self.kl_coef == 0 and self.entropy_coef == 0))


class ImportanceSettings(AlgorithmSettings):
    """For score-function methods, whose gradient is right only on samples of the policy itself."""

    importance: Literal["none", "token", "sequence"] = Field(
        "none",
        description="what a sampled log-prob's gradient is multiplied by where the sampler is stale or computes "
        "otherwise. none: 1. token: min(policy / sampler, importance_cap) of the token. sequence: of the whole episode",
    )
    importance_cap: float = Field(2.0, gt=0, le=1e6, description="largest importance weight; the rest is cut off")

    effects: ClassVar[Mapping[str, When]] = {"importance_cap": chosen("importance", "token", "sequence")}

    @property
    def misled(self) -> str | None:
        """See `Algorithm.misled`."""
        if self.importance != "none":
            return None
        return "takes every sample for one of its own: set algorithm.importance to token or sequence"

    def corrected(self, scored: Scored, batch: Batch) -> tuple[Scored, dict[str, float]]:
        """`scored` with truncated importance weights on the gradient of its log-probs, and what to log of them.

        The very same object where `importance` is none.
        """
        if self.importance == "none":
            return scored, {}
        weight = importance_weights(
            scored.logp, batch.behaviour_logp, batch.acted, level=self.importance, cap=self.importance_cap
        )
        fixed, there = scored.logp.detach(), weight[batch.acted]
        metrics = {
            "importance/mean": float(there.mean()),
            "importance/min": float(there.min()),
            "importance/max": float(there.max()),
            "importance/cap_frac": float((there == self.importance_cap).double().mean()),
        }
        return replace(scored, logp=fixed + weight * (scored.logp - fixed)), metrics


def kl_tokens(estimator: KlEstimator, scored: Scored, batch: Batch) -> Tensor:
    """The KL estimate token by token, [B, T] nats, with gradient; 0 where not acted.

    `k2_sequence` is ½ ℓ_b² of the episode's log-ratio ℓ_b = Σ_t (ln π − ln π_ref), dealt out as ½ ℓ_b ℓ_bt, which sums
    to it.

    Raises:
        MissingColumnError: no reference scored the batch, or nobody computed the exact KL.
    """
    if estimator == "exact":
        return masked(scored.exact_kl(), batch.acted)
    logp, ref = masked(scored.logp, batch.acted), masked(batch.reference(), batch.acted).detach()
    if estimator == "k1":
        return kl_k1(logp, ref)
    if estimator == "k2":
        return kl_k2(logp, ref)
    if estimator == "k3":
        return kl_k3(logp, ref)
    ratio = kl_k1(logp, ref)
    return 0.5 * ratio.sum(-1, keepdim=True) * ratio


def entropy_bonus(scored: Scored, batch: Batch) -> Tensor:
    """Mean entropy over the acted tokens of the batch, nats, with gradient: a scalar to subtract from a loss.

    The gradient is the one at the visited positions; how the policy moves which positions are visited is left out.
    """
    return masked_mean(scored.entropy, batch.acted)


class AdaptiveClip:
    """Advantages held within ± scale × the usual size, where usual is learned from the run.

        limit = scale × median over the last `window` updates (this one included) of sqrt(mean_b A_b²)

    The median makes one wild batch unable to move the limit, and a real change of scale moves it within half a window.
    Batches without any advantage are not recorded, or a quiet stretch would close the limit. A success of frequency p
    has an advantage of about 1/sqrt(p) usual sizes: a scale of 5 starts to clip successes rarer than 1 in 25.
    """

    def __init__(self, scale: float, window: int) -> None:
        self.scale = scale
        self.window = window
        self._sizes: list[float] = []

    def __call__(self, advantage: Tensor) -> tuple[Tensor, float]:
        """`advantage` [B] held within the limit, and the limit (0 where no batch has had an advantage yet)."""
        size = float(advantage.square().mean().sqrt())
        if size > 0:
            self._sizes = [*self._sizes, size][-self.window :]
        limit = self.scale * statistics.median(self._sizes) if self._sizes else 0.0
        return advantage.clamp(-limit, limit), limit

    def state(self) -> list[float]:
        """The recorded sizes, oldest first."""
        return list(self._sizes)

    def restore(self, sizes: list[float]) -> None:
        """Take back what `state` gave."""
        self._sizes = [float(size) for size in sizes][-self.window :]


def importance_weights(
    logp: Tensor, behaviour_logp: Tensor, acted: Tensor, *, level: Literal["token", "sequence"], cap: float
) -> Tensor:
    """min( π / π_sampler, cap ) of each token, or of its whole episode: [B, T], constants; unsampled tokens count 1.

    Uncapped, the weight of the whole episode makes samples of the sampler stand for samples of π; that of the token
    corrects the token's own probability and leaves how often its prefix is visited. The cap bounds what one sample may
    weigh and lowers what it bounds. Source: Ionides 2008, "Truncated importance sampling"; for samplers that compute
    otherwise than the trainer, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training".

    Args:
        logp, behaviour_logp: [B, T] nats.
        acted: [B, T] bool.
        level: whose ratio.
        cap: the largest weight.
    """
    gap = masked(logp.detach(), acted) - masked(behaviour_logp.detach(), acted)
    if level == "sequence":
        gap = gap.sum(-1, keepdim=True).expand_as(gap)
    return gap.exp().clamp(max=cap)


def without_gradient(scored: Scored, batch: Batch) -> Tensor:
    """A zero that `backward` accepts and that moves nothing: the loss of an update without signal."""
    return (masked(scored.logp, batch.acted) * 0.0).sum()


def summary(scored: Scored, batch: Batch, advantage: Tensor) -> dict[str, float]:
    """The metrics that every algorithm logs, by their canonical names.

    reward/mean, reward/std · advantage/mean, advantage/std · entropy (nats per acted token) · v_star/mean where there
    is V* · kl (nats per acted token: the exact one where computed, else k3) where there is a reference ·
    signal/zero_std_frac (share of tasks, among those tried at least twice, whose attempts all earned the same).
    """
    with torch.no_grad():
        found = {
            "reward/mean": batch.reward.mean(),
            "reward/std": batch.reward.std(correction=0),
            "advantage/mean": advantage.mean(),
            "advantage/std": advantage.std(correction=0),
            "entropy": masked_mean(scored.entropy, batch.acted),
        }
        if batch.v_star is not None:
            found["v_star/mean"] = batch.v_star.mean()
        if scored.kl_exact is not None:
            found["kl"] = masked_mean(scored.kl_exact, batch.acted)
        elif batch.ref_logp is not None:
            found["kl"] = masked_mean(kl_tokens("k3", scored, batch), batch.acted)
        sizes = group_sizes(batch.task)
        if bool((sizes > 1).any()):
            # One episode of a group of n counts 1/n, so that every task counts once.
            share = torch.where(sizes > 1, 1.0 / sizes, 0.0)
            found["signal/zero_std_frac"] = share[uniform_groups(batch.reward, batch.task)].sum() / share.sum()
        return {name: float(value) for name, value in found.items()}


def sequence_log_probs(scored: Scored, batch: Batch) -> Tensor:
    """ln π of each episode: the sum over its acted tokens, [B] nats, with gradient."""
    return masked_sum(scored.logp, batch.acted)


def require_a_group(baseline: str, group_size: int) -> None:
    """Raises ValueError where `baseline` is the group's mean and a group has fewer than two attempts."""
    if baseline == "group_mean" and group_size < 2:
        raise ValueError(
            f"baseline group_mean needs a group_size of 2 or more, got {group_size}: one attempt compared to itself "
            "earns nothing; raise group_size or choose another baseline."
        )


def needs(settings: RegularisedSettings, *, values: bool = False, group_size: int = 1) -> Needs:
    """`Needs` of an algorithm with these regularisers."""
    return Needs(**settings.kl_needs(), values=values, group_size=group_size)


def weight_metrics(weight: Tensor, batch: Batch) -> dict[str, float]:
    """How the weights [B] of episodes lie; `weights/failure_share` is the part that imitates unsuccessful ones."""
    total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
    return {
        "weights/mean": float(weight.mean()),
        "weights/std": float(weight.std(correction=0)),
        "weights/min": float(weight.min()),
        "weights/max": float(weight.max()),
        "weights/failure_share": float(weight[~batch.success].sum() / total),
        "weights/effective_share": float(total.square() / weight.square().sum().clamp(min=1e-30) / len(weight)),
    }


def anchor_metrics(state: Tensor) -> dict[str, float]:
    """How turns share states: anchors/size, the turns in the state of an average turn, itself among them, and
    anchors/alone, the share of turns in a state of their own.

    Args:
        state: [B, N] int64, equal for the same state, -1 where there is no turn.
    """
    sizes = group_sizes(state[state >= 0])
    return {
        "anchors/size": float(sizes.double().mean()),
        "anchors/alone": float((sizes == 1).double().mean()),
    }
