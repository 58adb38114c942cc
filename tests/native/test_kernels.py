"""The processor's own kernels: exact products and gradients, the same in any company, and no way around the rules."""

from __future__ import annotations

import copy
import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from astarpo import native
from astarpo.batch import Batch
from astarpo.engine.conversations import choose
from astarpo.engine.native import Shape
from astarpo.engine.slots import SlotCache
from astarpo.policy import scoring
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.native import Tree
from small import small_policy, small_tokenizer

pytestmark = pytest.mark.skipif(bool(native.why_not()), reason=f"own kernels: {native.why_not()}")


def multiplied(a: torch.Tensor, b: torch.Tensor, *, threads: int = 1) -> torch.Tensor:
    """A Bᵀ by `gemm`."""
    out = torch.full((len(a), len(b)), torch.nan)
    packed = native.packed(b)
    native.library().gemm(
        len(a),
        len(b),
        a.shape[1],
        *(native.at(a), a.shape[1], 1),
        native.at(packed),
        native.at(out),
        len(b),
        0,
        threads,
    )
    return out


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 70])
@pytest.mark.parametrize("out", [1, 15, 16, 47, 48, 49, 100])
@pytest.mark.parametrize("depth", [1, 24, 513])
def test_a_product_of_any_shape_is_exact_to_rounding(rows: int, out: int, depth: int) -> None:
    random = torch.Generator().manual_seed(rows * out)
    a, b = torch.randn(rows, depth, generator=random), torch.randn(out, depth, generator=random)
    expected = a.double() @ b.double().T
    assert float((multiplied(a, b) - expected).abs().max()) < 2e-6 * depth**0.5 * 4


