"""A forward pass of our own for decoders of Llama's shape: transformers' logits in a third of its operations.

Per layer, x [N, h] being the tokens of all rows laid end to end without padding:

    q, k, v = W_qkv · rms(x)        one product; q and k rotated in place
    x += W_o · attention(q, K, V)   K, V the rows of the cache, read where they lie
    x += W_down · (silu(g) ⊙ u)     g, u = W_gate_up · rms(x), one product

Which models it may run is tried, not believed: `build` compares its logits with the model's own.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from astarpo import attention, native
from astarpo.engine.forward import additive
from astarpo.engine.native import NativePasses, Product, Shape, Weights
from astarpo.engine.recorded import RecordedSteps
from astarpo.engine.slots import SlotCache

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `config.model_type` that are tried."""

ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on the position alone."""

COPIED_PARAMETERS = 50_000_000
"""Models up to this size have projections copied side by side, which saves calls; larger ones are read in place."""

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference from the model's own logits, relative to the largest of them, at which the pass is taken."""

WHOLE_SHARE = 0.6
"""Share of the first rows, up to the last that takes part, from which a step runs over all of them: idle ones then cost
less than copied keys."""

LEAST_SPAN = 24
"""Positions that attention of a step spans at least; a cache has room for as many. PyTorch multiplies smaller matrices
one number at a time, and takes the softmax of shorter rows so."""

