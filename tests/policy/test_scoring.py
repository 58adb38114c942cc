"""Episodes laid end to end are scored as each by itself, and no more logits exist at a time than a chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from astarpo.batch import Batch
from astarpo.policy import adapters, head, scoring
from astarpo.policy.huggingface import HuggingFacePolicy
from small import small_policy, small_tokenizer

pytestmark = pytest.mark.usefixtures("kernels")

LENGTHS = [9, 3, 14, 9, 5, 2, 9]


def batch(lengths: list[int] = LENGTHS, temperature: float = 1.3, words: int = 260) -> Batch:
    """Random ids; about half of them acted, the last always but in the row before the last, where nothing is."""
    random = torch.Generator().manual_seed(0)
    b, t = len(lengths), max(lengths) + 2
    tokens = torch.randint(4, words, (b, t), generator=random)
    acted = torch.rand((b, t), generator=random) < 0.5
    for row, length in enumerate(lengths):
        acted[row, length - 1] = True
        acted[row, length:] = False
    acted[:, 0] = acted[-2] = False
    return Batch(
        tokens=tokens,
        lengths=torch.tensor(lengths),
        acted=acted,
        turn=torch.where(acted, 0, -1),
        behaviour_logp=torch.zeros((b, t)),
        reward=torch.zeros(b),
        success=torch.zeros(b, dtype=torch.bool),
        task=torch.zeros(b, dtype=torch.int64),
        temperature=temperature,
    )


def policy_of(kind: str, attention: str = "sdpa", **shape: Any) -> HuggingFacePolicy:
    """A random model of the family `kind`; its weights are large, so that a mistake shows."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(small_tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for parameter in model.parameters():
        parameter.data.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return HuggingFacePolicy(model, small_tokenizer(), rules=False)


def alone(policy: HuggingFacePolicy, other: HuggingFacePolicy, given: Batch) -> list[Tensor]:
    """ln π, entropy and KL [B, T], each episode by itself, from whole logits; with gradient."""
    columns = [torch.zeros(given.tokens.shape) for _ in range(3)]
    for row, length in enumerate(given.lengths.tolist()):
        ids = given.tokens[row : row + 1, :length]
        log_p, log_q = (
            torch.log_softmax(player.model(input_ids=ids, use_cache=False).logits[0, :-1] / given.temperature, -1)
            for player in (policy, other)
        )
        said = log_p.gather(-1, ids[0, 1:, None])[:, 0]
        for column, value in zip(
            columns, (said, -(log_p.exp() * log_p).sum(-1), (log_p.exp() * (log_p - log_q)).sum(-1)), strict=True
        ):
            column[row, 1:length] = torch.where(given.acted[row, 1:length], value, 0.0)
    return columns


def mixed(columns: list[Tensor]) -> Tensor:
    """One number that depends on every column, unevenly."""
    return sum(
        ((column * torch.linspace(-1, 2, column.numel()).view(column.shape)).sum() for column in columns),
        torch.zeros(()),
    )


def gradient(policy: HuggingFacePolicy, loss: Tensor) -> Tensor:
    policy.model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


FAMILIES: dict[str, Callable[[], HuggingFacePolicy]] = {
    "qwen2": small_policy,
    "llama, grouped heads": lambda: policy_of("llama", num_key_value_heads=2),
    "mistral, window of 4": lambda: policy_of("mistral", num_key_value_heads=2, sliding_window=4),
    "gpt2, absolute positions": lambda: policy_of("gpt2", n_positions=32),
    "granite, scaled logits": lambda: policy_of("granite", num_key_value_heads=2, logits_scaling=3.0),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [4096, 20])
