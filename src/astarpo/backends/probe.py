"""Does the engine hold the policy's weights? It says a few short replies, and the trainer scores what it said.

The probe's replies are sampled at a temperature of its own, after prompts that fill blocks of a prefix cache, so that
stale or half-loaded weights, keys kept from older ones, and log-probs before the temperature all show alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from astarpo.backends.tokens import Engine, Request, Said
from astarpo.batch import Batch
from astarpo.errors import BackendError
from astarpo.policy.huggingface import HuggingFacePolicy

TEMPERATURE = 1.5
LENGTHS = (3, 40, 300)
"""Tokens of the probe's prompts; the longest spans blocks of a prefix cache, of 16 tokens on a GPU and 128 without."""
TOKENS = 6
"""Tokens of the probe's replies."""


def prompts(policy: HuggingFacePolicy, longest: int) -> list[tuple[int, ...]]:
    """Prompts of any ids but those that end a reply, the same in every process."""
    random = np.random.default_rng(0)
    ids = np.setdiff1d(np.arange(policy.vocabulary), sorted(policy.chat.stop))
    lengths = dict.fromkeys(min(length, longest - TOKENS) for length in LENGTHS)
    return [tuple(map(int, random.choice(ids, size=length))) for length in lengths]


def check(policy: HuggingFacePolicy, engine: Engine, *, longest: int, tolerance: float, name: str) -> float:
    """The largest difference between the log-probs of engine and trainer over the probe's sampled tokens, nats.

    Args:
        policy: whose weights the engine should hold.
        engine: idle.
        longest: tokens that the engine reads at most.
        tolerance: nats.
        name: what the engine is called in messages.

    Raises:
        BackendError: the difference is larger than `tolerance`, or not a number.
    """
    read = prompts(policy, longest)
    for number, ids in enumerate(read):
        # Nothing ends the probe's replies, so every one has the same length.
        engine.submit(number, Request(ids, number, TOKENS, TEMPERATURE, frozenset()))
    said: dict[int, Said] = {}
    while len(said) < len(read):
        said.update(engine.finished())
    batch = _batch(read, [said[number] for number in range(len(read))], policy.device)
    with torch.no_grad():
        own = policy.log_probs(batch).logp
    gap = (own - batch.behaviour_logp)[batch.acted].abs()
    worst = float(gap.max()) if bool(gap.isfinite().all()) else float("nan")
    if not worst <= tolerance:
        raise BackendError(
            f"{name} does not hold the policy's weights: log-probs of what it said differ by {worst:.3g} nats from the "
            f"trainer's where rollout.vllm.tolerance allows {tolerance:g}, so they are stale, half loaded or another "
            "model's; restart it with this model, then go on with `train --resume`."
        )
    return worst


def _batch(read: Sequence[tuple[int, ...]], said: Sequence[Said], device: torch.device) -> Batch:
    b, t = len(read), max(len(ids) for ids in read) + TOKENS
    tokens = torch.zeros((b, t), dtype=torch.int64)
    logp, turn = torch.zeros((b, t)), torch.full((b, t), -1, dtype=torch.int64)
    for row, (ids, reply) in enumerate(zip(read, said, strict=True)):
        end = len(ids) + len(reply.ids)
        tokens[row, :end] = torch.tensor([*ids, *reply.ids])
        logp[row, len(ids) : end] = torch.tensor(reply.log_probs)
        turn[row, len(ids) : end] = 0
    return Batch(
        tokens=tokens.to(device),
        lengths=torch.tensor([len(ids) + len(reply.ids) for ids, reply in zip(read, said, strict=True)]),
        acted=(turn >= 0).to(device),
        turn=turn.to(device),
        behaviour_logp=logp.to(device),
        reward=torch.zeros(b, device=device),
        success=torch.zeros(b, dtype=torch.bool, device=device),
        task=torch.arange(b, device=device),
        temperature=TEMPERATURE,
    )
