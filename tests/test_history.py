"""Windows of turns: what is read, what is scored, and a gradient that stays that of whole episodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from astarpo.algorithms.astar_po import AStarPO, AStarPOSettings
from astarpo.batch import Batch
from astarpo.collate import collate, stretches
from astarpo.environments.rewards import score
from astarpo.errors import DataError, EnvironmentContractError, SettingsError, ShapeError
from astarpo.journal import Journal, read_episodes
from astarpo.numerics import masked_sum
from astarpo.policy.tabular import Ids, TabularPolicy
from astarpo.rollout import Play, collect, tokens_of
from astarpo.run import RolloutSettings
from astarpo.saved import Saved
from astarpo.types import Ended, Episode, Reply, Step, Turn
from astarpo.update import backward
from small import small_policy, small_run, talk

POLICY = small_policy(stops=40)
CHATS = [Play(f"chatty/1/{i}", 0, (7,)) for i in range(6)]


def played(plays: Sequence[Play] = CHATS, temperature: float = 1.0, turns: int = 5, **rollout: Any) -> list[Episode]:
    """Long talks."""
    limits = RolloutSettings.parse({"reply_tokens": 12, "episode_tokens": 400, **rollout})
    return collect(POLICY, talk(max_turns=turns), plays, rollout=limits, temperature=temperature, reward=score)


def letters(turns: Sequence[Turn]) -> str:
    """A summary."""
    return f"so far {sum(len(turn.reply.text) for turn in turns)} letters"


def number_of(turns: Sequence[Turn]) -> int:
    """No text."""
    return len(turns)


def raises(turns: Sequence[Turn]) -> str:  # noqa: ARG001
    """A summary that broke."""
    raise RuntimeError("no ink")


def test_a_window_as_wide_as_the_episode_changes_nothing() -> None:
    assert played(history="window", window=5) == played()


def test_a_window_reads_the_first_observation_and_the_latest_turns_and_replies_as_they_were_sampled() -> None:
    chat, long = POLICY.chat, 0
    for episode in played(history="window", window=2):
        for k, turn in enumerate(episode.turns):
            if k < 2:
                assert turn.context is None
                continue
            long += 1
            first, before = episode.turns[0], episode.turns[k - 1]
            opening = chat.first(f"{first.observation}\n\n{before.observation}")
            assert turn.context == (*opening, *before.reply.ids, *chat.next(turn.observation))
            assert turn.observation_ids == tuple(chat.next(turn.observation))
    assert long


def test_a_summary_stands_where_turns_were_left_out() -> None:
    long = 0
    for episode in played(history="summary", window=1, summary="test_history.letters"):
        for k, turn in enumerate(episode.turns[1:], start=1):
            long += 1
            told = f"{episode.turns[0].observation}\n\n{letters(episode.turns[:k])}\n\n{turn.observation}"
            assert turn.context == tuple(POLICY.chat.first(told))
    assert long


@pytest.mark.parametrize("history", [{"history": "window", "window": 1}, {"history": "window", "window": 2}])
def test_what_was_sampled_under_a_window_is_scored_as_it_was_sampled(history: dict[str, Any]) -> None:
    batch = collate(played(temperature=0.8, **history))
    assert batch.samples is not None
    with torch.no_grad():
        scored = POLICY.log_probs(batch)
    assert (scored.logp - batch.behaviour_logp)[batch.acted].abs().max() < 1e-4
    assert bool((scored.logp[~batch.acted] == 0).all())
    whole = replace(batch, samples=None)
    with torch.no_grad():
        assert (POLICY.log_probs(whole).logp - batch.behaviour_logp)[batch.acted].abs().max() > 1e-2


def test_a_gradient_under_a_window_does_not_depend_on_how_the_batch_was_cut() -> None:
    episodes = [replace_reward(episode, i % 2) for i, episode in enumerate(played(history="window", window=2))]
    batch = collate(episodes, values={episode.task: 0.4 for episode in episodes})
    with torch.no_grad():
        batch = replace(batch, ref_logp=batch.behaviour_logp - 0.01 * batch.acted)
    algorithm = AStarPO(AStarPOSettings.parse({"name": "astar_po", "beta": 0.1}))
    found = []
    for tokens in (10**6, 150):
        backward(POLICY, batch, algorithm, reference=None, tokens=tokens)
        found.append([parameter.grad.clone() for parameter in POLICY.model.parameters()])
    POLICY.model.zero_grad(set_to_none=True)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * float(one.abs().max()) + 1e-9)


def test_taking_episodes_takes_their_samples() -> None:
    batch = collate(played(history="window", window=1))
    with torch.no_grad():
        whole = POLICY.log_probs(batch).logp
        for rows in (torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, True])):
            some = batch.take(rows)
            told = POLICY.log_probs(some).logp
            assert torch.allclose(told, whole[rows][:, : told.shape[1]], atol=1e-5)
            assert torch.equal(some.scored_lengths, batch.scored_lengths[rows])


def test_a_sample_that_lacks_a_token_is_refused() -> None:
    batch = collate(played(history="window", window=1))
    assert batch.samples is not None
    acted = batch.samples.acted.clone()
    acted[tuple(acted.nonzero()[0])] = False
    with pytest.raises(ShapeError, match="each must be acted once"):
        replace(batch, samples=replace(batch.samples, acted=acted))


def test_stored_episodes_keep_what_was_read(tmp_path: Path) -> None:
    episodes = played(history="window", window=1)
    Journal(tmp_path).episodes(1, episodes)
    assert read_episodes(tmp_path / "episodes" / "000001.jsonl.gz") == episodes


def test_saved_episodes_are_measured_by_what_was_read_at_once(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays = [Play(f"answered/5/train/{i}", attempt, (7,)) for i in range(3) for attempt in range(4)]
    episodes = played(plays, turns=9, history="window", window=1)
    Journal(tmp_path).episodes(1, episodes)
    read = [len(ids) for episode in episodes for ids, _ in stretches(episode)]
    whole = [sum(tokens_of(episode)) for episode in episodes]
    assert max(read) + 20 < max(whole)
    over: dict[str, Any] = {"environment": {"name": "small.Talk", "reward": "score"}, "rollout": {"window": 1}}
    over["rollout"]["history"] = "window"
    run = small_run(small_model, **over, episodes=str(tmp_path / "episodes"))
    opened = partial(Saved, run, environment=talk(), policy=POLICY, reward=score)
    monkeypatch.setattr(POLICY.model.config, "max_position_embeddings", max(read))
    assert opened().episodes == len(episodes)
    monkeypatch.setattr(POLICY.model.config, "max_position_embeddings", max(read) - 1)
    with pytest.raises(DataError, match=f"holds an episode of {max(read)} tokens and small reads {max(read) - 1}"):
        opened()


@pytest.mark.parametrize(
    ("rollout", "error", "told"),
    [
        ({"history": "summary"}, SettingsError, "no summary is named"),
        ({"window": 2}, SettingsError, "window does nothing unless history is window or summary"),
        ({"history": "window", "summary": "test_history.letters"}, SettingsError, "summary does nothing unless"),
        ({"history": "summary", "summary": "test_history.CHATS", "window": 1}, SettingsError, "is no function"),
        (
            {"history": "summary", "summary": "test_history.number_of", "window": 1},
            EnvironmentContractError,
            "must be text, got int for 1 turns",
        ),
        (
            {"history": "summary", "summary": "test_history.raises", "window": 1},
            EnvironmentContractError,
            "raised RuntimeError: no ink on 1 turns",
        ),
    ],
)
def test_histories_that_cannot_be_are_refused_in_one_sentence(
    rollout: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        played(**rollout)


# ---- a world that can be listed: three turns of one action, read through a window of one turn -----------------------

WALKS = list(itertools.product(range(3), repeat=3))
"""Every sequence of three actions."""


def contexts(walk: Ids) -> list[Ids]:
    """What is read before each action: the task, and a page that shows the action before it and no earlier one."""
    return [(2, 2), (2, 0, walk[0]), (2, 1, walk[1])]


def episode_of(walk: Ids, policy: TabularPolicy) -> Episode:
    """The walk as a rollout under a window would give it."""
    turns = []
    for k, (context, action) in enumerate(zip(contexts(walk), walk, strict=True)):
        nats = policy.log_prob(context, (action,)).item()
        said = Reply((action,), (nats,), str(action), True)
        seen = context if k == 0 else (1,)
        turns.append(Turn("", seen, said, Step(), pay(walk) if k == 2 else 0.0, context if k else None))
    return Episode("a", 0, tuple(turns), Ended.FINISHED, False, 0.0, 1.0, 0)


def pay(walk: Ids) -> float:
    """Any reward that no sum over turns gives."""
    return 0.5 * (walk[0] != walk[2]) + 0.1 * walk[1] * walk[2]


def chance(policy: TabularPolicy, walk: Ids) -> Tensor:
    """ln π of a walk: the sum of its turns' log-probs, each under its own window."""
    return torch.stack([policy.log_prob(c, (a,)) for c, a in zip(contexts(walk), walk, strict=True)]).sum()


