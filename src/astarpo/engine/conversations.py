"""Open conversations of one policy: each is a growing list of token ids whose KV cache is kept across its turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from astarpo.batch import length_buckets
from astarpo.chat import Chat
from astarpo.engine.slots import SlotCache
from astarpo.types import Reply

EXTEND_TOKENS = 8192
"""Padded tokens of one prefill pass; larger passes fall out of the processor's cache and run slower per token."""


class Player(Protocol):
    """What the engine asks of a policy."""

    @property
    def chat(self) -> Chat:
        """How conversations are written, and which tokens end a reply."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def layers(self) -> int:
        """Layers that hold keys and values."""
        ...

    def next_logits(self, ids: Tensor, last: Tensor, cache: SlotCache, active: Tensor) -> Tensor:
        """Run `ids` [n, q] on rows `active`; logits [n, V] at each row's position `last` [n]."""
        ...


class Slots:
    """Open conversations of one policy; see `Conversations`. Not valid once the policy's weights have changed."""

    def __init__(self, policy: Player, keys: Sequence[tuple[int, ...]]) -> None:
        self._policy = policy
        self._cache = SlotCache(policy.layers, len(keys), policy.device)
        self._row = {slot: slot for slot in range(len(keys))}
        self._random = [_generator(key) for key in keys]
        self._logits: dict[int, Tensor] = {}
        # The last sampled token of a reply is known but not yet computed: it leads the next observation.
        self._pending: dict[int, int] = {}
        # Conversations with equal pasts hold the same tokens: (past, what was appended) → past, numbered as they come.
        self._past = dict.fromkeys(range(len(keys)), 0)
        self._pasts: dict[tuple[int, tuple[int, ...]], int] = {}

    def tokens(self, slot: int) -> int:
        """Tokens that the conversation in `slot` holds, prompt included."""
        return int(self._cache.lengths[self._row[slot]]) + (slot in self._pending)

    def close(self, slots: Sequence[int]) -> None:
        """These conversations are over; their memory is given back once a quarter of the rows are idle."""
        for slot in slots:
            del self._row[slot], self._past[slot]
            self._logits.pop(slot, None)
            self._pending.pop(slot, None)
        if self._row and len(self._row) <= 0.75 * self._cache.rows:
            still = sorted(self._row)
            self._cache.keep(torch.tensor([self._row[slot] for slot in still], device=self._policy.device))
            self._row = {slot: row for row, slot in enumerate(still)}

    @torch.inference_mode()
    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Append observation ids; only they are computed, and once for conversations that are alike word for word.

        Attempts at one task that searched for the same words read the same page: one computes, the others copy.
        """
        device = self._policy.device
        leaders: dict[int, int] = {}
        followers: list[tuple[int, int]] = []
        whole: dict[int, list[int]] = {}
        for slot, row in zip(slots, ids, strict=True):
            lead = [self._pending.pop(slot)] if slot in self._pending else []
            leader = leaders.setdefault(self._remember(slot, row), slot)
            if leader == slot:
                whole[slot] = [*lead, *row]
            else:
                followers.append((leader, slot))
        led = list(whole)
        counts = torch.tensor([len(whole[slot]) for slot in led])
        for part in length_buckets(counts, EXTEND_TOKENS):
            some = [led[j] for j in part.tolist()]
            padded = torch.zeros((len(some), int(counts[part].max())), dtype=torch.int64)
            for i, slot in enumerate(some):
                padded[i, : len(whole[slot])] = torch.tensor(whole[slot])
            active = torch.tensor([self._row[slot] for slot in some], device=device)
            new = counts[part].to(device)
            logits = self._policy.next_logits(padded.to(device), new - 1, self._cache, active)
            self._cache.commit(new)
            self._logits.update(zip(some, logits, strict=True))
        if followers:
            source, target = (
                torch.tensor([self._row[slot] for slot in side], device=device) for side in zip(*followers, strict=True)
            )
            self._cache.copy(source, target)
            self._logits.update((slot, self._logits[leader]) for leader, slot in followers)

    def _remember(self, slot: int, appended: Sequence[int]) -> int:
        """Note what was appended to `slot`'s conversation; equal numbers mean equal conversations."""
        past = self._pasts.setdefault((self._past[slot], tuple(appended)), len(self._pasts) + 1)
        self._past[slot] = past
        return past

    @torch.inference_mode()
    def reply(self, slots: Sequence[int], max_tokens: int, temperature: float) -> list[Reply]:
        """Sample one reply for each of `slots`, ending with a stop token or after `max_tokens`."""
        policy, stop = self._policy, self._policy.chat.stop
        ids: list[list[int]] = [[] for _ in slots]
        log_probs: list[list[float]] = [[] for _ in slots]
        draws = np.stack([self._random[slot].random(max_tokens) for slot in slots])
        going = list(range(len(slots)))
        logits = torch.stack([self._logits.pop(slot) for slot in slots])
        for step in range(max_tokens):
            chosen, nats = choose(logits, temperature, torch.from_numpy(draws[going, step]).to(logits.device))
            for i, token, nat in zip(going, chosen.tolist(), nats.tolist(), strict=True):
                ids[i].append(token)
                log_probs[i].append(nat)
            kept = [k for k, i in enumerate(going) if ids[i][-1] not in stop]
            if not kept or step == max_tokens - 1:
                break
            going = [going[k] for k in kept]
            active = torch.tensor([self._row[slots[i]] for i in going], device=policy.device)
            one = torch.ones(len(going), dtype=torch.int64, device=policy.device)
            logits = policy.next_logits(
                chosen[torch.tensor(kept, device=chosen.device), None], one - 1, self._cache, active
            )
            self._cache.commit(one)
        for slot, row in zip(slots, ids, strict=True):
            self._pending[slot] = row[-1]
            self._remember(slot, row)
        return [
            Reply(tuple(row), tuple(nats), policy.chat.decode(row), row[-1] in stop)
            for row, nats in zip(ids, log_probs, strict=True)
        ]


def choose(logits: Tensor, temperature: float, draw: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row: the inverse of the cumulative distribution at `draw`, or the likeliest at temperature 0.

    Args:
        logits: [n, V].
        temperature: 0 for greedy; log-probs are then those at temperature 1.
        draw: [n] float64 in [0, 1).

    Returns:
        ids [n] and their log-probs [n], nats.
    """
    if temperature == 0.0:
        chosen = logits.argmax(-1)
        return chosen, torch.log_softmax(logits, -1).gather(-1, chosen[:, None])[:, 0]
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    reach = log_p.double().exp().cumsum(-1)
    # The sum of V rounded terms need not be 1: scaling the draw keeps every token reachable and none beyond the last.
    chosen = torch.searchsorted(reach, (draw * reach[:, -1])[:, None], right=True)[:, 0].clamp_(
        max=logits.shape[-1] - 1
    )
    return chosen, log_p.gather(-1, chosen[:, None])[:, 0]


def _generator(key: tuple[int, ...]) -> np.random.Generator:
    """Randomness that belongs to one conversation: a counter-based generator under its own key."""
    state = np.random.SeedSequence([part % 2**32 for part in key]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=state))
