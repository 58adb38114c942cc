"""Scoring: ln π, entropy, exact KL and hidden states of a batch's acted tokens, pass by pass.

A pass lays its episodes end to end without padding: positions start anew with each, and attention stays inside it. Only
what stands before an acted token reaches the output head, and of its logits no more than a chunk exists at a time.

Under a causal mask a token's states depend on the tokens before it and on nothing else. So where episodes begin alike,
as attempts at one task do, a pass holds each beginning once: its tokens are a tree, and an episode is a way down it.
Everything but attention runs over the nodes; attention runs over the ways. Gradients add up at the nodes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from astarpo import attention
from astarpo.batch import Batch, Scored, length_buckets
from astarpo.engine.fused import Unfit
from astarpo.errors import SettingsError
from astarpo.policy.head import acted_scores
from astarpo.policy.native import NativeDecoder, Tree, build

PACKED = "astarpo_packed"
"""Name under which transformers finds `packed_attention`."""

PACKABLE = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that `packed_attention` stands in for."""

SHORT, ALIKE = 32, 16
"""Tokens up to which episodes are attended to by plain products on a CPU, and how unlike in length they may be then."""

WORTH = 0.1
"""Share of the tokens that sharing beginnings must save: gathering for attention is not free. Set, not measured."""


@dataclass(frozen=True)
class Traits:
    """What a model lets scoring do; see `traits`.

    Attributes:
        split: its decoder and its output head, called one after the other, give its own logits.
        padded: why its episodes cannot be laid end to end; empty where they can.
        native: its decoder by the processor's own kernels; None where those do not run it.
        slower: why PyTorch's kernels learn though ours are for such models; empty where that is not so.
    """

    split: bool
    padded: str = ""
    native: NativeDecoder | None = None
    slower: str = ""

    @property
    def packed(self) -> bool:
        """Whether its episodes are laid end to end."""
        return not self.padded


