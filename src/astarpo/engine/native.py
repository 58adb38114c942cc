"""The fused pass on a processor by kernels of our own (`astarpo.native`): one call for all layers of a pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astarpo import native
from astarpo.engine.slots import SlotCache

Low = tuple[Tensor, Tensor]
"""What an adapter adds to a product W x: the factors of B A x, A [r, in] and B [out, r]."""


@dataclass(frozen=True)
class Shape:
    """What a model's layers have in common."""

    hidden: int
    heads: int
    groups: int
    width: int
    inner: int
    eps: float
    scale: float

    @classmethod
    def of(cls, model: Any) -> Shape:
        """That of a transformers model which `astarpo.engine.fused.check` has let pass."""
        config, decoder = model.config.get_text_config(), model.get_decoder()
        attention = decoder.layers[0].self_attn
        return cls(
            hidden=int(config.hidden_size),
            heads=int(config.num_attention_heads),
            groups=int(config.num_key_value_heads),
            width=int(attention.head_dim),
            inner=int(config.intermediate_size),
            eps=float(decoder.norm.variance_epsilon),
            scale=float(attention.scaling),
        )

    def describe(self, model: native.Model) -> None:
        """Tell the kernels."""
        for field in fields(self):
            setattr(model, field.name, getattr(self, field.name))

    def holds(self, layer: Weights) -> bool:
        """Whether `layer` has these shapes, in float32 in the processor's memory."""
        said, both = self.heads * self.width, (self.heads + 2 * self.groups) * self.width
        products = (
            (layer.qkv, both, self.hidden),
            (layer.out, self.hidden, said),
            (layer.gate_up, 2 * self.inner, self.hidden),
            (layer.down, self.hidden, self.inner),
        )
        norms = [(layer.first_norm, self.hidden), (layer.second_norm, self.hidden)]
        norms += [(one, self.width) for one in (layer.q_norm, layer.k_norm) if one is not None]
        return all(one.holds(out, into) for one, out, into in products) and all(_plain(one, n) for one, n in norms)


@dataclass(frozen=True)
class Product:
    """One product of a layer: W x + b, and B A x where an adapter adds that."""

    weight: Tensor
    bias: Tensor | None
    low: Low | None = None

    def holds(self, out: int, into: int) -> bool:
        """Whether it is [out, into] and its bias [out], in float32 in the processor's memory."""
        rest = [(one, ()) for one in self.low or ()] + ([] if self.bias is None else [(self.bias, (out,))])
        return _plain(self.weight, out, into) and all(_plain(one, *size) for one, size in rest)

    def packed(self) -> Tensor:
        """The weight as the kernels want it, with what an adapter adds."""
        return native.packed(self.weight if self.low is None else self.weight + self.low[1] @ self.low[0])


@dataclass(frozen=True)
class Weights:
    """Weights of one layer; queries, keys and values, and gate and up, side by side."""

    first_norm: Tensor
    second_norm: Tensor
    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    q_norm: Tensor | None
    k_norm: Tensor | None


def _plain(tensor: Tensor, *size: int) -> bool:
    fits = tensor.shape == size if size else True
    return fits and tensor.numel() > 0 and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