def table() -> TabularPolicy:
    """A policy far from uniform over every context there is."""
    policy = TabularPolicy((c for walk in WALKS for c in contexts(walk)), vocabulary=3, stop=-1)
    with torch.no_grad():
        policy.logits.copy_(torch.randn(policy.logits.shape, generator=torch.Generator().manual_seed(3)))
    return policy


def finite_differences(policy: TabularPolicy, objective: object) -> Tensor:
    """∂ objective / ∂ logits, one logit at a time."""
    assert callable(objective)
    found, flat = torch.zeros(policy.logits.numel(), dtype=torch.float64), policy.logits.data.view(-1)
    for i in range(len(flat)):
        ends = []
        for move in (1e-6, -1e-6):
            flat[i] += move
            ends.append(objective().item())
            flat[i] -= move
        found[i] = (ends[0] - ends[1]) / 2e-6
    return found.view(policy.logits.shape)


def windowed(policy: TabularPolicy) -> Batch:
    """Every walk once, as a batch."""
    batch = collate([episode_of(walk, policy) for walk in WALKS], values={"a": 0.35})
    return replace(batch, ref_logp=batch.behaviour_logp + 0.2 * batch.acted)


def test_the_regression_of_whole_episodes_has_the_gradient_that_finite_differences_give_under_a_window() -> None:
    policy, beta = table(), 0.3
    batch = windowed(policy)
    ref = {walk: chance(policy, walk).item() + 0.6 for walk in WALKS}

    def objective() -> Tensor:
        gaps = [beta * (chance(policy, walk) - ref[walk]) - (pay(walk) - 0.35) for walk in WALKS]
        return torch.stack(gaps).square().mean()

    algorithm = AStarPO(AStarPOSettings.parse({"name": "astar_po", "beta": beta, "normalize_gradient": False}))
    loss, _ = algorithm.loss(policy.log_probs(batch), batch)
    (own,) = torch.autograd.grad(loss, policy.logits)
    assert loss.item() == pytest.approx(objective().item(), rel=1e-5)
    assert torch.allclose(own, finite_differences(policy, objective), atol=1e-6)
    assert own.abs().max() > 0.01


def test_the_policy_gradient_is_that_of_the_expected_return_under_a_window() -> None:
    policy = table()
    batch = windowed(policy)

    def expected() -> Tensor:
        return torch.stack([chance(policy, walk).exp() * pay(walk) for walk in WALKS]).sum()

    whole = masked_sum(policy.log_probs(batch).logp, batch.acted)
    weight = torch.tensor([chance(policy, walk).exp().item() * pay(walk) for walk in WALKS], dtype=torch.float64)
    (own,) = torch.autograd.grad((weight * whole).sum(), policy.logits)
    assert torch.allclose(own, finite_differences(policy, expected), atol=1e-8)


def replace_reward(episode: Episode, reward: float) -> Episode:
    """The episode with all of `reward` at its last turn."""
    *before, last = episode.turns
    return replace(episode, turns=(*before, replace(last, reward=reward)))
