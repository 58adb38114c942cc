"""vLLM as the engine: weights are pushed when they have changed, and probed before anything is played with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from astarpo.backends import probe
from astarpo.backends.tokens import Engine, TokenConversations
from astarpo.chat import Chat
from astarpo.errors import SettingsError
from astarpo.policy import adapters
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run


def whole(policy: HuggingFacePolicy) -> Any:
    """The policy's model as vLLM reads it: its adapter, where it has one, merged into a copy of the weights."""
    return adapters.merged(policy.model) if adapters.has_adapter(policy.model) else policy.model


class Host(Engine, Protocol):
    """A running vLLM."""

    name: str

    def push(self, policy: HuggingFacePolicy) -> None:
        """Take the policy's weights and forget every cached key."""
        ...

    def abandon(self) -> None:
        """Drop the replies under way: nobody waits for them any more."""
        ...

    def close(self) -> None:
        """Stop it, or leave it."""
        ...


class Vllm:
    """The backend; vLLM itself is started when it is first played with.

    Raises:
        SettingsError: vLLM is not installed, for one in this process, or the weights are in four bits.
        BackendError: the server does not answer.
    """

    def __init__(self, run: Run) -> None:
        if run.policy.quantize != "none":
            raise SettingsError(
                f"rollout.backend vllm takes whole weights and policy.quantize is {run.policy.quantize}: leave "
                "policy.quantize at none, or rollout.backend at huggingface."
            )
        self._run = run
        self._settings = run.rollout.vllm
        self.longest = run.rollout.longest
        self._host: Host | None = None
        self._held: tuple[int, int] | None = None
        self.gap = 0.0
        self._tolerance = self._settings.allowed(run.policy.dtype)
        if self._settings.url:
            from astarpo.backends.vllm_server import Server

            self._host = Server(run)
        else:
            from astarpo.backends.vllm_local import require_vllm

            require_vllm()

    def player(self, policy: HuggingFacePolicy) -> VllmPlayer:
        """Someone who plays with the weights that `policy` has when its conversations are opened."""
        return VllmPlayer(self, policy)

    def holding(self, policy: HuggingFacePolicy) -> Engine:
        """The engine, holding the weights that `policy` has now.

        Raises:
            BackendError: it died, or its probe shows other weights.
        """
        if self._host is None:
            from astarpo.backends.vllm_local import Local

            self._host = Local(self._run, policy)
        # A rollout that was broken off left replies under way, whose numbers the next one would take for its own.
        self._host.abandon()
        now, held = (id(policy), policy.version), self._held
        # Until the probe has passed nothing is known, so whoever tries again pushes again.
        self._held = None
        if held != now:
            self._host.push(policy)
        # Also where nothing was pushed: a server may have been restarted, or given other weights by someone else.
        self.gap = probe.check(
            policy, self._host, longest=self.longest, tolerance=self._tolerance, name=self._host.name
        )
        self._held = now
        return self._host

    def close(self) -> None:
        """Give back what it holds."""
        if self._host is not None:
            self._host.close()
            self._host = None


class VllmPlayer:
    """A policy that plays through vLLM; see `Player`."""

    def __init__(self, backend: Vllm, policy: HuggingFacePolicy) -> None:
        self._backend, self._policy = backend, policy
        self.model = policy.model

    @property
    def chat(self) -> Chat:
        """How the policy's tokenizer writes conversations."""
        return self._policy.chat

    @property
    def rules(self) -> bool:
        """Whether the policy is told an environment's rules."""
        return self._policy.rules

    @property
    def name(self) -> str:
        """The policy's."""
        return self._policy.name

    @property
    def version(self) -> int:
        """Optimiser updates behind the policy's weights."""
        return self._policy.version

    def open(self, keys: Sequence[tuple[int, ...]]) -> TokenConversations:
        """Start `len(keys)` empty conversations, with the weights that the policy has now; see `Policy.open`."""
        return TokenConversations(self._backend.holding(self._policy), self.chat, keys)