LARGEST_RECTANGLE = 1.25
"""How much larger than the rows in it a rectangle of attention may be before its rows are told apart."""


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer, by its number: queries [N, heads, D], keys and values [N, groups, D] → [N, heads · D]."""


Low = tuple[Tensor, Tensor]
"""What an adapter adds to a product W x: the factors of B A x, A [r, in] and B [out, r], its scale in B."""


@dataclass
class _Layer:
    """Weights of one layer, [out, in] each; several where they are not copied side by side."""

    first_norm: Tensor
    second_norm: Tensor
    qkv: list[Tensor]
    qkv_bias: list[Tensor | None]
    qkv_low: list[Low | None]
    out: Tensor
    out_bias: Tensor | None
    out_low: Low | None
    gate_up: list[Tensor]
    gate_up_bias: list[Tensor | None]
    gate_up_low: list[Low | None]
    down: Tensor
    down_bias: Tensor | None
    down_low: Low | None
    q_norm: Tensor | None
    k_norm: Tensor | None


@dataclass
class _Group:
    """Rows whose attention is computed in one rectangle.

    Attributes:
        rows: [n] of the cache.
        fill: [n, longest] tokens of the pass, each row's last one repeated.
        tokens: [m] tokens of the pass that belong to these rows.
        padded: [m] where they stand in the rectangle laid end to end.
        seen: positions that it spans.
        mask: [n, 1, longest, seen]; None where the rows were empty: then they only see themselves.
    """

    rows: Tensor
    fill: Tensor
    tokens: Tensor
    padded: Tensor
    seen: int
    mask: Tensor | None


class FusedForward:
    """See the module. Made by `build`.

    Attributes:
        slower: why PyTorch's kernels are run on a GPU and not Triton's; empty where that is not so.

    Raises:
        Unfit: the model is of another shape.
    """

    name = "fused"

    def __init__(self, model: Any, *, own_kernels: bool = True) -> None:
        config = model.config.get_text_config()
        check(model, config)
        self._model = model
        self._decoder = model.get_decoder()
        attention = self._decoder.layers[0].self_attn
        self._width = int(attention.head_dim)
        self._heads, self._groups = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._scale = float(attention.scaling)
        self._eps = float(self._decoder.norm.variance_epsilon)
        self._copied = sum(p.numel() for p in model.parameters()) <= COPIED_PARAMETERS
        self._turns: tuple[Tensor, Tensor] | None = None
        self._layers: list[_Layer] = []
        on_gpu = next(model.parameters()).device.type == "cuda"
        self._recorded = RecordedSteps(self._whole_step) if on_gpu else None
        self.slower = why_no_triton() if on_gpu else ""
        self._kernels: Any = import_module("astarpo.engine.kernels") if on_gpu and not self.slower else None
        self._native = None if on_gpu or not own_kernels else self._natively()
        self.refresh()

    def _natively(self) -> NativePasses | None:
        """Passes by our own kernels; None where the machine or the model is none of theirs."""
        if next(self._model.parameters()).dtype != torch.float32 or not self._copied or native.why_not():
            return None
        return NativePasses(Shape.of(self._model))

    @property
    def natively(self) -> bool:
        """Whether the processor's own kernels play."""
        return self._native is not None and self._native.ready

    @property
    def idle(self) -> float:
        """See `Forward.idle`: our own kernels run the rows that take part and no others."""
        return 0.5 if self.natively else 0.25

    @property
    def ahead(self) -> bool:
        """See `Forward.ahead`: a recorded step costs the host nothing."""
        return self._recorded is not None

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the weights anew; copies are made anew."""
        if self._recorded is not None:
            self._recorded.forget()
        self._layers = [self._read_layer(layer) for layer in self._decoder.layers]
        head = self._model.get_output_embeddings()
        self._head, self._head_bias = head.weight.detach(), head.bias if head.bias is None else head.bias.detach()
        self._embed, self._norm = self._decoder.embed_tokens.weight.detach(), self._decoder.norm.weight.detach()
        if self._turns is not None and (self._turns[0].device, self._turns[0].dtype) != (
            self._embed.device,
            self._embed.dtype,
        ):
            self._turns = None
        if self._native is not None:
            layers = [
                Weights(
                    layer.first_norm,
                    layer.second_norm,
                    Product(layer.qkv[0], layer.qkv_bias[0], layer.qkv_low[0]),
                    Product(layer.out, layer.out_bias, layer.out_low),
                    Product(layer.gate_up[0], layer.gate_up_bias[0], layer.gate_up_low[0]),
                    Product(layer.down, layer.down_bias, layer.down_low),
                    layer.q_norm,
                    layer.k_norm,
                )
                for layer in self._layers
            ]
            self._native.refresh(layers, self._embed, self._norm, Product(self._head, self._head_bias))

    def read(self, cache: SlotCache, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """See `Forward.read`."""
        device = cache.device
        counts, at = np.array([len(row) for row in ids]), np.asarray(rows)
        past = cache.lengths[at]
        cache.reserve(int((past + counts).max()))
        if self._native is not None and self._native.ready:
            return self._native.read(cache, rows, ids, self._rotation(cache.capacity))
        flat = torch.tensor([token for row in ids for token in row], device=device)
        sequence = np.repeat(np.arange(len(counts)), counts)
        starts = np.concatenate(([0], counts.cumsum()[:-1]))
        within = np.arange(len(sequence)) - starts[sequence]
        row, position = torch.from_numpy(np.stack((at[sequence], past[sequence] + within))).to(device)
        last = torch.from_numpy(starts + counts - 1).to(device)
        ragged = self._ragged(cache, at, past, counts)
        if ragged is not None:
            logits = self._run(cache, flat, row, position, last, ragged)
            cache.lengths[at] += counts
            return logits
        groups = [self._group(part, at, past, counts, starts, device) for part in alike(past + counts, counts)]

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            layer = cache.slot_layers[number]
            said = q.new_empty((len(flat), self._heads * self._width))
            for group in groups:
                # [n, heads, longest, head_dim]; padding repeats a row's last token, and its result is dropped.
                asked = q[group.fill].transpose(1, 2)
                if group.mask is None:
                    keys, values = k[group.fill].transpose(1, 2), v[group.fill].transpose(1, 2)
                else:
                    keys, values = layer.keys[group.rows, :, : group.seen], layer.values[group.rows, :, : group.seen]
                found = F.scaled_dot_product_attention(
                    asked,
                    keys,
                    values,
                    attn_mask=group.mask,
                    is_causal=group.mask is None,
                    scale=self._scale,
                    enable_gqa=self._heads != self._groups,
                )
                said[group.tokens] = found.transpose(1, 2).reshape(-1, said.shape[1])[group.padded]
            return said

        logits = self._run(cache, flat, row, position, last, attend)
        cache.lengths[at] += counts
        return logits

    def _ragged(
        self, cache: SlotCache, at: NDArray[np.int64], past: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Attend | None:
        """Attention of a reading pass in one call, whatever the lengths; None where the device has no such call."""
        if not attention.fits(self._embed.new_empty((0, self._width))):
            return None
        seen, device = past + counts, cache.device
        asked = attention.ends(counts.tolist(), device)
        sees = attention.ends(seen.tolist(), device) if past.any() else asked
        longest = (int(counts.max()), int(seen.max()))
        from_row = torch.from_numpy(np.repeat(at, seen)).to(device)
        from_position = torch.from_numpy(np.concatenate([np.arange(length) for length in seen])).to(device)

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            layer = cache.slot_layers[number]
            if sees is not asked:
                k, v = layer.keys[from_row, :, from_position], layer.values[from_row, :, from_position]
            return attention.ragged(q, k, v, asked, sees, longest, scale=self._scale).flatten(1)

        return attend

    def _group(
        self,
        part: NDArray[np.int64],
        at: NDArray[np.int64],
        past: NDArray[np.int64],
        counts: NDArray[np.int64],
        starts: NDArray[np.int64],
        device: torch.device,
    ) -> _Group:
        """Indices for the attention of rows `part` of a pass; see `read`."""
        n, longest, seen = counts[part], int(counts[part].max()), int((past + counts)[part].max())
        each = np.arange(longest)
        real = each < n[:, None]
        fill = starts[part][:, None] + np.minimum(each, n[:, None] - 1)
        mask = None
        if past[part].any():
            reach = past[part][:, None] + np.minimum(each, n[:, None] - 1)
            allowed = torch.from_numpy(np.arange(seen) <= reach[:, :, None]).to(device)
            mask = additive(allowed[:, None], self._embed.dtype)
        index = [
            torch.from_numpy(found).to(device) for found in (at[part], fill, fill[real], real.ravel().nonzero()[0])
        ]
        return _Group(index[0], index[1], index[2], index[3], seen, mask)

    def step(self, cache: SlotCache, rows: Sequence[int], ids: Tensor) -> Tensor:
        """See `Forward.step`."""
        device, at = cache.device, np.asarray(rows)
        seen = int(cache.lengths[at].max()) + 1
        cache.reserve(int(cache.lengths.max()) + 1)
        if self._native is not None and self._native.ready:
            return self._native.step(cache, rows, ids, self._rotation(cache.capacity))
        if self._recorded is not None:
            self._rotation(cache.capacity)
            some = torch.from_numpy(at).to(device)
            if len(at) < cache.rows:
                ids = torch.zeros(cache.rows, dtype=ids.dtype, device=device).index_copy_(0, some, ids)
            logits = self._recorded.step(cache, ids, seen)[some]
            cache.lengths[at] += 1
            return logits
        # The first rows are read where they lie; of others the keys are copied.
        first = int(at[-1]) + 1
        whole = len(at) >= WHOLE_SHARE * first
        picked = None if len(at) == first else torch.from_numpy(at).to(device)
        if whole and picked is not None:
            ids = torch.zeros(first, dtype=ids.dtype, device=device).index_copy_(0, picked, ids)
        position = torch.from_numpy(cache.lengths[:first] if whole else cache.lengths[at]).to(device)
        logits = self._step(cache, ids, position, max(seen, LEAST_SPAN), picked, whole=whole)
        cache.lengths[at] += 1
        return logits

    def _whole_step(self, cache: SlotCache, ids: Tensor, position: Tensor, seen: int) -> Tensor:
        """A step of all rows, of which nothing is asked of the host."""
        return self._step(cache, ids, position, seen, None, whole=True)

    def _step(
        self, cache: SlotCache, ids: Tensor, position: Tensor, seen: int, picked: Tensor | None, *, whole: bool
    ) -> Tensor:
        """`ids` [n] at `position` [n] of the first n rows, or of those `picked`; logits of `picked`, or of all.

        Args:
            seen: positions that attention spans.
            whole: whether the first n rows take part. Then only the logits are picked.
        """
        n, groups, width, device = len(ids), self._groups, self._width, cache.device
        row = picked if not whole and picked is not None else torch.arange(n, device=device)
        kernels = self._kernels
        if kernels is not None and whole:

            def attend_alone(number: int, q: Tensor, _: Tensor, __: Tensor) -> Tensor:
                layer = cache.slot_layers[number]
                found: Tensor = kernels.attend(q, layer.keys, layer.values, position, seen, self._scale)
                return found

            return self._run(cache, ids, row, position, picked, attend_alone)
        reach = torch.arange(seen, device=device)
        mask = additive(reach <= position[:, None], self._embed.dtype)
        mask = mask[:, None, None].expand(n, groups, self._heads // groups, seen).reshape(n * groups, -1, seen)

        def attend(number: int, q: Tensor, _: Tensor, __: Tensor) -> Tensor:
            layer = cache.slot_layers[number]
            if whole:
                keys = layer.keys[:n].view(n * groups, -1, width)[:, :seen]
                values = layer.values[:n].view(n * groups, -1, width)[:, :seen]
            else:
                keys = layer.keys[row, :, :seen].view(n * groups, seen, width)
                values = layer.values[row, :, :seen].view(n * groups, seen, width)
            q = q.reshape(n * groups, -1, width)
            scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self._scale)
            weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
            return torch.bmm(weights, values).view(n, -1)

        return self._run(cache, ids, row, position, picked if whole else None, attend)

    def _run(
        self, cache: SlotCache, ids: Tensor, row: Tensor, position: Tensor, last: Tensor | None, attend: Attend
    ) -> Tensor:
        """`ids` [N] at `row` and `position` [N]; logits [n, V] of the tokens `last` [n], or of all."""
        turns = self._rotation(cache.capacity)
        cos, sin = (table[position, None] for table in turns) if self._kernels is None else turns
        width, eps, size = self._width, self._eps, (self._embed.shape[1],)
        heads, both = self._heads, self._heads + self._groups
        x = F.embedding(ids, self._embed)
        for number, layer in enumerate(self._layers):
            slots = cache.slot_layers[number]
            if not slots.is_initialized:
                slots.allocate(self._groups, width, width, x)
            normed = F.rms_norm(x, size, layer.first_norm, eps)
            if self._kernels is not None:
                q, k, v = self._apart(normed, layer)
                q, k = self._kernels.rotate(q, k, v, turns, position, row, slots.keys, slots.values)
                x = _add(x, attend(number, q, k, v), layer.out, layer.out_bias, layer.out_low)
                gate, up = _halves(
                    F.rms_norm(x, size, layer.second_norm, eps), layer.gate_up, layer.gate_up_bias, layer.gate_up_low
                )
                x = _add(x, self._kernels.gated(gate, up), layer.down, layer.down_bias, layer.down_low)
                continue
            qkv = _project(normed, layer.qkv, layer.qkv_bias, layer.qkv_low)
            qkv = qkv.view(len(x), -1, width)
            qk = qkv[:, :both]
            if layer.q_norm is not None and layer.k_norm is not None:
                qk = torch.cat(
                    (
                        F.rms_norm(qk[:, :heads], (width,), layer.q_norm, eps),
                        F.rms_norm(qk[:, heads:], (width,), layer.k_norm, eps),
                    ),
                    1,
                )
            turned = torch.empty(qk.shape, dtype=x.dtype, device=x.device)
            one, two = qk[..., : width // 2], qk[..., width // 2 :]
            torch.mul(one, cos, out=turned[..., : width // 2]).addcmul_(two, sin, value=-1)
            torch.mul(two, cos, out=turned[..., width // 2 :]).addcmul_(one, sin)
            q, k, v = turned[:, :heads], turned[:, heads:], qkv[:, both:]
            slots.keys[row, :, position], slots.values[row, :, position] = k, v
            x = _add(x, attend(number, q, k, v), layer.out, layer.out_bias, layer.out_low)
            gate, up = _project(
                F.rms_norm(x, size, layer.second_norm, eps), layer.gate_up, layer.gate_up_bias, layer.gate_up_low
            ).chunk(2, -1)
            x = _add(x, F.silu(gate).mul_(up), layer.down, layer.down_bias, layer.down_low)
        if last is not None:
            x = x[last]
        return F.linear(F.rms_norm(x, size, self._norm, eps), self._head, self._head_bias).float()

    def _apart(self, x: Tensor, layer: _Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, heads, D], keys and values [N, groups, D] of `x` [N, h], not turned; views of products."""
        found = _products(x, layer.qkv, layer.qkv_bias, layer.qkv_low)
        sizes, groups, n = [self._heads, self._groups, self._groups], self._groups, len(x)
        if len(found) == 1:
            q, k, v = torch.split(found[0].view(n, -1, self._width), sizes, 1)
        else:
            q = found[0].view(n, -1, self._width)
            k, v = torch.split(found[1].view(n, -1, self._width), groups, 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = (
                F.rms_norm(part, (self._width,), norm, self._eps)
                for part, norm in ((q, layer.q_norm), (k, layer.k_norm))
            )
        return q, k, v

    def _rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """cos and sin [positions or more, head_dim / 2], by the model's own rule."""
        if self._turns is None or len(self._turns[0]) < positions:
            every = torch.arange(positions, device=self._embed.device)[None]
            cos, sin = self._decoder.rotary_emb(self._embed[:1], every)
            self._turns = (cos[0, :, : self._width // 2].contiguous(), sin[0, :, : self._width // 2].contiguous())
            if self._recorded is not None:
                # They read the table that is given up here, though it be another cache that wants a longer one.
                self._recorded.forget()
        return self._turns

    def _read_layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        if self._kernels is None or self._copied:
            qkv, qkv_bias, qkv_low = self._beside(attention.q_proj, attention.k_proj, attention.v_proj)
        else:
            # Those of keys and values are small, and a product of its own for each would be slower than the copies.
            qkv, qkv_bias, qkv_low = self._beside(attention.q_proj)
            weights, biases, lows = self._beside(attention.k_proj, attention.v_proj, copied=True)
            qkv, qkv_bias, qkv_low = qkv + weights, qkv_bias + biases, qkv_low + lows
        gate_up, gate_up_bias, gate_up_low = self._beside(mlp.gate_proj, mlp.up_proj)
        return _Layer(
            layer.input_layernorm.weight.detach(),
            layer.post_attention_layernorm.weight.detach(),
            qkv,
            qkv_bias,
            qkv_low,
            attention.o_proj.weight.detach(),
            attention.o_proj.bias,
            _low(attention.o_proj),
            gate_up,
            gate_up_bias,
            gate_up_low,
            mlp.down_proj.weight.detach(),
            mlp.down_proj.bias,
            _low(mlp.down_proj),
            attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        )

    def _beside(
        self, *linear: nn.Linear, copied: bool = False
    ) -> tuple[list[Tensor], list[Tensor | None], list[Low | None]]:
        weights = [one.weight.detach() for one in linear]
        biases = [one.bias for one in linear]
        lows = [_low(one) for one in linear]
        if not (self._copied or copied):
            return weights, list(biases), lows
        bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        return [torch.cat(weights)], [bias], [_low_beside(weights, lows)]


def alike(seen: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows in groups of like length, so that a rectangle around a group holds little that nobody asked for.

    Args:
        seen: [n] positions that each row spans.
        counts: [n] tokens that it appends.
    """
    order = np.lexsort((-counts, -seen))
    begin, real, longest = 0, 0, 0
    for k, row in enumerate(order):
        area, most = int(seen[row] * counts[row]), max(longest, int(counts[row]))
        if k > begin and int(seen[order[begin]]) * most * (k + 1 - begin) > LARGEST_RECTANGLE * (real + area):
            yield order[begin:k]
            begin, real, most = k, 0, int(counts[row])
        real, longest = real + area, most
    yield order[begin:]


class Unfit(Exception):
    """Why a model is not run by `FusedForward`."""


def build(model: Any, *, own_kernels: bool = True) -> FusedForward:
    """The fused pass for `model`, tried against the model's own.

    Args:
        model: a transformers causal model.
        own_kernels: whether a processor's own kernels (`astarpo.native`) may run it.

    Raises:
        Unfit: the model is of another shape, or its logits came out different.
    """
    fused = FusedForward(model, own_kernels=own_kernels)
    device, dtype = next(iter(model.parameters())).device, model.dtype
    vocabulary = int(model.config.get_text_config().vocab_size)
    probe = torch.arange(1, 13, device=device).view(2, 6) * 7 % vocabulary
    layers = int(model.config.get_text_config().num_hidden_layers)
    with torch.inference_mode():
        own = model(input_ids=probe, use_cache=False).logits.float()
        cache = SlotCache(layers, 2, device)
        first = fused.read(cache, [0, 1], [probe[0, :2].tolist(), probe[1, :4].tolist()])
        second = fused.read(cache, [0, 1], [probe[0, 2:5].tolist(), probe[1, 4:5].tolist()])
        third = fused.step(cache, [0, 1], probe[:, 5])
    expected = torch.stack((own[0, 1], own[1, 3], own[0, 4], own[1, 4], own[0, 5], own[1, 5]))
    apart = float((torch.cat((first, second, third)) - expected).abs().max() / own.abs().max().clamp_min(1e-30))
    if not apart <= TOLERANCE.get(dtype, 0.0):
        raise Unfit(f"its logits came out {apart:.1e} of the largest apart from the model's own")
    return fused


def why_no_triton() -> str:
    """What Triton lacks to compile a kernel on this machine; empty where it lacks nothing."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    # It looks for them in this way, and fails at the first launch where one is missing.
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(shutil.which(name) for name in compilers):
        return f"Triton needs a C compiler, and there is no {' or '.join(compilers)}"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"Triton needs Python's header files, and there is no {headers}"
    return ""


def check(model: Any, config: Any) -> None:
    """Whether `model` has the shape that is run here; its logits are compared by `build`.

    Raises:
        Unfit: it has another.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise Unfit(f"{kind or 'this architecture'} is none of {', '.join(FAMILIES)}")
    decoder = getattr(model, "get_decoder", lambda: None)()
    if decoder is None or model.get_output_embeddings() is None:
        raise Unfit("it has no decoder or no head of its own")
    if config.hidden_act != "silu":
        raise Unfit(f"its activation is {config.hidden_act}, not silu")
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        raise Unfit("its attention has a sliding window")
    rotation = str(decoder.rotary_emb.rope_type)
    if rotation not in ROTATIONS:
        raise Unfit(f"its rotary embedding is {rotation}, not one of {', '.join(ROTATIONS)}")
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    parts = [getattr(layer.self_attn, name) for layer in decoder.layers for name in attention]
    parts += [getattr(layer.mlp, name) for layer in decoder.layers for name in mlp]
    other = [type(part) for part in parts if type(part) is not nn.Linear and not _adapted(part)]
    other += [type(head) for head in (model.get_output_embeddings(),) if type(head) is not nn.Linear]
    embeddings = type(decoder.embed_tokens)
    if embeddings is not nn.Embedding:
        raise Unfit(f"its embeddings are {embeddings.__module__}.{embeddings.__name__}, not a plain table")
    if other:
        raise Unfit(f"its projections are {other[0].__module__}.{other[0].__name__}, not plain linear layers")


def _adapted(part: Any) -> bool:
    """Whether `part` is a plain linear layer under one LoRA of peft's that adds a product of two factors, no more."""
    peft: Any = sys.modules.get("peft.tuners.lora.layer")
    if peft is None or type(part) is not peft.Linear or type(part.get_base_layer()) is not nn.Linear:
        return False
    if part.merged or part.disable_adapters or part.fan_in_fan_out or len(part.active_adapters) != 1:
        return False
    (name,) = part.active_adapters
    return name in part.lora_A and name not in part.lora_variant and part.lora_B[name].bias is None


def _low(part: Any) -> Low | None:
    """What an adapter adds to the product with `part`, in the precision of its weights; None where it has none."""
    if type(part) is nn.Linear:
        return None
    (name,) = part.active_adapters
    down, up, dtype = part.lora_A[name].weight.detach(), part.lora_B[name].weight.detach(), part.weight.dtype
    return down.to(dtype), (up * part.scaling[name]).to(dtype)


def _low_beside(weights: list[Tensor], lows: list[Low | None]) -> Low | None:
    """`lows` of products with `weights` as what is added to their product side by side."""
    there = [low[0] for low in lows if low is not None]
    if not there:
        return None
    ups = [
        weight.new_zeros((len(weight), 0)) if low is None else low[1] for weight, low in zip(weights, lows, strict=True)
    ]
    return torch.cat(there), torch.block_diag(*ups)  # type: ignore[no-untyped-call]


def _products(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], lows: list[Low | None]) -> list[Tensor]:
    found = []
    for weight, bias, low in zip(weights, biases, lows, strict=True):
        y = F.linear(x, weight, bias)
        found.append(y if low is None else torch.addmm(y, F.linear(x, low[0]), low[1].t()))
    return found


def _project(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], lows: list[Low | None]) -> Tensor:
    found = _products(x, weights, biases, lows)
    return found[0] if len(found) == 1 else torch.cat(found, -1)


def _halves(
    x: Tensor, weights: list[Tensor], biases: list[Tensor | None], lows: list[Low | None]
) -> tuple[Tensor, Tensor]:
    found = _products(x, weights, biases, lows)
    one, other = found[0].chunk(2, -1) if len(found) == 1 else found
    return one, other


def _add(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, low: Low | None) -> Tensor:
    out = torch.addmm(x, y, weight.t())
    if low is not None:
        out = torch.addmm(out, F.linear(y, low[0]), low[1].t())
    return out if bias is None else out + bias
