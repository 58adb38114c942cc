"""Scoring: ln π, entropy, exact KL and hidden states of a batch's acted tokens, part by part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from astarpo.batch import Batch, Scored, length_buckets


def log_probs(model: Any, split: bool, batch: Batch, *, reference: tuple[Any, bool] | None, tokens: int) -> Scored:
    """ln π and entropy of the batch's acted tokens at the batch's temperature, with gradient.

    Args:
        model: the transformers model.
        split: whether its decoder and its head may be called apart; see `head_is_separate`.
        batch: [B, T].
        reference: where given, `Scored.kl_exact` holds KL(π ‖ π_ref) over the whole vocabulary.
        tokens: padded tokens of one forward pass; rows are sorted by length so that little is padding.

    Returns:
        Scored with [B, T] columns, 0 where not acted.
    """
    logp, entropy, kl = [], [], []
    order: list[Tensor] = []
    for rows in length_buckets(batch.lengths, tokens):
        part, logits = acted_logits(model, split, batch, rows)
        log_p = torch.log_softmax(logits.float() / batch.temperature, dim=-1)
        target = batch.tokens[rows][part]
        logp.append(log_p.gather(-1, target[:, None])[:, 0])
        entropy.append(-(log_p.exp() * log_p).sum(-1))
        if reference is not None:
            with torch.no_grad():
                _, ref_logits = acted_logits(*reference, batch, rows)
                log_ref = torch.log_softmax(ref_logits.float() / batch.temperature, dim=-1)
            kl.append((log_p.exp() * (log_p - log_ref)).sum(-1))
        row, column = part.nonzero(as_tuple=True)
        order.append(rows[row] * batch.tokens.shape[1] + column)
    place = torch.cat(order)
    return Scored(
        logp=_scatter(torch.cat(logp), place, batch),
        entropy=_scatter(torch.cat(entropy), place, batch),
        kl_exact=_scatter(torch.cat(kl), place, batch) if reference is not None else None,
    )


@torch.no_grad()
def hidden_states(model: Any, batch: Batch, *, tokens: int) -> Tensor:
    """The last hidden state before each acted token, [B, T, H] float32, 0 elsewhere; without gradient.

    Args:
        batch: [B, T].
        tokens: padded tokens of one forward pass.
    """
    width = int(model.config.get_text_config().hidden_size)
    found = torch.zeros((*batch.tokens.shape, width), device=batch.tokens.device)
    for rows in length_buckets(batch.lengths, tokens):
        longest = int(batch.lengths[rows].max())
        states = model.get_decoder()(
            input_ids=batch.tokens[rows][:, :longest], use_cache=False
        ).last_hidden_state.float()
        # What is known before token t is what the model holds at t − 1.
        part = torch.zeros_like(states)
        part[:, 1:] = states[:, :-1]
        found[rows, :longest] = torch.where(batch.acted[rows][:, :longest, None], part, 0.0)
    return found


def acted_logits(model: Any, split: bool, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The acted mask of `rows` cut to their length [n, t], and the logits [acted, V] that predicted them."""
    width = int(batch.lengths[rows].max())
    acted = torch.zeros_like(batch.acted[rows])
    acted[:, :width] = batch.acted[rows][:, :width]
    # Right padding under a causal mask: no real token ever sees a pad, so no mask is needed.
    ids = batch.tokens[rows][:, :width]
    before = torch.zeros_like(acted)
    before[:, :-1] = acted[:, 1:]
    if not split:
        return acted, model(input_ids=ids, use_cache=False).logits[before[:, :width]]
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden[before[:, :width]])
    return acted, logits


def head_is_separate(model: Any) -> bool:
    """Whether decoder and output embeddings, called one after the other, give the model's own logits.

    Some families scale or cap logits inside `forward`; for those every position pays for the head.
    """
    decoder, head = getattr(model, "get_decoder", lambda: None)(), model.get_output_embeddings()
    if decoder is None or head is None:
        return False
    probe = torch.tensor([[1, 2, 3]], device=next(iter(model.parameters())).device)
    with torch.inference_mode():
        own = model(input_ids=probe, use_cache=False).logits
        split = head(decoder(input_ids=probe, use_cache=False).last_hidden_state)
    return own.shape == split.shape and bool(torch.equal(own, split))


def _scatter(values: Tensor, place: Tensor, batch: Batch) -> Tensor:
    flat = torch.zeros(batch.tokens.numel(), dtype=values.dtype, device=values.device)
    return flat.index_put((place,), values).view(batch.tokens.shape)
