"""What a backend is, and the one that is always there: the policy's own engine."""

from __future__ import annotations

from typing import Protocol

from astarpo.errors import SettingsError
from astarpo.policy.base import Player
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run


class Backend(Protocol):
    """Generates replies for policies whose weights live in the trainer."""

    def player(self, policy: HuggingFacePolicy) -> Player:
        """Someone who plays with the weights that `policy` has when its conversations are opened."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Own:
    """Every policy plays by itself."""

    def player(self, policy: HuggingFacePolicy) -> Player:
        """The policy."""
        return policy

    def close(self) -> None:
        """Nothing is held."""


def open_backend(run: Run) -> Backend:
    """The backend that `run.rollout.backend` names, for training and for evaluating a model at hand.

    Raises:
        SettingsError: it cannot train, or is not installed.
        BackendError: its server does not answer.
    """
    if run.rollout.backend == "huggingface":
        return Own()
    if run.rollout.backend == "vllm":
        from astarpo.backends.vllm import Vllm

        return Vllm(run)
    raise SettingsError(
        "rollout.backend openai plays a model whose weights are elsewhere, so nothing here can be trained or loaded: "
        "use `astarpo evaluate openai:MODEL ENV`, or choose huggingface or vllm."
    )