@pytest.mark.parametrize("chunk", [head.CHUNK, 2 * 300])
def test_episodes_laid_end_to_end_are_scored_as_each_by_itself(
    family: str, tokens: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, other, given = FAMILIES[family](), small_policy(1), batch()
    monkeypatch.setattr(head, "CHUNK", chunk)
    assert policy.traits.padded == ""
    assert policy.traits.split == ("granite" not in family)
    scored = policy.log_probs(given, reference=other, tokens=tokens)
    found, expected = [scored.logp, scored.entropy, scored.exact_kl()], alone(policy, other, given)
    expected = [torch.where(given.acted, column, 0.0) for column in expected]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float(expected[0].detach().min()) < -3
    one, two = gradient(policy, mixed(found)), gradient(policy, mixed(expected))
    assert float((one - two).norm() / two.norm()) < 1e-5


def test_the_probe_refuses_a_family_whose_attention_or_states_would_mix_episodes() -> None:
    policy = policy_of("gemma2", "eager", num_key_value_heads=2, head_dim=4, sliding_window=4)
    assert policy.traits.padded == "it attends by code of its own"
    other, given = small_policy(1), batch()
    with torch.no_grad():
        expected = torch.where(given.acted, alone(policy, other, given)[0], 0.0)
        torch.testing.assert_close(policy.log_probs(given).logp, expected, atol=1e-5, rtol=1e-5)


def test_the_probe_sees_a_model_in_which_episodes_would_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()

    def leaks(*given: Any, packed_lengths: Any = None, **others: Any) -> Any:
        whole = None if packed_lengths is None else (sum(packed_lengths),)
        return scoring.packed_attention(*given, packed_lengths=whole, **others)

    monkeypatch.setitem(AttentionInterface._global_mapping, scoring.PACKED, leaks)
    assert scoring.why_padded(policy.model).startswith("laid end to end they differ by")


def test_playing_still_finds_the_attention_that_the_model_was_loaded_with() -> None:
    policy = small_policy()
    policy.log_probs(batch())
    assert policy.model.config._attn_implementation == "sdpa"


def test_cuts_hold_every_row_once_and_no_more_tokens_than_asked_for() -> None:
    lengths = torch.tensor([3, 10, 1, 7, 7, 2, 30])
    parts = list(scoring.cuts(lengths, 21, packed=True))
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    assert [lengths[part].tolist() for part in parts] == [[30], [10, 7], [7, 3, 2, 1]]


def test_a_batch_in_which_nothing_was_acted_scores_nothing() -> None:
    given = batch([4, 3]).take(torch.tensor([0]))
    assert not bool(given.acted.any())
    assert float(small_policy().log_probs(given).logp.abs().sum()) == 0.0


# ---- beginnings that episodes share ---------------------------------------------------------------------------------

ALIKE = (
    (5, 6, 7, 8, 9, 10, 11),
    (5, 6, 7, 8, 9, 10, 12, 13, 14),
    # Goes the way of the first, and stops early.
    (5, 6, 7, 8, 9, 10),
    (5, 6, 7, 8, 20),
    (30, 31, 32, 33, 34, 35),
    # Word for word the same, acted elsewhere.
    (30, 31, 32, 33, 34, 35),
    # Nothing is said in it.
    (5, 6, 7, 8, 9, 40),
    (50, 51, 52),
    # Ids whose bytes sort otherwise than they do.
    (30, 31, 257, 33),
    (30, 31, 1, 33),
)
FIRST = (4, 4, 4, 3, 3, 5, 9, 2, 2, 2)
"""From where on each of them is acted; the idle one has no such token."""


def attempts(rows: tuple[int, ...] = tuple(range(10))) -> Batch:
    """The rows of `ALIKE` that are named, in that order."""
    given = batch([len(row) for row in ALIKE])
    for row, (ids, first) in enumerate(zip(ALIKE, FIRST, strict=True)):
        given.tokens[row, : len(ids)] = torch.tensor(ids)
        given.acted[row] = False
        given.acted[row, first : len(ids)] = True
    return given.take(torch.tensor(rows))


def forgetful() -> HuggingFacePolicy:
    policy = small_policy()
    scoring.forget_activations(policy.model)
    return policy


def adapted() -> HuggingFacePolicy:
    policy = small_policy()
    adapters.attach(policy.model, rank=2, alpha=4.0, target_modules=["all-linear"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3)
    return policy


@pytest.mark.parametrize(
    "policy_with", [*FAMILIES.values(), forgetful, adapted], ids=[*FAMILIES, "activations forgotten", "adapter"]
)
@pytest.mark.parametrize("tokens", [4096, 6])
def test_episodes_that_begin_alike_are_scored_as_each_by_itself(
    policy_with: Callable[[], HuggingFacePolicy], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, other, given = policy_with(), small_policy(1), attempts()
    monkeypatch.setattr(head, "CHUNK", 600)
    assert all(some.spread is not None for some in scoring.passes(given, tokens, packed=True))
    scored = policy.log_probs(given, reference=other, tokens=tokens)
    found = [scored.logp, scored.entropy, scored.exact_kl()]
    expected = [torch.where(given.acted, column, 0.0) for column in alone(policy, other, given)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    one, two = gradient(policy, mixed(found)), gradient(policy, mixed(expected))
    assert float((one - two).norm() / two.norm()) < 1e-5


def test_a_pass_holds_each_beginning_once() -> None:
    given = attempts()
    (whole,) = scoring.passes(given, 4096, packed=True)
    # The last token of an episode is predicted and not read.
    ways = [ids[:-1] for ids, first in zip(ALIKE, FIRST, strict=True) if first < len(ids)]
    assert whole.ids.shape == whole.positions.shape == (1, len({way[:end] for way in ways for end in range(1, 9)}))
    # Attention runs over episodes that no other one goes on or repeats: not over the first, third and fourth.
    assert whole.lengths == (8, 5, 3, 3, 2)
    assert len(whole.place) == len(set(whole.place.tolist())) == int(given.acted.sum())
    for some in scoring.passes(given, 9, packed=True):
        assert some.ids.shape[1] <= 9


def test_of_beginnings_that_are_hardly_shared_nothing_is_made() -> None:
    given = attempts((0, 4, 7))
    (whole,) = scoring.passes(given, 4096, packed=True)
    assert whole.spread is None
    assert whole.lengths == (6, 5, 2)


def test_attempts_at_one_task_are_cut_together() -> None:
    lengths, task = torch.tensor([3, 10, 1, 7, 7, 2]), torch.tensor([1, 0, 1, 0, 1, 0])
    parts = list(scoring.cuts(lengths, 19, packed=True, group=task))
    assert [part.tolist() for part in parts] == [[1, 3, 5], [4, 0, 2]]


class Adapted(nn.Linear):
    """Any subclass may do more than one product."""


# ---- the head ------------------------------------------------------------------------------------------------------


def plainly(hidden: Tensor, layer: nn.Linear, target: Tensor, away: Tensor, theirs: nn.Linear) -> list[Tensor]:
    log_p, log_q = torch.log_softmax(layer(hidden) / 1.3, -1), torch.log_softmax(theirs(away).detach() / 1.3, -1)
    p = log_p.exp()
    return [log_p.gather(-1, target[:, None])[:, 0], -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1)]


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_chunks_give_the_scores_and_gradients_of_all_logits_at_once(rows: int, bias: bool, adapted: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, theirs = (Adapted if adapted else nn.Linear)(6, 40, bias=bias), nn.Linear(5, 40)
        hidden, away = torch.randn(11, 6, requires_grad=True), torch.randn(11, 5)
    target = torch.arange(11)
    results = []
    for how in ("chunks", "whole"):
        layer.zero_grad()
        hidden.grad = None
        if how == "whole":
            columns = plainly(hidden, layer, target, away, theirs)
        else:
            scores = head.acted_scores((hidden, layer), target, 1.3, reference=(away, theirs), chunk=40 * rows)
            columns = [column for column in scores if column is not None]
        mixed(columns).backward()  # type: ignore[no-untyped-call]
        results.append([*columns, hidden.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    assert all(p.grad is None for p in theirs.parameters())


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what came out."""
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))])
        return made


@pytest.mark.parametrize("adapted", [False, True])
def test_no_more_logits_exist_at_a_time_than_a_chunk_has(adapted: bool) -> None:
    words, chunk = 5000, 8 * 5000
    layer, theirs = (Adapted if adapted else nn.Linear)(4, words, bias=False), nn.Linear(4, words, bias=False)
    hidden, away = torch.randn(400, 4, requires_grad=True), torch.randn(400, 4)
    for kept, most in ((chunk, chunk), (400 * words, 400 * words)):
        with Largest() as seen:
            scores = head.acted_scores(
                (hidden, layer), torch.zeros(400, dtype=torch.int64), 1.0, reference=(away, theirs), chunk=kept
            )
            mixed([column for column in scores if column is not None]).backward()  # type: ignore[no-untyped-call]
        # What must be there anyway is smaller than a chunk: the weights have 20,000 numbers.
        assert seen.numel == most


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("lengths", [(60, 41, 33, 32, 32, 20, 17, 16, 5, 1), (33, 33), (32, 16, 16), (9, 9, 9), (1,)])
def test_attention_inside_short_and_long_episodes_is_that_of_each_by_itself(
    lengths: tuple[int, ...], groups: int
) -> None:
    torch.manual_seed(0)
    given = [torch.randn(1, heads, sum(lengths), 8, requires_grad=True) for heads in (4, groups, groups)]
    q, k, v = given
    found, _ = scoring.packed_attention(torch.nn.Identity(), q, k, v, None, packed_lengths=lengths, scaling=0.3)
    expected, begin = [], 0
    for length in lengths:
        q, k, v = (one[:, :, begin : begin + length] for one in given)
        each = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
        expected.append(each.transpose(1, 2))
        begin += length
    whole = torch.cat(expected, 1)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)
    weight = torch.randn(whole.shape)
    one, two = (torch.autograd.grad((column * weight).sum(), given) for column in (found, whole))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
