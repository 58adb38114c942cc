"""Any Hugging Face causal model as a policy: the same weights, ids and temperature play and are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from astarpo.batch import Batch, Scored
from astarpo.chat import Chat
from astarpo.engine.conversations import Slots
from astarpo.engine.slots import SlotCache
from astarpo.errors import SettingsError
from astarpo.policy import scoring


class HuggingFacePolicy:
    """A causal language model with its tokenizer.

    Attributes:
        model: the transformers model; its parameters are what training changes.
        chat: how its tokenizer writes conversations.
        rules: whether an environment's rules are told before the first observation.
        version: optimiser updates behind the current weights.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, rules: bool, name: str = "") -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        stop = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self.chat = Chat.of(tokenizer, stop if isinstance(stop, list) else [] if stop is None else [int(stop)])
        self.rules = rules
        self.name = name
        self.version = 0
        self.traits = scoring.traits(self.model)
        self._split_head = self.traits.split

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(iter(self.model.parameters())).device
        return found

    @property
    def vocabulary(self) -> int:
        """V, the width of the logits."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def layers(self) -> int:
        """Layers that hold keys and values."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    def fingerprint(self) -> str:
        """A hash of weights and vocabulary; two policies with equal fingerprints say the same."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu").contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        return digest.hexdigest()[:16]

    def open(self, keys: Sequence[tuple[int, ...]]) -> Slots:
        """Start `len(keys)` empty conversations; see `Policy.open`."""
        return Slots(self, keys)

    def log_probs(self, batch: Batch, *, reference: HuggingFacePolicy | None = None, tokens: int = 4096) -> Scored:
        """ln π and entropy of the batch's acted tokens at the batch's temperature, with gradient.

        Args:
            batch: [B, T].
            reference: where given, `Scored.kl_exact` holds KL(π ‖ π_ref) over the whole vocabulary.
            tokens: of one forward pass.

        Returns:
            Scored with [B, T] columns, 0 where not acted.
        """
        other = None if reference is None else (reference.model, reference.traits)
        return scoring.log_probs(self.model, self.traits, batch, reference=other, tokens=tokens)

    def hidden_states(self, batch: Batch, *, tokens: int = 4096) -> Tensor:
        """The last hidden state before each acted token, [B, T, H] float32, 0 elsewhere; without gradient.

        Args:
            batch: [B, T].
            tokens: of one forward pass.

        Raises:
            SettingsError: the model has no decoder of its own to ask.
        """
        if getattr(self.model, "get_decoder", lambda: None)() is None:
            raise SettingsError(
                f"{self.name or 'this model'} does not show its hidden states: choose a method without."
            )
        return scoring.hidden_states(self.model, self.traits, batch, tokens=tokens)

    def next_logits(self, ids: Tensor, last: Tensor, cache: SlotCache, active: Tensor) -> Tensor:
        """Run `ids` [n, q] on rows `active`; logits [n, V] at each row's position `last` [n]."""
        positions, mask = cache.begin(active, ids.shape[1])
        given = {"input_ids": ids, "position_ids": positions, "attention_mask": self._mask(mask, positions)}
        rows = torch.arange(len(ids), device=ids.device)
        if not self._split_head:
            out: Tensor = self.model(**given, past_key_values=cache, use_cache=True).logits
            return out[rows, last].float()
        hidden = self.model.get_decoder()(**given, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden[rows, last])
        return logits.float()

    def _mask(self, allowed: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """`allowed` [n, 1, q, seen] as this model reads it: a ready mask is taken as it is, whatever layers look at.

        Layers with a sliding window look at the last `window` positions only; a model that has both kinds of layers
        takes both masks. Attention other than PyTorch's own adds the mask instead of selecting by it.
        """
        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None) or ()
        near = allowed
        if window is not None:
            reach = torch.arange(allowed.shape[-1], device=allowed.device)
            near = allowed & (reach > positions[:, None, :, None] - window)
        masks = {"full_attention": allowed, "sliding_attention": near}
        if config._attn_implementation != "sdpa":
            masks = {kind: _additive(mask, self.model.dtype) for kind, mask in masks.items()}
        if "sliding_attention" in kinds:
            return masks
        return masks["full_attention" if kinds else "sliding_attention"]


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)
