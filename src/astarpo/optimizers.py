"""AdamW, or Muon for the matrices inside the blocks and AdamW for the rest, both steered by one learning rate.

Muon replaces a matrix's momentum by the nearest orthogonal one (Jordan et al. 2024; torch.optim.Muon). torch scales the
step to the size of AdamW's (arXiv:2502.16982), so one learning rate serves both. Embeddings and the output head stay
with AdamW: their rows are looked up one by one, and a whole-matrix step does not suit them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["adamw", "muon"]


class Together:
    """Several torch optimisers that act as one: their groups in a row, their states numbered through.

    The state has the layout of any torch optimiser's, so that a checkpoint need not know how many there are.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Every group; setting `lr` in one takes effect."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Move every parameter along its gradient."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """`state` by parameter number and `param_groups`, as torch writes them."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        first = 0
        for part in self.parts:
            own = part.state_dict()
            state |= {first + number: entries for number, entries in own["state"].items()}
            groups += [
                group | {"params": [first + number for number in group["params"]]} for group in own["param_groups"]
            ]
            first += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, whole: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ValueError where the groups are not these."""
        groups, first = list(whole["param_groups"]), 0
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"the state has {len(groups)} groups of parameters, the optimiser {len(self.param_groups)}"
            )
        for part in self.parts:
            own, groups = groups[: len(part.param_groups)], groups[len(part.param_groups) :]
            count = sum(len(group["params"]) for group in own)
            part.load_state_dict(
                {
                    "state": {n - first: e for n, e in whole["state"].items() if first <= n < first + count},
                    "param_groups": [group | {"params": [n - first for n in group["params"]]} for group in own],
                }
            )
            first += count


def build_optimizer(
    model: nn.Module, kind: Kind, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> Together:
    """The optimiser of every trainable parameter of a Hugging Face model.

    Args:
        model: whose parameters.
        kind: muon or adamw.
        learning_rate: of both.
        betas: decay of AdamW's two running means; Muon's momentum stays at torch's 0.95.
        weight_decay: decoupled, of both.
    """
    outer = {
        id(p)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
        if layer is not None
        for p in layer.parameters()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if kind == "muon" and p.ndim == 2 and id(p) not in outer]
    inside = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in inside]
    parts: list[torch.optim.Optimizer] = []
    if rest:
        parts.append(torch.optim.AdamW(rest, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    if matrices:
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        parts.append(muon)
    return Together(*parts)
