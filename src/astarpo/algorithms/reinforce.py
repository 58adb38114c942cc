"""REINFORCE with a baseline by name: V*, the batch's or the group's mean, or a moving average.

    A_b = r_b − baseline_b          then, by setting, batch-normalised and clipped
    L = − loss_scale · mean_b( A_b · Σ_t ln π(y_bt) ) + kl_coef · mean_b Σ_t KL_bt − entropy_coef · H

Source: Williams 1992; V* of the reference as baseline: the run that this project began with.

As described there: `baseline: v_star`, `normalise: batch`, `normalise_eps: 1e-8`, `clip: fixed`, `clip_at: 5`, no KL,
no entropy, V* the hard maximum of the reference's returns. The defaults are the repaired form: V* is a baseline for
each task, and nothing is normalised over the batch, which would cancel whatever part of V* the tasks share and mix
easy tasks with hard ones.

Episodes of a stale or mismatched sampler can be weighed by truncated importance weights (`importance`).

Departures: KL and entropy terms, the other baselines and the adaptive clip are ours. The log-prob of an episode is the
sum over the acted tokens of all its turns, stop tokens included; the loss is a mean over episodes, never over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import (
    AdaptiveClip,
    ImportanceSettings,
    SignalSettings,
    entropy_bonus,
    kl_tokens,
    needs,
    require_a_group,
    sequence_log_probs,
    summary,
    without_gradient,
)
from astarpo.batch import Batch, Scored
from astarpo.numerics import aggregate, group_centred, require_same_shape, standardise
from astarpo.settings import When, chosen


class ReinforceSettings(ImportanceSettings, SignalSettings):
    """Every constant of the form first described, and of the repaired one."""

    name: str = Field("reinforce", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    baseline: Literal["v_star", "batch_mean", "group_mean", "moving_average", "none"] = Field(
        "v_star",
        description="what is subtracted from the reward. v_star: the task's V*. batch_mean: of this update. "
        "group_mean: of this task's attempts in it. moving_average: of earlier updates. none: nothing",
    )
    baseline_decay: float = Field(
        0.9, ge=0, lt=1, description="share of the moving average that each update keeps; baseline moving_average"
    )
    normalise: Literal["none", "batch"] = Field(
        "none", description="batch: subtract the batch's mean advantage and divide by its standard deviation"
    )
    normalise_eps: float = Field(1e-8, gt=0, le=1, description="added to that deviation, reward units")
    clip: Literal["none", "fixed", "adaptive"] = Field(
        "none",
        description="advantages held within a limit. fixed: clip_at. adaptive: clip_scale times their usual size",
    )
    clip_at: float = Field(
        5.0, gt=0, le=1e6, description="the fixed limit, in reward units or, when normalised, standard deviations"
    )
    clip_scale: float = Field(
        5.0, gt=0, le=1e6, description="the adaptive limit, times the median of recent root-mean-square advantages"
    )
    clip_window: int = Field(16, ge=1, le=10_000, description="updates that this median looks back on")
    loss_scale: float = Field(
        1.0, gt=0, le=1e6, description="multiplies the policy term (the original's beta); Adam undoes it if it is alone"
    )

    effects: ClassVar[Mapping[str, When]] = {
        "baseline_decay": chosen("baseline", "moving_average"),
        "normalise_eps": chosen("normalise", "batch"),
        "clip_at": chosen("clip", "fixed"),
        "clip_scale": chosen("clip", "adaptive"),
        "clip_window": chosen("clip", "adaptive"),
    }

    @model_validator(mode="after")
    def _a_group_has_two(self) -> Self:
        require_a_group(self.baseline, self.group_size)
        return self


class Reinforce(Algorithm[ReinforceSettings]):
    """REINFORCE; the equation stands at the top of this file. Keeps its moving average and its clip's memory."""

    Settings = ReinforceSettings

    def __init__(self, settings: ReinforceSettings) -> None:
        super().__init__(settings)
        self._average: float | None = None
        self._clip = AdaptiveClip(settings.clip_scale, settings.clip_window)

    @property
    def needs(self) -> Needs:
        """V* or two attempts at each task where the baseline asks for them; the reference when the KL is on."""
        baseline = self.settings.baseline
        return needs(self.settings, values=baseline == "v_star", group_size=2 if baseline == "group_mean" else 1)

    @property
    def stops_gradient(self) -> bool:
        """Under importance weights. See the base class."""
        return self.settings.importance != "none"

    @property
    def misled(self) -> str | None:
        """By samples of another policy, unless they are weighed by `importance`."""
        return self.settings.misled

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Score-function loss, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage, metrics = self.advantage_of(batch)
        metrics |= summary(scored, batch, advantage)
        if own.skips(advantage):
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        scored, corrected = own.corrected(scored, batch)
        loss = own.loss_scale * reinforce_loss(sequence_log_probs(scored, batch), advantage)
        if own.kl_coef:
            loss = loss + own.kl_coef * aggregate(kl_tokens(own.kl_estimator, scored, batch), batch.acted, "sum")
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        return loss, metrics | corrected | {"signal/skipped": 0.0}

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Rewards above the baseline, normalised and clipped as set. Moves the moving average and the clip on."""
        own = self.settings
        raw = self._above_baseline(batch)
        metrics = {"advantage/raw_mean": float(raw.mean())}
        advantage = standardise(raw, own.normalise_eps) if own.normalise == "batch" else raw
        if own.clip == "none":
            return advantage, metrics
        if own.clip == "fixed":
            held, limit = advantage.clamp(-own.clip_at, own.clip_at), own.clip_at
        else:
            held, limit = self._clip(advantage)
        clipped = float((held != advantage).float().mean())
        return held, metrics | {"advantage/clip_limit": limit, "advantage/clip_frac": clipped}

    def _above_baseline(self, batch: Batch) -> Tensor:
        own, reward = self.settings, batch.reward.detach()
        if own.baseline == "none":
            return reward
        if own.baseline == "v_star":
            return reward - batch.values().detach()
        if own.baseline == "group_mean":
            return group_centred(reward, batch.task)
        if own.baseline == "batch_mean":
            return group_centred(reward, torch.zeros_like(batch.task))
        mean = float(reward.mean())
        # The average before this batch: a baseline that contains the batch's own rewards would bias the gradient.
        before = mean if self._average is None else self._average
        self._average = own.baseline_decay * before + (1 - own.baseline_decay) * mean
        return reward - before

    def state(self) -> dict[str, Any]:
        """The moving average and the sizes that the adaptive clip remembers."""
        return {"average": self._average, "clip_sizes": self._clip.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._average = state["average"]
        self._clip.restore(state["clip_sizes"])


def reinforce_loss(logp: Tensor, advantage: Tensor) -> Tensor:
    """Minus the mean of advantage times log-prob.

        L = − mean_b( A_b · ln π(y_b|x_b) )

    Its gradient on samples of π is −∇E[r], for any baseline that does not depend on the episode itself.

    Args:
        logp: [B] whole episodes under π, nats; carries the gradient.
        advantage: [B] reward units; a constant here.

    Raises:
        ShapeError: the two are not one shape.
    """
    require_same_shape(logp=logp, advantage=advantage)
    return -(advantage.detach() * logp).mean()
