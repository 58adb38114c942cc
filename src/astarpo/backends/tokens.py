"""Conversations for engines that take a whole prompt and give token ids back: each turn sends all ids so far.

The engine's prefix cache finds the earlier turns again, so only new tokens are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from astarpo.chat import Chat
from astarpo.engine.replies import Speaking
from astarpo.types import Reply


@dataclass(frozen=True)
class Request:
    """One reply that is wanted.

    Attributes:
        ids: everything the policy reads before it.
        seed: of its sampling.
        max_tokens: after which it is cut.
        temperature: 0 is greedy.
        stop: ids that end it.
    """

    ids: tuple[int, ...]
    seed: int
    max_tokens: int
    temperature: float
    stop: frozenset[int]


@dataclass(frozen=True)
class Said:
    """What an engine sampled: ids with the stop token, and their log-probs at the sampling temperature, nats."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class Engine(Protocol):
    """Takes requests by number and answers each once, in any order."""

    def submit(self, number: int, request: Request) -> None:
        """Begin a reply."""
        ...

    def finished(self) -> list[tuple[int, Said]]:
        """Wait until one reply at least is there; all that are. Raises BackendError where none will come."""
        ...


class ListedConversations(Speaking):
    """Open conversations as lists of ids, kept for an engine that reads all of one before each reply."""

    # The engine makes its own batches, of reading and speaking at once.
    read_share = 0.0

    def __init__(self, keys: Sequence[tuple[int, ...]]) -> None:
        self._ids: list[list[int]] = [[] for _ in keys]
        self._keys = list(keys)
        self._turns = [0] * len(keys)

    def tokens(self, slot: int) -> int:
        """Tokens that the conversation in `slot` holds, prompt included."""
        return len(self._ids[slot])

    def restart(self, slot: int, key: tuple[int, ...]) -> None:
        """The conversation in `slot` is over and a new, empty one under `key` takes its place."""
        self._ids[slot], self._keys[slot], self._turns[slot] = [], key, 0

    def close(self, slots: Sequence[int]) -> None:
        """These slots are needed no more."""
        for slot in slots:
            self._ids[slot] = []

    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Append observation ids to the conversations in `slots`."""
        for slot, new in zip(slots, ids, strict=True):
            self._ids[slot] += new

    def _next_seed(self, slot: int) -> int:
        """The seed of the turn that begins in `slot`."""
        self._turns[slot] += 1
        return seed_of(self._keys[slot], self._turns[slot] - 1)


class TokenConversations(ListedConversations):
    """Open conversations in an `Engine`; see `Conversations`."""

    def __init__(self, engine: Engine, chat: Chat, keys: Sequence[tuple[int, ...]]) -> None:
        super().__init__(keys)
        self._engine, self._chat = engine, chat
        self._asked: dict[int, int] = {}
        self._number = 0

    def ask(self, slots: Sequence[int], max_tokens: int, temperature: float) -> None:
        """Hand the engine a request for each of `slots`; `step` says what came of them."""
        for slot in slots:
            self._asked[self._number] = slot
            self._engine.submit(
                self._number,
                Request(tuple(self._ids[slot]), self._next_seed(slot), max_tokens, temperature, self._chat.stop),
            )
            self._number += 1

    def step(self) -> list[tuple[int, Reply]]:
        """Wait for replies under way; those that have ended, by slot."""
        ended = []
        for number, said in self._engine.finished():
            slot = self._asked.pop(number)
            self._ids[slot] += said.ids
            complete = said.ids[-1] in self._chat.stop
            ended.append((slot, Reply(said.ids, said.log_probs, self._chat.decode(said.ids), complete)))
        return ended


def seed_of(key: tuple[int, ...], turn: int) -> int:
    """The seed of one turn of the conversation under `key`: equal in every process, another one each turn."""
    return int(np.random.SeedSequence([*(part % 2**32 for part in key), turn]).generate_state(1, np.uint32)[0] >> 1)
