"""What is said of memory is what tensors have: bytes of parameters, optimiser, KV cache, activations, one update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from astarpo import memory
from astarpo.engine import slots
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.policy.huggingface import HuggingFacePolicy
from small import small_tokenizer

WIDTHS = {FLOAT: torch.float32, HALF: torch.bfloat16}


def shape(**over: Any) -> Shape:
    """A small Qwen2 in which no two sizes are equal by chance."""
    return Shape(
        **{
            "hidden": 48,
            "layers": 3,
            "heads": 6,
            "kv_heads": 2,
            "head_width": 16,
            "feed_forward": 136,
            "vocabulary": 300,
            **over,
        }
    )


def config(of: Shape) -> Qwen2Config:
    sizes: dict[str, Any] = {"head_dim": of.head_width}
    return Qwen2Config(
        vocab_size=of.vocabulary,
        hidden_size=of.hidden,
        intermediate_size=of.feed_forward,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        num_key_value_heads=of.kv_heads,
        tie_word_embeddings=of.tied,
        max_position_embeddings=1024,
        **sizes,
    )


def learner(of: Shape, width: int = FLOAT) -> HuggingFacePolicy:
    model: Any = Qwen2ForCausalLM(config(of))
    model.to(WIDTHS[width])
    # What is predicted is PyTorch's kernels, as a GPU has them; those for a processor keep less.
    return HuggingFacePolicy(model.eval(), small_tokenizer(), rules=False, name="small", own_kernels=False)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied: bool) -> None:
    of = shape(tied=tied)
    assert sum(p.numel() for p in learner(of).model.parameters()) == of.parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As the models' own pages state them: 0.49, 1.54, 3.09 and 7.61 thousand million.
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    ],
)
def test_the_known_shapes_make_the_published_number_of_parameters(name: str, parameters: int) -> None:
    of = KNOWN[name]
    assert of.parameters == parameters
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config(of))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", [40, 290, 700])
def test_the_kv_cache_has_the_bytes_that_are_said(width: int, tokens: int) -> None:
    of = shape()
    conversations = learner(of, width).open([(row,) for row in range(3)])
    for begin in range(0, tokens, 100):
        conversations.extend([0, 1, 2], [[row + 5] * min(100, tokens - begin) for row in range(3)])
    cache = conversations._cache
    held = sum(t.untyped_storage().nbytes() for layer in cache.slot_layers for t in (layer.keys, layer.values))
    assert held == memory.kv_bytes(of, 3, cache.capacity, width)
    assert tokens <= cache.capacity <= max(memory.room(tokens), slots.FIRST_POSITIONS)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_rollout_counts_the_bytes_of_a_token_as_the_plan_does(width: int) -> None:
    of = shape()
    assert slots.position_bytes(learner(of, width).model) == memory.kv_bytes(of, 1, 1, width)


def kept(of: Shape, width: int, batch: int, tokens: int, *, checkpointing: bool) -> int:
    """Bytes of all tensors that the decoder's forward pass keeps for its backward pass, parameters aside."""
    model: Any = Qwen2ForCausalLM(config(of))
    model.to(WIDTHS[width])
    if checkpointing:
        model.train()
        for layer in model.model.layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = lambda function, *given: torch.utils.checkpoint.checkpoint(
                function, *given, use_reentrant=False
            )
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in own:
            seen[where] = tensor
        return tensor

    ids = torch.randint(0, of.vocabulary, (batch, tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.model(input_ids=ids, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("width", WIDTHS)
def test_a_block_keeps_the_activations_that_are_said_to_the_byte(width: int) -> None:
    batch, tokens = 2, 64
    two, five = (kept(shape(layers=n), width, batch, tokens, checkpointing=False) for n in (2, 5))
    assert five - two == 3 * batch * tokens * memory.block_activations(shape(), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_with_checkpointing_a_block_keeps_its_input_alone(width: int) -> None:
    batch, tokens = 2, 64
    two, five = (kept(shape(layers=n), width, batch, tokens, checkpointing=True) for n in (2, 5))
    assert five - two == 3 * batch * tokens * shape().hidden * width
    said = [memory.activations(shape(layers=n), batch * tokens, width, checkpointing=True) for n in (2, 5)]
    assert said[1] - said[0] == five - two


@pytest.mark.parametrize("width", WIDTHS)
def test_all_activations_are_said_within_a_hundredth(width: int) -> None:
    # Not counted: the ids, and the table of rotary positions, which all rows share.
    of, batch, tokens = shape(layers=4), 8, 64
    held = kept(of, width, batch, tokens, checkpointing=False) + batch * tokens * of.hidden * width
    assert memory.activations(of, batch * tokens, width, checkpointing=False) == pytest.approx(held, rel=0.01)
