"""Conversation ↔ tokens. Ids are appended and never re-encoded; the stop token is sampled, acted and trained.

A chat template is taken apart once, around the place where a message stands; after that an observation costs one
`encode`. Text of an observation can never become a control token: it is encoded with special tokens switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from astarpo.errors import DataError

_MESSAGE = "\u2063message\u2063"
_SAID = "\u2063said\u2063"

KNOWN_TEXTS = 4096
"""Texts whose ids are remembered: tasks and pages come again from update to update."""


@dataclass(frozen=True)
class Chat:
    """How one tokenizer writes conversations.

    Attributes:
        before_first, after_first: ids around the first observation; the latter end where the reply begins.
        before_next, after_next: ids around every later one; the former begin right after the sampled stop token.
        stop: ids that end a reply.
        encoder: text → ids without special tokens.
        decoder: ids → text without special tokens.
    """

    before_first: tuple[int, ...]
    after_first: tuple[int, ...]
    before_next: tuple[int, ...]
    after_next: tuple[int, ...]
    stop: frozenset[int]
    tokenizer: Any
    _known: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def first(self, observation: str, rules: str = "") -> list[int]:
        """Ids of the prompt up to the first reply; `rules` stand before the observation, in the same message."""
        text = f"{rules}\n\n{observation}" if rules else observation
        return [*self.before_first, *self.encode(text), *self.after_first]

    def next(self, observation: str) -> list[int]:
        """Ids to append after a reply that ended with a stop token, up to the next reply."""
        return [*self.before_next, *self.encode(observation), *self.after_next]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; a control token written out in it stays plain text."""
        known = self._known.get(text)
        if known is None:
            known = tuple(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
            if len(self._known) >= KNOWN_TEXTS:
                self._known.clear()
            self._known[text] = known
        return [*known]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a reply for the environment: exact, without the stop token."""
        said = [i for i in ids if i not in self.stop]
        text: str = self.tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    @classmethod
    def of(cls, tokenizer: Any, extra_stop: Sequence[int] = ()) -> Chat:
        """Take the tokenizer's template apart.

        Raises:
            DataError: the template rewrites earlier messages when later ones follow, so ids cannot be appended.
        """
        stop = {int(i) for i in (*extra_stop, tokenizer.eos_token_id) if i is not None}
        if not getattr(tokenizer, "chat_template", None):
            if not stop:
                raise DataError(
                    "the tokenizer has neither a chat template nor an end-of-text token: a reply cannot end."
                )
            newline = tuple(_ids(tokenizer, "\n"))
            return cls((), newline, newline, newline, frozenset(stop), tokenizer)
        before, after = _around(_render(tokenizer, [_user(_MESSAGE)], prompt=True), _MESSAGE)
        said = [_user("x"), {"role": "assistant", "content": _SAID}]
        _, tail = _around(_render(tokenizer, said, prompt=False), _SAID)
        whole = _render(tokenizer, [*said, _user(_MESSAGE)], prompt=True)
        _, rest = _around(whole, _SAID)
        if not rest.startswith(tail) or not whole.startswith(before + "x"):
            raise DataError(
                "the chat template rewrites earlier messages when later ones follow; ids cannot be appended."
            )
        closing = _ids(tokenizer, tail)
        if closing and (not stop or closing[0] in _special(tokenizer)):
            stop.add(closing[0])
            rest = rest.removeprefix(tokenizer.decode([closing[0]], skip_special_tokens=False))
        next_before, next_after = _around(rest, _MESSAGE)
        return cls(
            tuple(_ids(tokenizer, before)),
            tuple(_ids(tokenizer, after)),
            tuple(_ids(tokenizer, next_before)),
            tuple(_ids(tokenizer, next_after)),
            frozenset(stop),
            tokenizer,
        )


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _render(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return text


def _around(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.rpartition(mark)
    if not found:
        raise DataError(
            "the chat template drops or rewrites message text; a template that keeps it verbatim is needed."
        )
    return before, after


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _special(tokenizer: Any) -> set[int]:
    added = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {int(i) for i in tokenizer.all_special_ids}