class NativePasses:
    """Both passes of `Forward` over a cache in the processor's memory, float32.

    Args:
        shape: of the model.

    Attributes:
        ready: whether there are weights that the kernels can run.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape, self._library = shape, native.library()
        self._kept: list[Tensor] = []
        self._model = native.Model()
        self._room = torch.empty(0)
        self._ids = self._words = 0
        self.ready = False

    def __reduce__(self) -> tuple[type[NativePasses], tuple[Shape]]:
        """A copy has the shape, and no weights until it is told of them."""
        return NativePasses, (self._shape,)

    def refresh(self, layers: Sequence[Weights], embed: Tensor, norm: Tensor, head: Product) -> None:
        """Read the weights anew: they are packed for products.

        Those that are away, elsewhere, of another precision or of another shape leave the passes not `ready`.
        """
        self._kept, self._ids, self._words = [], len(embed), len(head.weight)
        shape = self._shape
        self.ready = all(shape.holds(layer) for layer in layers) and all(
            _plain(one, *size)
            for one, size in (
                (embed, (self._ids, shape.hidden)),
                (norm, (shape.hidden,)),
                (head.weight, (self._words, shape.hidden)),
                *(((head.bias, (self._words,)),) if head.bias is not None else ()),
            )
        )
        if not self.ready:
            return
        table = (native.Layer * len(layers))()
        for row, layer in zip(table, layers, strict=True):
            for name in ("qkv", "out", "gate_up", "down"):
                product = getattr(layer, name)
                setattr(row, name, self._keep(product.packed()))
                setattr(row, f"{name}_bias", self._keep(product.bias))
            for name in ("first_norm", "second_norm", "q_norm", "k_norm"):
                setattr(row, name, self._keep(getattr(layer, name)))
        self._table = table
        model = self._model
        shape.describe(model)
        model.words, model.padding = self._words, -1
        model.layers, model.layer = len(layers), table
        model.embed, model.norm = self._keep(embed), self._keep(norm)
        model.head, model.head_bias = self._keep(head.packed()), self._keep(head.bias)

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor.detach().contiguous())
        return native.at(self._kept[-1])

    def read(
        self, cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]], turns: tuple[Tensor, Tensor]
    ) -> Tensor:
        """See `Forward.read`."""
        counts, at = np.array([len(row) for row in ids]), np.asarray(rows)
        if counts.min() < 1:
            raise ValueError("each row that is read must get a token or more")
        flat = np.fromiter((token for row in ids for token in row), np.int64, int(counts.sum()))
        start = np.concatenate(([0], counts.cumsum()))
        position = np.arange(len(flat)) + np.repeat(cache.lengths[at] - start[:-1], counts)
        logits = self._run(cache, flat, position, start, at, start[1:] - 1, turns)
        cache.lengths[at] += counts
        return logits

    def step(self, cache: SlotCache, rows: Sequence[int], ids: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """See `Forward.step`."""
        at = np.asarray(rows)
        every = np.arange(len(at) + 1)
        logits = self._run(cache, ids.numpy(), cache.lengths[at], every, at, every[:-1], turns)
        cache.lengths[at] += 1
        return logits

    def _run(
        self,
        cache: SlotCache,
        ids: NDArray[np.int64],
        position: NDArray[np.int64],
        start: NDArray[np.int64],
        row: NDArray[np.int64],
        last: NDArray[np.int64],
        turns: tuple[Tensor, Tensor],
    ) -> Tensor:
        """`ids` [n] at `position` [n], of rows `row` [s] that begin at `start` [s + 1]; logits of tokens `last`."""
        shape, n = self._shape, len(ids)
        if not 0 <= ids.min() <= ids.max() < self._ids:
            raise IndexError(f"ids must lie in 0 to {self._ids - 1}, the vocabulary's.")
        if not 0 <= row.min() <= row.max() < cache.rows:
            raise IndexError(f"rows must lie in 0 to {cache.rows - 1}, the cache's.")
        cache.clean = False
        for layer in cache.slot_layers:
            if not layer.is_initialized:
                layer.allocate(shape.groups, shape.width, shape.width, turns[0])
            if layer.keys.dtype != torch.float32 or not (layer.keys.is_contiguous() and layer.values.is_contiguous()):
                raise ValueError("this cache was filled by a model of another precision: begin with a new one")
        threads = max(1, min(torch.get_num_threads(), n // 8))
        each = self._library.room_size(ctypes.byref(self._model), int(position.max()) + 1)
        both, said = (shape.heads + 2 * shape.groups) * shape.width, shape.heads * shape.width
        parts = (n * shape.hidden, n * both, n * said, threads * each)
        # Out of reach while it is used: another thread makes its own.
        whole, self._room = self._room, torch.empty(0)
        if sum(parts) > whole.numel():
            whole = torch.empty(sum(parts) * 5 // 4)
        x, qkv, attended, room = (
            whole.data_ptr() + 4 * begin for begin in np.concatenate(([0], np.cumsum(parts)[:-1])).tolist()
        )
        logits = torch.empty((len(last), self._words))
        keys, values = (
            np.array([getattr(layer, name).data_ptr() for layer in cache.slot_layers], dtype=np.uintp)
            for name in ("keys", "values")
        )
        arrays = [np.ascontiguousarray(one, dtype=np.int64) for one in (ids, position, start, row, last)]
        row_of = np.repeat(arrays[3], np.diff(start))
        given = native.Pass(
            n,
            len(row),
            len(last),
            cache.capacity,
            *(one.ctypes.data for one in arrays),
            keys.ctypes.data,
            values.ctypes.data,
            native.at(turns[0]),
            native.at(turns[1]),
            x,
            qkv,
            attended,
            room,
            each,
            logits.data_ptr(),
        )
        self._library.play(ctypes.byref(self._model), ctypes.byref(given), row_of.ctypes.data, threads)
        self._room = whole
        return logits
