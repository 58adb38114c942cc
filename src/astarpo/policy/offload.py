"""A frozen policy whose weights wait in the processor's memory and are on their device only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from astarpo.errors import SettingsError
from astarpo.policy import adapters
from astarpo.policy.huggingface import HuggingFacePolicy


class Offloaded:
    """The weights of `policy`, taken away from its device. Call it for a context in which they are there.

    Outside that context the policy has no weights at all, so whoever forgets it gets an error and never a number.

    Args:
        policy: frozen; its weights belong to nobody else.
    """

    def __init__(self, policy: HuggingFacePolicy) -> None:
        self._policy = policy
        pinned = policy.device.type == "cuda"
        self._home = [
            torch.empty(weights.shape, dtype=weights.dtype, pin_memory=pinned).copy_(weights.data)
            for weights in policy.model.parameters()
        ]
        self._leave()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The weights are on their device; copied there, and dropped at the end. Not to be nested."""
        try:
            for weights, home in zip(self._policy.model.parameters(), self._home, strict=True):
                weights.data = home.to(weights.device, copy=True)
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        for weights in self._policy.model.parameters():
            weights.data = weights.data.new_empty(0)
        # The pass that plays holds on to what it read last.
        self._policy.forward.refresh()


def offload(policy: HuggingFacePolicy) -> Offloaded:
    """`Offloaded`, where that saves anything.

    Raises:
        SettingsError: the policy is on the processor anyway, or is an adapter, whose frozen weights are shared.
    """
    if adapters.has_adapter(policy.model):
        raise SettingsError(
            f"policy.reference_device is cpu and {policy.name} is an adapter, whose reference shares all weights that "
            "do not learn: leave it at policy."
        )
    if policy.device.type == "cpu":
        raise SettingsError(
            "policy.reference_device is cpu and the policy itself is there, so nothing would be moved: leave it at "
            "policy, or set policy.device to a GPU."
        )
    return Offloaded(policy)
