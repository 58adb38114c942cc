"""Open conversations of one policy: each is a growing list of token ids whose KV row is kept across its turns.

A slot is a place for one conversation at a time; when it has ended, the next may begin there. Replies of different
slots grow side by side, one token a step, and need not end together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from astarpo import native
from astarpo.batch import length_buckets
from astarpo.chat import Chat
from astarpo.engine.forward import Forward
from astarpo.engine.replies import Replies, Speaking
from astarpo.engine.slots import SlotCache
from astarpo.errors import RunError
from astarpo.types import Reply

READ_TOKENS = 2048
"""Padded tokens of one reading pass; larger passes fall out of the processor's cache and run slower per token."""

READ_TOKENS_ON_GPU = 4096
"""The same on a GPU, which is the faster the more it is given."""

SHARED_TOKENS = 32
"""From so many tokens on, a beginning that another conversation has too is copied rather than computed."""


NO_NUMBERS = (
    "the log-probs of what the policy says are NaN or infinite, so it cannot play: its weights hold such numbers, or "
    "are so large that its precision overflows; go back to an earlier checkpoint or to another model, and lower "
    "optimizer.learning_rate where training led there."
)


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

    @property
    def forward(self) -> Forward:
        """How the model is run."""
        ...


@dataclass(frozen=True)
class _Place:
    """Where a past's keys stand: the first `length` positions of `slot`, while conversation number `holder` is there.

    Attributes:
        last: the token after them, already known: the one that was sampled last, or that was read last.
    """

    slot: int
    holder: int
    length: int
    last: int


