"""A*-PO turn by turn (ours, experimental): each turn is judged by how it changes V* of the state.

    G_bh = Σ_{k ≥ h} r_bk                                                  undiscounted reward from turn h on
    V̂(s) = β₁ ln mean exp(G_bh / β₁)        over all turns of the batch that stood in s; 0 after an episode's end
    A_bh = r_bh + V̂(s_b,h+1) − V̂(s_bh)                                     summed over h: r_b − V̂(s_b1)
    L = mean_b Σ_h ( β₂ (ln π(a_bh|s_bh) − ln π_ref(a_bh|s_bh)) − A_bh )²

In a deterministic environment the optimum of E[r] − β KL(π ‖ π_ref) has β ln(π/π_ref)(a|s) = r + V*(s') − V*(s) at
every turn (path consistency; Nachum et al., arXiv:1702.08892), and the turns' identities add up to A*-PO's. We found it
published nowhere for V* read off rollouts that share a state; the grouping is GiGPO's (arXiv:2505.10978). Expect
nothing that you have not measured.

`anchor` says what a state is. observation: the same text shown in attempts at the same task, at whatever turn, as in
GiGPO; more attempts share it, and what is not on the page is averaged over. history: the very same tokens read and said
before; exact for every environment, and shared only by attempts that began alike. Either way a turn in a state that
nobody shares, followed by another such, has advantage 0: credit falls on the turns where attempts part. With one turn
an episode, both are A*-PO with the group's V* (`oapl`, if the reference is the sampler).

`reference` says what the pull goes to. sampler: whoever played, of whom V̂ is an estimate too, as in OAPL. start: the
frozen starting policy; V̂ is then of another policy than π_ref, as in every A*-PO whose V* is refreshed.

Departures from the theory: V̂ has the episode itself in it and is biased low in small groups; where observations are the
anchor, what the page does not show, turns left among them, is averaged over; a limit on turns or tokens ends an episode
with V 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs
from astarpo.algorithms.regularisers import anchor_metrics, summary
from astarpo.batch import Anchor, Batch, Scored
from astarpo.numerics import group_log_mean_exp, masked, require_same_shape, returns_to_go, turn_sums


class AStarPOTurnsSettings(AlgorithmSettings):
    """Two temperatures, what a state is, and who the reference is."""

    name: str = Field(
        "astar_po_turns", description="which algorithm: a file name in astarpo/algorithms, or a dotted path"
    )
    group_size: int = Field(8, ge=2, le=1024, description="attempts at each task in one update, which V* is read off")
    beta: float = Field(1e-3, gt=0, le=100, description="regression temperature, reward units per nat")
    value_beta: float = Field(
        0.5, gt=0, le=1000, description="temperature of V* of a state, reward units; small leans to the best attempt"
    )
    anchor: Anchor = Field(
        "observation",
        description="what makes two turns of attempts at one task the same state. observation: the same text was "
        "shown. history: the very same tokens were read and said before",
    )
    reference: Literal["sampler", "start"] = Field(
        "sampler", description="whom the policy is held to. sampler: whoever played. start: the frozen starting policy"
    )
    normalize_gradient: bool = Field(
        True, description="divide the loss by 2 beta, so that gradient norms compare with REINFORCE's"
    )


class AStarPOTurns(Algorithm[AStarPOTurnsSettings]):
    """The regression at every turn; the equation stands at the top of this file."""

    Settings = AStarPOTurnsSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task; the frozen policy where it is the reference."""
        return Needs(reference=self.settings.reference == "start", group_size=2)

    @property
    def misled(self) -> str | None:
        """No: it regresses on every turn, whoever played."""
        return None

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The regression. See `Algorithm.loss`."""
        own = self.settings
        state, reward = batch.anchors(own.anchor), batch.turn_rewards().detach()
        advantage = turn_advantage(reward, state, beta=own.value_beta)
        other = (batch.reference() if own.reference == "start" else batch.behaviour_logp).detach()
        token_ratio = masked(scored.logp, batch.acted) - masked(other, batch.acted)
        ratio = turn_sums(token_ratio, batch.turn, state.shape[1])
        loss = turn_regression(ratio, advantage, beta=own.beta)
        there = state >= 0
        residual = (own.beta * ratio.detach() - advantage)[there]
        metrics = summary(scored, batch, advantage[there]) | anchor_metrics(state)
        metrics |= {
            "log_ratio/mean": float(ratio.detach().sum(-1).mean()),
            "residual/mean": float(residual.mean()),
            "residual/std": float(residual.std(correction=0)),
            "loss/regression": float(loss.detach()),
            "signal/skipped": 0.0,
        }
        return loss / (2 * own.beta) if own.normalize_gradient else loss, metrics


def turn_advantage(reward: Tensor, state: Tensor, *, beta: float) -> Tensor:
    """r + V̂(next state) − V̂(state), with V̂ the log-mean-exp of returns-to-go over the turns in that state.

    Args:
        reward: [B, N] of each turn, 0 after the last.
        state: [B, N] int64, equal for the same state; -1 after the last turn.
        beta: temperature, reward units.

    Returns:
        [B, N], 0 after the last turn; summed over turns it is the return less V̂ of the first state.

    Raises:
        ShapeError: the two are not one shape.
    """
    require_same_shape(reward=reward, state=state)
    there = state >= 0
    value = torch.zeros_like(reward)
    value[there] = group_log_mean_exp(returns_to_go(reward, 1.0)[there], state[there], beta)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    return reward + following - value


def turn_regression(ratio: Tensor, advantage: Tensor, *, beta: float) -> Tensor:
    """mean_b Σ_h ( β ℓ_bh − A_bh )²: a scalar, reward units squared.

    Args:
        ratio: [B, N] log-ratio of each turn's reply to the reference, nats, 0 after the last; carries the gradient.
        advantage: [B, N] reward units, 0 after the last; a constant here.
        beta: reward units per nat.

    Raises:
        ShapeError: the two are not one shape.
    """
    require_same_shape(ratio=ratio, advantage=advantage)
    return (beta * ratio - advantage.detach()).square().sum(-1).mean()
