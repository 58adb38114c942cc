"""Ragged KV rows: each holds one conversation, and a turn computes only its new tokens.

Row b of every buffer belongs to conversation b. Its keys lie at positions 0 .. length-1 without gaps, so a token sees
"its own row, positions up to its own". What is written beyond a row's length, by padding or by a pass that only others
take part in, is never seen, and is overwritten by the next real token.

Lengths live on the host: no pass asks the device how long anything is.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from astarpo import native

FIRST_POSITIONS = 256
"""Positions that every row has room for at first, or eight times what is read first where that is less.

Growing copies all that is there; room that stays empty costs page faults, once for each batch of episodes.
"""


def position_bytes(model: Any) -> int:
    """Bytes of keys and values of one token in all layers of `model`; 0 where there is none, or its config tells not.

    `astarpo.memory.kv_bytes` says the same of its shape.
    """
    if model is None:
        return 0
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * groups * width * model.dtype.itemsize)


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: [rows, heads, positions, head_dim]; allocated on first use, grown by half."""

    is_sliding = False
    is_compileable = False

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Held weakly: in a cycle, keys and values would outlive their rollout until Python looks for cycles.
        self._owner = weakref.ref(owner)
        self.keys: Any = None
        self.values: Any = None

    @property
    def owner(self) -> SlotCache:
        """The cache that this is a layer of."""
        owner = self._owner()
        assert owner is not None
        return owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the owner's rows and capacity; [..., heads, q or nothing, head_dim] tells the rest."""
        self.allocate(key_states.shape[1], key_states.shape[-1], value_states.shape[-1], key_states)

    def allocate(self, heads: int, key_width: int, value_width: int, like: Tensor) -> None:
        """Room for the owner's rows and capacity, of the type and on the device of `like`."""
        shape = (self.owner.rows, heads, self.owner.capacity)
        new = like.new_zeros if self.owner.clean else like.new_empty
        self.keys, self.values = new((*shape, key_width)), new((*shape, value_width))
        self.is_initialized = True
        self.owner.moved += 1

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write [n, heads, q, head_dim] at the owner's current rows and positions; return those rows up to `seen`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        owner = self.owner
        self.keys[owner.active[:, None], :, owner.positions] = key_states.transpose(1, 2)
        self.values[owner.active[:, None], :, owner.positions] = value_states.transpose(1, 2)
        if owner.whole:
            n = len(owner.active)
            return self.keys[:n, :, : owner.seen], self.values[:n, :, : owner.seen]
        return self.keys[owner.active, :, : owner.seen], self.values[owner.active, :, : owner.seen]

    def grow(self, capacity: int, used: int) -> None:
        """Make room for `capacity` positions; the first `used` are kept."""
        if self.is_initialized:
            before = self.keys, self.values
            self.allocate(self.keys.shape[1], self.keys.shape[-1], self.values.shape[-1], self.keys)
            assert self.keys.shape[2] == capacity
            self.keys[:, :, :used], self.values[:, :, :used] = (old[:, :, :used] for old in before)

    def keep(self, rows: Tensor) -> None:
        """Forget every row but `rows`."""
        if self.is_initialized:
            self.keys, self.values = self.keys[rows], self.values[rows]
            self.owner.moved += 1

    def copy(self, source: Tensor, target: Tensor, length: int) -> None:
        """Rows `target` take what rows `source` hold at their first `length` positions."""
        if self.is_initialized:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_seq_length(self) -> int:
        """Positions the current tokens attend to."""
        return self.owner.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Length and offset of the mask; ours is given whole, so this is not consulted."""
        return self.owner.seen, 0

    def get_max_length(self) -> int:
        """No bound: buffers grow."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No bound: buffers grow."""
        return -1


class SlotCache(Cache):
    """The KV cache of `rows` conversations of different lengths.

    Attributes:
        lengths: [rows] int64 on the host, tokens held by each row.
        device: where keys and values are.
        capacity: positions that every row has room for.
        active: [n] rows of the forward pass under way.
        positions: [n, q] where its tokens go.
        seen: positions that its attention spans.
        whole: True when the first rows take part, in order, and no others: then no row is copied.
        moved: counts how often keys and values were put elsewhere in memory.
        clean: whether new room holds zeros. Who weighs what stands beyond a row's length by nothing needs numbers
            there; `astarpo.native` does not read it, and needs none.
    """

    def __init__(self, layers: int, rows: int, device: torch.device) -> None:
        self.rows, self.capacity, self.seen, self.whole = rows, 0, 0, True
        self.device, self.moved, self.clean = device, 0, True
        self.lengths = np.zeros(rows, dtype=np.int64)
        self.active = torch.arange(rows, device=device)
        self.positions = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))

    @property
    def bytes(self) -> int:
        """What keys and values take."""
        tensors = [t for layer in self.slot_layers if layer.is_initialized for t in (layer.keys, layer.values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def reserve(self, positions: int) -> None:
        """See to room for `positions` positions in every row."""
        if positions <= self.capacity:
            return
        first = min(FIRST_POSITIONS, 8 * positions)
        self.capacity = -(-max(positions, self.capacity * 3 // 2 or first) // 32) * 32
        for layer in self.slot_layers:
            layer.grow(self.capacity, int(self.lengths.max()))

    def begin(self, active: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
        """Prepare a pass that appends up to `width` tokens to the rows `active`.

        Returns:
            positions [n, width] and the boolean mask [n, 1, width, seen], True where attention may look.
        """
        rows = np.asarray(active)
        self.seen = int(self.lengths[rows].max()) + width
        self.reserve(self.seen)
        self.whole = bool((rows == np.arange(len(rows))).all())
        self.active = torch.from_numpy(rows).to(self.device)
        at = torch.from_numpy(self.lengths[rows]).to(self.device)
        self.positions = at[:, None] + torch.arange(width, device=self.device)
        reach = torch.arange(self.seen, device=self.device)
        return self.positions, (reach <= self.positions[:, :, None])[:, None]

    def copy(self, source: ArrayLike, target: ArrayLike, lengths: ArrayLike) -> None:
        """Rows `target` become the first `lengths` tokens of rows `source`, all as they were before."""
        from_, to, counts = np.asarray(source), np.asarray(target), np.asarray(lengths)
        self.lengths[to] = counts
        there = [one for layer in self.slot_layers if layer.is_initialized for one in (layer.keys, layer.values)]
        if not self.clean and there and not np.isin(to, from_).any():
            native.copy_rows(there, from_, to, counts)
            return
        read, written = (torch.from_numpy(side).to(self.device) for side in (from_, to))
        for layer in self.slot_layers:
            layer.copy(read, written, int(counts.max()))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget every conversation but `rows`, in that order."""
        self.lengths = self.lengths[list(rows)]
        self.rows = len(rows)
        kept = torch.tensor(list(rows), device=self.device)
        for layer in self.slot_layers:
            layer.keep(kept)
