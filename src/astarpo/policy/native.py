"""Hidden states of episodes laid end to end, with gradient, by the processor's own kernels (`astarpo.native`).

One call for all layers forward and one back. Episodes that share what they begin with are ways through one tree: a
token of it is computed, asked about and learned from once, and each way attends to its own beginnings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from astarpo import native
from astarpo.engine import fused
from astarpo.engine.native import Shape

SPARE, KEPT = 2**25, 4
"""Numbers of a piece of memory that is kept for the next pass, 128 MiB at most, and how many pieces are."""


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
        # At any moment, from any thread: no more than one step of the list.
        if self.room.numel() <= SPARE and len(self._home) < KEPT:
            self._home.append(self.room)


Fields = list[dict[str, list[Tensor]]]
"""Parameters of each layer by the fields of `Layer` in kernels.c, those of one product side by side."""


class NativeDecoder:
    """How the kernels run decoders of one shape; made by `build`. It holds no weights: those of the model given count.

    Raises:
        Unfit: the model is of another shape.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        fused.check(model, config)
        decoder = model.get_decoder()
        for layer in decoder.layers:
            if any(type(part) is not nn.Linear for part in _projections(layer)):
                raise fused.Unfit("its projections are no plain linear layers")
        self._shape = Shape.of(model)
        self._kinds = [type(module) for module in _walk(decoder)]
        self._turns: tuple[Tensor, Tensor] | None = None
        self._turned: Tensor | None = None
        self._spare: list[Tensor] = []

    def runs(self, model: Any) -> bool:
        """Whether `model` is as it was found; see `states`."""
        return self._fields(model) is not None

    def states(self, model: Any, tree: Tree) -> Tensor | None:
        """[n, hidden] after the last norm of `model`'s decoder; with gradient where it is on.

        Returns:
            None where the model is no more as it was found: parts replaced, wrapped or hooked, weights of another shape
            or precision, away or elsewhere, dropout, or layers that are to forget their activations.

        Raises:
            IndexError: an id that is no word's.
        """
        fields = self._fields(model)
        if fields is None:
            return None
        decoder = model.get_decoder()
        words = len(decoder.embed_tokens.weight)
        if len(tree.ids) and not 0 <= tree.ids.min() <= tree.ids.max() < words:
            raise IndexError(f"ids must lie in 0 to {words - 1}, the vocabulary's.")
        parameters = [decoder.embed_tokens.weight, decoder.norm.weight]
        parameters += [one for layer in fields for parts in layer.values() for one in parts]
        if torch.is_grad_enabled() and any(one.requires_grad for one in parameters):
            found: Tensor = _Decode.apply(self, decoder, fields, tree, *parameters)  # type: ignore[no-untyped-call]
            return found
        return self.forward(decoder, fields, tree, keep=False)[0]

    def _fields(self, model: Any) -> Fields | None:
        """The layers' parameters where all is as the kernels want it."""
        decoder = model.get_decoder()
        modules = list(_walk(decoder))
        if [type(module) for module in modules] != self._kinds or len(set(map(id, modules))) < len(modules):
            return None
        if any(
            one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or "forward" in vars(one)
            for one in modules
        ):
            return None
        embed = decoder.embed_tokens
        if embed.max_norm is not None or embed.scale_grad_by_freq or embed.sparse:
            return None
        learns = torch.is_grad_enabled()
        for layer in decoder.layers:
            if learns and isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                return None
            if layer.self_attn.training and getattr(layer.self_attn, "attention_dropout", 0.0):
                return None
        found = [_parameters(layer) for layer in decoder.layers]
        expected = self._sizes()
        for parameters in found:
            for name, parts in parameters.items():
                if [tuple(one.shape) for one in parts] != expected[name]:
                    return None
        every = [
            embed.weight,
            decoder.norm.weight,
            *(one for layer in found for some in layer.values() for one in some),
        ]
        if embed.weight.shape[1:] != (self._shape.hidden,) or decoder.norm.weight.shape != (self._shape.hidden,):
            return None
        if len(every) != sum(one is not None for module in modules for one in module._parameters.values()):
            return None
        plain = all(one.dtype == torch.float32 and one.device.type == "cpu" and one.numel() for one in every)
        return found if plain else None

    def _sizes(self) -> dict[str, list[tuple[int, ...]]]:
        h, said, keys, f = (
            self._shape.hidden,
            self._shape.heads * self._shape.width,
            self._shape.groups * self._shape.width,
            self._shape.inner,
        )
        sizes: dict[str, list[tuple[int, ...]]] = {
            "qkv": [(said, h), (keys, h), (keys, h)],
            "out": [(h, said)],
            "gate_up": [(f, h), (f, h)],
            "down": [(h, f)],
        }
        sizes |= {f"{name}_bias": [(out,) for out, _ in some] for name, some in sizes.items()}
        return (
            sizes
            | {name: [(h,)] for name in ("first_norm", "second_norm")}
            | {name: [(self._shape.width,)] for name in ("q_norm", "k_norm")}
        )

    # -------------------------------------------------------------------------------------------- both ways

    @torch.no_grad()
    def forward(self, decoder: Any, fields: Fields, tree: Tree, *, keep: bool) -> tuple[Tensor, Lent, Tensor]:
        """Hidden states [n, hidden], what is kept for the way back, and the last layer's output."""
        library, n = native.library(), len(tree.ids)
        model, weights = self._model(decoder, fields, back=False)
        given, arrays = self._tree(decoder, tree)
        size = int(library.kept_size(ctypes.byref(model), n))
        kept = self._lend(size * (len(fields) if keep else 1))
        last, hidden = torch.empty((n, self._shape.hidden)), torch.empty((n, self._shape.hidden))
        threads, room, each = self._room(model, tree)
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
        # Held until here: the kernel was told of addresses alone.
        del weights, arrays
        return hidden, kept, last

    @torch.no_grad()
    def backward(self, decoder: Any, fields: Fields, tree: Tree, kept: Lent, last: Tensor, d: Tensor) -> list[Tensor]:
        """Gradients of embeddings, last norm and layers' parameters, from that of the hidden states, [n, hidden]."""
        library, n = native.library(), len(tree.ids)
        model, weights = self._model(decoder, fields, back=False)
        behind, weights_behind = self._model(decoder, fields, back=True)
        given, arrays = self._tree(decoder, tree)
        d = d.contiguous()
        found = [torch.zeros_like(decoder.embed_tokens.weight), torch.zeros_like(decoder.norm.weight)]
        table, wholes = (native.LayerGradient * len(fields))(), list[Tensor]()
        for row, layer in zip(table, fields, strict=True):
            for name, parts in layer.items():
                # One product for all; their gradients are parts of its.
                wholes.append(torch.zeros((sum(map(len, parts)), *parts[0].shape[1:])))
                found += torch.split(wholes[-1], [len(one) for one in parts])
                setattr(row, name, native.at(wholes[-1]))
        wide, said = (
            (self._shape.heads + 2 * self._shape.groups) * self._shape.width,
            self._shape.heads * self._shape.width,
        )
        widest = max(self._shape.inner, self._shape.hidden, said) + native.LANES
        work = self._lend(n * (2 * self._shape.hidden + 3 * self._shape.inner + said + wide + widest))
        threads, room, each = self._room(model, tree)
        library.learn_back(
            ctypes.byref(model),
            behind.layer,
            ctypes.byref(given),
            native.at(kept.room),
            int(library.kept_size(ctypes.byref(model), n)),
            native.at(last),
            native.at(d),
            table,
            native.at(found[1]),
            native.at(found[0]),
            native.at(work.room),
            native.at(room),
            each,
            threads,
        )
        del weights, weights_behind, arrays, wholes
        return found

    def _model(self, decoder: Any, fields: Fields, *, back: bool) -> tuple[native.Model, list[Any]]:
        """The weights as they are now, packed for products or for their gradients, and what must outlive the call."""
        alive: list[Any] = []

        def keep(tensor: Tensor) -> int | None:
            alive.append(tensor.detach().contiguous())
            return native.at(alive[-1])

        table = (native.Layer * len(fields))()
        for row, layer in zip(table, fields, strict=True):
            for name, parts in layer.items():
                product = name in ("qkv", "out", "gate_up", "down")
                if back and not product:
                    continue
                joined = parts[0].detach().contiguous() if len(parts) == 1 else torch.cat(parts)
                setattr(row, name, keep(native.packed(joined, back=back) if product else joined))
        model = native.Model()
        self._shape.describe(model)
        model.layers, model.layer = len(table), table
        embed = decoder.embed_tokens
        model.padding = -1 if embed.padding_idx is None else embed.padding_idx
        model.embed, model.norm = keep(embed.weight), keep(decoder.norm.weight)
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
        while True:
            try:
                # One step of the list: others lend and give back at any moment. What is too small is given up.
                room = self._spare.pop()
            except IndexError:
                return Lent(torch.empty(floats), self._spare)
            if room.numel() >= floats:
                return Lent(room, self._spare)

    def _room(self, model: native.Model, tree: Tree) -> tuple[int, Tensor, int]:
        threads = max(1, min(torch.get_num_threads(), len(tree.ids) // 8))
        each = int(native.library().learn_room(ctypes.byref(model), int(np.diff(tree.start).max())))
        return threads, torch.empty(threads * each), each

    def _rotation(self, decoder: Any, positions: int) -> tuple[Tensor, Tensor]:
        rates = decoder.rotary_emb.inv_freq
        if self._turns is None or len(self._turns[0]) < positions or self._turned is not rates:
            every = torch.arange(max(positions, 256))[None]
            cosine, sine = decoder.rotary_emb(decoder.embed_tokens.weight[:1].detach(), every)
            half = self._shape.width // 2
            self._turns = (cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())
            self._turned = rates
        return self._turns


class _Decode(torch.autograd.Function):
    """`NativeDecoder.states` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, native_decoder: NativeDecoder, decoder: Any, fields: Fields, tree: Tree, *parameters: Tensor
    ) -> Tensor:
        hidden, kept, last = native_decoder.forward(decoder, fields, tree, keep=True)
        # The weights are read again on the way back: whoever changes them in between is told.
        ctx.save_for_backward(last, *parameters)
        ctx.given = (native_decoder, decoder, fields, tree, kept)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        last, *_ = ctx.saved_tensors
        native_decoder, decoder, fields, tree, kept = ctx.given
        found = native_decoder.backward(decoder, fields, tree, kept, last, d)
        wanted = ctx.needs_input_grad[4:]
        return None, None, None, None, *(one if wants else None for one, wants in zip(found, wanted, strict=True))


def build(model: Any) -> NativeDecoder | None:
    """The decoder of `model` by the kernels; None where it is of another shape, or this machine has none.

    Raises:
        Unfit: it is of that shape, and its hidden states came out different.
    """
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
        assert states is not None
        alone = [model.get_decoder()(input_ids=part, use_cache=False) for part in (ids[:, :4], ids[:, 4:])]
    expected = torch.cat([one.last_hidden_state[0] for one in alone])
    apart = float((states - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not apart <= fused.TOLERANCE[torch.float32]:
        raise fused.Unfit(f"its hidden states came out {apart:.1e} of the largest apart from the model's own")
    return found


def _projections(layer: Any) -> list[nn.Module]:
    return [getattr(layer.self_attn, f"{name}_proj") for name in "qkvo"] + [
        getattr(layer.mlp, f"{name}_proj") for name in ("gate", "up", "down")
    ]


def _walk(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all in it; one that is in it twice comes twice."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _walk(child)


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
