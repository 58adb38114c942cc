"""What an algorithm is: settings, a declaration of what it needs, and a pure loss. See docs/algorithms.md."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from astarpo.batch import Batch, Scored
from astarpo.errors import AlgorithmContractError
from astarpo.settings import Settings


@dataclass(frozen=True)
class Needs:
    """What the trainer must provide before `loss` is called; the run is refused where it cannot."""

    reference: bool = False
    """`Batch.ref_logp`: a frozen reference policy scores every batch."""
    exact_kl: bool = False
    """`Scored.kl_exact`: full-vocabulary KL to the reference, with gradient."""
    values: bool = False
    """`Batch.v_star`: stage 1 must have played every task."""
    hidden: bool = False
    """`Batch.hidden`: the last hidden states of the policy that sampled, for a critic to read."""
    group_size: int = 1
    """Fewest attempts at one task that the method makes sense with."""


class AlgorithmSettings(Settings):
    """Settings every algorithm has. Subclasses add their own; each field states bounds and meaning."""

    name: str = Field(description="which algorithm: a file name in astarpo/algorithms, or a dotted path to a class")
    group_size: int = Field(8, ge=1, le=1024, description="attempts at each task in one update")


S = TypeVar("S", bound=AlgorithmSettings)


def checked(name: str, given: object) -> tuple[Tensor, dict[str, float]]:
    """What `Algorithm.loss` of the algorithm `name` returned, if it is what that promises.

    Raises:
        AlgorithmContractError: it is not a scalar tensor with a gradient (none is asked for under `signal/skipped`)
            and a dict of numbers.
    """
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
        raise AlgorithmContractError(
            f"{name}.loss must return the loss and a dict of metrics, got {_shown(given)}: return both."
        )
    loss, metrics = given
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise AlgorithmContractError(
            f"{name}.loss must return a scalar tensor first, got {_shown(loss)}: make one number of it, "
            "for example with numerics.aggregate."
        )
    for key, value in metrics.items():
        if not isinstance(value, (int, float)):
            raise AlgorithmContractError(
                f"{name}.loss must return numbers to log, got {_shown(value)} as {key!r}: write float(...)."
            )
    if not loss.requires_grad and not metrics.get("signal/skipped"):
        raise AlgorithmContractError(
            f"{name}.loss returned a loss without a gradient: make it from scored.logp without detaching that, or say "
            "signal/skipped 1.0 where there is nothing to learn."
        )
    return loss, metrics


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:60]


class Algorithm(ABC, Generic[S]):
    """Turns scored episodes into a loss. Knows nothing of environments, optimisers or text."""

    Settings: ClassVar[type[AlgorithmSettings]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What must be in the batch, given the settings."""

    @property
    def stops_gradient(self) -> bool:
        """Whether the loss holds something of the policy constant on purpose, an importance weight for example: its
        gradient is then not the slope of its value."""
        return False

    @property
    def misled(self) -> str | None:
        """Why samples of another policy mislead it under its settings; None where they do not.

        Said as a warning where saved episodes are learned from: "NAME learns from ... and WHY".
        """
        return "takes every sample for one of its own"

    @abstractmethod
    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise and what to log about it.

        The loss may read `scored` and `batch` and this object's own state; its gradient flows through `scored` only.
        An update without any signal returns a loss whose gradient is zero and says so in the metric
        `signal/skipped` (1.0), so that the trainer leaves the weights alone.
        """

    def idle(self, batch: Batch) -> Tensor:
        """[B] bool: episodes whose gradient is zero whatever the policy says of them, so that nobody need score them.

        In `loss` their log-probs are then the behaviour's, their entropy 0, and they still count as episodes.
        """
        return torch.zeros_like(batch.success, dtype=torch.bool)

    def advantages(self, batch: Batch) -> tuple[Tensor, dict[str, float]] | None:  # noqa: ARG002
        """Advantages over a whole batch of rollouts on which several optimiser steps are made, and what to log.

        Asked once a batch; each part then carries its share as `Batch.advantage`, so that statistics over the batch
        are those of all of it and state moves on once. None: `loss` looks at each part by itself.

        Returns:
            [B] or [B, T], constants.
        """
        return None

    def advantage_of(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """`Batch.advantage` where it was found before, else `advantages` of this batch. For use inside `loss`.

        Raises:
            NotImplementedError: the algorithm does not define `advantages`.
        """
        if batch.advantage is not None:
            return batch.advantage, {}
        found = self.advantages(batch)
        if found is None:
            raise NotImplementedError(f"{type(self).__name__} defines no advantages")
        return found

    def learned(self, width: int, device: torch.device) -> tuple[list[nn.Parameter], float]:  # noqa: ARG002
        """Parameters of its own that the optimiser moves with the policy's, a critic's for example.

        Args:
            width: of the policy's hidden states.
            device: where to make them.

        Returns:
            The parameters, always the same objects, and their learning rate, times the policy's.
        """
        return [], 1.0

    def state(self) -> dict[str, Any]:
        """What must be kept in a checkpoint (moving averages and the like), as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")
