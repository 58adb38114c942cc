"""Two optimisers behave as one, and a matrix step of Muon is the orthogonal one."""

from __future__ import annotations

import copy

import pytest
import torch

from astarpo.optimizers import Kind, Together, build_optimizer, ladder
from small import small_policy


def built(kind: str, seed: int = 0) -> tuple[torch.nn.Module, Together]:
    model = small_policy(seed).model
    return model, build_optimizer(model, kind, learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.0)  # type: ignore[arg-type]


def fill(model: torch.nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def test_muon_takes_the_matrices_inside_the_blocks_and_nothing_else() -> None:
    model, optimizer = built("muon")
    adamw, muon = optimizer.parts
    names = {id(p): name for name, p in model.named_parameters()}
    taken = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    assert taken
    assert all("layers" in name and name.endswith("proj.weight") for name in taken)
    left = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted(taken + left) == sorted(names.values())
    assert any("embed" in name for name in left)


def test_a_step_of_muon_has_equal_singular_values_of_a_fifth_of_adamws_size() -> None:
    model, optimizer = built("muon")
    name, matrix = next((n, p) for n, p in model.named_parameters() if n.endswith("up_proj.weight"))
    before = matrix.detach().clone()
    fill(model, 1)
    optimizer.step()
    change = before - matrix.detach()
    singular = torch.linalg.svdvals(change)
    # Five Newton-Schulz steps leave singular values within about 0.7 and 1.2 of one another's middle.
    assert float(singular.max() / singular.min()) < 2.5, name
    # arXiv:2502.16982: the root mean square of an update is 0.2 times the learning rate, AdamW's usual size.
    assert float(change.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.2)


def test_adamw_alone_is_torchs() -> None:
    model, optimizer = built("adamw")
    other, _ = built("adamw")
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for seed in (1, 2):
        fill(model, seed)
        fill(other, seed)
        optimizer.step()
        theirs.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_state_of_two_reads_like_the_state_of_one() -> None:
    model, optimizer = built("muon")
    fill(model, 1)
    optimizer.step()
    state = optimizer.state_dict()
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    assert numbers == list(range(len(list(model.parameters()))))
    assert sorted(state["state"]) == numbers


def test_the_state_of_another_kind_is_refused() -> None:
    _, muon = built("muon")
    _, adamw = built("adamw")
    with pytest.raises(ValueError, match="groups of parameters"):
        muon.load_state_dict(adamw.state_dict())


def test_the_learning_rate_of_the_groups_is_the_one_that_steps() -> None:
    model, optimizer = built("muon")
    before = [p.detach().clone() for p in model.parameters()]
    fill(model, 1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for one, two in zip(before, model.parameters(), strict=True):
        assert torch.equal(one, two)


# ---- lower precision -----------------------------------------------------------------------------------------------


def walked(kind: Kind, dtype: torch.dtype, steps: int = 60) -> tuple[torch.nn.Linear, Together]:
    """A linear map of 8,192 weights that follows gradients of a few sizes, equal for all kinds and precisions."""
    random = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 128, bias=False)
    layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=random))
    layer.to(dtype)
    layer.get_input_embeddings = layer.get_output_embeddings = lambda: None  # type: ignore[assignment]
    optimizer = build_optimizer(layer, kind, learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    scale = torch.logspace(-4, 0, layer.weight.numel()).view(layer.weight.shape)
    for _ in range(steps):
        grad = scale * (1.0 + torch.randn(layer.weight.shape, generator=random))
        (layer.weight * grad.to(dtype)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        layer.weight.grad = None
    return layer, optimizer


def test_eight_bits_walk_where_adamw_walks_in_a_quarter_of_the_memory() -> None:
    (plain, exact), (packed, small) = walked("adamw", torch.float32), walked("adamw_8bit", torch.float32)
    start = walked("adamw", torch.float32, steps=0)[0].weight
    way, other = (plain.weight - start).detach(), (packed.weight - start).detach()
    assert float((way - other).norm() / way.norm()) < 0.02
    assert float(way.norm()) > 0.5

    def held(optimizer: Together) -> int:
        return sum(v.numel() * v.element_size() for e in optimizer.state_dict()["state"].values() for v in e.values())

    assert held(small) < 0.27 * held(exact)


def test_eight_bit_codes_are_a_ladder_of_256_and_roots_are_never_zero() -> None:
    for signed in (True, False):
        steps = ladder(signed, torch.device("cpu"))
        assert len(steps) == 256
        assert bool((steps.diff() > 0).all())
        assert float(steps[-1]) == 1.0
        assert (0.0 in steps.tolist()) == signed


def test_steps_too_small_for_bfloat16_add_up_in_a_float32_copy() -> None:
    layer, optimizer = walked("adamw", torch.bfloat16)
    plain, _ = walked("adamw", torch.float32)
    start = walked("adamw", torch.float32, steps=0)[0].weight
    # A step of 0.001 on a weight near 1 is a quarter of what bfloat16 can tell apart there.
    (_, master), *_ = optimizer.masters
    assert float((master - start.bfloat16().float() - (plain.weight - start)).detach().abs().max()) < 0.01
    assert torch.equal(layer.weight, master.bfloat16())
    assert float((layer.weight.float() - start).detach().abs().mean()) > 0.02


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_taken_back_goes_on_exactly(kind: Kind, dtype: torch.dtype) -> None:
    layer, optimizer = walked(kind, dtype, steps=5)
    other, its = walked(kind, dtype, steps=0)
    other.load_state_dict(layer.state_dict())
    its.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, own in ((layer, optimizer), (other, its)):
        slope = torch.linspace(-1, 1, one.weight.numel()).view(one.weight.shape).to(dtype)
        (one.weight * slope).sum().backward()  # type: ignore[no-untyped-call]
        own.step()
    assert torch.equal(layer.weight, other.weight)
