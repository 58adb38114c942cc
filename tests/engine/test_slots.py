"""Conversations extended in pieces, side by side, say what each would say alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

from astarpo.engine.conversations import Slots, _generator, choose, invert_by_blocks
from astarpo.engine.forward import Forward
from astarpo.engine.slots import SlotCache
from astarpo.errors import RunError
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.types import Reply
from small import small_policy, small_tokenizer

SIZE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": SIZE | {"attn_implementation": "eager"},
    "llama": SIZE,
    # A window shorter than the conversation, in every layer.
    "mistral": SIZE | {"sliding_window": 5},
    # Windows in every other layer, capped logits, attention that adds its mask.
    "gemma2": SIZE | {"sliding_window": 5, "final_logit_softcapping": 3.0, "attn_implementation": "eager"},
    # Learned positions.
    "gpt2": {"vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
}


def whole(policy: HuggingFacePolicy, ids: list[int]) -> torch.Tensor:
    """Logits after `ids` in one forward pass without a cache."""
    with torch.inference_mode():
        logits: torch.Tensor = policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits


def held(slots: Slots, slot: int) -> torch.Tensor:
    """What the policy is about to say in `slot`."""
    assert slots._logits is not None
    return slots._logits[slots._row[slot]]


def random_ids(rng: np.random.Generator, count: int) -> list[int]:
    return [int(i) for i in rng.integers(4, 260, size=count)]


def family(name: str) -> HuggingFacePolicy:
    given = dict(FAMILIES[name])
    attention = given.pop("attn_implementation", "sdpa")
    config = AutoConfig.for_model(name, **given, eos_token_id=1, bos_token_id=None, pad_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return HuggingFacePolicy(model.eval(), small_tokenizer(), rules=False)


@pytest.mark.parametrize("name", ["small", *FAMILIES])
def test_a_conversation_extended_in_pieces_has_the_logits_of_one_full_pass(name: str) -> None:
    policy = small_policy() if name == "small" else family(name)
    rng = np.random.default_rng(0)
    slots = policy.open([(0,), (1,), (2,)])
    told: list[list[int]] = [[], [], []]
    for lengths in ((3, 9, 1), (1, 2, 6), (4, 1, 1)):
        pieces = [random_ids(rng, n) for n in lengths]
        for row, piece in zip(told, pieces, strict=True):
            row += piece
        slots.extend([0, 1, 2], pieces)
        for slot in range(3):
            torch.testing.assert_close(held(slots, slot), whole(policy, told[slot]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["small", *FAMILIES])
def test_sampled_log_probs_are_those_of_a_full_pass(name: str) -> None:
    policy = small_policy() if name == "small" else family(name)
    slots = policy.open([(0,), (1,)])
    prompts = [[40, 41, 42, 43, 44, 45, 46, 47], [50]]
    slots.extend([0, 1], prompts)
    for prompt, reply in zip(prompts, slots.reply([0, 1], 8, 1.5), strict=True):
        ids = list(prompt)
        for token, nats in zip(reply.ids, reply.log_probs, strict=True):
            expected = torch.log_softmax(whole(policy, ids) / 1.5, -1)[token]
            assert nats == pytest.approx(float(expected), abs=1e-4)
            ids.append(token)


def test_keys_are_kept_across_turns_and_after_others_close() -> None:
    policy, rng = small_policy(stops=120), np.random.default_rng(1)
    slots = policy.open([(i,) for i in range(6)])
    told = {slot: random_ids(rng, 2 + slot) for slot in range(6)}
    slots.extend(list(told), [list(row) for row in told.values()])
    for closing in ((), (0, 4), (2,), (5,), (1,)):
        slots.close(closing)
        for slot in closing:
            del told[slot]
        order = list(told)[::-1]
        for slot, reply in zip(order, slots.reply(order, 3, 1.0), strict=True):
            told[slot] += reply.ids
            assert slots.tokens(slot) == len(told[slot])
        more = {slot: random_ids(rng, 1 + slot % 3) for slot in order}
        slots.extend(order, list(more.values()))
        for slot in order:
            told[slot] += more[slot]
            torch.testing.assert_close(held(slots, slot), whole(policy, told[slot]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["small", *FAMILIES])
def test_conversations_that_are_alike_are_computed_once_and_go_on_as_if_each_had_been(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rng = small_policy(stops=60) if name == "small" else family(name), np.random.default_rng(4)
    computed: list[int] = []
    inner = policy.forward.read

    def counted(cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        computed.append(len(ids))
        return inner(cache, rows, ids)

    monkeypatch.setattr(policy.forward, "read", counted)
    slots = policy.open([(0, 0), (0, 0), (0, 1), (0, 2), (0, 0)])
    page = random_ids(rng, 5)
    told = [list(page) for _ in range(5)]
    told[3][2] += 1
    slots.extend([0, 1, 2, 3, 4], told)
    assert computed == [2]
    for slot, reply in zip([4, 2, 0, 3, 1], slots.reply([4, 2, 0, 3, 1], 3, 1.0), strict=True):
        told[slot] += reply.ids
    assert told[0] == told[1] == told[4] != told[2]
    del computed[:]
    more = random_ids(rng, 4)
    other = random_ids(rng, 3)
    slots.extend([0, 1, 2, 3, 4], [more, more, more, more, other])
    assert sum(computed) == 4
    for slot in range(5):
        told[slot] += other if slot == 4 else more
        torch.testing.assert_close(held(slots, slot), whole(policy, told[slot]), atol=1e-5, rtol=1e-5)
        assert slots.tokens(slot) == len(told[slot])
    for slot, reply in enumerate(slots.reply([0, 1, 2, 3, 4], 3, 1.0)):
        for token, nats in zip(reply.ids, reply.log_probs, strict=True):
            expected = torch.log_softmax(whole(policy, told[slot]), -1)[token]
            assert nats == pytest.approx(float(expected), abs=1e-4)
            told[slot].append(token)


def test_closing_the_last_conversation_is_allowed() -> None:
    slots = small_policy().open([(0,)])
    slots.extend([0], [[40]])
    slots.close([0])
    with pytest.raises(KeyError):
        slots.tokens(0)


def test_what_is_said_does_not_depend_on_the_company() -> None:
    policy, rng = small_policy(stops=60), np.random.default_rng(2)
    prompts = [random_ids(rng, int(n)) for n in rng.integers(1, 30, size=8)]
    later = [random_ids(rng, int(n)) for n in rng.integers(1, 9, size=8)]

    def played(which: list[int]) -> dict[int, tuple[Any, ...]]:
        slots = policy.open([(7, i) for i in which])
        here = list(range(len(which)))
        slots.extend(here, [prompts[i] for i in which])
        first = slots.reply(here, 6, 1.0)
        slots.extend(here, [later[i] for i in which])
        second = slots.reply(here, 6, 1.0)
        return {i: (a.ids, b.ids, a.text, b.text) for i, a, b in zip(which, first, second, strict=True)}

    together = played(list(range(8)))
    assert played([5, 2, 7]) == {i: together[i] for i in (5, 2, 7)}
    assert played([3]) == {3: together[3]}
    assert len(set(together.values())) == 8


def test_turns_draw_different_numbers_and_keys_too() -> None:
    policy = small_policy()
    slots = policy.open([(7, 0), (7, 0), (7, 1)])
    slots.extend([0, 1, 2], [[40, 41]] * 3)
    same, again, other = slots.reply([0, 1, 2], 8, 1.0)
    assert same.ids == again.ids
    assert same.ids != other.ids


def test_a_conversations_numbers_are_those_of_philox_under_the_hash_of_its_key() -> None:
    for key in ((7,), (1, 2**33 + 5, 3)):
        state = np.random.SeedSequence([part % 2**32 for part in key]).generate_state(2, np.uint64)
        expected = np.random.Generator(np.random.Philox(key=state)).random(9)
        assert _generator(key).random(9).tolist() == expected.tolist()


def test_short_conversations_take_little_room_at_first() -> None:
    def room(*positions: int) -> int:
        cache = SlotCache(1, 1, torch.device("cpu"))
        for asked in positions:
            cache.reserve(asked)
        return cache.capacity

    # Eight times what is read, in steps of 32, 256 at most; then half as much again, or what is asked for.
    assert [room(6), room(60), room(300), room(6, 65), room(6, 200)] == [64, 256, 320, 96, 224]


def test_a_reply_ends_with_a_stop_token_that_belongs_to_it_or_is_cut() -> None:
    policy = small_policy(stops=60)
    slots = policy.open([(i,) for i in range(20)])
    slots.extend(list(range(20)), [[40 + i] for i in range(20)])
    replies = slots.reply(list(range(20)), 4, 1.0)
    assert {reply.complete for reply in replies} == {True, False}
    for reply in replies:
        assert len(reply.ids) == len(reply.log_probs)
        assert not set(reply.ids[:-1]) & policy.chat.stop
        assert reply.complete == (reply.ids[-1] in policy.chat.stop)
        assert reply.complete or len(reply.ids) == 4
        assert reply.text == policy.chat.decode(reply.ids)


def test_greedy_is_the_likeliest_token_at_each_step() -> None:
    policy = small_policy()
    slots = policy.open([(0,), (1,)])
    slots.extend([0, 1], [[40, 41, 42], [43]])
    for prompt, reply in zip(([40, 41, 42], [43]), slots.reply([0, 1], 6, 0.0), strict=True):
        ids = list(prompt)
        for token in reply.ids:
            assert token == int(whole(policy, ids).argmax())
            ids.append(token)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_choose_follows_the_tempered_distribution(temperature: float) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.0, -0.4])
    wanted = torch.softmax(logits.double() / temperature, -1)
    n = 20_000
    draws = torch.from_numpy(np.random.default_rng(11).random(n))
    ids, nats = choose(logits.expand(n, 5), temperature, draws)
    counts = torch.bincount(ids, minlength=5).numpy()
    assert chisquare(counts, (wanted * n).numpy()).pvalue > 0.01
    torch.testing.assert_close(nats.double(), wanted.log()[ids], atol=1e-6, rtol=1e-6)


def test_choose_takes_no_token_of_probability_zero_at_either_end() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, 4)
    ids, nats = choose(logits, 1.0, torch.tensor([0.0, 0.5, 1.0 - 2.0**-53], dtype=torch.float64))
    assert ids.tolist() == [1, 2, 2]
    assert nats.tolist() == pytest.approx([-np.log(2)] * 3)


def test_greedy_log_probs_are_those_at_temperature_one() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    ids, nats = choose(logits, 0.0, torch.zeros(1, dtype=torch.float64))
    assert ids.tolist() == [1]
    assert nats.tolist() == pytest.approx(torch.log_softmax(logits, -1)[:, 1].tolist())


def test_keys_are_given_back_with_the_last_who_holds_the_conversations() -> None:
    policy = small_policy()
    gc.collect()
    gc.disable()
    try:
        slots = policy.open([(0,), (1,)])
        slots.extend([0, 1], [[40, 41], [42]])
        slots.reply([0, 1], 3, 1.0)
        keys = weakref.ref(slots._cache.slot_layers[0].keys)
        assert keys() is not None
        del slots
        assert keys() is None
    finally:
        gc.enable()


class _Ahead:
    """A forward pass that wants its next step begun before it is known who goes on."""

    ahead = True

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)


def test_a_step_begun_before_it_is_known_who_goes_on_changes_nothing() -> None:
    def said(*, ahead: bool) -> list[list[Reply]]:
        policy = small_policy(stops=40)
        if ahead:
            policy.forward = _Ahead(policy.forward)
        conversations = policy.open([(7, row) for row in range(12)])
        found = []
        for turn in range(4):
            slots = list(range(12)) if turn != 2 else [1, 4, 11]
            conversations.extend(slots, [[5 + slot, 30, 40 + turn] * (1 + slot) for slot in slots])
            found.append(conversations.reply(slots, 25, 1.0))
        return found

    one, other = said(ahead=False), said(ahead=True)
    assert {1, 25} < {len(reply.ids) for turn in one for reply in turn}
    for turn, again in zip(one, other, strict=True):
        assert [reply.ids for reply in turn] == [reply.ids for reply in again]
        torch.testing.assert_close([r.log_probs for r in turn], [r.log_probs for r in again], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_policy_whose_log_probs_are_no_numbers_does_not_play(temperature: float, ahead: bool, number: float) -> None:
    policy = small_policy()
    if ahead:
        policy.forward = _Ahead(policy.forward)
    policy.model.model.layers[1].mlp.down_proj.weight.data[3, 4] = number
    conversations = policy.open([(0,), (1,)])
    conversations.extend([0, 1], [[40, 41], [42]])
    with pytest.raises(RunError, match=r"log-probs .* are NaN or infinite, so it cannot play: .* earlier checkpoint"):
        conversations.reply([0, 1], 4, temperature)


def test_looking_by_blocks_stays_among_the_words_where_probabilities_are_no_numbers() -> None:
    p = torch.full((2, 700), 1 / 700)
    p[0] = torch.nan
    draw = torch.tensor([0.5, 0.5], dtype=torch.float64)
    found = invert_by_blocks(p, draw)
    assert found[0] < 700
    assert found[1] == 350


@pytest.mark.parametrize("words", [7, 512, 1300])
def test_looking_for_a_word_by_blocks_finds_the_same(words: int) -> None:
    torch.manual_seed(0)
    p = (torch.randn(400, words) * 4).softmax(-1)
    p[p < 1e-4] = 0
    draw = torch.rand(400, dtype=torch.float64)
    draw[:2] = torch.tensor([0.0, 1.0 - 2.0**-53])
    reach = p.cumsum(-1, dtype=torch.float64)
    expected = torch.searchsorted(reach, (draw * reach[:, -1])[:, None], right=True)[:, 0]
    found = invert_by_blocks(p, draw)
    assert torch.equal(found[2:], expected[2:])
    assert bool((p.gather(1, found[:, None]) > 0).all())
