"""Any Hugging Face causal model as a policy: the same weights, ids and temperature play and are scored."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from astarpo import native
from astarpo.batch import Batch, Scored
from astarpo.chat import Chat
from astarpo.engine import fused
from astarpo.engine.conversations import Slots
from astarpo.engine.forward import Forward, TransformersForward
from astarpo.errors import SettingsError
from astarpo.policy import scoring

Choice = Literal["auto", "fused", "transformers"]
"""Which forward pass plays: fused where the model can be run so, fused or nothing, transformers' own."""


class HuggingFacePolicy:
    """A causal language model with its tokenizer.

    Attributes:
        model: the transformers model; its parameters are what training changes.
        chat: how its tokenizer writes conversations.
        rules: whether an environment's rules are told before the first observation.
        version: optimiser updates behind the current weights.
        forward: how the model is run while it plays.
        unfused: why that is transformers' own pass; empty where it is not, or was asked for.

    Raises:
        SettingsError: the fused pass was asked for and cannot run this model.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        rules: bool,
        name: str = "",
        forward: Choice = "auto",
        remarks: Sequence[str] = (),
        own_kernels: bool = True,
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        stop = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self.chat = Chat.of(tokenizer, stop if isinstance(stop, list) else [] if stop is None else [int(stop)])
        self.rules = rules
        self.name = name
        self._remarks = tuple(remarks)
        self.version = 0
        self._own_kernels = own_kernels
        self.traits = scoring.traits(self.model, own_kernels=own_kernels)
        self._split_head = self.traits.split
        self.forward, self.unfused = self._forward(forward)

    @property
    def natively(self) -> bool:
        """Whether the processor's own kernels (`astarpo.native`) play and learn."""
        plays = isinstance(self.forward, fused.FusedForward) and self.forward.natively
        return plays and self.traits.native is not None and self.traits.native.runs(self.model)

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

    def _forward(self, choice: Choice) -> tuple[Forward, str]:
        why = ""
        if choice != "transformers":
            try:
                return fused.build(self.model, own_kernels=self._own_kernels), ""
            except fused.Unfit as error:
                why = str(error)
        if choice == "fused":
            raise SettingsError(
                f"policy.forward is fused and {self.name or 'the model'} cannot be run so: {why}; leave it at auto."
            )
        return TransformersForward(self.model, split=self._split_head), why

    def over(self, model: Any) -> HuggingFacePolicy:
        """The same policy over `model`, a copy of its own: it plays and is scored by those weights."""
        other = copy.copy(self)
        other.model = model
        asked = isinstance(self.forward, TransformersForward) and not self.unfused
        other.forward, other.unfused = other._forward("transformers" if asked else "auto")
        return other

    def remarks(self) -> list[str]:
        """What must be known of how this model is told and scored, one sentence each."""
        said = [*self._remarks]
        if self.unfused:
            said.append(f"transformers' own forward pass plays, which is slower than the fused one: {self.unfused}.")
        if isinstance(self.forward, fused.FusedForward) and self.forward.slower:
            said.append(f"PyTorch's own kernels play, which is slower than Triton's: {self.forward.slower}.")
        if self._own_kernels and self.device.type == "cpu" and native.MEANT and native.why_not():
            said.append(
                "PyTorch's kernels play and learn; astarpo's own would take half of the time or less: "
                f"{native.why_not()}."
            )
        if self.traits.slower:
            said.append(f"PyTorch's kernels learn, which is slower than astarpo's own: {self.traits.slower}.")
        if self.traits.padded:
            said.append(f"episodes are padded where they are learned from, not laid end to end: {self.traits.padded}.")
        if not getattr(self.tokenizer, "chat_template", None):
            said.append(
                "the tokenizer has no chat template: observations and replies follow each other with line breaks "
                "between them; a model that was taught a format needs its template saved beside the tokenizer."
            )
        return said

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
        if batch.samples is not None:
            return batch.fold(self.log_probs(batch.unfolded(), reference=reference, tokens=tokens))
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
        if batch.samples is not None:
            return batch.folded(self.hidden_states(batch.unfolded(), tokens=tokens))
        return scoring.hidden_states(self.model, self.traits, batch, tokens=tokens)
