"""OAPL: A*-PO's regression with the sampler as reference and V* from the group, so that the data may be stale.

    V̂_b = β₁ ln mean_{b' of the same task} exp(r_b' / β₁)
    L = mean_b ( β₂ (ln π(y_b|x_b) − ln π_sampler(y_b|x_b)) − (r_b − V̂_b) )²

The sampler's log-probs are those that came out of sampling, so neither a lagged sampler nor one that rounds otherwise
needs a correction: no ratio, no clip, no reference model in memory, no stage 1. At the minimum the policy is the
sampler's, tilted: π_sampler exp((r − V̂) / β₂). `rollout.sync_every` keeps the sampler behind the policy;
`optimizer.epochs` and `optimizer.minibatches` learn several times from what one sampler said.

While π is still the sampler's the log-ratio is 0 and this is REINFORCE with baseline V̂: its expected gradient is that
of E[r] − E[V̂] / G with G attempts at a task, times −2β₂. Only a second step on the same sampler sees the pull to it.

Source: Ritter et al., arXiv:2602.19362, "LLMs can learn to reason via off-policy RL".

Departures:
- a mean over all episodes where the paper sums over each group: the same, but for the learning rate;
- divided by 2β₂ (`normalize_gradient`), as in `astar_po`;
- the paper's β₁, β₂ and lag are not known to us: the defaults are A*-PO's;
- the paper empties its buffer when the sampler is synchronised; here each update plays afresh, with whatever sampler
  there is.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from astarpo.algorithms.astar_po import astar_po_loss
from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs
from astarpo.algorithms.regularisers import sequence_log_probs, summary
from astarpo.batch import Batch, Scored
from astarpo.numerics import group_log_mean_exp, masked_sum


class OAPLSettings(AlgorithmSettings):
    """Two temperatures and a scale."""

    name: str = Field("oapl", description="which algorithm: a file name in astarpo/algorithms, or a dotted path")
    group_size: int = Field(8, ge=2, le=1024, description="attempts at each task in one update, which V* is read off")
    beta: float = Field(
        1e-3, gt=0, le=100, description="regression temperature, reward units per nat: the pull to the sampler"
    )
    value_beta: float = Field(
        0.5, gt=0, le=1000, description="temperature of the group's V*, reward units; small leans to the best attempt"
    )
    normalize_gradient: bool = Field(
        True, description="divide the loss by 2 beta, so that gradient norms compare with REINFORCE's"
    )


class OAPL(Algorithm[OAPLSettings]):
    """The regression against the sampler; the equation stands at the top of this file."""

    Settings = OAPLSettings

    @property
    def needs(self) -> Needs:
        """Two attempts at each task; the reference is whoever sampled."""
        return Needs(group_size=2)

    @property
    def misled(self) -> str | None:
        """No: it holds to whoever sampled."""
        return None

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The regression. See `Algorithm.loss`."""
        own = self.settings
        reward = batch.reward.detach()
        value = group_log_mean_exp(reward, batch.task, own.value_beta)
        logp = sequence_log_probs(scored, batch)
        sampler = masked_sum(batch.behaviour_logp, batch.acted).detach()
        loss = astar_po_loss(logp, sampler, reward, value, beta=own.beta)
        ratio = (logp - sampler).detach()
        residual = own.beta * ratio - (reward - value)
        metrics = summary(scored, batch, reward - value) | {
            "v_group/mean": float(value.mean()),
            "log_ratio/mean": float(ratio.mean()),
            "log_ratio/std": float(ratio.std(correction=0)),
            "residual/mean": float(residual.mean()),
            "residual/std": float(residual.std(correction=0)),
            "loss/regression": float(loss.detach()),
            "signal/skipped": 0.0,
        }
        return loss / (2 * own.beta) if own.normalize_gradient else loss, metrics
