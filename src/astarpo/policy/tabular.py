"""A policy that is a table: one row of logits for every context. Exact, tiny and in double precision.

For tests and teaching. Every reply can be listed with its probability, so an expectation is a sum and not a sample, and
a gradient can be held against the mathematics. It speaks token ids only: its "text" is the ids with spaces between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from astarpo.batch import Batch, Scored
from astarpo.numerics import entropy, kl_exact, log_softmax, masked, token_log_probs
from astarpo.types import Reply

Ids = tuple[int, ...]


def every_reply(vocabulary: int, stop: int, max_tokens: int) -> list[Ids]:
    """All replies over ids 0 .. vocabulary − 1: those that end with `stop`, and those cut at `max_tokens`.

    Under any policy their probabilities sum to 1.

    >>> every_reply(vocabulary=2, stop=0, max_tokens=2)
    [(0,), (1, 0), (1, 1)]
    """
    whole: list[Ids] = []
    growing: list[Ids] = [()]
    for length in range(1, max_tokens + 1):
        longer = [(*reply, token) for reply in growing for token in range(vocabulary)]
        ended = [reply for reply in longer if reply[-1] == stop or length == max_tokens]
        growing = [reply for reply in longer if reply[-1] != stop]
        whole.extend(ended)
    return sorted(whole)


class TabularPolicy(nn.Module):
    """π(token | context) = softmax(logits[context] / temperature), a free row for each context.

    Attributes:
        logits: [contexts, V] float64, the parameters; all zero at first, the uniform policy.
        stop: the id that ends a reply.
        version: optimiser updates behind the current weights.
    """

    def __init__(self, contexts: Iterable[Ids], *, vocabulary: int, stop: int) -> None:
        super().__init__()
        self._row = {context: row for row, context in enumerate(sorted(set(contexts)))}
        self.logits = nn.Parameter(torch.zeros(len(self._row), vocabulary, dtype=torch.float64))
        self.vocabulary = vocabulary
        self.stop = stop
        self.version = 0

    @classmethod
    def over(cls, prompts: Iterable[Ids], *, vocabulary: int, stop: int, max_tokens: int) -> TabularPolicy:
        """The table that one reply of up to `max_tokens` to each of `prompts` needs."""
        replies = every_reply(vocabulary, stop, max_tokens)
        prefixes = {reply[:length] for reply in replies for length in range(len(reply))}
        return cls((prompt + prefix for prompt in prompts for prefix in prefixes), vocabulary=vocabulary, stop=stop)

    def row(self, context: Ids) -> int:
        """Which row of `logits` speaks after `context`.

        Raises:
            LookupError: the table was built without this context.
        """
        if context not in self._row:
            raise LookupError(f"the table has no row for context {context}: build it with every context that occurs.")
        return self._row[context]

    def log_prob(self, prompt: Ids, reply: Ids, temperature: float = 1.0) -> Tensor:
        """ln π(reply | prompt), the sum over its tokens, nats; with gradient."""
        rows = [self.row(prompt + reply[:length]) for length in range(len(reply))]
        return token_log_probs(self.logits[rows], torch.tensor(reply), temperature).sum()

    def log_probs(self, batch: Batch, *, reference: TabularPolicy | None = None) -> Scored:
        """ln π and entropy of the batch's acted tokens at the batch's temperature, with gradient.

        Args:
            batch: [B, T].
            reference: where given, `Scored.kl_exact` holds KL(π ‖ π_ref) at each acted position.
        """
        if batch.samples is not None:
            return batch.fold(self.log_probs(batch.unfolded(), reference=reference))
        logits = self._acted_logits(batch)
        kl = None
        if reference is not None:
            ref = log_softmax(reference._acted_logits(batch).detach(), batch.temperature)
            kl = masked(kl_exact(log_softmax(logits, batch.temperature), ref), batch.acted)
        return Scored(
            logp=masked(token_log_probs(logits, batch.tokens, batch.temperature), batch.acted),
            entropy=masked(entropy(logits, batch.temperature), batch.acted),
            kl_exact=kl,
        )

    def _acted_logits(self, batch: Batch) -> Tensor:
        """[B, T, V], the row that speaks at each acted position; row 0 elsewhere, where the caller masks it out."""
        tokens = [tuple(row) for row in batch.tokens.tolist()]
        rows = [
            [self.row(ids[:t]) if acted else 0 for t, acted in enumerate(mask)]
            for ids, mask in zip(tokens, batch.acted.tolist(), strict=True)
        ]
        return self.logits[torch.tensor(rows)]

    def open(self, keys: Sequence[Ids]) -> TabularConversations:
        """Start `len(keys)` empty conversations; see `Policy.open`."""
        return TabularConversations(self, keys)


class TabularConversations:
    """Open conversations with a `TabularPolicy`; see `Conversations`."""

    def __init__(self, policy: TabularPolicy, keys: Sequence[Ids]) -> None:
        self._policy = policy
        self._ids: list[Ids] = [() for _ in keys]
        # torch seeds are one number; hash() of a tuple of ints is the same in every process.
        self._random = [torch.Generator().manual_seed(hash(key) & (2**63 - 1)) for key in keys]

    def extend(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Append observation ids to the conversations in `slots`."""
        for slot, new in zip(slots, ids, strict=True):
            self._ids[slot] += tuple(new)

    def reply(self, slots: Sequence[int], max_tokens: int, temperature: float) -> list[Reply]:
        """Sample one reply for each of `slots`; temperature 0 is greedy."""
        return [self._reply(slot, max_tokens, temperature) for slot in slots]

    @torch.no_grad()
    def _reply(self, slot: int, max_tokens: int, temperature: float) -> Reply:
        policy, said, nats = self._policy, [], []
        for _ in range(max_tokens):
            logits = policy.logits[policy.row(self._ids[slot])]
            log_probs = log_softmax(logits, temperature or 1.0)
            drawn = (
                torch.multinomial(log_probs.exp(), 1, generator=self._random[slot]) if temperature else logits.argmax()
            )
            token = int(drawn)
            self._ids[slot] += (token,)
            said.append(token)
            nats.append(float(log_probs[token]))
            if token == policy.stop:
                break
        complete = said[-1] == policy.stop
        text = " ".join(map(str, said[:-1] if complete else said))
        return Reply(tuple(said), tuple(nats), text, complete)
