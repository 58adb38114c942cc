"""What a policy is. `reply` and `log_probs` see the same ids at the same temperature: what was sampled is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from astarpo.batch import Batch, Scored
from astarpo.chat import Chat
from astarpo.types import Reply


class Conversations(Protocol):
    """Open episodes inside a policy's engine: each is a growing list of token ids with its KV cache.

    Opened by `Policy.open`; indexed by slot 0 .. size-1.
    """

    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Append observation ids to the conversations in `slots`."""
        ...

    def reply(self, slots: Sequence[int], max_tokens: int, temperature: float) -> list[Reply]:
        """Sample one reply for each of `slots`; temperature 0 is greedy."""
        ...


class Sessions(Conversations, Protocol):
    """Conversations as a rollout holds them: a slot is used again, and replies need not end together.

    Attributes:
        read_share: share of the slots in use that must wait for their next words before those are read, unless nobody
            is speaking; 0 where reading many at once gains nothing.
    """

    read_share: float

    def restart(self, slot: int, key: tuple[int, ...]) -> None:
        """The conversation in `slot` is over and a new, empty one under `key` takes its place."""
        ...

    def ask(self, slots: Sequence[int], max_tokens: int, temperature: float) -> None:
        """Begin a reply in each of `slots`, which ends with a stop token or after `max_tokens`; `step` says it."""
        ...

    def step(self) -> list[tuple[int, Reply]]:
        """Go on with the replies under way; those that have ended, by slot. There may be none."""
        ...

    def tokens(self, slot: int) -> int:
        """Tokens that the conversation in `slot` holds, prompt included."""
        ...

    def close(self, slots: Sequence[int]) -> None:
        """These slots are needed no more."""
        ...


class Player(Protocol):
    """Whoever plays: a policy by itself, or through another engine that holds its weights."""

    @property
    def chat(self) -> Chat:
        """How its tokenizer writes conversations, and which tokens end a reply."""
        ...

    @property
    def rules(self) -> bool:
        """Whether an environment's rules are told before the first observation."""
        ...

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def version(self) -> int:
        """Optimiser updates behind its weights."""
        ...

    @property
    def model(self) -> Any:
        """The transformers model behind it; None where it is elsewhere."""
        ...

    def open(self, keys: Sequence[tuple[int, ...]]) -> Sessions:
        """Start `len(keys)` empty conversations; see `Policy.open`."""
        ...


class Policy(Protocol):
    """A model with a tokenizer, ready to play and to be trained."""

    version: int

    def open(self, keys: Sequence[tuple[int, ...]]) -> Conversations:
        """Start `len(keys)` empty conversations. A key seeds the randomness of its conversation alone, so that an
        episode does not depend on what it was batched with."""
        ...

    def log_probs(self, batch: Batch) -> Scored:
        """ln π of the batch's tokens and the entropy at them, at the batch's temperature; with gradient."""
        ...
