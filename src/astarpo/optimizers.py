"""AdamW, or Muon for the matrices inside the blocks and AdamW for the rest, both steered by one learning rate.

Muon replaces a matrix's momentum by the nearest orthogonal one (Jordan et al. 2024; torch.optim.Muon). torch scales the
step to the size of AdamW's (arXiv:2502.16982), so one learning rate serves both. Embeddings and the output head stay
with AdamW: their rows are looked up one by one, and a whole-matrix step does not suit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["adamw", "adamw_8bit", "muon"]

BLOCK, SPAN, SMALLEST = 256, 2**20, 4096
"""Of 8-bit states: numbers that share a scale; numbers unpacked at a time; what a tensor must have to be worth it."""


class Together:
    """Several torch optimisers that act as one: their groups in a row, their states numbered through.

    The state has the layout of any torch optimiser's, so that a checkpoint need not know how many there are.

    Args:
        parts: the optimisers.
        masters: parameters of a lower precision, each with the float32 copy that `parts` move in its stead.
    """

    def __init__(self, *parts: torch.optim.Optimizer, masters: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        self.parts = parts
        self.masters = tuple(masters)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Every group; setting `lr` in one takes effect."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Move every parameter along its gradient."""
        for part in self.parts:
            part.step()
        self._hand_down()

    @torch.no_grad()
    def _hand_down(self) -> None:
        for own, master in self.masters:
            own.copy_(master)

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
        for number, master in self._numbered():
            state.setdefault(number, {})["master"] = master
        return {"state": state, "param_groups": groups}

    def _numbered(self) -> Iterator[tuple[int, Tensor]]:
        """The number of each master among the parameters, and it."""
        known = {id(master) for _, master in self.masters}
        for number, parameter in enumerate(p for group in self.param_groups for p in group["params"]):
            if id(parameter) in known:
                yield number, parameter

    def load_state_dict(self, whole: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ValueError or KeyError where the groups are not these."""
        groups, first = list(whole["param_groups"]), 0
        state = {number: dict(entries) for number, entries in whole["state"].items()}
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"the state has {len(groups)} groups of parameters, the optimiser {len(self.param_groups)}"
            )
        with torch.no_grad():
            for number, master in self._numbered():
                # KeyError: weights of a lower precision that moved by themselves.
                master.copy_(state[number].pop("master"))
        self._hand_down()
        # A master is there before the first step, when an optimiser keeps nothing yet.
        state = {number: entries for number, entries in state.items() if entries}
        for part in self.parts:
            own, groups = groups[: len(part.param_groups)], groups[len(part.param_groups) :]
            count = sum(len(group["params"]) for group in own)
            part.load_state_dict(
                {
                    "state": {n - first: e for n, e in state.items() if first <= n < first + count},
                    "param_groups": [group | {"params": [n - first for n in group["params"]]} for group in own],
                }
            )
            first += count


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose two running means take a byte a number, and a float32 for each block of 256.

    Bytes stand for a fixed ladder of values, dense near zero, scaled by the largest of the block: block-wise dynamic
    quantisation, arXiv:2110.02861. Other than there, the second mean is kept as its root and never rounded to zero, so
    that no step is larger than AdamW's by more than the rounding. Tensors of fewer than 4,096 numbers stay float32.

    Args:
        params: float32 parameters.
        lr, betas, eps, weight_decay: as torch's AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        if closure is not None:
            raise TypeError("AdamW8bit takes no closure.")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        packed = parameter.numel() >= SMALLEST
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_root"):
                if packed:
                    blocks = -(-parameter.numel() // BLOCK)
                    state[name] = torch.zeros(blocks * BLOCK, dtype=torch.uint8, device=parameter.device)
                    state[f"{name}_scale"] = torch.zeros(blocks, device=parameter.device)
                else:
                    state[name] = torch.zeros_like(parameter).flatten()
        state["step"] += 1
        (b1, b2), count = group["betas"], float(state["step"])
        flat, grad = parameter.view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        signed, unsigned = (ladder(sign, parameter.device) for sign in (True, False))
        for begin in range(0, parameter.numel(), SPAN):
            part = slice(begin, min(begin + SPAN, parameter.numel()))
            g = grad[part]
            if packed:
                mean, root = (
                    _unpack(state[name], state[f"{name}_scale"], part, steps)
                    for name, steps in (("exp_avg", signed), ("exp_root", unsigned))
                )
            else:
                mean, root = state["exp_avg"][part], state["exp_root"][part]
            mean = mean.lerp(g, 1 - b1)
            root = (root.square() * b2).addcmul_(g, g, value=1 - b2).sqrt_()
            flat[part].mul_(1 - group["lr"] * group["weight_decay"])
            below = root.div((1 - b2**count) ** 0.5).add_(group["eps"])
            flat[part].addcdiv_(mean, below, value=-group["lr"] / (1 - b1**count))
            if packed:
                _pack(mean, state["exp_avg"], state["exp_avg_scale"], part, signed)
                _pack(root, state["exp_root"], state["exp_root_scale"], part, unsigned)
            else:
                state["exp_avg"][part], state["exp_root"][part] = mean, root

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimiser's; torch turns every state into the parameter's type, which bytes are not."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_root"):
                if name in state and parameter.numel() >= SMALLEST:
                    state[name] = state[name].to(torch.uint8)


def ladder(signed: bool, device: torch.device) -> Tensor:
    """The 256 values that a byte stands for, ascending, the largest 1: seven decades, each with twice the values of
    the one below. Signed ones hold zero; unsigned ones do not."""
    decades, most = [], 64 if signed else 128
    for decade in range(7):
        count = most >> decade
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        decades.append((edges[1:] + edges[:-1]) / 2 * 10.0**-decade)
    positive = torch.cat(decades).sort().values
    one = torch.ones(1, dtype=torch.float64)
    if signed:
        values = torch.cat([-positive, 0 * one, positive, one])
    else:
        values = torch.cat([positive[:1] / 4, positive, one])
    return values.sort().values.float().to(device)


def _unpack(codes: Tensor, scale: Tensor, part: slice, steps: Tensor) -> Tensor:
    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
    whole = steps[codes[blocks.start * BLOCK : blocks.stop * BLOCK].int()].view(-1, BLOCK) * scale[blocks, None]
    return whole.flatten()[: part.stop - part.start]


def _pack(values: Tensor, codes: Tensor, scale: Tensor, part: slice, steps: Tensor) -> None:
    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
    whole = nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    scale[blocks] = whole.abs().amax(1)
    near = whole / scale[blocks, None].clamp(min=torch.finfo(torch.float32).tiny)
    found = torch.bucketize(near, (steps[1:] + steps[:-1]) / 2, out_int32=True)
    codes[blocks.start * BLOCK : blocks.stop * BLOCK] = found.to(torch.uint8).flatten()


def build_optimizer(
    model: nn.Module, kind: Kind, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> Together:
    """The optimiser of every trainable parameter of a Hugging Face model.

    Args:
        model: whose parameters.
        kind: which.
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
    trained = [p for p in model.parameters() if p.requires_grad]
    masters = [(p, _master(p)) for p in trained if p.dtype != torch.float32]
    moved = {id(own): master for own, master in masters}
    matrices = [moved.get(id(p), p) for p in trained if kind == "muon" and p.ndim == 2 and id(p) not in outer]
    inside = {id(p) for p in matrices}
    rest = [p for p in (moved.get(id(p), p) for p in trained) if id(p) not in inside]
    parts: list[torch.optim.Optimizer] = []
    if rest and kind == "adamw_8bit":
        parts.append(AdamW8bit(rest, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    elif rest:
        parts.append(adamw(rest, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    if matrices:
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        parts.append(muon)
    return Together(*parts, masters=masters)


def adamw(
    params: Sequence[Tensor] | Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """torch's AdamW, all of a step in one call."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def _master(own: Tensor) -> Tensor:
    """A float32 copy of the parameter `own` that takes over its gradients as they come, summed in float32."""
    master = own.detach().float().clone().requires_grad_()

    def take(given: Tensor) -> None:
        if given.grad is not None:
            master.grad = given.grad.float() if master.grad is None else master.grad.add_(given.grad)
            given.grad = None

    own.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
    return master