@dataclass(frozen=True)
class Pass:
    """Episodes of one forward pass, up to the last token that is needed to predict an acted one.

    Attributes:
        ids, positions: [1, N] where packed, [n, longest] where padded.
        lengths: tokens of each episode, longest first. Where beginnings are shared, of each that no other one goes on.
        before: [A] places among the flattened positions, each right before an acted token.
        place: [A] the acted tokens' places in the flattened batch.
        spread: [sum of lengths] which of the N positions each token of those episodes is; None where none is shared.
        back: [N] where among those tokens each position stands first.
        ends: [n + 1] where the episodes end among those tokens; None where padded.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    before: Tensor
    place: Tensor
    spread: Tensor | None = None
    back: Tensor | None = None
    ends: Tensor | None = None


def log_probs(model: Any, own: Traits, batch: Batch, *, reference: tuple[Any, Traits] | None, tokens: int) -> Scored:
    """ln π and entropy of the batch's acted tokens at the batch's temperature, with gradient.

    Args:
        model: the transformers model.
        own: what it lets us do.
        batch: [B, T].
        reference: where given, `Scored.kl_exact` holds KL(π ‖ π_ref) over the whole vocabulary.
        tokens: of one forward pass.

    Returns:
        Scored with [B, T] float32 columns, 0 where not acted.
    """
    found: list[tuple[Tensor, Tensor, Tensor | None]] = []
    order: list[Tensor] = []
    flat = batch.tokens.flatten()
    for some in passes(batch, tokens, packed=own.packed and (reference is None or reference[1].packed)):
        given = scorable(model, own, some)
        other = None
        if reference is not None:
            with torch.no_grad():
                other = scorable(*reference, some)
        own_kernels = own.native is not None
        found.append(acted_scores(given, flat[some.place], batch.temperature, reference=other, own_kernels=own_kernels))
        order.append(some.place)
    if not order:
        zeros = torch.zeros(batch.tokens.shape, device=flat.device)
        return Scored(zeros, zeros.clone(), zeros.clone() if reference is not None else None)
    place = torch.cat(order)
    logp, entropy, kl = zip(*found, strict=True)
    return Scored(
        logp=_scatter(torch.cat(logp), place, batch),
        entropy=_scatter(torch.cat(entropy), place, batch),
        kl_exact=_scatter(torch.cat(kl), place, batch) if reference is not None else None,
    )


@torch.no_grad()
def hidden_states(model: Any, own: Traits, batch: Batch, *, tokens: int) -> Tensor:
    """The last hidden state before each acted token, [B, T, H] float32, 0 elsewhere; without gradient.

    Args:
        model, own: as `log_probs`.
        batch: [B, T].
        tokens: of one forward pass.
    """
    width = int(model.config.get_text_config().hidden_size)
    found = torch.zeros((batch.tokens.numel(), width), device=batch.tokens.device)
    for some in passes(batch, tokens, packed=own.packed):
        states = decoded(model, own, some)
        found[some.place] = states.index_select(0, some.before).float()
    return found.view(*batch.tokens.shape, width)


def cuts(lengths: Tensor, tokens: int, *, packed: bool, group: Tensor | None = None) -> Iterator[Tensor]:
    """Rows, longest first, cut so that each part holds at most `tokens` tokens, or one row that is longer.

    Args:
        lengths: [B] tokens of each row.
        tokens: of one part; padding counts where there is any.
        packed: whether rows lie end to end. Otherwise each is padded to the longest of its part.
        group: [B] where given and rows lie end to end, rows of one group follow each other: they may begin alike.
    """
    if not packed:
        yield from length_buckets(lengths, tokens)
        return
    order = torch.argsort(lengths, descending=True, stable=True)
    if group is not None:
        order = order[torch.argsort(group[order], stable=True)]
    for begin, end in _spans(lengths[order].tolist(), [0] * len(order), tokens):
        yield order[begin:end]


def _spans(lengths: Sequence[int], shared: Sequence[int], tokens: int) -> Iterator[tuple[int, int]]:
    """From where to where, so that each span holds at most `tokens` tokens or one row that is longer.

    Args:
        lengths: of rows.
        shared: how many tokens of each are also the one's before, and count once where both are in one span.
        tokens: of one span.
    """
    begin, held = 0, 0
    for end, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if end > begin and held + length - common > tokens:
            yield begin, end
            begin, held = end, 0
        held += length - (common if end > begin else 0)
    if begin < len(lengths):
        yield begin, len(lengths)


def beginnings(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in an order in which those that begin alike follow each other, and how much each shares.

    Args:
        tokens: [R, T] ids.
        lengths: [R] how many of each row's count.

    Returns:
        order: [R] rows. None begins more like an earlier one than like the one right before it.
        shared: [R] in that order, with how many tokens a row begins as the one before it does; 0 for the first.
    """
    words = [row[:length].tobytes() for row, length in zip(tokens.cpu().numpy(), lengths.tolist(), strict=True)]
    # Bytes do not sort as ids would, but any order that compares from the front has equal beginnings side by side.
    order = torch.tensor(sorted(range(len(words)), key=words.__getitem__), device=tokens.device)
    rows, ends = tokens[order], lengths[order]
    number = torch.arange(tokens.shape[1], device=tokens.device)
    alike = (rows[1:] == rows[:-1]) & (number < torch.minimum(ends[1:], ends[:-1])[:, None])
    shared = torch.zeros_like(lengths)
    shared[1:] = alike.long().cumprod(1).sum(1)
    return order, shared


def size(batch: Batch, *, packed: bool) -> int:
    """Tokens of one pass over the whole batch, padding counted where there is any."""
    read = batch.lengths if batch.samples is None else batch.samples.lengths
    return int(read.sum()) if packed else int(read.max()) * len(read)


def passes(batch: Batch, tokens: int, *, packed: bool) -> Iterator[Pass]:
    """The batch as forward passes of at most `tokens` tokens each. Episodes in which nothing was acted are left out."""
    width = batch.tokens.shape[1]
    number = torch.arange(width, device=batch.tokens.device)
    # The last acted token is predicted from the one before; nothing from it on is read.
    needed = (batch.acted * number).amax(1)
    rows = needed.nonzero()[:, 0]
    if packed and len(rows) > 1:
        order, shared = beginnings(batch.tokens[rows], needed[rows])
        if int(shared.sum()) > WORTH * int(needed.sum()):
            rows = rows[order]
            for begin, end in _spans(needed[rows].tolist(), shared.tolist(), tokens):
                yield _tree(batch, rows[begin:end], needed[rows[begin:end]], shared[begin:end])
            return
    for part in cuts(needed[rows], tokens, packed=packed):
        some = rows[part]
        lengths = needed[some].tolist()
        longest = lengths[0]
        inside = number[:longest] < needed[some, None]
        # Right padding under a causal mask: no real token ever sees a pad, so no mask is needed.
        ids = batch.tokens[some, :longest]
        positions = number[:longest].expand(len(some), -1)
        acted = batch.acted[some, 1 : longest + 1] & inside
        places = some[:, None] * width + number[1 : longest + 1]
        if packed:
            ids, positions, told = ids[inside][None], positions[inside][None], acted[inside]
        else:
            told = acted.flatten()
        ends = attention.ends(lengths, ids.device) if packed else None
        yield Pass(ids, positions, tuple(lengths), told.nonzero()[:, 0], places[acted], ends=ends)