class Slots(Speaking):
    """Open conversations of one policy; see `Conversations`. Not valid once the policy's weights have changed."""

    read_share = 0.5
    """Reading is cheaper per token when many read at once, speaking when few wait; on WebShop 1.0 is 3 % faster and
    0.25 is 6 % slower, and the more replies differ in length the more 1.0 would wait."""

    def __init__(self, policy: Player, keys: Sequence[tuple[int, ...]]) -> None:
        self._policy = policy
        self._forward = policy.forward
        self._forward.refresh()
        self._cache = SlotCache(policy.layers, len(keys), policy.device)
        self._row = {slot: slot for slot in range(len(keys))}
        self._random = [_generator(key) for key in keys]
        self._logits: Tensor | None = None
        self._replies = Replies(len(keys), policy.chat.stop)
        self._temperature = 1.0
        # The last sampled token of a reply is known but not yet computed: it leads the next observation.
        self._pending: dict[int, int] = {}
        # Conversations with equal pasts hold the same tokens: (past, what was appended) → past, numbered as they come.
        self._past = dict.fromkeys(range(len(keys)), 0)
        self._pasts: dict[tuple[int, tuple[int, ...]], int] = {}
        self._places: dict[int, _Place] = {}
        # Which conversation a slot holds, numbered as they come.
        self._holder = list(range(len(keys)))
        self._holders = len(keys)
        # What stands in each row; after a restart still the conversation before, until the new one is read.
        self._ids: list[list[int]] = [[] for _ in keys]
        self._empty = set(range(len(keys)))
        # Short replies are often said again.
        self._texts: dict[tuple[int, ...], str] = {}

    @property
    def bytes(self) -> int:
        """What keys and values take now."""
        return self._cache.bytes

    def tokens(self, slot: int) -> int:
        """Tokens that the conversation in `slot` holds, prompt included."""
        length = int(self._cache.lengths[self._row[slot]]) + (slot in self._pending)
        return 0 if slot in self._empty else length

    def restart(self, slot: int, key: tuple[int, ...]) -> None:
        """The conversation in `slot` is over and a new, empty one under `key` takes its place."""
        self._pending.pop(slot, None)
        self._random[slot] = _generator(key)
        self._past[slot] = 0
        self._empty.add(slot)

    def close(self, slots: Sequence[int]) -> None:
        """These slots are needed no more; their memory is given back once `Forward.idle` of the rows are."""
        for slot in slots:
            self._cache.lengths[self._row[slot]] = 0
            del self._row[slot], self._past[slot]
            self._holder[slot] = -1
            self._ids[slot] = []
            self._pending.pop(slot, None)
        if self._row and len(self._row) <= (1.0 - self._forward.idle) * self._cache.rows:
            still = sorted(self._row, key=self._row.__getitem__)
            rows = [self._row[slot] for slot in still]
            self._cache.keep(rows)
            if self._logits is not None:
                self._logits = self._logits[torch.tensor(rows, device=self._logits.device)]
            self._row = {slot: row for row, slot in enumerate(still)}
            self._line_up(self._replies.slots)

    @torch.inference_mode()
    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Append observation ids; only they are computed, and once for conversations that are alike word for word.

        Attempts at one task that searched for the same words read the same page: one computes, the others copy. A new
        conversation copies the longest beginning that it has in common with another: rules, or the task itself.
        """
        leaders: dict[int, int] = {}
        followers: list[tuple[int, int]] = []
        copied: list[tuple[int, int, int]] = []
        whole: dict[int, list[int]] = {}
        alone: list[int] = []
        begun = [slot for slot in slots if slot in self._empty]
        for slot, appended in zip(slots, ids, strict=True):
            lead = [self._pending.pop(slot)] if slot in self._pending else []
            past = self._remember(slot, appended)
            leader = leaders.setdefault(past, slot)
            there = self._places.get(past)
            if leader != slot:
                followers.append((leader, slot))
            elif there is not None and self._holder[there.slot] == there.holder:
                # Its last token is computed again: the logits after it were not kept.
                copied.append((self._row[there.slot], self._row[slot], there.length))
                whole[slot] = [there.last]
            else:
                whole[slot] = [*lead, *appended]
                if slot in self._empty:
                    alike, length = self._most_alike(appended)
                    if length:
                        copied.append((self._row[alike], self._row[slot], length))
                        whole[slot] = list(appended[length:])
                    else:
                        alone.append(slot)
        for slot in begun:
            self._empty.discard(slot)
            self._cache.lengths[self._row[slot]] = 0
            self._holder[slot] = self._holders
            self._holders += 1
        if copied:
            self._cache.copy(*zip(*copied, strict=True))
        self._share_beginning(alone, whole)
        for slot, appended in zip(slots, ids, strict=True):
            self._ids[slot] = [*([] if slot in begun else self._ids[slot]), *appended]
        led = list(whole)
        most = READ_TOKENS_ON_GPU if self._cache.device.type == "cuda" else READ_TOKENS
        for part in length_buckets(torch.tensor([len(whole[slot]) for slot in led]), most):
            some = [led[j] for j in part.tolist()]
            rows = [self._row[slot] for slot in some]
            self._keep(rows, self._forward.read(self._cache, rows, [whole[slot] for slot in some]))
        for slot in led:
            length = int(self._cache.lengths[self._row[slot]])
            self._places[self._past[slot]] = _Place(slot, self._holder[slot], length - 1, whole[slot][-1])
        if followers:
            source, target = ([self._row[slot] for slot in side] for side in zip(*followers, strict=True))
            self._cache.copy(source, target, [int(self._cache.lengths[row]) for row in source])
            assert self._logits is not None
            self._keep(target, self._logits[torch.tensor(source, device=self._logits.device)])

    def _most_alike(self, beginning: Sequence[int]) -> tuple[int, int]:
        """The slot whose row begins as `beginning` does for longest, and for how many tokens; 0 where too few."""
        if len(beginning) <= SHARED_TOKENS:
            return -1, 0
        best, longest, start = -1, 0, list(beginning[:SHARED_TOKENS])
        for slot, row in self._row.items():
            if self._ids[slot][:SHARED_TOKENS] != start:
                continue
            # The last token sampled is not in the row.
            there = min(len(self._ids[slot]), int(self._cache.lengths[row]), len(beginning) - 1)
            if there > longest and (length := _common(self._ids[slot], beginning, there)) > longest:
                best, longest = slot, length
        return (best, longest) if longest >= SHARED_TOKENS else (-1, 0)

    def _share_beginning(self, slots: Sequence[int], whole: dict[int, list[int]]) -> None:
        """Compute what all of the new conversations `slots` begin with once, and leave the rest in `whole`."""
        if len(slots) < 2:
            return
        first, *others = slots
        length = len(whole[first]) - 1
        for slot in others:
            length = _common(whole[first], whole[slot], min(length, len(whole[slot]) - 1))
        if length < SHARED_TOKENS:
            return
        row = self._row[first]
        self._forward.read(self._cache, [row], [whole[first][:length]])
        self._cache.copy([row] * len(others), [self._row[slot] for slot in others], [length] * len(others))
        for slot in slots:
            whole[slot] = whole[slot][length:]

    def ask(self, slots: Sequence[int], max_tokens: int, temperature: float) -> None:
        """Begin a reply in each of `slots`, which ends with a stop token or after `max_tokens`; `step` says it.

        Raises:
            ValueError: other replies are under way at another temperature.
        """
        if len(self._replies.slots) and temperature != self._temperature:
            raise ValueError("replies under way share one temperature")
        self._temperature = temperature
        for slot in slots:
            self._replies.begin(slot, self._random[slot].random(max_tokens))
        self._line_up([*self._replies.slots.tolist(), *slots])

    def _line_up(self, slots: Iterable[int]) -> None:
        """Replies are under way in `slots`, whose rows may be others than before."""
        ordered = sorted(slots, key=self._row.__getitem__)
        self._replies.slots = np.array(ordered, dtype=np.int64)
        self._replies.rows = np.array([self._row[slot] for slot in ordered], dtype=np.int64)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Reply]]:
        """One token more for each reply under way; those that ended with it, by slot.

        Raises:
            RunError: the policy's log-probs are not finite.
        """
        assert self._logits is not None
        replies, forward = self._replies, self._forward
        going, rows, logits = replies.slots, replies.rows, self._logits
        if len(rows) < len(logits):
            first = int(rows[-1]) + 1 == len(rows)
            logits = logits[: len(rows)] if first else logits[torch.from_numpy(rows).to(logits.device)]
        draws = torch.from_numpy(replies.next_draws()).to(logits.device)
        choice = native.choose if forward.natively and logits.is_contiguous() else choose
        chosen, nats = choice(logits, self._temperature, draws)
        # One copy to the host: ids are exact in float64.
        told = torch.stack((chosen.double(), nats.double()), 1)
        following: Tensor | None = None
        on = replies.may_go_on().nonzero()[0] if forward.ahead else rows[:0]
        if len(on):
            told, wait = _to_host(told)
            some = chosen if len(on) == len(rows) else chosen[torch.from_numpy(on).to(chosen.device)]
            following = forward.step(self._cache, rows[on].tolist(), some)
            wait()
        ids, log_probs = told.numpy(force=True).T
        if not np.isfinite(log_probs).all():
            raise RunError(NO_NUMBERS)
        goes_on = replies.say(ids.astype(np.int64), log_probs)
        replies.slots, replies.rows = going[goes_on], rows[goes_on]
        if following is not None:
            # Those that a stop token ended were stepped in vain: their rows are as long as before.
            real = goes_on[on]
            self._cache.lengths[rows[on[~real]]] -= 1
            if real.any():
                if not real.all():
                    following = following[torch.from_numpy(real.nonzero()[0]).to(following.device)]
                self._keep(replies.rows.tolist(), following)
        elif goes_on.any():
            if not goes_on.all():
                chosen = chosen[torch.from_numpy(goes_on.nonzero()[0]).to(chosen.device)]
            still = replies.rows.tolist()
            self._keep(still, forward.step(self._cache, still, chosen))
        return [(slot, self._said(slot)) for slot in going[~goes_on].tolist()]

    def _said(self, slot: int) -> Reply:
        said, log_probs = self._replies.said(slot)
        self._pending[slot] = said[-1]
        self._ids[slot] += said
        self._remember(slot, said)
        chat, ids = self._policy.chat, tuple(said)
        text = self._texts.get(ids)
        if text is None:
            text = self._texts[ids] = chat.decode(ids)
        return Reply(ids, tuple(log_probs), text, ids[-1] in chat.stop)

    def _remember(self, slot: int, appended: Sequence[int]) -> int:
        """Note what was appended to `slot`'s conversation; equal numbers mean equal conversations."""
        past = self._pasts.setdefault((self._past[slot], tuple(appended)), len(self._pasts) + 1)
        self._past[slot] = past
        return past

    def _keep(self, rows: Sequence[int], logits: Tensor) -> None:
        """`logits` [n, V] are what `rows` will say next."""
        first = list(rows) == list(range(len(rows)))
        if first and len(rows) == self._cache.rows:
            self._logits = logits
            return
        if self._logits is None:
            self._logits = logits.new_zeros((self._cache.rows, logits.shape[1]))
        self._logits[slice(len(rows)) if first else torch.tensor(rows, device=logits.device)] = logits


