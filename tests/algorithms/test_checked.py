"""What a loss may return, and how one that returns something else is told."""

from __future__ import annotations

import pytest
import torch

from astarpo.algorithms.base import checked
from astarpo.errors import AlgorithmContractError

GOOD = torch.zeros((), requires_grad=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (GOOD, "must return the loss and a dict of metrics, got a tensor of shape"),
        ((GOOD, [1.0]), "must return the loss and a dict of metrics, got tuple"),
        ((torch.zeros(6, requires_grad=True), {}), r"scalar tensor first, got a tensor of shape \[6\]"),
        ((0.5, {}), "scalar tensor first, got float 0.5"),
        ((GOOD, {"reward/mean": torch.tensor(1.0)}), r"got a tensor of shape \[\] as 'reward/mean'"),
        ((torch.zeros(()), {"signal/skipped": 0.0}), "without a gradient"),
    ],
)
def test_what_is_no_loss_is_said_to_be_none(given: object, told: str) -> None:
    with pytest.raises(AlgorithmContractError, match=f"mine.loss .*{told}"):
        checked("mine", given)


def test_an_update_without_signal_needs_no_gradient() -> None:
    loss, metrics = checked("mine", (torch.zeros(()), {"signal/skipped": 1.0}))
    assert (loss.item(), metrics) == (0.0, {"signal/skipped": 1.0})
