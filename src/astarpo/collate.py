"""Episodes → Batch. The only place that pads and shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from astarpo.batch import Batch, Samples
from astarpo.types import Episode


def collate(
    episodes: Sequence[Episode], *, values: Mapping[str, float] | None = None, device: torch.device | None = None
) -> Batch:
    """Right-pad episodes into one batch.

    Args:
        episodes: B of them, sampled at one temperature.
        values: V* by task id, reward units; None leaves the column absent.
        device: where the tensors go.

    Raises:
        ValueError: no episodes, or several temperatures, which no single scoring could match.
        KeyError: a task without a V*.
    """
    if not episodes:
        raise ValueError("a batch needs at least one episode.")
    temperatures = {episode.temperature for episode in episodes}
    if len(temperatures) > 1:
        raise ValueError(f"episodes of one batch must share a temperature, got {sorted(temperatures)}.")
    tokens, turn, logp, lengths = _by_token(episodes)
    number: dict[str, int] = {}
    task = [number.setdefault(episode.task, len(number)) for episode in episodes]
    turn_reward, observed, history = _by_turn(episodes)
    return Batch(
        tokens=tokens.to(device),
        lengths=lengths,
        acted=(turn >= 0).to(device),
        turn=turn.to(device),
        behaviour_logp=logp.to(device),
        reward=torch.tensor([episode.reward for episode in episodes], dtype=torch.float32, device=device),
        success=torch.tensor([episode.success for episode in episodes], device=device),
        task=torch.tensor(task, device=device),
        temperature=temperatures.pop(),
        v_star=None
        if values is None
        else torch.tensor([values[episode.task] for episode in episodes], dtype=torch.float32, device=device),
        turn_reward=turn_reward.to(device),
        observed=observed.to(device),
        history=history.to(device),
        samples=_samples(episodes, device),
    )


def stretches(episode: Episode) -> list[tuple[list[int], list[bool]]]:
    """What was read and said in one piece, in order: ids, and which of them were said; several where the past was cut.

    Every reply is said in one stretch; in later ones it may be read again.
    """
    found: list[tuple[list[int], list[bool]]] = [([], [])]
    for turn in episode.turns:
        if turn.context is not None:
            found.append(([], []))
        ids, acted = found[-1]
        seen = turn.observation_ids if turn.context is None else turn.context
        ids += [*seen, *turn.reply.ids]
        acted += [False] * len(seen) + [True] * len(turn.reply.ids)
    return found


def _samples(episodes: Sequence[Episode], device: torch.device | None) -> Samples | None:
    """One sample for each stretch of turns that was read in one piece; None where all episodes were."""
    if all(turn.context is None for episode in episodes for turn in episode.turns):
        return None
    pieces: list[tuple[int, list[int], list[bool]]] = []
    for row, episode in enumerate(episodes):
        pieces += [(row, *stretch) for stretch in stretches(episode)]
    longest = max(len(ids) for _, ids, _ in pieces)
    tokens = torch.zeros((len(pieces), longest), dtype=torch.int64)
    mask = torch.zeros((len(pieces), longest), dtype=torch.bool)
    for i, (_, ids, acted) in enumerate(pieces):
        tokens[i, : len(ids)] = torch.tensor(ids)
        mask[i, : len(ids)] = torch.tensor(acted)
    return Samples(
        tokens=tokens.to(device),
        lengths=torch.tensor([len(ids) for _, ids, _ in pieces]),
        acted=mask.to(device),
        episode=torch.tensor([row for row, _, _ in pieces]),
    )


def _by_token(episodes: Sequence[Episode]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, turn of each acted id (-1 elsewhere) and behaviour log-probs (0 elsewhere), all [B, T]; lengths [B].

    A tensor for each episode would cost more than everything in it: everything is laid end to end first.
    """
    ids: list[int] = []
    log_probs: list[float] = []
    sizes: list[int] = []
    whose: list[int] = []
    ends: list[int] = []
    for episode in episodes:
        for number, turn in enumerate(episode.turns):
            seen, said = turn.observation_ids, turn.reply
            ids += seen
            ids += said.ids
            log_probs += said.log_probs
            sizes += (len(seen), len(said.ids))
            whose += (-1, number)
        ends.append(len(ids))
    lengths = np.diff(np.array(ends), prepend=0)
    there = np.arange(lengths.max()) < lengths[:, None]
    tokens, turns = np.zeros(there.shape, np.int64), np.full(there.shape, -1, np.int64)
    tokens[there] = ids
    turns[there] = np.repeat(np.array(whose), np.array(sizes))
    logp = np.zeros(there.shape, np.float32)
    logp[turns >= 0] = log_probs
    return torch.from_numpy(tokens), torch.from_numpy(turns), torch.from_numpy(logp), torch.from_numpy(lengths)


def _by_turn(episodes: Sequence[Episode]) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, observation and history of each turn: [B, N]; the last two as numbers that are equal where they are."""
    counts = np.array([len(episode.turns) for episode in episodes])
    there = np.arange(counts.max()) < counts[:, None]
    texts: dict[tuple[str, str], int] = {}
    paths: dict[tuple[str, int, tuple[int, ...], tuple[int, ...]], int] = {}
    earned, shown, trodden = list[float](), list[int](), list[int]()
    for episode in episodes:
        path, said = -1, tuple[int, ...]()
        for turn in episode.turns:
            path = paths.setdefault((episode.task, path, said, turn.observation_ids), len(paths))
            said = turn.reply.ids
            earned.append(turn.reward)
            shown.append(texts.setdefault((episode.task, turn.observation), len(texts)))
            trodden.append(path)
    reward = np.zeros(there.shape, np.float32)
    observed, history = np.full(there.shape, -1, np.int64), np.full(there.shape, -1, np.int64)
    reward[there], observed[there], history[there] = earned, shown, trodden
    return torch.from_numpy(reward), torch.from_numpy(observed), torch.from_numpy(history)