def choose(logits: Tensor, temperature: float, draw: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row: the inverse of the cumulative distribution at `draw`, or the likeliest at temperature 0.

    Args:
        logits: [n, V] float32.
        temperature: 0 for greedy; log-probs are then those at temperature 1.
        draw: [n] float64 in [0, 1).

    Returns:
        ids [n] and their log-probs [n], nats.
    """
    if temperature == 0.0:
        chosen = logits.argmax(-1)
        return chosen, torch.log_softmax(logits, -1).gather(-1, chosen[:, None])[:, 0]
    log_p = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
    if logits.device.type == "cuda":
        chosen = invert_by_blocks(log_p.exp(), draw)
        return chosen, log_p.gather(-1, chosen[:, None])[:, 0]
    reach = log_p.exp().cumsum(-1, dtype=torch.float64)
    # The sum of V rounded terms need not be 1: scaling the draw keeps every token reachable and none beyond the last.
    chosen = torch.searchsorted(reach, (draw * reach[:, -1])[:, None], right=True)[:, 0].clamp_(
        max=logits.shape[-1] - 1
    )
    return chosen, log_p.gather(-1, chosen[:, None])[:, 0]


def _to_host(given: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """`given` on the host, and what to call before it may be read: the copy is queued, not waited for."""
    if given.device.type != "cuda":
        return given, lambda: None
    ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied = torch.empty(given.shape, dtype=given.dtype, pin_memory=True)
    copied.copy_(given, non_blocking=True)
    # Without the stream it would be that of the first GPU, wherever the weights are.
    ready.record(torch.cuda.current_stream(given.device))
    return copied, ready.synchronize


def invert_by_blocks(p: Tensor, draw: Tensor, block: int = 512) -> Tensor:
    """The inverse of the cumulative distribution at `draw`, by blocks of words first: a GPU adds up short rows faster.

    Args:
        p: [n, V] float32, summing to about 1.
        draw: [n] float64 in [0, 1).
        block: words of one.

    Returns:
        ids [n]; none of probability zero.
    """
    parts = nn.functional.pad(p, (0, -p.shape[1] % block)).view(len(p), -1, block)
    sums = parts.sum(-1, dtype=torch.float64)
    reach = sums.cumsum(-1)
    # Just short of the whole, so that what is found has a share in it.
    short = 1.0 - 2.0**-52
    target = torch.minimum(draw * reach[:, -1], short * reach[:, -1])[:, None]
    which = torch.searchsorted(reach, target, right=True).clamp_(max=parts.shape[1] - 1)
    inner = parts[torch.arange(len(p), device=p.device), which[:, 0]].cumsum(-1, dtype=torch.float64)
    rest = torch.minimum(target - (reach - sums).gather(1, which), short * inner[:, -1:]).clamp_(min=0.0)
    within = torch.searchsorted(inner, rest, right=True)
    # Probabilities that are no numbers must not lead beyond the last word: a GPU would never answer again.
    return (which * block + within)[:, 0].clamp_(max=p.shape[1] - 1)


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Tokens that both begin with, `most` at most."""
    return next((k for k in range(most) if one[k] != other[k]), most)


def _generator(key: tuple[int, ...]) -> np.random.Generator:
    """Randomness that belongs to one conversation: a counter-based generator under its own key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([part % 2**32 for part in key])))
