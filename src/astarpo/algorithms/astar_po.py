"""A*-PO: regress the advantage that the policy implies on the one that was observed.

    L = mean_b ( β (ln π(y_b|x_b) − ln π_ref(y_b|x_b)) − (r_b − V*_b) )²  −  entropy_coef · H

V* comes from stage 1 (`astarpo.values`), once per task. One fresh attempt at each task suffices; there is no critic, no
importance ratio, no clipping and no normalisation of rewards. On samples of π the expected gradient is
−2β ∇( E[r] − β KL(π ‖ π_ref) ) whatever V* is: V* only lowers the variance, until data are reused.

Source: Brantley et al., arXiv:2505.20686, stage 2. β is the paper's β₂, 1e-3; stage 1 has its own β₁, 0.5.

Departures:
- the whole loss is divided by 2β (`normalize_gradient`), which Adam undoes but for its epsilon and gradient clipping;
  gradient norms then compare with REINFORCE's. Set it to false for the paper's own scale;
- the authors' code adds an entropy bonus of 1e-3 that the paper's loss does not have; here it is off by default
  (`entropy_coef: 0.001` restores it). At β = 1e-3 it weighs like 0.5 reward units per nat;
- the authors update twice per batch of rollouts (256 in halves of 128), the second time slightly off-policy; here once
  (`optimizer.minibatches: 2` restores it).

The log-ratio is a sum over the acted tokens of all turns. β therefore holds longer episodes closer to π_ref; a mean
over tokens would instead solve a problem with another β for each length.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs
from astarpo.algorithms.regularisers import entropy_bonus, sequence_log_probs, summary, without_gradient
from astarpo.batch import Batch, Scored
from astarpo.numerics import masked_sum, require_same_shape


class AStarPOSettings(AlgorithmSettings):
    """The paper's stage 2."""

    name: str = Field("astar_po", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    group_size: int = Field(1, ge=1, le=1024, description="attempts at each task in one update; the paper makes one")
    beta: float = Field(
        1e-3, gt=0, le=100, description="regression temperature, reward units per nat; 0.001 is the usual start"
    )
    normalize_gradient: bool = Field(
        True, description="divide the loss by 2 beta, so that gradient norms compare with REINFORCE's"
    )
    entropy_coef: float = Field(
        0.0, ge=0, le=10, description="bonus per nat of mean token entropy, before that division; 0.001 in their code"
    )


class AStarPO(Algorithm[AStarPOSettings]):
    """The paper's regression; the equation stands at the top of this file."""

    Settings = AStarPOSettings

    @property
    def needs(self) -> Needs:
        """A reference and V* of every task."""
        return Needs(reference=True, values=True)

    @property
    def misled(self) -> str | None:
        """By a V* of another beta: a baseline on its own samples, it moves the solution on others."""
        return (
            "rests where V* says: with values.beta other than algorithm.beta all that was played becomes likelier "
            "together, or less so"
        )

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The regression and the entropy bonus. See `Algorithm.loss`."""
        own = self.settings
        logp = sequence_log_probs(scored, batch)
        ref_logp = masked_sum(batch.reference(), batch.acted).detach()
        advantage = (batch.reward - batch.values()).detach()
        loss = astar_po_loss(logp, ref_logp, batch.reward, batch.values(), beta=own.beta)
        ratio = (logp - ref_logp).detach()
        residual = own.beta * ratio - advantage
        metrics = summary(scored, batch, advantage) | {
            "log_ratio/mean": float(ratio.mean()),
            "log_ratio/std": float(ratio.std(correction=0)),
            "implicit_reward/mean": float(own.beta * ratio.mean()),
            "residual/mean": float(residual.mean()),
            "residual/std": float(residual.std(correction=0)),
            "loss/regression": float(loss.detach()),
        }
        if not bool(residual.any()) and own.entropy_coef == 0:
            return without_gradient(scored, batch), metrics | {"signal/skipped": 1.0}
        if own.entropy_coef:
            loss = loss - own.entropy_coef * entropy_bonus(scored, batch)
        if own.normalize_gradient:
            loss = loss / (2 * own.beta)
        return loss, metrics | {"signal/skipped": 0.0}


def astar_po_loss(logp: Tensor, ref_logp: Tensor, reward: Tensor, v_star: Tensor, *, beta: float) -> Tensor:
    """Squared gap between the advantage the policy implies and the one observed.

        L = mean_b ( β (ln π(y_b|x_b) − ln π_ref(y_b|x_b)) − (r_b − V*_b) )²

    Zero where π = π_ref · exp((r − V*) / β), a distribution only if V* was estimated with this same β.
    Source: arXiv:2505.20686, stage 2; its authors train with two different β.

    Args:
        logp: [B] whole episodes under π, nats; carries the gradient.
        ref_logp: [B] the same episodes under π_ref, nats.
        reward: [B] return of each episode, reward units.
        v_star: [B] V* of each task, reward units; a constant here.
        beta: reward units per nat; larger holds π closer to π_ref.

    Returns:
        Scalar, reward units squared.

    Raises:
        ShapeError: the four are not one shape. Broadcasting would turn that mistake into a plausible number.
    """
    require_same_shape(logp=logp, ref_logp=ref_logp, reward=reward, v_star=v_star)
    implied = beta * (logp - ref_logp.detach())
    observed = reward - v_star
    return (implied - observed.detach()).square().mean()