def test_a_row_has_the_same_bits_in_any_company_and_with_any_threads() -> None:
    a, b = torch.randn(200, 600), torch.randn(77, 600)
    whole = multiplied(a, b)
    for rows in ([0], [199], [3, 4, 5], list(range(50, 117))):
        assert torch.equal(multiplied(a[rows], b), whole[rows])
    assert torch.equal(multiplied(a, b, threads=3), whole)


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "as wide as a vector": ("qwen2", {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "a vector and a half": ("qwen2", {"hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4}),
    "two vectors": ("qwen3", {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32}),
    "two and a bit": ("llama", {"hidden_size": 76, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 38}),
    "five vectors": ("mistral", {"hidden_size": 80, "num_attention_heads": 2, "head_dim": 80, "sliding_window": None}),
    "less than a vector": ("qwen3", {"hidden_size": 20, "num_attention_heads": 2, "head_dim": 6}),
}


def model(name: str) -> Any:
    kind, given = SHAPES[name]
    shape = {"vocab_size": 300, "intermediate_size": 50, "num_hidden_layers": 2, "num_key_value_heads": 2, **given}
    config = AutoConfig.for_model(kind, **shape, eos_token_id=1, bos_token_id=None, pad_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        built = AutoModelForCausalLM.from_config(config)
        for parameter in built.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return built.eval()


def policy_of(own: Any, **given: Any) -> HuggingFacePolicy:
    return HuggingFacePolicy(own, small_tokenizer(), rules=False, **given)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_long_and_short_passes_say_what_transformers_says(name: str, threads: int) -> None:
    own = model(name)
    ours, theirs = policy_of(own, forward="fused"), policy_of(own, forward="transformers")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        said = []
        for policy in (ours, theirs):
            policy.forward.refresh()
            cache, random, found = SlotCache(policy.layers, 4, policy.device), torch.Generator().manual_seed(0), []

            def ids(n: int, random: torch.Generator = random) -> list[int]:
                return [int(i) for i in torch.randint(4, 290, (n,), generator=random)]

            with torch.inference_mode():
                found.append(policy.forward.read(cache, [0, 1, 3], [ids(97), ids(1), ids(33)]))
                found += [policy.forward.step(cache, [0, 3], torch.tensor(ids(2))) for _ in range(40)]
                found.append(policy.forward.read(cache, [3, 1, 2], [ids(1), ids(150), ids(3)]))
                found += [policy.forward.step(cache, [0, 1, 2, 3], torch.tensor(ids(4))) for _ in range(3)]
            said.append(torch.cat(found))
    finally:
        torch.set_num_threads(before)
    assert float(said[1].std()) > 0.1
    torch.testing.assert_close(said[0], said[1], atol=2e-5, rtol=2e-5)


LENGTHS = (90, 64, 33, 17, 16, 5, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_those_of_transformers_in_double_precision(name: str, threads: int) -> None:
    own = model(name)
    decoder = scoring.traits(own).native
    assert decoder is not None
    random = torch.Generator().manual_seed(1)
    parts = [torch.randint(4, 290, (1, length), generator=random) for length in LENGTHS]
    wanted = torch.randn(sum(LENGTHS), own.config.hidden_size, generator=random)
    position = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    tree = Tree.of(torch.cat(parts, 1), position, LENGTHS, None, None)
    frozen = own.model.layers[0].mlp.up_proj.weight
    frozen.requires_grad_(False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        states = decoder.states(own, tree)
        assert states is not None
        (states * wanted).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(before)
    assert frozen.grad is None
    found = {key: p.grad.clone() for key, p in own.model.named_parameters() if p.grad is not None}
    own.zero_grad()
    exact = own.double().model
    expected = torch.cat([exact(input_ids=part, use_cache=False).last_hidden_state[0] for part in parts])
    assert float((states.detach() - expected.detach()).norm() / expected.detach().norm()) < 2e-6
    (expected * wanted).sum().backward()  # type: ignore[no-untyped-call]
    assert len(found) == len(list(exact.parameters())) - 1
    for key, parameter in exact.named_parameters():
        if key in found:
            assert float((found[key] - parameter.grad).norm() / parameter.grad.norm()) < 1e-5, key


def test_ways_that_share_beginnings_are_computed_once_and_learned_from_together() -> None:
    own = model("a vector and a half")
    decoder = scoring.traits(own).native
    assert decoder is not None
    random = torch.Generator().manual_seed(2)
    prompt, middle = (torch.randint(4, 290, (n,), generator=random) for n in (40, 20))
    ends = [torch.randint(4, 290, (n,), generator=random) for n in (30, 7, 21)]
    episodes = [
        torch.cat([prompt, middle, ends[0]]), torch.cat([prompt, middle, ends[1]]), torch.cat([prompt, ends[2]])
    ]  # fmt: skip
    node = [*range(90), *range(60), *range(90, 97), *range(40), *range(97, 118)]
    ids = torch.cat([episodes[0], ends[1], ends[2]])
    position = torch.tensor([*range(90), *range(60, 67), *range(40, 61)])
    spread, back = torch.tensor(node), torch.tensor([node.index(k) for k in range(118)])
    tree = Tree.of(ids[None], position[None], (90, 67, 61), spread, back)
    assert tree.past.tolist() == [0, 60, 40]
    wanted = torch.randn(118, own.config.hidden_size, generator=random)
    states = decoder.states(own, tree)
    assert states is not None
    (states * wanted).sum().backward()  # type: ignore[no-untyped-call]
    found = {key: p.grad.clone() for key, p in own.model.named_parameters() if p.grad is not None}
    own.zero_grad()
    exact = own.double().model
    whole = torch.cat([exact(input_ids=one[None], use_cache=False).last_hidden_state[0] for one in episodes])
    expected = whole[back]
    torch.testing.assert_close(states.double(), expected, atol=1e-5, rtol=1e-5)
    (expected * wanted).sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in exact.named_parameters():
        assert float((found[key] - parameter.grad).norm() / parameter.grad.norm()) < 1e-5, key


def test_a_copy_is_scored_by_its_own_weights() -> None:
    policy, batch = small_policy(), _batch()
    other = policy.over(small_policy(seed=9).model)
    assert other.traits.native is not None
    with torch.no_grad():
        apart = (policy.log_probs(batch).logp - other.log_probs(batch).logp).abs().max()
        alone = policy_of(other.model, own_kernels=False).log_probs(batch).logp
        torch.testing.assert_close(other.log_probs(batch).logp, alone, atol=1e-5, rtol=1e-5)
    assert float(apart) > 1e-2


def test_what_is_no_number_stays_none() -> None:
    policy = small_policy()
    policy.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    policy.forward.refresh()
    cache = SlotCache(policy.layers, 1, policy.device)
    with torch.inference_mode():
        assert policy.forward.read(cache, [0], [[5, 6, 7]]).isnan().all()
        assert policy.forward.step(cache, [0], torch.tensor([5])).isnan().all()
        assert policy.log_probs(_batch()).logp[_batch().acted].isnan().all()


def test_ids_beyond_the_vocabulary_are_refused_and_touch_nothing() -> None:
    policy = small_policy()
    policy.forward.refresh()
    cache, words = SlotCache(policy.layers, 1, policy.device), policy.vocabulary
    batch = _batch()
    batch.tokens[0, 0] = words
    with torch.inference_mode():
        for ids in ([words], [-1]):
            with pytest.raises(IndexError, match="vocabulary"):
                policy.forward.read(cache, [0], [ids])
    with pytest.raises(IndexError, match="vocabulary"):
        policy.log_probs(batch)


def test_weights_that_change_between_forward_and_back_are_told() -> None:
    policy = small_policy()
    found = policy.log_probs(_batch()).logp.sum()
    with torch.no_grad():
        policy.model.model.layers[0].mlp.down_proj.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()  # type: ignore[no-untyped-call]


def test_other_precision_is_left_to_pytorch() -> None:
    policy, batch = small_policy(), _batch()
    with torch.no_grad():
        expected = policy.log_probs(batch).logp
        policy.model.double()
        torch.testing.assert_close(policy.log_probs(batch).logp, expected, atol=1e-5, rtol=1e-5)


def played(policy: HuggingFacePolicy, ids: list[int]) -> torch.Tensor:
    """Logits after `ids`, read and then one more."""
    policy.forward.refresh()
    cache = SlotCache(policy.layers, 1, policy.device)
    with torch.inference_mode():
        first = policy.forward.read(cache, [0], [ids])
        return torch.cat((first, policy.forward.step(cache, [0], torch.tensor([7]))))


def test_a_gradient_that_does_not_lie_end_to_end_is_read_as_it_is() -> None:
    own = model("two vectors")
    decoder = scoring.traits(own).native
    assert decoder is not None
    ids = torch.randint(4, 290, (1, 3000), generator=torch.Generator().manual_seed(0))
    tree = Tree.of(ids, torch.arange(3000)[None] % 100, (100,) * 30, None, None)
    found = []
    for weight in (None, torch.ones(3000, own.config.hidden_size)):
        own.zero_grad()
        states = decoder.states(own, tree)
        assert states is not None
        # Of a plain sum the gradient is one number, shown everywhere.
        (states.sum() if weight is None else (states * weight).sum()).backward()  # type: ignore[no-untyped-call]
        found.append(own.model.embed_tokens.weight.grad.clone())
    assert torch.equal(*found)


def changed(what: str, policy: HuggingFacePolicy) -> None:
    decoder = policy.model.model
    match what:
        case "a layer in half precision":
            decoder.layers[0].mlp.down_proj.bfloat16()
        case "a norm in double precision":
            decoder.norm.double()
        case "more words":
            policy.model.resize_token_embeddings(400)
        case "fewer words":
            policy.model.resize_token_embeddings(290)
        case "narrower parts":
            for layer in decoder.layers:
                layer.mlp.gate_proj, layer.mlp.up_proj = (torch.nn.Linear(16, 8, bias=False) for _ in range(2))
                layer.mlp.down_proj = torch.nn.Linear(8, 16, bias=False)
        case "one layer twice":
            decoder.layers[1] = decoder.layers[0]
        case "a hook":
            decoder.layers[0].mlp.register_forward_hook(lambda _, __, out: out * 0)
        case "there and back":
            policy.model.double()
            played(policy, list(range(4, 200)))
            policy.log_probs(_batch())
            policy.model.float()


SEEN_WHILE_PLAYING = ("more words", "fewer words", "narrower parts", "there and back")
"""Hooks are not, and one layer twice has one place in transformers' own cache."""


@pytest.mark.parametrize(
    "what",
    [
        "more words",
        "fewer words",
        "narrower parts",
        "one layer twice",
        "a hook",
        "there and back",
    ],
)
def test_a_model_that_was_changed_is_scored_and_played_as_it_is(what: str) -> None:
    policy, batch = small_policy(), _batch()
    changed(what, policy)
    plain = policy_of(policy.model, own_kernels=False, forward="transformers")

    def gradient(of: HuggingFacePolicy) -> torch.Tensor:
        of.model.zero_grad()
        of.log_probs(batch).logp.sum().backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in of.model.parameters() if p.grad is not None])

    expected = gradient(plain)
    assert float((gradient(policy) - expected).norm() / expected.norm()) < 1e-5
    if what in SEEN_WHILE_PLAYING:
        ids = list(range(4, 250))
        torch.testing.assert_close(played(policy, ids), played(plain, ids), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("what", ["a layer in half precision", "a norm in double precision"])
def test_a_model_of_two_precisions_is_not_read_as_one(what: str) -> None:
    policy = small_policy()
    changed(what, policy)
    assert policy.traits.native is not None
    assert not policy.traits.native.runs(policy.model)
    policy.forward.refresh()
    assert not policy.natively


def test_states_that_come_out_different_are_told_and_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape.of

    def other(model: Any) -> Shape:
        return replace(shape(model), scale=0.1)

    monkeypatch.setattr(Shape, "of", other)
    policy = small_policy()
    assert policy.traits.native is None
    assert any("PyTorch's kernels learn" in one and "came out" in one for one in policy.remarks())


def test_dropout_is_left_to_pytorch() -> None:
    policy = small_policy()
    assert policy.traits.native is not None
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert policy.traits.native.runs(policy.model)
    policy.model.train()
    assert not policy.traits.native.runs(policy.model)


def test_the_padding_word_learns_nothing_from_being_read() -> None:
    policy, batch = small_policy(), _batch()
    embed = policy.model.model.embed_tokens
    assert embed.padding_idx == 0
    batch.tokens[:, 1] = 0
    found = []
    for own_kernels in (True, False):
        one = policy_of(policy.model, own_kernels=own_kernels)
        one.model.zero_grad()
        one.log_probs(batch).logp.sum().backward()  # type: ignore[no-untyped-call]
        found.append(embed.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-5)


def test_rows_without_tokens_and_rows_that_are_not_there_are_refused() -> None:
    policy = small_policy()
    policy.forward.refresh()
    cache = SlotCache(policy.layers, 2, policy.device)
    with torch.inference_mode():
        with pytest.raises(ValueError, match="a token or more"):
            policy.forward.read(cache, [0, 1], [[5, 6], []])
        with pytest.raises(IndexError, match="rows"):
            policy.forward.read(cache, [-1], [[5, 6]])


def test_wide_layers_take_no_room_on_the_stack() -> None:
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 40_000, "num_hidden_layers": 1}
    config = AutoConfig.for_model("qwen2", **shape, num_attention_heads=1, num_key_value_heads=1, eos_token_id=1)
    own = AutoModelForCausalLM.from_config(config).eval()
    policy = HuggingFacePolicy(own, small_tokenizer(), rules=False)
    assert policy.natively
    batch = _batch()
    batch.tokens.remainder_(50)
    policy.log_probs(batch).logp.sum().backward()  # type: ignore[no-untyped-call]
    assert own.model.embed_tokens.weight.grad is not None


def test_memory_that_is_lent_is_nobody_elses_until_it_is_given_back() -> None:
    decoder = scoring.traits(small_policy().model).native
    assert decoder is not None
    one, other = decoder._lend(100), decoder._lend(100)
    assert one.room.data_ptr() != other.room.data_ptr()
    first = one.room.data_ptr()
    del one
    again = decoder._lend(50)
    assert again.room.data_ptr() == first
    del again
    assert decoder._lend(1000).room.numel() >= 1000


def test_a_copy_of_a_policy_plays() -> None:
    policy = small_policy()
    other = copy.deepcopy(policy)
    torch.testing.assert_close(played(other, [5, 6, 7]), played(policy, [5, 6, 7]))


def _batch() -> Batch:
    """Three episodes, of each of which the second half was acted."""
    lengths = torch.tensor([12, 7, 30])
    number = torch.arange(30)
    acted = (number >= lengths[:, None] // 2) & (number < lengths[:, None])
    return Batch(
        tokens=torch.randint(4, 250, (3, 30), generator=torch.Generator().manual_seed(3)),
        lengths=lengths,
        acted=acted,
        turn=torch.where(acted, 0, -1),
        behaviour_logp=torch.zeros((3, 30)),
        reward=torch.zeros(3),
        success=torch.zeros(3, dtype=torch.bool),
        task=torch.zeros(3, dtype=torch.int64),
        temperature=1.0,
    )


SAYS = "from astarpo import native; print(native.why_not())"


def said(tmp_path: Path, **environment: str) -> str:
    """What a fresh process says of the kernels."""
    given = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
    done = subprocess.run([sys.executable, "-c", SAYS], env=given, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_they_are_compiled_once_and_kept(tmp_path: Path) -> None:
    assert said(tmp_path) == ""
    kept, told = sorted((tmp_path / "cache" / "astarpo").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (kept.suffix, told.suffix) == (".so", ".sha256")
    made = kept.stat().st_mtime_ns
    assert said(tmp_path) == ""
    assert kept.stat().st_mtime_ns == made
    whole = kept.read_bytes()
    for left in (0, 4096, len(whole) // 2):
        # Loading half a library kills the process.
        kept.write_bytes(whole[:left])
        assert said(tmp_path) == ""
        assert kept.read_bytes() == whole
    assert len(list((tmp_path / "cache" / "astarpo").iterdir())) == 2


def test_a_home_that_cannot_be_written_to_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert said(tmp_path) == ""


BROKEN = {
    "fails": (
        "echo one; exit 0",
        'echo "error: out of order" >&2; exit 1',
        "does not compile them: error: out of order",
    ),
    "makes nothing": ("echo one; exit 0", "exit 0", "cannot be loaded"),
    "makes no library": ("echo one; exit 0", 'for last; do :; done; echo no >"$last"', "cannot be loaded"),
    "does not know itself": ("echo wrong >&2; exit 1", "exit 0", "--version fails: wrong"),
    "speaks in bytes": ("printf '\\377\\n'; exit 0", "exit 1", "does not compile them: it says nothing"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_compiler_that_is_broken_is_named_and_nothing_is_kept(how: str, tmp_path: Path) -> None:
    version, compiling, expected = BROKEN[how]
    broken = tmp_path / "cc"
    broken.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; fi\n{compiling}\n')
    broken.chmod(0o755)
    told = said(tmp_path, CC=str(broken))
    assert told.startswith((f"{broken} ", f"what {broken} made"))
    assert expected in told
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_compiler_the_reason_is_said(tmp_path: Path) -> None:
    assert said(tmp_path, CC="no-such-compiler") == "there is no C compiler (no-such-compiler)"
    (tmp_path / "cc").write_bytes(b"no program")
    (tmp_path / "cc").chmod(0o755)
    assert "--version does not run" in said(tmp_path, CC=str(tmp_path / "cc"))
    assert said(tmp_path, CC="gcc -O1" if shutil.which("gcc") else "cc -O1") == ""


def test_structures_are_laid_out_as_in_c() -> None:
    sizes = {"Layer": 12 * 8, "Model": 8 * 8 + 5 * 8 + 8, "Pass": 4 * 8 + 13 * 8 + 2 * 8, "Tree": 9 * 8}
    assert {name: ctypes.sizeof(getattr(native, name)) for name in sizes} == sizes
    assert np.dtype(np.int64).itemsize == ctypes.sizeof(native.i64)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("to", [[0, 4], [3, 0]])
def test_rows_are_copied_as_they_were_before(clean: bool, to: list[int]) -> None:
    # Row 3 is read and written in the second case.
    source, lengths = [3, 1], [7, 40]
    cache = SlotCache(2, 5, torch.device("cpu"))
    cache.reserve(64)
    cache.clean = clean
    for layer in cache.slot_layers:
        layer.allocate(3, 24, 24, torch.empty(0))
        layer.keys.normal_(), layer.values.normal_()
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.slot_layers]
    cache.copy(source, to, lengths)
    assert cache.lengths[to].tolist() == lengths
    for layer, was in zip(cache.slot_layers, before, strict=True):
        for now, then in zip((layer.keys, layer.values), was, strict=True):
            for a, b, length in zip(source, to, lengths, strict=True):
                assert torch.equal(now[b, :, :length], then[a, :, :length])
            others = [row for row in range(5) if row not in to]
            assert torch.equal(now[others], then[others])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("words", [1, 5, 16, 300, 1021])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
def test_words_are_chosen_as_pytorch_chooses_them(temperature: float, words: int, threads: int) -> None:
    random = torch.Generator().manual_seed(words)
    logits = torch.randn(500, words, generator=random) * 4
    logits[:, words // 2 :] -= 200.0 * (words > 4)
    draw = torch.rand(500, dtype=torch.float64, generator=random)
    draw[:2] = torch.tensor([0.0, 1.0 - 2.0**-53])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ids, nats = native.choose(logits, temperature, draw)
    finally:
        torch.set_num_threads(before)
    expected, theirs = choose(logits, temperature, draw)
    same = ids == expected
    # Where a draw lies within rounding of a boundary, either neighbour may be chosen.
    assert float(same.float().mean()) >= 0.996
    torch.testing.assert_close(nats[same], theirs[same], atol=2e-6, rtol=1e-5)
    exact = torch.log_softmax(logits.double() / (temperature or 1.0), -1)
    assert float(exact.gather(-1, ids[:, None]).min()) > -80
    torch.testing.assert_close(nats.double(), exact.gather(-1, ids[:, None])[:, 0], atol=5e-6, rtol=1e-5)


def test_shares_of_draws_are_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -300.0, 0.5]])
    n = 20_000
    draw = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids, _ = native.choose(logits.repeat(n, 1), 1.0, draw)
    assert torch.equal(ids, ids.sort().values)
    torch.testing.assert_close(torch.bincount(ids, minlength=6) / n, logits.softmax(-1)[0], atol=1e-4, rtol=0.0)


def test_where_nothing_is_a_number_the_log_prob_is_none() -> None:
    logits = torch.tensor([[0.0, torch.nan, 1.0], [torch.nan] * 3, [torch.inf, 0.0, 1.0], [-torch.inf] * 3])
    for temperature in (0.0, 1.0):
        ids, nats = native.choose(logits, temperature, torch.full((4,), 0.5, dtype=torch.float64))
        assert nats.isnan().all()
        assert ((ids >= 0) & (ids < 3)).all()
