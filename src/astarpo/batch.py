"""B episodes × T tokens as tensors: typed columns that refuse to be absent. The only data module that imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from astarpo.errors import MissingColumnError, ShapeError

Anchor = Literal["observation", "history"]
"""What makes two turns of attempts at one task the same state: what was last shown, or all that was read and said."""


@dataclass(frozen=True)
class Scored:
    """What a policy says about the tokens of a batch, under the temperature that sampled them.

    Attributes:
        logp: [B, T] ln π(token t | tokens before t), nats; 0 where not acted; carries the gradient.
        entropy: [B, T] entropy of π at each acted position, nats; 0 elsewhere; carries the gradient.
        kl_exact: [B, T] KL(π ‖ π_ref) over the whole vocabulary at each acted position, nats; carries the gradient.
            Present only when the algorithm declared `Needs.exact_kl`.
    """

    logp: Tensor
    entropy: Tensor
    kl_exact: Tensor | None = None

    def exact_kl(self) -> Tensor:
        """The `kl_exact` column. Raises MissingColumnError where nobody computed it."""
        if self.kl_exact is None:
            raise MissingColumnError("the exact KL was not computed: declare needs.exact_kl in the algorithm.")
        return self.kl_exact


@dataclass(frozen=True)
class Samples:
    """What was read and said in one piece, where an episode was read in several: one sample a cut of its history.

    A reply stands in exactly one sample as acted; in later ones it may be read again.

    Attributes:
        tokens: [S, U] int64 ids; pad after the end.
        lengths: [S] int64.
        acted: [S, U] bool; of one episode, in order, the same tokens as `Batch.acted` marks.
        episode: [S] int64, row of the batch, rising.
    """

    tokens: Tensor
    lengths: Tensor
    acted: Tensor
    episode: Tensor

    def take(self, rows: Tensor) -> Samples:
        """Those of the episodes `rows` [b] int64, which are then 0 .. b − 1."""
        found = [(self.episode == row).nonzero()[:, 0] for row in rows.to(self.episode.device)]
        order = torch.cat(found)
        width = int(self.lengths[order].max())
        there = order.to(self.tokens.device)
        counts = torch.tensor([len(some) for some in found])
        return Samples(
            tokens=self.tokens[there][:, :width],
            lengths=self.lengths[order],
            acted=self.acted[there][:, :width],
            episode=torch.repeat_interleave(torch.arange(len(found)), counts),
        )


@dataclass(frozen=True)
class Batch:
    """Episodes of one update, right-padded.

    Attributes:
        tokens: [B, T] int64 ids; pad after the end.
        lengths: [B] int64, tokens of each episode.
        acted: [B, T] bool, True exactly on the tokens that the policy sampled, stop tokens included.
        turn: [B, T] int64, which turn an acted token belongs to, -1 elsewhere.
        behaviour_logp: [B, T] nats, log-probs that came out of sampling; 0 where not acted.
        reward: [B] return of each episode, reward units.
        success: [B] bool.
        task: [B] int64, equal for attempts at the same task: the group.
        temperature: the one that sampled, and that scoring divides logits by.
        v_star: [B] V* of each episode's task, reward units; through `values()`.
        ref_logp: [B, T] log-probs of the same tokens under π_ref, nats; through `reference()`.
        advantage: [B] or [B, T], fixed over several optimiser steps on one batch of rollouts; see
            `Algorithm.advantages`. Absent where there is one step, which finds its own.
        hidden: [B, T, H] last hidden state of the policy that sampled, before each acted token; 0 elsewhere; through
            `hidden_states()`.
        turn_reward: [B, N] reward of each turn, reward units, N the most turns of an episode; 0 after the last. Its sum
            over an episode is `reward`. Through `turn_rewards()`.
        observed: [B, N] int64, equal for turns of one task that were shown the same text; -1 after the last turn.
            Through `anchors("observation")`.
        history: [B, N] int64, equal for turns of one task before which the very same tokens stood; -1 after the last.
            Through `anchors("history")`.
        samples: how the episodes are scored where their past was not read whole; None where each is one sample, its
            own row of `tokens`.

    Raises:
        ShapeError: columns disagree about B or T.
    """

    tokens: Tensor
    lengths: Tensor
    acted: Tensor
    turn: Tensor
    behaviour_logp: Tensor
    reward: Tensor
    success: Tensor
    task: Tensor
    temperature: float
    v_star: Tensor | None = None
    ref_logp: Tensor | None = None
    turn_reward: Tensor | None = None
    observed: Tensor | None = None
    history: Tensor | None = None
    advantage: Tensor | None = None
    hidden: Tensor | None = None
    samples: Samples | None = None

    def __post_init__(self) -> None:
        b, t = self.tokens.shape
        for name in ("acted", "turn", "behaviour_logp", "ref_logp"):
            column = getattr(self, name)
            if column is not None and column.shape != (b, t):
                raise ShapeError(f"batch.{name} must be [{b}, {t}] like tokens, got {list(column.shape)}.")
        for name in ("lengths", "reward", "success", "task", "v_star"):
            column = getattr(self, name)
            if column is not None and column.shape != (b,):
                raise ShapeError(f"batch.{name} must be [{b}], one per episode, got {list(column.shape)}.")
        by_turn = {name: getattr(self, name) for name in ("turn_reward", "observed", "history")}
        shapes = {name: list(column.shape) for name, column in by_turn.items() if column is not None}
        turns = 1 + int(self.turn.max()) if shapes else 0
        if any(len(shape) != 2 or shape[0] != b or shape[1] < turns for shape in shapes.values()) or (
            len({tuple(shape) for shape in shapes.values()}) > 1
        ):
            raise ShapeError(f"columns by turn must share one shape [{b}, {turns} or more], got {shapes}.")
        if self.advantage is not None and self.advantage.shape not in {(b,), (b, t)}:
            raise ShapeError(f"batch.advantage must be [{b}] or [{b}, {t}], got {list(self.advantage.shape)}.")
        if self.hidden is not None and (self.hidden.dim() != 3 or self.hidden.shape[:2] != (b, t)):
            raise ShapeError(f"batch.hidden must be [{b}, {t}, H], got {list(self.hidden.shape)}.")
        if bool(self.acted[:, 0].any()):
            raise ShapeError("batch.acted marks position 0, which no policy can have sampled: check the collation.")
        if self.samples is not None and int(self.samples.acted.sum()) != int(self.acted.sum()):
            raise ShapeError(
                f"batch.samples mark {int(self.samples.acted.sum())} acted tokens and the episodes have "
                f"{int(self.acted.sum())}: each must be acted once."
            )

    @property
    def size(self) -> int:
        """B, the number of episodes."""
        return int(self.tokens.shape[0])

    def take(self, rows: Tensor) -> Batch:
        """The episodes `rows`, [b] int64 or [B] bool, with every column, cut to the longest of them."""
        width = int(self.lengths[rows.to(self.lengths.device)].max())
        columns: dict[str, Any] = {}
        for name, column in vars(self).items():
            if isinstance(column, Tensor):
                picked = column[rows.to(column.device)]
                columns[name] = picked[:, :width] if picked.dim() >= 2 else picked
        if self.samples is not None:
            chosen = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
            columns["samples"] = self.samples.take(chosen)
        return replace(self, **columns)

    @property
    def scored_lengths(self) -> Tensor:
        """[B] tokens that scoring an episode reads: its own, or those of its samples."""
        if self.samples is None:
            return self.lengths
        return torch.zeros_like(self.lengths).index_add_(0, self.samples.episode, self.samples.lengths)

    def unfolded(self) -> Batch:
        """The samples as rows, for scoring alone: [S, U], without what an algorithm reads."""
        some = self.samples
        if some is None:
            return self
        zeros = torch.zeros(len(some.lengths), device=self.reward.device)
        return Batch(
            tokens=some.tokens,
            lengths=some.lengths,
            acted=some.acted,
            turn=some.acted.long() - 1,
            behaviour_logp=torch.zeros(some.tokens.shape, device=some.tokens.device),
            reward=zeros,
            success=zeros.bool(),
            task=zeros.long(),
            temperature=self.temperature,
        )

    def folded(self, column: Tensor) -> Tensor:
        """A column of `unfolded`, [S, U] or [S, U, H], at the episodes' own places: [B, T] or [B, T, H]; with gradient.

        Sums over an episode are then over all its samples, so losses of whole episodes stay exact.
        """
        if self.samples is None:
            return column
        whole = torch.zeros((*self.tokens.shape, *column.shape[2:]), dtype=column.dtype, device=column.device)
        return whole.index_put(self.acted.nonzero(as_tuple=True), column[self.samples.acted])

    def fold(self, scored: Scored) -> Scored:
        """What was scored on `unfolded`, as columns of this batch."""
        return Scored(
            logp=self.folded(scored.logp),
            entropy=self.folded(scored.entropy),
            kl_exact=None if scored.kl_exact is None else self.folded(scored.kl_exact),
        )

    def values(self) -> Tensor:
        """V* of each episode's task, [B]. Raises MissingColumnError where stage 1 was not run."""
        if self.v_star is None:
            raise MissingColumnError("the batch has no V*: declare needs.values in the algorithm so that stage 1 runs.")
        return self.v_star

    def reference(self) -> Tensor:
        """Reference log-probs, [B, T]. Raises MissingColumnError where there is no reference."""
        if self.ref_logp is None:
            raise MissingColumnError("the batch has no reference log-probs: declare needs.reference in the algorithm.")
        return self.ref_logp

    def hidden_states(self) -> Tensor:
        """Hidden states, [B, T, H]. Raises MissingColumnError where nobody computed them."""
        if self.hidden is None:
            raise MissingColumnError("the batch has no hidden states: declare needs.hidden in the algorithm.")
        return self.hidden

    def turn_rewards(self) -> Tensor:
        """Reward of each turn, [B, N], 0 after an episode's last. Raises MissingColumnError where there is none."""
        if self.turn_reward is None:
            raise MissingColumnError("the batch has no rewards by turn: collate it from whole episodes.")
        return self.turn_reward

    def anchors(self, by: Anchor) -> Tensor:
        """Number of each turn's state, [B, N], -1 after an episode's last. Raises MissingColumnError where absent."""
        column = self.observed if by == "observation" else self.history
        if column is None:
            raise MissingColumnError("the batch has no states by turn: collate it from whole episodes.")
        return column


def length_buckets(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Rows sorted by length and cut so that each part, padded to its longest, holds at most `tokens` tokens."""
    order = torch.argsort(lengths, descending=True, stable=True)
    begin = 0
    while begin < len(order):
        rows = max(1, tokens // max(int(lengths[order[begin]]), 1))
        yield order[begin : begin + rows]
        begin += rows
