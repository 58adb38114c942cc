"""Hidden states of episodes laid end to end, with gradient, by the processor's own kernels (`astarpo.native`).

One call for all layers forward and one back. Episodes that share what they begin with are ways through one tree: a
token of it is computed, asked about and learned from once, and each way attends to its own beginnings.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from astarpo import native
from astarpo.engine import fused

SPARE = 2**26
"""Numbers that are kept in memory for the next pass, 256 MiB; where more are used they are given back each time."""


@dataclass(frozen=True)
class Tree:
    """Tokens of one pass and the ways through them.

    Attributes:
        ids, position: [n].
        start: [ways + 1] where each way begins in `node`.
        node: which token each step of a way is.
        past: [ways] how many of a way's first steps an earlier way has too.
    """

    ids: NDArray[np.int64]
    position: NDArray[np.int64]
    start: NDArray[np.int64]
    node: NDArray[np.int64]
    past: NDArray[np.int64]

    @classmethod
    def of(
        cls, ids: Tensor, position: Tensor, lengths: tuple[int, ...], spread: Tensor | None, back: Tensor | None
    ) -> Tree:
        """From the fields of a packed `scoring.Pass`."""
        start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        if spread is None or back is None:
            node, past = np.arange(start[-1]), np.zeros(len(lengths), dtype=np.int64)
        else:
            node = spread.numpy()
            # Whoever came first owns a token; what a way does not own are its first steps.
            others = np.concatenate(([0], np.cumsum(back.numpy()[node] != np.arange(len(node)))))
            past = others[start[1:]] - others[start[:-1]]
        return cls(*(np.ascontiguousarray(one, np.int64) for one in (ids[0], position[0], start, node, past)))


class Lent:
    """Memory that goes back to where it came from once nobody holds it: fresh memory costs a fault of every page.

    Attributes:
        room: float32 numbers, whatever they were before.
    """

    def __init__(self, room: Tensor, home: list[Tensor]) -> None:
        self.room, self._home = room, home

    def __del__(self) -> None:
        self._home.append(self.room)
        # The largest are worth most, and a pass wants two.
        self._home.sort(key=len)
        del self._home[: -2 if sum(map(len, self._home)) <= SPARE else None]


class NativeDecoder:
    """How the kernels run decoders of one shape; made by `build`. It holds no weights: those of the model given count.

    Raises:
        Unfit: the model is of another shape.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        fused.check(model, config)
        decoder = model.get_decoder()
        attention = decoder.layers[0].self_attn
        self._heads, self._groups = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._width, self._hidden = int(attention.head_dim), int(config.hidden_size)
        self._inner = int(config.intermediate_size)
        self._eps, self._scale = float(decoder.norm.variance_epsilon), float(attention.scaling)
        self._turns: tuple[Tensor, Tensor] | None = None
        self._spare: list[Tensor] = []

    def runs(self, model: Any) -> bool:
        """Whether `model` is as it was found: plain float32 layers on the processor that need not forget anything."""
        decoder = model.get_decoder()
        embed = decoder.embed_tokens.weight
        if embed.dtype != torch.float32 or embed.device.type != "cpu" or not embed.numel():
            return False
        if not all(type(part) is nn.Linear for layer in decoder.layers for part in _projections(layer)):
            return False
        return not torch.is_grad_enabled() or not any(
            isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing for layer in decoder.layers
        )

    def states(self, model: Any, tree: Tree) -> Tensor:
        """[n, hidden] after the last norm of `model`'s decoder; with gradient where it is on.

        Raises:
            IndexError: an id that is no word's.
        """
        decoder = model.get_decoder()
        if len(tree.ids) and not 0 <= tree.ids.min() <= tree.ids.max() < len(decoder.embed_tokens.weight):
            raise IndexError(f"ids must lie in 0 to {len(decoder.embed_tokens.weight) - 1}, the vocabulary's.")
        parameters = list(decoder.parameters())
        if torch.is_grad_enabled() and any(one.requires_grad for one in parameters):
            found: Tensor = _Decode.apply(self, decoder, tree, *parameters)  # type: ignore[no-untyped-call]
            return found
        return self.forward(decoder, tree, keep=False)[0]

    # -------------------------------------------------------------------------------------------- both ways

    @torch.no_grad()
    def forward(self, decoder: Any, tree: Tree, *, keep: bool) -> tuple[Tensor, Lent, Tensor]:
        """Hidden states [n, hidden], what is kept for the way back, and the last layer's output."""
        library, n = native.library(), len(tree.ids)
        model, kept_alive = self._model(decoder, back=False)
        given, _alive = self._tree(decoder, tree)
        size = int(library.kept_size(ctypes.byref(model), n))
        kept = self._lend(size * (len(decoder.layers) if keep else 1))
        last, hidden = torch.empty((n, self._hidden)), torch.empty((n, self._hidden))
        threads, room, each = self._room(tree)
        library.learn(
            ctypes.byref(model),
            ctypes.byref(given),
            native.at(kept.room),
            size if keep else 0,
            native.at(last),
            native.at(hidden),
            native.at(room),
            each,
            threads,
        )
        del kept_alive, _alive
        return hidden, kept, last

    @torch.no_grad()
    def backward(self, decoder: Any, tree: Tree, kept: Lent, last: Tensor, d: Tensor) -> list[Tensor]:
        """Gradients of the decoder's parameters, in their order, from that of the hidden states, [n, hidden]."""
        library, n = native.library(), len(tree.ids)
        model, alive = self._model(decoder, back=False)
        behind, alive_too = self._model(decoder, back=True)
        given, arrays = self._tree(decoder, tree)
        into: dict[int, Tensor] = {}
        table, alive_also = (native.LayerGradient * len(decoder.layers))(), list[Tensor]()
        for row, layer in zip(table, decoder.layers, strict=True):
            for name, parts in _parameters(layer).items():
                # One product for all; their gradients are parts of its.
                alive_also.append(torch.zeros((sum(map(len, parts)), *parts[0].shape[1:])))
                into |= zip(map(id, parts), torch.split(alive_also[-1], [len(one) for one in parts]), strict=True)
                setattr(row, name, native.at(alive_also[-1]))
        norm, embed = decoder.norm.weight, decoder.embed_tokens.weight
        into |= {id(one): torch.zeros_like(one) for one in (norm, embed)}
        wide, said = (self._heads + 2 * self._groups) * self._width, self._heads * self._width
        widest = max(self._inner, self._hidden, said) + native.LANES
        work = self._lend(n * (2 * self._hidden + 3 * self._inner + said + wide + widest))
        threads, room, each = self._room(tree)
        library.learn_back(
            ctypes.byref(model),
            behind.layer,
            ctypes.byref(given),
            native.at(kept.room),
            int(library.kept_size(ctypes.byref(model), n)),
            native.at(last),
            native.at(d.contiguous()),
            table,
            native.at(into[id(norm)]),
            native.at(into[id(embed)]),
            native.at(work.room),
            native.at(room),
            each,
            threads,
        )
        del alive, alive_too, arrays
        return [into[id(one)] for one in decoder.parameters()]

    def _model(self, decoder: Any, *, back: bool) -> tuple[native.Model, list[Any]]:
        """The weights as they are now, packed for products or for their gradients."""
        alive: list[Any] = []

        def keep(tensor: Tensor | None) -> int | None:
            if tensor is None:
                return None
            alive.append(tensor.detach().contiguous())
            return native.at(alive[-1])

        table = (native.Layer * len(decoder.layers))()
        for row, layer in zip(table, decoder.layers, strict=True):
            for name, parts in _parameters(layer).items():
                product = name in ("qkv", "out", "gate_up", "down")
                if back and not product:
                    continue
                joined = parts[0].detach() if len(parts) == 1 else torch.cat(parts)
                setattr(row, name, keep(native.packed(joined, back=back) if product else joined))
        model = native.Model()
        for name in ("hidden", "heads", "groups", "width", "inner", "eps", "scale"):
            setattr(model, name, getattr(self, f"_{name}"))
        model.layers, model.layer = len(table), table
        model.embed, model.norm = keep(decoder.embed_tokens.weight), keep(decoder.norm.weight)
        alive.append(table)
        return model, alive

    def _tree(self, decoder: Any, tree: Tree) -> tuple[native.Tree, list[Any]]:
        cosine, sine = self._rotation(decoder, int(tree.position.max()) + 1)
        arrays = [tree.ids, tree.position, tree.start, tree.node, tree.past]
        given = native.Tree(
            len(tree.ids), len(tree.past), *(one.ctypes.data for one in arrays), native.at(cosine), native.at(sine)
        )
        return given, [*arrays, cosine, sine]

    def _lend(self, floats: int) -> Lent:
        fits = [k for k, one in enumerate(self._spare) if len(one) >= floats]
        return Lent(self._spare.pop(fits[0]) if fits else torch.empty(floats), self._spare)

    def _room(self, tree: Tree) -> tuple[int, Tensor, int]:
        threads = max(1, min(torch.get_num_threads(), len(tree.ids) // 8))
        each = int(native.library().learn_room(self._width, int(np.diff(tree.start).max())))
        return threads, torch.empty(threads * each), each

    def _rotation(self, decoder: Any, positions: int) -> tuple[Tensor, Tensor]:
        if self._turns is None or len(self._turns[0]) < positions:
            every = torch.arange(max(positions, 256))[None]
            cosine, sine = decoder.rotary_emb(decoder.embed_tokens.weight[:1].detach(), every)
            half = self._width // 2
            self._turns = (cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())
        return self._turns


class _Decode(torch.autograd.Function):
    """`NativeDecoder.states` with its gradient."""

    @staticmethod
    def forward(ctx: Any, native_decoder: NativeDecoder, decoder: Any, tree: Tree, *parameters: Tensor) -> Tensor:
        hidden, kept, last = native_decoder.forward(decoder, tree, keep=True)
        # The weights are read again on the way back: whoever changes them in between is told.
        ctx.save_for_backward(last, *parameters)
        ctx.given = (native_decoder, decoder, tree, kept)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        last, *_ = ctx.saved_tensors
        native_decoder, decoder, tree, kept = ctx.given
        found = native_decoder.backward(decoder, tree, kept, last, d)
        wanted = ctx.needs_input_grad[3:]
        return None, None, None, *(one if wants else None for one, wants in zip(found, wanted, strict=True))


def build(model: Any) -> NativeDecoder | None:
    """The decoder of `model` by the kernels; None where it is of another shape, or this machine has none."""
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32 or native.why_not():
        return None
    if sum(one.numel() for one in model.parameters()) > fused.COPIED_PARAMETERS:
        return None
    try:
        found = NativeDecoder(model)
    except fused.Unfit:
        return None
    if not found.runs(model):
        return None
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    probe = Tree.of(ids, torch.tensor([[0, 1, 2, 3, 0, 1]]), (4, 2), None, None)
    with torch.inference_mode():
        states = found.states(model, probe)
        alone = [model.get_decoder()(input_ids=part, use_cache=False) for part in (ids[:, :4], ids[:, 4:])]
    expected = torch.cat([one.last_hidden_state[0] for one in alone])
    apart = float((states - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    return found if apart <= fused.TOLERANCE[torch.float32] else None


def _projections(layer: Any) -> list[nn.Module]:
    return [getattr(layer.self_attn, f"{name}_proj") for name in "qkvo"] + [
        getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down")
    ]


def _parameters(layer: Any) -> dict[str, list[Tensor]]:
    """A layer's parameters by the fields of `Layer` in kernels.c, those of one product side by side."""
    attention, mlp = layer.self_attn, layer.mlp
    products = {
        "qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
        "out": [attention.o_proj],
        "gate_up": [mlp.gate_proj, mlp.up_proj],
        "down": [mlp.down_proj],
    }
    found = {name: [part.weight for part in parts] for name, parts in products.items()}
    found |= {
        f"{name}_bias": [part.bias for part in parts] for name, parts in products.items() if parts[0].bias is not None
    }
    found |= {"first_norm": [layer.input_layernorm.weight], "second_norm": [layer.post_attention_layernorm.weight]}
    if hasattr(attention, "q_norm"):
        found |= {"q_norm": [attention.q_norm.weight], "k_norm": [attention.k_norm.weight]}
    return found
