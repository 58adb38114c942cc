"""Two optimisers behave as one, and a matrix step of Muon is the orthogonal one."""

from __future__ import annotations

import pytest
import torch

from astarpo.optimizers import Together, build_optimizer
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
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
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