def _tree(batch: Batch, rows: Tensor, needed: Tensor, shared: Tensor) -> Pass:
    """A pass over `rows`, [n] in the order of `beginnings`, of which the first `needed` tokens, [n], are read."""
    number = torch.arange(int(needed.max()), device=rows.device)
    inside = number < needed[:, None]
    new = inside & (number >= shared[:, None])
    # What the first shares, it shares with a row of another pass.
    new[0] = inside[0]
    # Nodes are numbered as they come, so a token that is not new is the last one above it that was.
    node = torch.where(new, new.flatten().cumsum(0).view(new.shape) - 1, -1).cummax(0).values
    ids, positions = batch.tokens[rows, : len(number)][new], number.expand(len(rows), -1)[new]
    told = batch.acted[rows, 1 : len(number) + 1] & inside
    place = (rows[:, None] * batch.tokens.shape[1] + number + 1)[told]
    # A row that the next one goes on, or repeats, is part of its way.
    ends = torch.ones_like(needed, dtype=torch.bool)
    ends[:-1] = shared[1:] < needed[:-1]
    ways = ends.nonzero()[:, 0]
    ways = ways[torch.argsort(needed[ways], descending=True, stable=True)]
    spread = node[ways][inside[ways]]
    # Of several places the first, so that results do not depend on the order in which they are written.
    back = torch.full((len(ids),), len(spread), device=rows.device)
    back.scatter_reduce_(0, spread, torch.arange(len(spread), device=rows.device), "amin")
    lengths = needed[ways].tolist()
    where = attention.ends(lengths, ids.device)
    return Pass(ids[None], positions[None], tuple(lengths), node[told], place, spread, back, where)


def decoded(model: Any, own: Traits, some: Pass) -> Tensor:
    """Last hidden states of a pass, one row a position, [N, H]; with gradient where it is on."""
    if own.native is not None and own.packed:
        tree = Tree.of(some.ids, some.positions, some.lengths, some.spread, some.back)
        found = own.native.states(model, tree)
        if found is not None:
            return found
    with _ready(model, own):
        states: Tensor = model.get_decoder()(**_inputs(own, some)).last_hidden_state
    return states.reshape(-1, states.shape[-1])


def scorable(model: Any, own: Traits, some: Pass) -> tuple[Tensor, nn.Module | None]:
    """What the acted tokens are scored from: hidden states [A, H] and the head, or logits [A, V] and None."""
    if own.split:
        return decoded(model, own, some).index_select(0, some.before), model.get_output_embeddings()
    with _ready(model, own):
        if own.packed:
            logits: Tensor = model(**_inputs(own, some), logits_to_keep=some.before).logits[0]
        else:
            logits = model(**_inputs(own, some)).logits.flatten(0, 1).index_select(0, some.before)
    return logits, None


def traits(model: Any, *, own_kernels: bool = True) -> Traits:
    """What `model` lets scoring do, found out by running it on a few tokens.

    Args:
        model: the transformers model.
        own_kernels: whether a processor's own kernels (`astarpo.native`) may run it.
    """
    split, padded = head_is_separate(model), why_padded(model)
    if not own_kernels or not split or padded:
        return Traits(split, padded)
    try:
        return Traits(split, padded, build(model))
    except Unfit as error:
        return Traits(split, padded, slower=str(error))


def forget_activations(model: Any) -> None:
    """Let the layers of `model` forget their activations where a gradient is taken, and compute them again for it.

    Raises:
        SettingsError: its layers cannot.
    """
    config = model.config.get_text_config()
    usual = config._attn_implementation

    @contextmanager
    def again() -> Iterator[None]:
        # On the way back the pass is long over, and with it the attention that it asked for.
        config._attn_implementation = PACKED if usual == "sdpa" else usual
        try:
            yield
        finally:
            config._attn_implementation = usual

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise SettingsError(
            f"policy.gradient_checkpointing does nothing for a {config.model_type}, whose layers know no way to "
            "compute their activations again: leave it at false."
        )
    forget = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    for layer in layers:
        vars(layer)["gradient_checkpointing"] = True
        vars(layer)["_gradient_checkpointing_func"] = forget


