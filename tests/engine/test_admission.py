"""Slots are used again, replies end when they end, and what conversations have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from astarpo.engine.conversations import SHARED_TOKENS, Slots
from astarpo.engine.slots import SlotCache
from astarpo.environments.rewards import score
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.rollout import Play, collect
from astarpo.run import RolloutSettings
from small import small_policy, talk


def whole(policy: HuggingFacePolicy, ids: Sequence[int]) -> torch.Tensor:
    """Logits after `ids` in one forward pass without a cache."""
    with torch.inference_mode():
        logits: torch.Tensor = policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits


def held(slots: Slots, slot: int) -> torch.Tensor:
    """What the policy is about to say in `slot`."""
    assert slots._logits is not None
    return slots._logits[slots._row[slot]]


def some(rng: np.random.Generator, count: int) -> list[int]:
    return [int(i) for i in rng.integers(4, 250, size=count)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[HuggingFacePolicy, list[int]]:
    """A policy, and how many tokens each of its reading passes computes."""
    policy = small_policy(stops=60)
    tokens: list[int] = []
    inner = policy.forward.read

    def read(cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        tokens.append(sum(map(len, ids)))
        return inner(cache, rows, ids)

    monkeypatch.setattr(policy.forward, "read", read)
    return policy, tokens


def test_a_beginning_that_all_have_is_computed_once(counted: tuple[HuggingFacePolicy, list[int]]) -> None:
    policy, tokens = counted
    rng = np.random.default_rng(0)
    rules = some(rng, SHARED_TOKENS)
    told = [[*rules, 10 + slot, *some(rng, 3 + slot)] for slot in range(4)]
    slots = policy.open([(slot,) for slot in range(4)])
    slots.extend([0, 1, 2, 3], told)
    assert sum(tokens) == len(rules) + sum(len(row) - len(rules) for row in told)
    for slot in range(4):
        assert slots.tokens(slot) == len(told[slot])
        torch.testing.assert_close(held(slots, slot), whole(policy, told[slot]), atol=1e-5, rtol=1e-5)


def test_one_that_is_admitted_later_copies_what_another_has_read(
    counted: tuple[HuggingFacePolicy, list[int]],
) -> None:
    policy, tokens = counted
    rng = np.random.default_rng(1)
    task, page = some(rng, SHARED_TOKENS + 8), some(rng, 6)
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [task, some(rng, 9)])
    (reply,) = slots.reply([0], 4, 1.0)
    slots.extend([0], [page])
    slots.restart(1, (2,))
    assert slots.tokens(1) == 0
    del tokens[:]
    slots.extend([1], [task])
    # The same prompt word for word: its last token alone.
    assert tokens == [1]
    torch.testing.assert_close(held(slots, 1), whole(policy, task), atol=1e-5, rtol=1e-5)
    slots.restart(1, (3,))
    del tokens[:]
    other = [*task[:-2], 5, 6, 7]
    slots.extend([1], [other])
    assert tokens == [3]
    torch.testing.assert_close(held(slots, 1), whole(policy, other), atol=1e-5, rtol=1e-5)
    # What was copied from goes on unharmed.
    torch.testing.assert_close(held(slots, 0), whole(policy, [*task, *reply.ids, *page]), atol=1e-5, rtol=1e-5)


def test_a_slot_reads_its_own_beginning_again_from_its_own_row(counted: tuple[HuggingFacePolicy, list[int]]) -> None:
    policy, tokens = counted
    rng = np.random.default_rng(2)
    task = some(rng, SHARED_TOKENS + 4)
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [[*task, *some(rng, 7)], some(rng, 5)])
    slots.reply([0], 3, 1.0)
    slots.restart(0, (0, 1))
    # Steps that others take part in leave the row as it is.
    slots.reply([1], 4, 1.0)
    del tokens[:]
    anew = [*task, *some(rng, 2)]
    slots.extend([0], [anew])
    assert tokens == [2]
    torch.testing.assert_close(held(slots, 0), whole(policy, anew), atol=1e-5, rtol=1e-5)


def test_one_reads_on_while_others_speak() -> None:
    policy, rng = small_policy(stops=60), np.random.default_rng(3)
    told = {slot: some(rng, 3 + 2 * slot) for slot in range(5)}
    slots = policy.open([(slot,) for slot in range(5)])
    slots.extend(list(told), list(told.values()))
    slots.ask(list(told), 9, 1.0)
    left = dict.fromkeys(told, 3)
    together = 0
    while any(left.values()):
        ended = slots.step()
        still = slots._replies.slots.tolist()
        together = max(together, len({left[slot] for slot, _ in ended} | {left[slot] for slot in still}))
        for slot, reply in ended:
            ids = list(told[slot])
            for token, nats in zip(reply.ids, reply.log_probs, strict=True):
                expected = torch.log_softmax(whole(policy, ids), -1)[token]
                assert nats == pytest.approx(float(expected), abs=1e-4)
                ids.append(token)
            left[slot] -= 1
            told[slot] = [*ids, *some(rng, 4)]
            slots.extend([slot], [told[slot][len(ids) :]])
            if left[slot]:
                slots.ask([slot], 9, 1.0)
    assert together > 1


def test_replies_at_two_temperatures_do_not_mix() -> None:
    slots = small_policy().open([(0,), (1,)])
    slots.extend([0, 1], [[40], [41]])
    slots.ask([0], 2, 1.0)
    with pytest.raises(ValueError, match="share one temperature"):
        slots.ask([1], 2, 0.5)


@pytest.mark.parametrize("slots", [1, 3])
def test_memory_is_bounded_by_slots_and_the_longest_episode(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(stops=120)
    opened: list[Slots] = []
    most: list[int] = []
    inner = policy.open

    def open(keys: Sequence[tuple[int, ...]]) -> Slots:
        opened.append(inner(keys))
        return opened[-1]

    step = Slots.step

    def watched(self: Slots) -> list[tuple[int, Any]]:
        said = step(self)
        most.append(self.bytes)
        return said

    monkeypatch.setattr(policy, "open", open)
    monkeypatch.setattr(Slots, "step", watched)
    rollout = RolloutSettings.parse({"reply_tokens": 8, "episode_tokens": 300, "slots": slots})
    plays = [Play(f"chatty/{n}", n, (0,)) for n in range(12)]
    episodes = collect(policy, talk(max_turns=6), plays, rollout=rollout, temperature=1.0, reward=score)
    assert len(episodes) == 12
    assert len(opened) == 1
    config = policy.model.config
    token = 2 * config.num_hidden_layers * config.hidden_size * 4
    # Room is made for 256 positions at least, then for half as much again each time.
    assert 0 < max(most) <= slots * token * max(256, 1.5 * (rollout.longest + 32))


def test_a_row_that_another_conversation_has_taken_is_not_copied_for_the_one_before() -> None:
    policy = small_policy(stops=60)
    rng = np.random.default_rng(5)
    task, another = some(rng, 12), some(rng, 12)
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [task, some(rng, 4)])
    slots.restart(0, (2,))
    slots.extend([0], [another])
    slots.restart(1, (3,))
    slots.extend([1], [task])
    torch.testing.assert_close(held(slots, 1), whole(policy, task), atol=1e-5, rtol=1e-5)
