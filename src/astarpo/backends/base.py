"""What a backend is, and the one that is always there: the policy's own engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.errors import SettingsError
from astarpo.policy.base import Player
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run

if TYPE_CHECKING:
    from astarpo.backends.openai import EndpointPlayer


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
    require_weights(run)
    if run.rollout.backend == "vllm":
        from astarpo.backends.vllm import Vllm

        return Vllm(run)
    return Own()


def require_weights(run: Run) -> None:
    """Raises SettingsError where the weights that play are elsewhere."""
    if run.rollout.backend == "openai":
        raise SettingsError(
            "rollout.backend openai plays a model whose weights are elsewhere, so nothing here can be trained or "
            "loaded: use `astarpo evaluate openai:MODEL ENV`, or choose huggingface or vllm."
        )


def open_endpoint(name: str, run: Run, environment: Environment[EnvironmentSettings]) -> EndpointPlayer:
    """Who plays as `name`, which is openai:MODEL; told the rules, where there are any, unless the run says otherwise.

    Raises:
        SettingsError: no model is named.
        BackendError: the endpoint's address, or the file of kept answers, cannot be read.
    """
    from astarpo.backends.openai import PREFIX, EndpointPlayer

    model = name.removeprefix(PREFIX)
    if not model:
        raise SettingsError(f"{name} names no model: write openai:MODEL, as the endpoint calls it.")
    rules = bool(environment.prompt()) if run.policy.rules is None else run.policy.rules
    return EndpointPlayer(model, run.rollout.openai, rules=rules)