def head_is_separate(model: Any) -> bool:
    """Whether decoder and output embeddings, called one after the other, give the model's own logits.

    Some families scale or cap logits inside `forward`; for those the model's own forward is asked.
    """
    decoder, head = getattr(model, "get_decoder", lambda: None)(), model.get_output_embeddings()
    if decoder is None or head is None:
        return False
    probe = torch.tensor([[1, 2, 3]], device=next(iter(model.parameters())).device)
    with torch.inference_mode():
        own = model(input_ids=probe, use_cache=False).logits
        split = head(decoder(input_ids=probe, use_cache=False).last_hidden_state)
    return own.shape == split.shape and bool(torch.equal(own, split))


def why_padded(model: Any) -> str:
    """Why episodes laid end to end would not be scored as each by itself; empty where they are.

    Some families keep states other than attention, or attend by code of their own.
    """
    decoder = getattr(model, "get_decoder", lambda: None)()
    config = model.config.get_text_config()
    others = sorted(frozenset(getattr(config, "layer_types", None) or ()) - PACKABLE)
    if decoder is None:
        return "it has no decoder of its own"
    if others:
        return f"it has layers of the kind {others[0]}"
    if config._attn_implementation != "sdpa" or not getattr(decoder, "_supports_attention_backend", False):
        return "it attends by code of its own"
    if not {"position_ids", "kwargs"} <= set(inspect.signature(decoder.forward).parameters):
        return "it does not take positions"
    device = next(iter(model.parameters())).device
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]], device=device)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    places, where = torch.tensor([[0, 1, 2, 3, 0, 1]], device=device), attention.ends((4, 2), device)
    together = Pass(ids, places, (4, 2), nothing, nothing, ends=where)
    with torch.inference_mode():
        found = decoded(model, Traits(split=True), together).float()
        alone = [decoder(input_ids=part, use_cache=False).last_hidden_state[0] for part in (ids[:, :4], ids[:, 4:])]
    expected = torch.cat(alone).float()
    bound = 1e-4 if model.dtype == torch.float32 else 3e-2
    off = float((found - expected).norm() / expected.norm())
    return "" if off < bound else f"laid end to end they differ by {off:.1g} of the hidden states"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_lengths: Sequence[int] | None = None,
    packed_ends: Tensor | None = None,
    packed_spread: Tensor | None = None,
    packed_back: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each of the episodes that lie end to end; transformers calls it.

    A GPU attends to all of them in one call. Elsewhere those of one length are attended to in one call: on a CPU that
    is faster than padding them, and several times faster than one call with a mask of blocks (docs/performance.md).
    Short ones are padded to two lengths at most, and two products of matrices do.

    Args:
        query: [1, heads, N, D]; key and value may have fewer heads.
        packed_lengths: tokens of each episode; without it, attention is PyTorch's own.
        packed_ends: `Pass.ends`.
        packed_spread, packed_back: `Pass.spread` and `Pass.back`, where episodes share what they begin with.
        sliding_window: how many positions back a token sees, itself included; None for all.
    """
    if packed_lengths is None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return attended, None
    rows = [one[0].transpose(0, 1) for one in (query, key, value)]
    if packed_spread is not None:
        rows = [one.index_select(0, packed_spread) for one in rows]
    if packed_ends is not None and not dropout and attention.fits(query):
        longest = max(packed_lengths)
        q, k, v = rows
        whole = attention.ragged(
            q, k, v, packed_ends, packed_ends, (longest, longest), scale=scaling, window=sliding_window
        )
        return (whole if packed_back is None else whole.index_select(0, packed_back))[None], None
    parts, begin = [], 0
    by_hand = query.device.type == "cpu" and query.dtype == torch.float32 and not dropout
    if by_hand and (sliding_window is None or sliding_window >= SHORT):
        lengths, blocks = _short_blocks(tuple(packed_lengths))
    else:
        lengths, blocks = tuple(packed_lengths), ()
    for length, count in _runs(lengths):
        end = begin + length * count
        # [N, heads, D] is contiguous, so this is a view: no token is copied.
        q, k, v = (one[begin:end].view(count, length, *one.shape[1:]).transpose(1, 2) for one in rows)
        near = None
        if sliding_window is not None and length > sliding_window:
            ahead = torch.arange(length, device=query.device)
            back = ahead[:, None] - ahead
            near = (back >= 0) & (back < sliding_window)
        attended = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=near,
            dropout_p=dropout,
            is_causal=near is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
        begin = end
    for block in blocks:
        q, k, v = (one[block.begin : block.end] for one in rows)
        parts.append(_of_short(q, k, v, block, scaling))
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return (whole if packed_back is None else whole.index_select(0, packed_back))[None], None


@dataclass(frozen=True)
class _Block:
    """Neighbours that are short and of like length, attended to in one rectangle.

    Attributes:
        begin, end: their tokens in the pass.
        count, longest: the rectangle's rows and columns.
        fill: [count · longest] which of their tokens stands where, the last one of each repeated; None where no row is
            shorter than another.
        real: which places of the rectangle are theirs, in order; None likewise.
        hidden: [longest, longest] 0 where attention may look and -inf elsewhere.
    """

    begin: int
    end: int
    count: int
    longest: int
    fill: Tensor | None
    real: Tensor | None
    hidden: Tensor


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _short_blocks(lengths: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[_Block, ...]]:
    """The lengths that come first and are not short, and blocks of all that follow."""
    first = max((k + 1 for k, length in enumerate(lengths) if length > SHORT), default=0)
    blocks, begin, k = list[_Block](), sum(lengths[:first]), first
    while k < len(lengths):
        step = (lengths[k] - 1) // ALIKE
        end = next((j for j in range(k, len(lengths)) if (lengths[j] - 1) // ALIKE != step), len(lengths))
        some = torch.tensor(lengths[k:end])
        longest, each = int(some.max()), torch.arange(int(some.max()))
        fill = real = None
        if int(some.min()) < longest:
            starts = some.cumsum(0) - some
            fill = (starts[:, None] + torch.minimum(each, some[:, None] - 1)).flatten()
            real = (each < some[:, None]).flatten().nonzero()[:, 0]
        hidden = torch.zeros(longest, longest).masked_fill_(each > each[:, None], -torch.inf)
        tokens = int(some.sum())
        blocks.append(_Block(begin, begin + tokens, end - k, longest, fill, real, hidden))
        begin, k = begin + tokens, end
    return lengths[:first], tuple(blocks)


def _of_short(q: Tensor, k: Tensor, v: Tensor, block: _Block, scaling: float | None) -> Tensor:
    """Causal attention inside each of a block's episodes by two products, [tokens, heads, D] each; of the same shape.

    PyTorch's kernel costs about a microsecond a head and episode however few its tokens are.
    """
    heads, groups, width = q.shape[1], k.shape[1], q.shape[2]
    n, longest = block.count, block.longest
    if block.fill is not None:
        q, k, v = (one.index_select(0, block.fill) for one in (q, k, v))
    shared = heads // groups
    asked = q.reshape(n, longest, groups, shared, width).permute(0, 2, 3, 1, 4).reshape(n * groups, -1, width)
    keys, values = (
        one.reshape(n, longest, groups, width).transpose(1, 2).reshape(n * groups, longest, width) for one in (k, v)
    )
    scale = width**-0.5 if scaling is None else scaling
    weights = torch.baddbmm(block.hidden.repeat(shared, 1), asked, keys.transpose(1, 2), alpha=scale).softmax(-1)
    found = torch.bmm(weights, values).view(n, groups, shared, longest, width).permute(0, 3, 1, 2, 4)
    found = found.reshape(n * longest, heads, width)
    return found if block.real is None else found.index_select(0, block.real)


AttentionInterface.register(PACKED, packed_attention)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(length, how many of it follow each other)."""
    begin = 0
    while begin < len(lengths):
        end = begin
        while end < len(lengths) and lengths[end] == lengths[begin]:
            end += 1
        yield lengths[begin], end - begin
        begin = end


def _inputs(own: Traits, some: Pass) -> dict[str, Any]:
    given: dict[str, Any] = {"input_ids": some.ids, "use_cache": False}
    if not own.packed:
        return given
    given |= {"position_ids": some.positions, "packed_lengths": some.lengths, "packed_ends": some.ends}
    return given if some.spread is None else given | {"packed_spread": some.spread, "packed_back": some.back}


@contextmanager
def _ready(model: Any, own: Traits) -> Iterator[None]:
    """The model as a scoring pass wants it: attention by episode, and layers that forget where a gradient is taken."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    with ExitStack() as stack:
        if own.packed:
            config._attn_implementation = PACKED
            stack.callback(setattr, config, "_attn_implementation", before)
        for layer in model.modules() if torch.is_grad_enabled() else ():
            # transformers asks a layer's own `training`; its parts stay in evaluation, so nothing is dropped out.
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing and not layer.training:
                layer.training = True
                stack.callback(setattr, layer, "training", False)
        yield


def _scatter(values: Tensor, place: Tensor, batch: Batch) -> Tensor:
    flat = torch.zeros(batch.tokens.numel(), dtype=values.dtype, device=values.device)
    return flat.index_put((place,), values).view(batch.tokens.shape)
