"""PPO with a learned critic: a value for every token, generalised advantages, clipped ratios.

    V_bt = w · h_bt + c                                     h_bt: the sampler's last hidden state before token t
    δ_bt = r_bt + gamma · V_b,t+1 − V_bt                    over acted tokens; V is 0 after the last
    A_bt = Σ_k (gamma · lam)^k δ_b,t+k                      then normalised over the batch's tokens, if set
    G_bt = Σ_k gamma^k r_b,t+k
    L = − aggregate_bt min( ρ_bt A_bt, clip(ρ_bt, 1 − clip_low, 1 + clip_high) A_bt )
        + value_coef · mean over tokens of ½ (V_bt − G_bt)²  + kl_coef · aggregate_bt KL_bt − entropy_coef · H

r_bt is the reward of a turn, at the last token that the policy said in it. Advantages and returns are constants.

Source: PPO, arXiv:1707.06347; GAE, arXiv:1506.02438.

Departures:
- the critic is a linear head on the hidden states of the policy that sampled, and its gradient does not reach the
  policy: no second model, and nothing to balance. It can say no more than those states do;
- it learns from the returns themselves (λ = 1), as VAPO does, arXiv:2504.05118, and its loss is not clipped;
- the KL is a term of the loss, off by default; an entropy bonus can be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from astarpo.algorithms.base import Algorithm, Needs
from astarpo.algorithms.regularisers import RegularisedSettings, entropy_bonus, kl_tokens, summary
from astarpo.algorithms.surrogates import NEARBY, clip_metrics, clipped_surrogate, standardise_tokens
from astarpo.batch import Batch, Scored
from astarpo.numerics import Aggregation, aggregate, masked, masked_mean, masked_sum, spread_turns
from astarpo.settings import When, chosen


class PPOSettings(RegularisedSettings):
    """PPO over tokens with the critic described above."""

    name: str = Field("ppo", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    group_size: int = Field(
        1, ge=1, le=1024, description="attempts at each task in one update; the critic needs but one"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount for each token that the policy says")
    lam: float = Field(
        0.95,
        ge=0,
        le=1,
        description="lambda of GAE. 1: returns less values, unbiased. 0: one step, as good as the critic",
    )
    normalise: bool = Field(True, description="advantages less their mean, over their deviation, over all tokens")
    normalise_eps: float = Field(1e-8, gt=0, le=1, description="added to that deviation, reward units")
    clip_low: float = Field(0.2, ge=0, le=1, description="how far below 1 the ratio may count; 1 for no lower bound")
    clip_high: float = Field(0.2, ge=0, le=10, description="how far above 1 the ratio may count")
    aggregation: Aggregation = Field(
        "token_mean",
        description="tokens to one number. token_mean: the mean of all tokens of the step. sequence_mean: the mean of "
        "the episode's tokens. constant: the episode's sum over denominator. sum: over the episode",
    )
    denominator: float = Field(64.0, gt=0, le=1e6, description="tokens one episode counts as; aggregation constant")
    value_coef: float = Field(0.5, gt=0, le=1e6, description="weight of the critic's squared error")
    critic_speed: float = Field(
        10.0, gt=0, le=1e6, description="the critic's learning rate, times optimizer.learning_rate"
    )

    effects: ClassVar[Mapping[str, When]] = {
        "normalise_eps": chosen("normalise", True),
        "denominator": chosen("aggregation", "constant"),
    }


class PPO(Algorithm[PPOSettings]):
    """PPO; the equations stand at the top of this file. Keeps its critic, w and c, which start at 0."""

    Settings = PPOSettings

    def __init__(self, settings: PPOSettings) -> None:
        super().__init__(settings)
        self._head: nn.Linear | None = None

    @property
    def needs(self) -> Needs:
        """The policy's hidden states; the reference when the KL is on."""
        return Needs(**self.settings.kl_needs(), hidden=True)

    def learned(self, width: int, device: torch.device) -> tuple[list[nn.Parameter], float]:
        """w and c of the critic. See the base class."""
        return list(self._critic(width, device, torch.float32).parameters()), self.settings.critic_speed

    def values(self, batch: Batch) -> Tensor:
        """V before each acted token, [B, T] reward units, 0 elsewhere; its gradient is the critic's alone."""
        states = batch.hidden_states().detach()
        found: Tensor = self._critic(states.shape[-1], states.device, states.dtype)(states).squeeze(-1)
        return masked(found, batch.acted)

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Generalised advantages of the tokens, [B, T], by the critic as it is."""
        own = self.settings
        values = self.values(batch).detach()
        found = gae(turn_ends(batch), values, batch.acted, gamma=own.gamma, lam=own.lam)
        return standardise_tokens(found, batch.acted, own.normalise_eps) if own.normalise else found, {}

    @property
    def misled(self) -> str | None:
        """By samples of far policies, whose ratio is clipped."""
        return NEARBY

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Clipped surrogate, the critic's error, KL and entropy terms. See `Algorithm.loss`."""
        own = self.settings
        advantage, metrics = self.advantage_of(batch)
        metrics |= summary(scored, batch, masked_sum(advantage, batch.acted) / batch.acted.sum(-1).clamp(min=1))
        logp, old = scored.logp, batch.behaviour_logp
        surrogate, clipped = clipped_surrogate(
            logp, old, advantage, batch.acted, clip_low=own.clip_low, clip_high=own.clip_high
        )
        loss = -aggregate(surrogate, batch.acted, own.aggregation, own.denominator)
        values = self.values(batch)
        returns = gae(turn_ends(batch), torch.zeros_like(values), batch.acted, gamma=own.gamma, lam=1.0)
        error = masked_mean((values - returns).square(), batch.acted)
        loss = loss + own.value_coef * 0.5 * error
        if own.kl_coef:
            kl = kl_tokens(own.kl_estimator, scored, batch)
            loss = loss + own.kl_coef * aggregate(kl, batch.acted, own.aggregation, own.denominator)
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        spread = masked_mean((returns - masked_mean(returns, batch.acted)).square(), batch.acted)
        metrics |= {
            "critic/mean": float(masked_mean(values.detach(), batch.acted)),
            "critic/error": float(error.detach()),
            "critic/explained": float(1 - error.detach() / spread) if bool(spread > 0) else 0.0,
        }
        return loss, metrics | {"signal/skipped": 0.0} | clip_metrics(logp, old, batch.acted, clipped)

    def state(self) -> dict[str, Any]:
        """The critic's numbers; nothing before it was first asked."""
        if self._head is None:
            return {}
        return {"weight": self._head.weight.detach()[0].tolist(), "bias": float(self._head.bias.detach())}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave, in place: an optimiser may hold these parameters already."""
        if not state:
            return
        weight = torch.tensor([state["weight"]], dtype=torch.float64)
        with torch.no_grad():
            head = self._critic(weight.shape[1], weight.device, weight.dtype)
            head.weight.copy_(weight)
            head.bias.fill_(state["bias"])

    def _critic(self, width: int, device: torch.device, dtype: torch.dtype) -> nn.Linear:
        if self._head is None:
            self._head = nn.Linear(width, 1, device=device, dtype=dtype)
            nn.init.zeros_(self._head.weight)
            nn.init.zeros_(self._head.bias)
        return self._head


def turn_ends(batch: Batch) -> Tensor:
    """Each turn's reward at the last token that the policy said in it: [B, T] reward units, 0 elsewhere."""
    after = torch.full_like(batch.turn, -1)
    after[:, :-1] = batch.turn[:, 1:]
    rewards = spread_turns(batch.turn_rewards().detach(), batch.turn)
    return masked(rewards, batch.acted & (batch.turn != after))


def gae(reward: Tensor, values: Tensor, acted: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantages over acted tokens; what the environment says between them takes no time.

        A_t = δ_t + gamma · lam · A_t',   δ_t = r_t + gamma · V_t' − V_t,   t' the next acted token, 0 beyond the last

    Args:
        reward, values: [B, T] reward units.
        acted: [B, T] bool.
        gamma, lam: in [0, 1].

    Returns:
        [B, T], 0 where not acted.
    """
    ahead, value = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    found = []
    for r, v, here in zip(reward.flip(1).unbind(1), values.flip(1).unbind(1), acted.flip(1).unbind(1), strict=True):
        ahead = torch.where(here, r + gamma * value - v + gamma * lam * ahead, ahead)
        value = torch.where(here, v, value)
        found.append(torch.where(here, ahead, torch.zeros_like(ahead)))
    return torch.stack(found[::-1], dim=1)
