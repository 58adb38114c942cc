"""How a model is run over KV rows: the two passes that the engine needs, and transformers' own way to make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from astarpo.engine.slots import SlotCache


class Forward(Protocol):
    """One way to run a causal model. Both passes append to rows of the cache and return float32 logits."""

    @property
    def name(self) -> str:
        """What runs, in a word or two."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether a step is worth beginning before the host knows which replies go on: the device would idle."""
        ...

    @property
    def natively(self) -> bool:
        """Whether the processor's own kernels (`astarpo.native`) play."""
        ...

    @property
    def idle(self) -> float:
        """Share of the rows that may be idle before the others are moved together."""
        ...

    def refresh(self) -> None:
        """The model's weights may have changed."""
        ...

    def read(self, cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """Append `ids[i]` to row `rows[i]`; logits [n, V] after the last token of each."""
        ...

    def step(self, cache: SlotCache, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Append one token to each of `rows`, ascending: `ids` [n]; logits [n, V] after it."""
        ...


class TransformersForward:
    """The model's own forward pass, padded, for any architecture.

    Args:
        model: a transformers causal model.
        split: whether decoder and head may be called apart, so that the head sees one position a row.
    """

    name = "transformers"
    ahead = False
    natively = False
    idle = 0.25

    def __init__(self, model: Any, *, split: bool) -> None:
        self._model = model
        self._split = split

    def refresh(self) -> None:
        """The model itself is run: nothing to do."""

    def read(self, cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Forward.read`."""
        counts = [len(row) for row in ids]
        padded = torch.zeros((len(ids), max(counts)), dtype=torch.int64)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.tensor(row)
        logits = self._run(cache, rows, padded.to(cache.device), torch.tensor(counts, device=cache.device) - 1)
        cache.lengths[list(rows)] += counts
        return logits

    def step(self, cache: SlotCache, rows: Sequence[int], ids: Tensor) -> Tensor:
        """See `Forward.step`."""
        logits = self._run(cache, rows, ids[:, None], torch.zeros_like(ids))
        cache.lengths[list(rows)] += 1
        return logits

    def _run(self, cache: SlotCache, rows: Sequence[int], ids: Tensor, last: Tensor) -> Tensor:
        """`ids` [n, q] on `rows`; logits [n, V] at each row's position `last` [n]."""
        positions, mask = cache.begin(rows, ids.shape[1])
        given = {"input_ids": ids, "position_ids": positions, "attention_mask": self._mask(mask, positions)}
        every = torch.arange(len(ids), device=ids.device)
        if not self._split:
            out: Tensor = self._model(**given, past_key_values=cache, use_cache=True).logits
            return out[every, last].float()
        hidden = self._model.get_decoder()(**given, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = self._model.get_output_embeddings()(hidden[every, last])
        return logits.float()

    def _mask(self, allowed: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """`allowed` [n, 1, q, seen] as this model reads it: a ready mask is taken as it is, whatever layers look at.

        Layers with a sliding window look at the last `window` positions only; a model that has both kinds of layers
        takes both masks. Attention other than PyTorch's own adds the mask instead of selecting by it.
        """
        config = self._model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None) or ()
        near = allowed
        if window is not None:
            reach = torch.arange(allowed.shape[-1], device=allowed.device)
            near = allowed & (reach > positions[:, None, :, None] - window)
        masks = {"full_attention": allowed, "sliding_attention": near}
        if config._attn_implementation != "sdpa":
            masks = {kind: additive(mask, self._model.dtype) for kind, mask in masks.items()}
        if "sliding_attention" in kinds:
            return masks
        return masks["full_attention" if kinds else "sliding_attention"]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `allowed`, the least finite number elsewhere: a mask to be added to scores."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)
