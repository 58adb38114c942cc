"""Replies under way: what each has said so far, and how conversations that speak token by token give whole ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from astarpo.types import Reply


class Speaking(ABC):
    """Conversations that are asked for replies and then say them bit by bit."""

    @abstractmethod
    def ask(self, slots: Sequence[int], max_tokens: int, temperature: float) -> None:
        """Begin a reply in each of `slots`, which ends with a stop token or after `max_tokens`; `step` says it."""

    @abstractmethod
    def step(self) -> list[tuple[int, Reply]]:
        """Go on with the replies under way; those that have ended, by slot. There may be none."""

    def reply(self, slots: Sequence[int], max_tokens: int, temperature: float) -> list[Reply]:
        """Sample one reply for each of `slots`, ending with a stop token or after `max_tokens`; 0 is greedy."""
        self.ask(slots, max_tokens, temperature)
        said: dict[int, Reply] = {}
        while len(said) < len(slots):
            said.update(self.step())
        return [said[slot] for slot in slots]


class Replies:
    """Replies under way, one a slot: what each has said so far, and the numbers that it draws by.

    Attributes:
        slots: [n] of those under way, in the order of their rows.
        rows: [n] of the cache, ascending.
    """

    def __init__(self, slots: int, stop: Iterable[int]) -> None:
        self.slots = self.rows = np.zeros(0, dtype=np.int64)
        ends = sorted(stop)
        # By id, up to the first one after which none ends a reply.
        self._stop: NDArray[np.bool_] = np.zeros(ends[-1] + 2 if ends else 1, dtype=np.bool_)
        self._stop[ends] = True
        self._count, self._most = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self._draws: NDArray[np.float64] = np.zeros((slots, 0))
        self._ids: NDArray[np.int64] = np.zeros((slots, 0), dtype=np.int64)
        self._nats: NDArray[np.float64] = np.zeros((slots, 0))

    def begin(self, slot: int, draws: NDArray[np.float64]) -> None:
        """A reply of `len(draws)` tokens at most."""
        most = len(draws)
        if most > self._draws.shape[1]:
            more = ((0, 0), (0, most - self._draws.shape[1]))
            self._draws, self._nats = np.pad(self._draws, more), np.pad(self._nats, more)
            self._ids = np.pad(self._ids, more)
        self._draws[slot, :most], self._count[slot], self._most[slot] = draws, 0, most

    def next_draws(self) -> NDArray[np.float64]:
        """[n] in [0, 1)."""
        found: NDArray[np.float64] = self._draws[self.slots, self._count[self.slots]]
        return found

    def may_go_on(self) -> NDArray[np.bool_]:
        """[n] whether a token may follow the next one, unless that ends the reply."""
        found: NDArray[np.bool_] = self._count[self.slots] + 1 < self._most[self.slots]
        return found

    def say(self, ids: NDArray[np.int64], nats: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Take the next token of each, [n], with its log-prob; [n] whether the reply goes on."""
        at = self._count[self.slots]
        self._ids[self.slots, at], self._nats[self.slots, at] = ids, nats
        self._count[self.slots] = at + 1
        ended = self._stop[np.minimum(ids, len(self._stop) - 1)]
        found: NDArray[np.bool_] = ~ended & (at + 1 < self._most[self.slots])
        return found

    def said(self, slot: int) -> tuple[list[int], list[float]]:
        """Ids and log-probs of the reply in `slot`."""
        count = int(self._count[slot])
        return self._ids[slot, :count].tolist(), self._nats[slot, :count].tolist()
